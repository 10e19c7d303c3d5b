"""Inputs over which users of other tools fell, each from a public report: read right, or refused."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from field_files import cds, grib, hours, netcdf, packed, weather

from apps.weather.batch import Variables
from apps.weather.data.readers import Archive, open_archive
from core.errors import UserError

FLAT = np.arange(40.0).reshape(5, 8)


def read(archive: Archive, variables: Variables | None = None) -> tuple[np.ndarray, np.ndarray]:
    return archive.read(archive.times.astype(np.int64).tolist(), variables or archive.variables)


def message(
    name: str, value: float, *, level: int = 500, day: int = 20200101, hour: int = 0, **keys: Any
) -> dict[str, Any]:
    keys = {"level": level, "dataDate": day, "dataTime": hour * 100, "shortName": name} | keys
    return keys | {"values": FLAT + value}


def surface(name: str, value: float, **keys: Any) -> dict[str, Any]:
    return message(name, value, **({"typeOfLevel": "surface", "level": 0} | keys))


def test_grib_variables_of_differing_steps_are_all_read(tmp_path: Path) -> None:
    """ecmwf/cfgrib#66, #139: variables with fewer steps than the first are skipped with a warning."""
    instant = [
        surface("msl", 100000 + hour + step, hour=hour, step=step) for hour in (0, 6) for step in (0, 6)
    ]
    short = [surface("2t", 280 + hour, hour=hour) for hour in (0, 6)]
    archive = open_archive(grib(tmp_path / "a.grib", instant + short))
    assert archive.variables.surface == ("2t", "msl")
    np.testing.assert_array_equal(archive.times, hours(2).astype("datetime64[s]"))
    values, _ = read(archive)
    np.testing.assert_allclose(values[:, :, 0, 0], [[280, 100000], [286, 100006]])
    assert len(archive.narrowed(Variables(("msl",))).times) == 3


def test_grib_heights_above_ground_stand_side_by_side(tmp_path: Path) -> None:
    """NVlabs/FourCastNet#21: 2 m beside 10 m: "key present and new value is different"."""
    ground = "heightAboveGround"
    fields = [
        surface("2t", 280, typeOfLevel=ground, level=2),
        surface("10u", 5, typeOfLevel=ground, level=10),
    ]
    archive = open_archive(grib(tmp_path / "a.grib", fields))
    np.testing.assert_allclose(read(archive)[0][0, :, 0, 0], [280, 5])


def test_grib_leaves_no_index_beside_the_file(tmp_path: Path) -> None:
    """ecmwf/cfgrib#126, #432, pydata/xarray#6512: an .idx file is left, or cannot be written."""
    read(open_archive(grib(tmp_path / "a.grib", [message("z", 1)])))
    assert [path.name for path in tmp_path.iterdir()] == ["a.grib"]


@pytest.mark.parametrize("edition", [1, 2])
def test_truncated_grib_is_refused(tmp_path: Path, edition: int) -> None:
    """fsspec/kerchunk#418, dynamical-org/reformatters#935: truncated uploads are read as if whole."""
    path = grib(tmp_path / "a.grib", [message("t", 1, hour=hour) for hour in (0, 6)], edition)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"a\.grib is cut off"):
        open_archive(path)


def test_missing_grib_messages_are_told_by_variable_and_time(tmp_path: Path) -> None:
    """williamhobbs/hefty#56: files that lack messages open, with NaN in their place."""
    fields = [message("t", 1, hour=hour, level=level) for hour in (0, 6) for level in (500, 850)]
    archive = open_archive(grib(tmp_path / "a.grib", fields[:3]))
    with pytest.raises(UserError, match=r"a\.grib: t at 2020-01-01T06:00 on 850 hPa has 40 missing"):
        read(archive)


def test_grib_sums_from_the_start_are_not_mixed(tmp_path: Path) -> None:
    """google-research/arco-era5 and ecmwf/cfgrib#219: sums over differing hours under one name."""
    sums = [
        surface("tp", step, hour=hour, stepType="accum", stepRange=f"0-{step}")
        for hour in (0, 12)
        for step in (6, 12)
    ]
    archive = open_archive(grib(tmp_path / "a.grib", [*sums, surface("msl", 1), surface("msl", 1, hour=12)]))
    assert archive.variables.surface == ("msl",)
    assert "tp is summed from each start on, over differing hours: left out" in archive.notes
    one = open_archive(grib(tmp_path / "b.grib", [each for each in sums if each["stepRange"] == "0-6"]))
    assert one.accumulated == {"tp": 6.0}
    np.testing.assert_array_equal(one.times, hours(2, 12, "2020-01-01T06").astype("datetime64[s]"))


def test_overlapping_preliminary_values_are_not_added(tmp_path: Path) -> None:
    """PyPSA/atlite#190: a sum over expver doubles what both versions have; google-research/arco-era5#151."""
    dataset = cds(weather())[["t2m"]]
    both = xr.concat([dataset, dataset + 1], xr.IndexVariable("expver", [5, 1])).transpose(
        "time", "expver", ...
    )
    np.testing.assert_array_equal(
        read(open_archive(netcdf(tmp_path / "a.nc", both)))[0][:, 0], dataset.t2m + 1
    )


