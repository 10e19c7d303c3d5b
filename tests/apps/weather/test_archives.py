"""Archives of weather fields: every layout gives the same physical values, mended, or one sentence."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from field_files import (
    LATITUDE,
    LEVELS,
    LONGITUDE,
    cds,
    hours,
    netcdf,
    packed,
    served,
    store,
    weather,
)

from apps.weather.batch import Variables
from apps.weather.data.readers import Archive, open_archive, open_forecast
from core.errors import UserError

EVERYTHING = Variables(("2t", "msl", "tp"), ("z", "t"), LEVELS)


def read(
    archive: Archive, variables: Variables = EVERYTHING, **options: object
) -> tuple[np.ndarray, np.ndarray]:
    return archive.read(archive.times.astype(np.int64).tolist(), variables, **options)


def same(archive: Archive, dataset: xr.Dataset, rtol: float = 0.0) -> None:
    """Check that an archive gives what `weather` made."""
    surface, atmospheric = read(archive)
    names = "2m_temperature", "mean_sea_level_pressure", "total_precipitation_6hr"
    expected = np.stack([dataset[name].values for name in names], axis=1)
    np.testing.assert_allclose(surface, expected, rtol=rtol, atol=rtol)
    expected = np.stack([dataset[name].values for name in ("geopotential", "temperature")], axis=1)
    np.testing.assert_allclose(atmospheric, expected, rtol=rtol)
    np.testing.assert_array_equal(archive.static["lsm"], dataset.land_sea_mask.values)
    np.testing.assert_array_equal(archive.times, dataset.time.values.astype("datetime64[s]"))
    np.testing.assert_array_equal(archive.grid.latitude, LATITUDE)
    np.testing.assert_array_equal(archive.grid.longitude, LONGITUDE)


@pytest.mark.parametrize("form", [2, 3])
@pytest.mark.parametrize("consolidated", [True, False])
def test_a_store_gives_what_was_written(tmp_path: Path, form: int, consolidated: bool) -> None:
    dataset = weather()
    archive = open_archive(store(tmp_path / "a.zarr", dataset, form=form, consolidated=consolidated))

    same(archive, dataset)
    assert archive.variables == Variables(("2t", "msl", "tp"), ("z", "t"), (500.0, 850.0), ("lsm",))
    assert archive.units == {"2t": "K", "msl": "Pa", "tp": "m", "z": "m2/s2", "t": "K", "static_lsm": "1"}
    assert (archive.step, archive.accumulated, archive.members) == (6.0, {"tp": 6.0}, 0)
    assert archive.notes == []


def test_a_store_is_read_over_http(tmp_path: Path) -> None:
    dataset = weather(2)
    store(tmp_path / "a.zarr", dataset)
    with served(tmp_path) as address:
        same(open_archive(f"{address}/a.zarr"), dataset)
        shutil.rmtree(tmp_path / "a.zarr" / "temperature" / "1.0.0.0", ignore_errors=True)
        (tmp_path / "a.zarr" / "temperature" / "1.0.0.0").unlink(missing_ok=True)
        with pytest.raises(UserError, match=r"temperature \(t\) at 2020-01-01T06:00 is not in the store"):
            read(open_archive(f"{address}/a.zarr"))


def test_cloud_storage_asks_for_its_package_by_name() -> None:
    with pytest.raises(UserError, match="pip install gcsfs"):
        open_archive("gs://weatherbench2/datasets/era5/none.zarr")


@pytest.mark.parametrize("old", [True, False])
def test_cds_files_give_what_was_written(tmp_path: Path, old: bool) -> None:
    dataset = weather()
    archive = open_archive(netcdf(tmp_path / "a.nc", cds(dataset), old=old))
    same(archive, dataset)
    assert archive.accumulated == {"tp": 1.0}


def test_packed_integers_are_unpacked_by_each_file_and_joined(tmp_path: Path) -> None:
    dataset = weather(8)
    for part, offset in ((slice(0, 4), 280.5), (slice(4, 8), 290.0)):
        how = {"t2m": packed(1e-3, offset), "z": packed(1e-3, 50000.5)}
        netcdf(tmp_path / f"{part.start}.nc", cds(dataset.isel(time=part)), encoding=how)
    archive = open_archive(tmp_path)
    np.testing.assert_allclose(read(archive)[0][:, 0], dataset["2m_temperature"], atol=6e-4)
    assert archive.notes == ["packed integers are unpacked"]


def test_new_cds_downloads_are_joined(tmp_path: Path) -> None:
    dataset = cds(weather()).rename(time="valid_time", level="pressure_level")
    dataset = dataset.assign_coords(number=0, expver=("valid_time", ["0001"] * 3 + ["0005"]))
    netcdf(tmp_path / "data_stream-oper_stepType-instant.nc", dataset[["t2m", "msl", "lsm"]])
    netcdf(tmp_path / "data_stream-oper_stepType-accum.nc", dataset[["tp"]])
    netcdf(tmp_path / "levels.nc", dataset[["z", "t"]].isel(pressure_level=[1, 0]))
    archive = open_archive(tmp_path)
    same(archive, weather())
    assert archive.notes == ["levels fall: sorted by value"]


def test_weatherbench_1_folders_are_joined(tmp_path: Path) -> None:
    dataset = weather()
    for year in range(2):
        part = cds(dataset.isel(time=slice(2 * year, 2 * year + 2))).rename(latitude="lat", longitude="lon")
        netcdf(tmp_path / "2m_temperature" / f"2m_temperature_{year}.nc", part[["t2m"]])
        netcdf(
            tmp_path / "geopotential_500" / f"geopotential_500_{year}.nc",
            part.z.isel(level=0, drop=True).to_dataset(),
        )
    archive = open_archive(tmp_path)
    assert archive.variables == Variables(("2t",), ("z",), (500.0,))
    surface, atmospheric = read(archive, archive.variables)
    np.testing.assert_array_equal(surface[:, 0], dataset["2m_temperature"])
    np.testing.assert_array_equal(atmospheric[:, 0, 0], dataset.geopotential[:, 0])


def test_single_levels_can_be_asked_for_as_surface_variables(tmp_path: Path) -> None:
    dataset = weather()
    netcdf(tmp_path / "z.nc", dataset[["geopotential"]].isel(level=[0]))
    netcdf(tmp_path / "t.nc", dataset[["temperature"]].isel(level=1))
    archive = open_archive(tmp_path)
    assert archive.variables.surface == ("z_500", "t_850")
    surface, _ = read(archive, Variables(("t_850", "z_500")))
    np.testing.assert_array_equal(surface[:, 0], dataset.temperature[:, 1])
    np.testing.assert_array_equal(surface[:, 1], dataset.geopotential[:, 0])


def test_everything_that_is_mended_is_said_once(tmp_path: Path) -> None:
    dataset = weather()
    other = dataset.isel(latitude=slice(None, None, -1), level=slice(None, None, -1), time=[2, 0, 1, 3])
    other["2m_temperature"] = (
        other["2m_temperature"].dims,
        other["2m_temperature"].values - np.float32(273.15),
        {"units": "degC"},
    )
    other["mean_sea_level_pressure"] = (
        other.mean_sea_level_pressure.dims,
        other.mean_sea_level_pressure.values / 100,
        {"units": "hPa"},
    )
    other["geopotential"] = (
        other.geopotential.dims,
        other.geopotential.values / np.float32(9.80665),
        {"units": "gpm"},
    )
    other["total_precipitation_6hr"] = (
        other.total_precipitation_6hr.dims,
        other.total_precipitation_6hr.values * 1000,
        {"units": "mm"},
    )
    other["land_sea_mask"].attrs["units"] = "~"
    other = other.assign_coords(level=("level", other.level.values * 100.0, {"units": "Pa"}))
    other = other.roll(longitude=4, roll_coords=True).assign_coords(
        longitude=(np.roll(LONGITUDE, 4) + 180) % 360 - 180
    )
    other = xr.concat(
        [other, other.isel(longitude=[0]).assign_coords(longitude=[180.0])], "longitude", data_vars="minimal"
    )
    other = other.transpose("longitude", "latitude", "time", "level")

    archive = open_archive(netcdf(tmp_path / "a.nc", other))

    same(archive, dataset, rtol=1e-6)
    assert set(archive.notes) == {
        "latitude rises: turned to fall from north to south",
        "levels fall: sorted by value",
        "levels are in Pa: taken as hPa",
        "longitude lies in -180 to 180: turned to 0 to 360",
        "the last longitude repeats the first: left out",
        "longitude before latitude: axes turned",
        "times are not in order: sorted",
        "2t is converted from degC to K",
        "msl is converted from hPa to Pa",
        "z is converted from gpm to m2/s2",
        "tp is converted from mm to m",
    }


def test_preliminary_values_stand_in_only_where_final_ones_are_missing(tmp_path: Path) -> None:
    dataset = cds(weather())[["t2m"]]
    final, preliminary = dataset.copy(deep=True), dataset.copy(deep=True) + 1
    final.t2m[3:] = np.nan
    preliminary.t2m[:2] = np.nan
    both = xr.concat([final, preliminary], xr.IndexVariable("expver", [1, 5])).transpose(
        "time", "expver", ...
    )
    archive = open_archive(netcdf(tmp_path / "a.nc", both))
    values = read(archive, Variables(("2t",)))[0][:, 0]
    np.testing.assert_array_equal(values[:3], dataset.t2m[:3])
    np.testing.assert_array_equal(values[3], preliminary.t2m[3])
    assert "final (expver 1) and preliminary (expver 5) values are joined" in archive.notes


def test_doubled_and_missing_times_are_told(tmp_path: Path) -> None:
    dataset = weather(8)
    netcdf(tmp_path / "a.nc", dataset.isel(time=slice(0, 4)))
    netcdf(tmp_path / "b.nc", dataset.isel(time=[3, 4, 6, 7]))
    archive = open_archive(tmp_path)
    assert len(archive.times) == 7 and archive.step == 6
    np.testing.assert_array_equal(archive.gaps, [np.datetime64("2020-01-02T06")])
    assert archive.notes == [
        "5 fields are stored twice for a time: the first is taken",
        "1 times are missing, the first 2020-01-02T06:00",
    ]
    with pytest.raises(UserError, match="has no 2t at 2020-01-02T06:00"):
        archive.read([int(np.datetime64("2020-01-02T06", "s").astype(int))], EVERYTHING)


def test_times_of_some_variables_are_those_at_which_these_are_stored(tmp_path: Path) -> None:
    netcdf(tmp_path / "a.nc", weather(4))
    netcdf(tmp_path / "b.nc", weather(4, start="2020-01-02")[["2m_temperature"]])
    archive = open_archive(tmp_path)
    assert len(archive.times) == 4 and archive.notes == ["4 times lack some of the variables"]
    assert len(archive.narrowed(Variables(("2t",))).times) == 8


def test_regions_across_greenwich_are_read_in_their_order(tmp_path: Path) -> None:
    dataset = weather()
    archive = open_archive(store(tmp_path / "a.zarr", dataset))
    surface, atmospheric = read(archive, rows=slice(1, 4), columns=np.array([6, 7, 0, 1]))
    np.testing.assert_array_equal(surface[:, 0], dataset["2m_temperature"].values[:, 1:4][..., [6, 7, 0, 1]])
    np.testing.assert_array_equal(atmospheric[:, 1], dataset.temperature.values[:, :, 1:4][..., [6, 7, 0, 1]])


@pytest.mark.parametrize("form", [2, 3])
def test_a_chunk_that_is_not_stored_is_refused(tmp_path: Path, form: int) -> None:
    path = store(tmp_path / "a.zarr", weather(), form=form)
    chunk = path / "geopotential" / ("2.0.0.0" if form == 2 else "c/2/0/0/0")
    chunk.unlink()
    with pytest.raises(
        UserError, match=r"a.zarr: geopotential \(z\) at 2020-01-01T12:00 is not in the store"
    ):
        read(open_archive(path, fill="mean"))


@pytest.mark.parametrize(("form", "key"), [(2, "1.0.0"), (3, "c/1/0/0")])
def test_unwritten_zeros_are_refused_but_for_fields_that_may_vanish(
    tmp_path: Path, form: int, key: str
) -> None:
    dataset = weather()
    dataset.total_precipitation_6hr[1] = 0
    one = {"chunks": (1, 5, 8), "_FillValue" if form == 2 else "fill_value": 0.0}
    names = "total_precipitation_6hr", "2m_temperature"
    path = store(tmp_path / "a.zarr", dataset, form=form, encoding=dict.fromkeys(names, one))
    assert not (path / names[0] / key).exists()
    archive = open_archive(path)
    same(archive, dataset)
    assert archive.notes == ["chunks of tp that are not stored are read as 0"]
    (path / names[1] / key).unlink()
    with pytest.raises(UserError, match=r"\(2t\) at 2020-01-01T06:00 is not in the store"):
        read(open_archive(path))


def test_cut_off_files_and_chunks_are_refused(tmp_path: Path) -> None:
    dataset = weather()
    chunk = store(tmp_path / "a.zarr", dataset) / "temperature" / "3.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"temperature \(t\) at 2020-01-01T18:00 cannot be read"):
        read(open_archive(tmp_path / "a.zarr"))
    for old in (True, False):
        file = netcdf(tmp_path / "b.nc", cds(dataset), old=old)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(UserError, match=r"b.nc.* cut off"):
            read(open_archive(file))


def test_missing_values_are_filled_or_refused(tmp_path: Path) -> None:
    dataset = weather()
    dataset.temperature[1, 1, 2, 3] = np.nan
    path = netcdf(tmp_path / "a.nc", dataset)
    with pytest.raises(
        UserError, match=r"a.nc: temperature \(t\) at 2020-01-01T06:00 on 850 hPa has 1 missing"
    ):
        read(open_archive(path))
    filled = read(open_archive(path, fill="nearest_level"), Variables((), ("t",), (850,)))[1]
    assert filled[1, 0, 0, 2, 3] == dataset.temperature[1, 0, 2, 3]
    filled = read(open_archive(path, fill="mean"))[1]
    np.testing.assert_allclose(filled[1, 1, 1, 2, 3], dataset.temperature[1, 1].mean(), rtol=1e-6)
    assert np.isnan(read(open_archive(path, fill="keep"))[1][1, 1, 1, 2, 3])
    dataset.temperature[1, 1] = np.nan
    with pytest.raises(UserError, match="on 850 hPa has 40 missing"):
        read(open_archive(netcdf(tmp_path / "b.nc", dataset), fill="mean"))


def test_ensembles_are_read_by_member(tmp_path: Path) -> None:
    members = xr.concat([weather(seed=0), weather(seed=1)], xr.IndexVariable("number", [0, 1]))
    archive = open_archive(store(tmp_path / "a.zarr", members))
    assert archive.members == 2
    np.testing.assert_array_equal(read(archive, member=1)[0][:, 0], weather(seed=1)["2m_temperature"])
    with pytest.raises(UserError, match="choose one of its members, 0 to 1"):
        read(archive)


def _first(archive: Archive) -> float:
    return float(read(archive)[0][0, 0, 0, 0])


@pytest.mark.parametrize("kind", ["zarr", "nc"])
def test_forked_workers_and_pickles_read_what_their_parent_read(tmp_path: Path, kind: str) -> None:
    dataset = weather()
    path = store(tmp_path / "a.zarr", dataset) if kind == "zarr" else netcdf(tmp_path / "a.nc", dataset)
    archive = open_archive(path)
    expected = _first(archive)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_first, (archive,)).get(timeout=20) == expected
    assert _first(pickle.loads(pickle.dumps(archive))) == expected


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("unit", ["hours", "nanoseconds"])
def test_forecasts_are_given_by_start_and_lead(tmp_path: Path, transposed: bool, unit: str) -> None:
    parts = [weather(3, seed=seed).isel(latitude=slice(None, None, -1)) for seed in range(2)]
    forecast = xr.concat(
        [part.drop_vars("land_sea_mask").rename(time="prediction_timedelta") for part in parts], "time"
    )
    leads = np.arange(3) * (6 if unit == "hours" else 6 * 3600 * 10**9)
    forecast = forecast.assign_coords(
        time=hours(2, 12), prediction_timedelta=("prediction_timedelta", leads, {"units": unit})
    )
    forecast = forecast.transpose(..., "longitude", "latitude") if transposed else forecast
    opened = open_forecast(store(tmp_path / "a.zarr", forecast))
    assert (opened.leads, opened.members, len(opened.starts)) == ((0.0, 6.0, 12.0), 0, 2)
    second = opened.at(opened.starts[1])
    np.testing.assert_array_equal(second.times, hours(3, start="2020-01-01T12"))
    np.testing.assert_array_equal(read(second)[1][:, 0], weather(3, seed=1).geopotential)
    with pytest.raises(UserError, match="no forecast that starts at 2020-01-05"):
        opened.at(np.datetime64("2020-01-05"))
    with pytest.raises(UserError, match="no lead times"):
        open_forecast(netcdf(tmp_path / "b.nc", weather()))


def _levels(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.assign_coords(level=("level", [1, 2], {"units": "1", "long_name": "hybrid level"}))


def _times(dataset: xr.Dataset, **attributes: str) -> xr.Dataset:
    return dataset.assign_coords(time=("time", [0, 6, 12, 18], attributes))


def _furlongs(dataset: xr.Dataset) -> xr.Dataset:
    return dataset["2m_temperature"].assign_attrs(units="furlong").to_dataset()


def _misspelt(dataset: xr.Dataset) -> xr.Dataset:
    return dataset["2m_temperature"].rename("2m_temprature").to_dataset()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_misspelt, "unknown .*2m_temprature; did you mean '2m_temperature'"),
        (_furlongs, "2m_temperature is in 'furlong', no known unit of 2t"),
        (lambda d: d.assign(t2m=d["2m_temperature"]), "2m_temperature and t2m are all 2t; leave some out"),
        (_levels, "levels of 'hybrid', not of pressure"),
        (lambda d: d.assign_coords(latitude=[0.0, 1, 0, 1, 0]), "no grid that can be used"),
        (lambda d: d.isel(latitude=0, longitude=0), "no known field on latitude and longitude"),
        (_times, "are numbers without units"),
        (lambda d: _times(d, units="months since 2000-01-01"), "cannot be read"),
        (lambda d: _times(d, units="days since 2000-01-01", calendar="noleap"), "calendar 'noleap'"),
    ],
)
def test_what_cannot_be_mended_is_refused_in_one_sentence(tmp_path: Path, change, sentence: str) -> None:  # type: ignore[no-untyped-def]
    path = netcdf(tmp_path / "a.nc", change(weather()))
    with pytest.raises(UserError, match=sentence) as error:
        open_archive(path)
    assert "\n" not in str(error.value) and "a.nc" in str(error.value)


def test_a_file_of_another_grid_is_refused(tmp_path: Path) -> None:
    netcdf(tmp_path / "a.nc", weather())
    netcdf(tmp_path / "b.nc", weather().isel(latitude=slice(0, 3)))
    with pytest.raises(UserError, match=r"b.nc: .* has Grid\(3 x 8"):
        open_archive(tmp_path)


def test_names_are_suggested_and_can_be_given(tmp_path: Path) -> None:
    dataset = weather().rename({"2m_temperature": "TEMP"})
    archive = open_archive(netcdf(tmp_path / "a.nc", dataset), names={"TEMP": "2t"})
    assert archive.variables.surface == ("2t", "msl", "tp")
    with pytest.raises(UserError, match=r"has no variable '2tt'.*did you mean '2t'"):
        read(archive, Variables(("2tt",)))
    with pytest.raises(UserError, match="no z on 700 hPa"):
        read(archive, Variables((), ("z",), (700,)))


@pytest.mark.parametrize(
    ("values", "attributes"),
    [
        (np.array([43824, 43830], np.int32), {"units": "hours since 2015-01-01 00:00:00.0"}),
        (np.array([18262.0, 18262.25], np.float32), {"units": "days since 1970-01-01"}),
        (np.array([20200101, 20200101.25]), {"units": "day as %Y%m%d.%f"}),
        (np.array([2.0, 8.0]), {"units": "hours since 2020-01-01T00:00:00+02:00"}),
        (np.array(["2020-01-01T00:00:00Z", "2020-01-01T08:00:00+02:00"]), {}),
    ],
)
def test_times_are_read_in_utc(tmp_path: Path, values: np.ndarray, attributes: dict[str, str]) -> None:
    dataset = weather(2).assign_coords(time=("time", values, attributes))
    archive = open_archive(netcdf(tmp_path / "a.nc", dataset))
    np.testing.assert_array_equal(archive.times, hours(2).astype("datetime64[s]"))


def test_all_forms_of_the_real_sequence_are_equal(shared: Path) -> None:
    folder = shared / "data" / "weather"
    names = (
        "ifs_pl_10deg_6h_2024-06.nc",
        "ifs_pl_10deg_6h_2024-06_wb2layout.zarr",
        "grib/ifs_oper_pl_10deg_2024-06-03_04.grib",
    )
    archives = [open_archive(folder / name) for name in names]
    fields = [read(archive, archives[0].variables)[1] for archive in archives]
    with xr.open_dataset(folder / names[0], engine="h5netcdf") as dataset:
        np.testing.assert_array_equal(fields[0][:, 0], dataset.z)
    for archive, field in zip(archives, fields, strict=True):
        assert archive.variables == archives[0].variables and archive.grid == archives[0].grid
        np.testing.assert_array_equal(archive.times, archives[0].times)
        np.testing.assert_array_equal(field, fields[0])


def test_negative_longitudes_of_the_real_series_are_turned(shared: Path) -> None:
    archive = open_archive(shared / "data" / "weather" / "era5_t2m_uk_hourly_2019-03.nc")
    with xr.open_dataset(
        shared / "data" / "weather" / "era5_t2m_uk_hourly_2019-03.nc", engine="h5netcdf"
    ) as dataset:
        expected = dataset.t2m[:3].values
    values = archive.read(archive.times[:3].astype(np.int64).tolist(), Variables(("2t",)))[0][:, 0]
    np.testing.assert_array_equal(archive.grid.longitude[[0, 8, 9, 48]], [0.0, 2.0, 350.0, 359.75])
    np.testing.assert_array_equal(values, np.roll(expected, 9, axis=-1))


def test_means_of_the_real_regional_files_are_the_known_ones(shared: Path) -> None:
    folder = shared / "data" / "weather" / "era5_cds_regional_hourly"
    archive = open_archive(sorted(folder.glob("ERA5_2020-01-01_*.nc")))
    surface, _ = read(archive, Variables(("tp", "e", "sp", "2d")))
    for name, values in zip(("tp", "e", "sp", "d2m"), surface.swapaxes(0, 1), strict=True):
        with xr.open_dataset(folder / f"ERA5_2020-01-01_{name}.nc", engine="h5netcdf") as dataset:
            np.testing.assert_allclose(values, dataset[name], rtol=1e-6)
    assert archive.accumulated == {"tp": 1.0, "e": 1.0} and len(archive.licences) == 1
    assert json.dumps(archive.units)


def test_times_whose_chunk_is_not_stored_are_refused(tmp_path: Path) -> None:
    (store(tmp_path / "a.zarr", weather()) / "time" / "0").unlink()
    with pytest.raises(UserError, match="chunks of time are missing in the store"):
        open_archive(tmp_path / "a.zarr")


def test_shards_that_are_not_stored_are_refused(tmp_path: Path) -> None:
    dataset = weather()[["2m_temperature"]]
    path = store(
        tmp_path / "a.zarr",
        dataset,
        form=3,
        encoding={"2m_temperature": {"chunks": (1, 5, 4), "shards": (2, 5, 8)}},
    )
    np.testing.assert_array_equal(
        read(open_archive(path), Variables(("2t",)))[0][:, 0], dataset["2m_temperature"]
    )
    (path / "2m_temperature" / "c" / "1" / "0" / "0").unlink()
    with pytest.raises(UserError, match="2020-01-01T12:00 is not in the store"):
        read(open_archive(path), Variables(("2t",)))


def test_two_files_that_hold_one_variable_under_two_names_are_refused(tmp_path: Path) -> None:
    netcdf(tmp_path / "a.nc", weather())
    netcdf(tmp_path / "b.nc", cds(weather())[["t2m"]])
    with pytest.raises(UserError, match="2m_temperature and t2m are all 2t; leave some out"):
        open_archive(tmp_path)
