"""`dfm weather score` and `climatology`: any forecast beside the truth, and what is refused."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import dfm

xarray = pytest.importorskip("xarray")
pytest.importorskip("zarr")
pytest.importorskip("h5netcdf")

LATITUDE, LONGITUDE = np.linspace(-78.75, 78.75, 8), np.arange(12) * 30.0  # ascending, as the stores
LEADS = (6, 12, 24)


def truth(start: str = "2020-02-25", days: int = 12, step: int = 6) -> xarray.Dataset:
    """Return fields under WeatherBench 2's names."""
    times = np.datetime64(start, "ns") + np.arange(days * 24 // step) * np.timedelta64(step, "h")
    random = np.random.default_rng(0)
    axes, shape = ("time", "latitude", "longitude"), (len(times), 8, 12)

    def wandering(scale: float, *more: int) -> np.ndarray:
        return (scale * np.cumsum(random.normal(size=(shape[0], *more, *shape[1:])), 0)).astype("f4")

    deep = (axes[0], "level", *axes[1:])
    return xarray.Dataset(
        {
            "2m_temperature": (axes, 280 + wandering(0.5), {"units": "K"}),
            "geopotential": (deep, 5e4 + wandering(50, 2), {"units": "m**2 s**-2"}),
            "u_component_of_wind": (deep, wandering(1, 2), {"units": "m s**-1"}),
            "v_component_of_wind": (deep, wandering(1, 2), {"units": "m s**-1"}),
            "land_sea_mask": (axes[1:], (random.random(shape[1:]) > 0.6).astype("f4")),
        },
        {"time": times, "level": [500, 850], "latitude": LATITUDE, "longitude": LONGITUDE},
    )


def forecast(fields: xarray.Dataset, error: float, *, members: int = 0, every: int = 2) -> xarray.Dataset:
    """Return forecasts of LEADS whose error grows, axes as in the low-resolution stores."""
    random = np.random.default_rng(int(10 * error))
    starts = np.arange(0, fields.sizes["time"] - 4, every)
    places = starts[:, None] + np.array(LEADS) // 6
    arrays = {}
    for name, field in fields.drop_vars("land_sea_mask").data_vars.items():
        values = field.values[places][None]
        growth = np.sqrt(LEADS).reshape(-1, *[1] * (values.ndim - 3))
        noise = random.normal(size=(max(members, 1), *values.shape[1:])) * growth
        dims = ("number", "time", "prediction_timedelta", *field.dims[1:])
        array = xarray.DataArray((values + error * noise).astype("f4"), dims=dims, attrs=field.attrs)
        array = array if members else array.isel(number=0)
        arrays[name] = array.transpose(..., "longitude", "latitude")
    leads = np.array(LEADS, "timedelta64[h]").astype("timedelta64[ns]")
    kept = {axis: fields[axis] for axis in ("level", "latitude", "longitude")}
    return xarray.Dataset(arrays, {"time": fields.time[starts], "prediction_timedelta": leads, **kept})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Truth, forecasts, an ensemble and a climatology."""
    place = tmp_path_factory.mktemp("scored")
    fields = truth()
    fields.to_zarr(place / "era5.zarr", zarr_format=2)
    forecast(fields, 0.1).to_zarr(place / "good.zarr", zarr_format=2)
    forecast(fields, 0.3).to_netcdf(place / "bad.nc", engine="h5netcdf")
    forecast(fields, 0.2, members=4).to_zarr(place / "many.zarr", zarr_format=2)
    year = truth("2019-01-01", 365 + 366, 12)[["2m_temperature", "geopotential"]]
    year.to_netcdf(place / "years.nc", engine="h5netcdf")
    code, _, err = dfm(
        "weather", "climatology", "--data.path", place / "years.nc", "--years", 2019, 2020,
        "--hours", 12, "--out", place / "clim.zarr",
    )  # fmt: skip
    assert code == 0, err
    return place


@pytest.fixture
def score(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run the command in the folder and return the table; or, if refused, the sentence."""
    monkeypatch.chdir(folder)

    def run(*words: object, out: str = "scores", truth: str = "era5.zarr") -> Any:
        code, _, err = dfm("weather", "score", "--truth", truth, "--out", out, "--no_figure", *words)
        if code:
            assert code == 2 and err.count("\n") == 1, err
            return err
        with open(f"{out}/scores.csv", encoding="utf-8") as file:
            return list(csv.DictReader(file)), err

    return run


def cell(rows: list[dict[str, str]], **wanted: str) -> dict[str, str]:
    """Return the one row of a table with some values."""
    (row,) = (row for row in rows if all(row[name] == value for name, value in wanted.items()))
    return row


def test_scores_of_a_store_are_those_of_its_numbers(score: Callable[..., Any], folder: Path) -> None:
    rows, _ = score("--forecast", "good.zarr")

    row = cell(rows, model="good", variable="z", level="850.0", lead="24.0", region="global")
    stored = xarray.open_zarr(folder / "good.zarr").geopotential.sel(level=850)
    wanted = xarray.open_zarr(folder / "era5.zarr").geopotential.sel(level=850)
    guess = stored.isel(prediction_timedelta=2).transpose("time", "latitude", "longitude").values
    error = guess - wanted.sel(time=stored.time + np.timedelta64(24, "h")).values
    sines = np.sin(np.deg2rad([-90, *(LATITUDE[1:] + LATITUDE[:-1]) / 2, 90]))
    weights = np.diff(sines)[:, None] / 2 / 12
    assert float(row["rmse"]) == pytest.approx(np.sqrt((error**2 * weights).sum((1, 2)).mean()), rel=1e-5)
    assert float(row["bias"]) == pytest.approx((error * weights).sum((1, 2)).mean(), rel=1e-4)
    assert row["weights"] == "area" and int(row["starts"]) == stored.sizes["time"]
    assert float(row["skill_persistence"]) > 0


def test_two_forecasts_are_compared_and_all_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    words = ("--forecast", "good.zarr", "--forecast", "bad.nc", "--truth", "era5.zarr", "--out", "both")
    code, out, err = dfm("weather", "score", *words, "--block_days", 1, "--climatology", "clim.zarr")

    assert code == 0, err
    assert "weights: area" in out and "lacks the hours of day 6, 18: no ACC then" in err
    files = {path.name for path in Path("both").iterdir() if not path.name.startswith(".")}
    tables = {"scores.csv", "scores.nc", "differences.csv", "spectra.csv"}
    assert files == tables | {f"{name}.png" for name in ("score_card", "by_lead", "spectra", "map")}
    with open("both/differences.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert all(
        float(row["high"]) < 0 for row in rows if row["metric"] == "rmse" and row["region"] == "global"
    )
    table = xarray.open_dataset("both/scores.nc", engine="h5netcdf")
    assert table.rmse.dims == ("model", "field", "lead", "region") and "area" in table.attrs["weights"]
    assert set(table.model.values) == {"good", "bad", "persistence", "climatology"}
    acc = table.acc.sel(model="good", field="z_500", region="global")
    assert float(acc[0]) != float(acc[0]) and 0.5 < float(acc[1]) <= 1, "the file has hours 0 and 12"
    assert dfm("weather", "score", *words[:2], *words[4:], "--no_figure").code == 0, (
        "its own output is written anew"
    )
    assert not Path("both/differences.csv").exists() and not Path("both/map.png").exists()


def test_members_are_scored_as_an_ensemble(score: Callable[..., Any]) -> None:
    rows, _ = score("--forecast", "many.zarr", "--variables", "2t", "z", "--levels", 500)

    row = cell(rows, model="many", variable="2t", lead="24.0", region="global")
    parts = float(row["crps_skill"]) - float(row["crps_spread"]) / 2
    assert float(row["crps"]) == pytest.approx(parts)
    assert float(row["spread_skill"]) == pytest.approx(2, rel=0.2), (
        "the mean's error is half that of a member"
    )
    assert {row["variable"] for row in rows} == {"2t", "z"} and {row["level"] for row in rows} == {
        "",
        "500.0",
    }


def test_a_forecast_without_its_last_row_is_scored_where_both_are(
    score: Callable[..., Any], folder: Path
) -> None:
    cropped = xarray.open_zarr(folder / "good.zarr").isel(latitude=slice(1, None)).load()
    cropped["2m_temperature"][2, 1, 5, 3] = np.nan
    for array in cropped.variables.values():
        array.encoding.clear()
    cropped.to_netcdf(folder / "cropped.nc", engine="h5netcdf")

    rows, err = score("--forecast", "cropped.nc", "--starts", "2020-02-25", "2020-02-28")

    assert "scored on the points that all have: Grid(7 x 12" in err
    assert "1 values of 2t in the forecast are NaN" in err
    assert cell(rows, model="cropped", variable="2t", lead="12.0", region="global")["starts"] == "8"


def test_a_climatology_is_the_mean_over_years_and_a_triangular_window(folder: Path) -> None:
    years = xarray.open_dataset(folder / "years.nc", engine="h5netcdf")["2m_temperature"].values[
        ::2
    ]  # hour 0
    made = xarray.open_zarr(folder / "clim.zarr")
    stacked = np.full((2, 366, *years.shape[1:]), np.nan)
    stacked[0, :365], stacked[0, 365], stacked[1] = years[:365], years[364], years[365:]
    weights = np.concatenate([np.linspace(0, 1, 31), np.linspace(1, 0, 31)[1:]])
    for day in (0, 40, 365):
        window = np.take(stacked, np.arange(day - 30, day + 31), axis=1, mode="wrap")
        wanted = (window * weights[:, None, None]).sum((0, 1)) / (2 * weights.sum())
        values = made["2t"].isel(hour=0, dayofyear=day)
        np.testing.assert_allclose(values, wanted[::-1], rtol=1e-5)  # latitude falls
    assert made.z.dims == ("hour", "dayofyear", "level", "latitude", "longitude")
    assert made.hour.values.tolist() == [0, 12] and made.dayofyear.values[-1] == 366


def test_less_memory_gives_the_same_climatology(folder: Path, tmp_path: Path) -> None:
    words = (
        "--years",
        2019,
        2020,
        "--hours",
        12,
        "--variables",
        "2t",
        "--memory",
        1e-4,
        "--out",
        tmp_path / "c.nc",
    )

    assert dfm("weather", "climatology", "--data.path", folder / "years.nc", *words).code == 0
    banded = xarray.open_dataset(tmp_path / "c.nc", engine="h5netcdf")
    np.testing.assert_array_equal(banded["2t"], xarray.open_zarr(folder / "clim.zarr")["2t"])


def test_precipitation_has_seeps_where_the_climatology_has_its_thresholds(
    score: Callable[..., Any], folder: Path
) -> None:
    fields = truth()[["2m_temperature"]].rename({"2m_temperature": "total_precipitation_6hr"})
    random = np.random.default_rng(0)
    rain = (1e-3 * random.random(fields.total_precipitation_6hr.shape) ** 3).astype("f4")
    fields["total_precipitation_6hr"] = (fields.total_precipitation_6hr.dims, rain, {"units": "m"})
    fields.to_netcdf(folder / "rain.nc", engine="h5netcdf")
    axes, shape = ("hour", "dayofyear", "latitude", "longitude"), (4, 366, 8, 12)
    thresholds = {
        "total_precipitation_6hr_seeps_dry_fraction": (axes, np.full(shape, 0.5, "f4")),
        "total_precipitation_6hr_seeps_threshold": (axes, np.full(shape, 3e-4, "f4"), {"units": "m"}),
    }
    days = {"hour": [0, 6, 12, 18], "dayofyear": np.arange(1, 367)}
    clim = xarray.Dataset(thresholds, {**days, "latitude": LATITUDE, "longitude": LONGITUDE})
    clim.to_netcdf(folder / "rain_clim.nc", engine="h5netcdf")
    words = (
        "--forecast",
        "persistence",
        "--climatology",
        "rain_clim.nc",
        "--leads",
        6,
        "--regions",
        "global",
    )

    rows, _ = score(*words, truth="rain.nc", out="rain")

    category = (rain >= 1e-4).astype(int) + (rain >= 3e-4)
    matrix = np.array([[0, 2, 8], [2, 0, 6], [3.2, 1.2, 0]]) / 2
    points = matrix[category[:-1], category[1:]]
    sines = np.sin(np.deg2rad([-90, *(LATITUDE[1:] + LATITUDE[:-1]) / 2, 90]))
    wanted = (points * np.diff(sines)[:, None] / 24).sum((1, 2)).mean()
    assert float(cell(rows, model="persistence")["seeps"]) == pytest.approx(wanted, rel=1e-5)


def test_what_cannot_be_scored_is_refused_in_a_sentence(score: Callable[..., Any], folder: Path) -> None:
    fields = truth("2021-06-01", 4)
    fields.to_netcdf(folder / "later.nc", engine="h5netcdf")
    fields.isel(level=[1]).assign_coords(level=[700]).to_netcdf(folder / "level.nc", engine="h5netcdf")
    coarse = fields.isel(latitude=slice(0, None, 2)).assign_coords(latitude=LATITUDE[::2] + 3)
    coarse.to_netcdf(folder / "coarse.nc", engine="h5netcdf")
    clim = xarray.open_zarr(folder / "clim.zarr").load()
    for array in clim.variables.values():
        array.encoding.clear()
    clim.isel(dayofyear=slice(0, 365)).to_netcdf(folder / "short.nc", engine="h5netcdf")
    clim.isel(latitude=slice(0, 4)).to_netcdf(folder / "half.nc", engine="h5netcdf")
    (folder / "mine").mkdir()
    (folder / "mine" / "scores.csv").write_text("my work\n")
    good = ("--forecast", "good.zarr")

    assert "starts 2020-02-25" in score(*good, truth="later.nc") and "truth 2021-06-01" in score(
        *good, truth="later.nc"
    )
    assert "500, 850 hPa" in score(*good, "--levels", 700)
    assert "700 hPa" in score(*good, truth="level.nc")
    assert "regrid" in score(*good, truth="coarse.nc")
    assert "6, 12, 24 hours" in score(*good, "--leads", 48)
    assert "2t, z" in score(*good, "--variables", "msl")
    assert "1 to 366" in score(*good, "--climatology", "short.nc")
    assert "lacks points" in score(*good, "--climatology", "half.nc")
    assert "no output of `dfm weather score`" in score(*good, out="mine")
    assert "twice" in score(*good, *good, *good)
    assert "no lead times" in score("--forecast", "era5.zarr")
    assert "no times" in score(*good, "--starts", "soon", "later")
    assert "--weights sphere" in score(*good, "--weights", "sphere")
    assert "above 0" in score(*good, "--block_days", 0)
    assert "abacus" in score(*good, "--device", "abacus")
    assert "europe" in score(*good, "--regions", "europ")
    assert (folder / "mine" / "scores.csv").read_text() == "my work\n"
    code, _, err = dfm("weather", "climatology", "--data.path", folder / "years.nc", "--years", 2018, 2020,
                       "--out", folder / "other.zarr")  # fmt: skip
    assert code == 2 and "no state in 2018" in err and "2019 to 2020" in err


def test_a_roll_out_moves_with_north_above() -> None:
    pytest.importorskip("matplotlib")
    import torch

    from apps.weather.batch import Grid, States, Variables
    from apps.weather.figures import movie
    from apps.weather.metrics.scores import WeatherScores

    scores = WeatherScores(Grid(LATITUDE[::-1], LONGITUDE), Variables(("2t",)), (6.0, 12.0, 24.0))
    field = torch.zeros(1, 2, 1, 8, 12)
    field[..., 0, :] = 1
    states = States(field, torch.zeros(1, 2, 0, 0, 8, 12))

    frames = movie(scores, (states, states), {"2t": "K"})

    assert len(frames) == 2, "of the last two leads"
    top, bottom = frames[0][60, 100], frames[0][200, 100]
    assert tuple(top) != tuple(bottom) and top.sum() > bottom.sum(), "the bright row is at the top"