def test_zip_named_as_netcdf_is_told(tmp_path: Path) -> None:
    """geocryology/globsim#156: CDS sends a zip archive of two files under a name that ends in .nc."""
    with zipfile.ZipFile(tmp_path / "a.nc", "w") as archive:
        archive.writestr("data_stream-oper_stepType-instant.nc", b"")
    with pytest.raises(UserError, match=r"a\.nc is a zip archive, as CDS packs several files; unpack it"):
        open_archive(tmp_path / "a.nc")


def test_an_error_page_named_as_netcdf_is_refused(tmp_path: Path) -> None:
    """geocryology/globsim#156: downloads that are no data."""
    (tmp_path / "a.nc").write_text("<html>too many requests</html>")
    with pytest.raises(UserError, match=r"a\.nc is cut off, damaged, not there or no netCDF"):
        open_archive(tmp_path / "a.nc")


def test_one_valid_time_alone_is_a_state(tmp_path: Path) -> None:
    """contrailcirrus/pycontrails#232: valid_time and pressure_level for time and level; as scalars."""
    dataset = cds(weather()).rename(time="valid_time", level="pressure_level")[["z", "t2m"]]
    path = netcdf(
        tmp_path / "a.nc", dataset.isel(valid_time=1, pressure_level=0).assign_coords(number=0, expver="0001")
    )
    archive = open_archive(path)
    assert (archive.variables.atmospheric, archive.variables.levels) == (("z",), (500.0,))
    np.testing.assert_array_equal(read(archive)[1][0, 0, 0], dataset.z[1, 0])


def test_each_file_keeps_its_own_packing(tmp_path: Path) -> None:
    """pydata/xarray#4282, JuliaGeo/NCDatasets.jl#109: the first file's scale and offset are used for all."""
    dataset = weather(4)
    for number, how in enumerate((packed(1e-3, 270.0), packed(2e-3, 300.0))):
        part = cds(dataset.isel(time=slice(2 * number, 2 * number + 2)))[["t2m"]]
        netcdf(tmp_path / f"{number}.nc", part, encoding={"t2m": how})
    np.testing.assert_allclose(read(open_archive(tmp_path))[0][:, 0], dataset["2m_temperature"], atol=2e-3)


def test_coordinates_of_float32_make_one_grid(tmp_path: Path) -> None:
    """google-research/weatherbench2#269: NaN as scores where positions differ by rounding."""
    fine = weather().assign_coords(longitude=np.arange(8) * 0.1, latitude=np.arange(5) * -0.1)
    rough = fine.assign_coords(longitude=fine.longitude.astype("f4"), latitude=fine.latitude.astype("f4"))
    first = open_archive(netcdf(tmp_path / "a.nc", fine))
    assert open_archive(netcdf(tmp_path / "b.nc", rough)).grid.shape == first.grid.shape
    np.testing.assert_allclose(
        open_archive(tmp_path / "b.nc").grid.longitude, first.grid.longitude, atol=1e-12
    )
    assert len(open_archive([tmp_path / "a.nc", tmp_path / "b.nc"]).times) == 4


def test_360_degrees_exactly_is_0(tmp_path: Path) -> None:
    """microsoft/aurora#164: "Longitudes must be in the range [0, 360)" after a conversion."""
    dataset = weather().assign_coords(longitude=np.arange(45.0, 361, 45.0))
    archive = open_archive(netcdf(tmp_path / "a.nc", dataset))
    assert archive.grid.longitude[0] == 0
    np.testing.assert_array_equal(
        read(archive)[0][:, 0], np.roll(dataset["2m_temperature"].values, 1, axis=-1)
    )


def test_box_across_greenwich_is_whole(tmp_path: Path) -> None:
    """Deltares/hydromt#687: of a box around 0 degrees only the part east of it is given."""
    dataset = weather().assign_coords(longitude=np.arange(-1.0, 1.0, 0.25))
    archive = open_archive(netcdf(tmp_path / "a.nc", dataset))
    assert archive.grid.shape == (5, 8) and archive.grid.longitude[-1] == 359.75


def test_repeated_times_within_a_file_are_left_out(tmp_path: Path) -> None:
    """moptis/era5-for-wrf#1, geoschem/geos-chem#3028: doubled records."""
    dataset = weather(4).isel(time=[0, 1, 1, 2, 3])
    archive = open_archive(netcdf(tmp_path / "a.nc", dataset))
    assert len(archive.times) == 4 and any("stored twice" in note for note in archive.notes)


def test_heights_are_taken_as_geopotential_and_surface_heights_too(tmp_path: Path) -> None:
    """oloapinivad/MiLES#6: geopotential and geopotential height are mistaken for each other."""
    dataset = weather().rename(geopotential="zg")
    dataset["zg"] = dataset.zg.assign_attrs(units="m", standard_name="geopotential_height")
    dataset["orog"] = (("latitude", "longitude"), FLAT, {"units": "m"})
    archive = open_archive(netcdf(tmp_path / "a.nc", dataset))
    np.testing.assert_allclose(read(archive)[1][:, 0], dataset.zg * 9.80665, rtol=1e-6)
    np.testing.assert_allclose(archive.static["z"], FLAT * 9.80665, rtol=1e-6)


def test_a_geopotential_without_level_that_changes_is_no_orography(tmp_path: Path) -> None:
    """WeatherBench 1 keeps z of one level under the name z; ESMValGroup/ESMValCore#1136 on single levels."""
    dataset = cds(weather()).z.isel(level=0, drop=True).to_dataset()
    path = netcdf(tmp_path / "a.nc", dataset)
    with pytest.raises(UserError, match="z changes in time, so it is not static"):
        _ = open_archive(path).static
    assert open_archive(path, names={"z": "z_500"}).variables.levels == (500.0,)


def test_sea_surface_temperature_may_be_kept_with_gaps(tmp_path: Path) -> None:
    """google-research/weatherbench2#272: NaN in one field make every score NaN."""
    dataset = weather().rename({"2m_temperature": "sea_surface_temperature"})
    dataset["sea_surface_temperature"][:, 0, :3] = np.nan
    path = netcdf(tmp_path / "a.nc", dataset)
    with pytest.raises(UserError, match=r"\(sst\) at 2020-01-01T00:00 has 3 missing values \(NaN\) of 40"):
        read(open_archive(path))
    assert np.isfinite(read(open_archive(path, fill="mean"))[0]).all()


def test_values_that_were_never_written_are_missing(tmp_path: Path) -> None:
    """netCDF's own fill value, 9.97e36, without an attribute that says so (Unidata/netcdf4-python#352)."""
    dataset = weather()
    dataset["2m_temperature"][2] = 9.96921e36
    path = netcdf(tmp_path / "a.nc", dataset, encoding={"2m_temperature": {"_FillValue": None}})
    with pytest.raises(UserError, match="2020-01-01T12:00 has 40 missing"):
        read(open_archive(path))


def test_the_longest_lead_never_stands_for_an_analysis(tmp_path: Path) -> None:
    """microsoft/aurora#76: forecasts taken for analyses give poor scores without a word."""
    steps = [message("t", hour + step, hour=hour, step=step) for hour in (0, 12) for step in (0, 6, 12, 18)]
    archive = open_archive(grib(tmp_path / "a.grib", steps))
    np.testing.assert_allclose(read(archive)[1][:, 0, 0, 0, 0], [0, 6, 12, 18, 24])
    with pytest.raises(UserError, match="a forecast of 4 lead times from one start"):
        open_archive(grib(tmp_path / "b.grib", steps[:4]))


def test_humidity_near_the_ground_is_no_runoff(tmp_path: Path) -> None:
    """ecmwf/cfgrib#139: files of many kinds of levels; one name means other things on each."""
    dataset = cds(weather())[["t2m"]].assign(r=cds(weather()).t2m.assign_attrs(units="%"))
    archive = open_archive(netcdf(tmp_path / "a.nc", dataset))
    assert archive.variables.surface == ("2t",) and "unknown variables are left out: r" in archive.notes[0]


def test_grib_turned_into_netcdf_by_other_tools_is_read(tmp_path: Path) -> None:
    """ecmwf/cfgrib#66: what is saved has time, step, number and heights as scalars beside valid_time."""
    dataset = cds(weather())[["t2m", "t"]].rename(level="isobaricInhPa")
    dataset = dataset.assign_coords(
        step=((), 6, {"units": "hours"}), number=0, heightAboveGround=2.0,
        valid_time=("time", dataset.time.values + np.timedelta64(6, "h")),
    )  # fmt: skip
    archive = open_archive(netcdf(tmp_path / "a.nc", dataset))
    np.testing.assert_array_equal(archive.times, hours(4, start="2020-01-01T06").astype("datetime64[s]"))
    assert archive.variables == Variables(("2t",), ("t",), (500.0, 850.0))


def test_curvilinear_grids_keep_their_matrices(tmp_path: Path) -> None:
    """Latitude and longitude as matrices of y and x, as regional models and ecmwf/cfgrib write them."""
    north, east = np.meshgrid(np.linspace(60, 40, 5), np.linspace(1, 15, 8), indexing="ij")
    dataset = weather()[["2m_temperature"]].drop_vars(["latitude", "longitude"])
    dataset = dataset.rename(latitude="y", longitude="x").assign_coords(
        lat=(("y", "x"), north + east / 10), lon=(("y", "x"), east)
    )
    archive = open_archive(netcdf(tmp_path / "a.nc", dataset))
    assert archive.grid.curvilinear and archive.grid.shape == (5, 8)
    np.testing.assert_array_equal(read(archive)[0][:, 0], dataset["2m_temperature"])
