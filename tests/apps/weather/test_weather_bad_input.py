"""`dfm weather predict` refuses bad input in one sentence and with code 2, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from in_process import dfm
from small_globe import FACTS, fields

from apps.weather.models.met2net import Met2Net
from core.checkpoints.files import write_checkpoint
from core.data.normaliser import STATE

xarray = pytest.importorskip("xarray")
pytest.importorskip("zarr")
pytest.importorskip("h5netcdf")

NETWORK = {"fields": 8, "history": 2, "width": 4, "translator_width": 8, "depth": 1}


def checkpoint(path: Path, **facts: object) -> Path:
    """Write a checkpoint as `dfm weather fit` does."""
    state = {f"network.{name}": value for name, value in Met2Net(**NETWORK).state_dict().items()}
    network = {"class_path": "apps.weather.models.met2net.Met2Net", "init_args": NETWORK}
    task = {"class_path": "apps.weather.tasks.WeatherForecasting", "init_args": {"network": network}}
    content = {
        "state_dict": {**state, STATE: replace(FACTS, **facts).plain()},
        "domainfm": {"format": 1, "config": {"model": task}},
    }
    return write_checkpoint(content, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and its data."""
    place = tmp_path_factory.mktemp("forecasts")
    checkpoint(place / "best.ckpt")
    fields().to_netcdf(place / "era5.nc", engine="h5netcdf")
    return place


@pytest.fixture
def refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A function that predicts with other words or data, and returns the one sentence of its refusal."""
    monkeypatch.chdir(tmp_path)

    def predict(*words: object, data: xarray.Dataset | None = None, ckpt: Path = folder / "best.ckpt") -> str:
        path: Path = folder / "era5.nc"
        if data is not None:
            path = tmp_path / "mine.nc"
            data.to_netcdf(path, engine="h5netcdf")
        given = [] if "--data.path" in words else ["--data.path", path]
        before = set(tmp_path.iterdir())
        code, _, err = dfm("weather", "predict", "--ckpt_path", ckpt, *given, *words)
        assert code == 2 and err.count("\n") == 1 and err.startswith("dfm"), err
        assert set(tmp_path.iterdir()) == before, "nothing is left behind"
        return err

    return predict


def test_a_forecast_is_written_and_read_again(folder, tmp_path) -> None:
    out = tmp_path / "forecast.nc"

    code, shown, err = dfm(
        "weather", "predict", "--ckpt_path", folder / "best.ckpt", "--data.path", folder / "era5.nc",
        "--start", "2020-01-01T06", "--steps", 3, "--out", out, "--south_pole",
    )  # fmt: skip

    assert code == 0 and shown.split() == [str(out)], err
    assert "8 x 16 of 9 x 16 points are used" in err
    with xarray.open_dataset(out, decode_timedelta=True) as forecast:
        assert forecast["geopotential"].shape == (1, 3, 2, 9, 16)
        assert forecast.attrs["made_by"] == "dfm weather predict"


WORDS = {
    "no step": (["--steps", "0"], ["--steps is 0", "at least 1"]),
    "a start beyond the data": (
        ["--start", "2020-03-01T00"], ["has no state at 2020-03-01T00", "nearest start is 2020-01-02T06"]),
    "a start between states": (["--start", "2020-01-01T13"], ["nearest start is 2020-01-01T12"]),
    "a start without its history": (
        ["--start", "2020-01-01"], ["does not have the 1 state", "nearest start is 2020-01-01T06"]),
    "a start that is no time": (["--start", "yesterday"], ["--start yesterday is no time"]),
    "another suffix": (["--out", "forecast.grib"], ["must end in .nc or .zarr"]),
    "data that are not there": (["--data.path", "era6.nc"], ["era6.nc does not exist"]),
    "a region elsewhere": (["--data.region", "91", "95", "0", "10"], ["data.region", "degrees"]),
    "a region below a patch": (["--data.region", "0", "45", "0", "45"], ["3 x 3 points", "patches of 4"]),
    "a member that is not there": (["--member", "2"], ["--member is 2", "has 1"]),
    "a misspelt option": (["--step", "3"], ["unknown option --step", "did you mean '--steps'"]),
    "a pair that is none": (["--data.name", "T2"], ["--data.name T2 is not THEIRS=OURS"]),
}  # fmt: skip


@pytest.mark.parametrize(("words", "fragments"), WORDS.values(), ids=WORDS)
def test_words_are_refused(refused, words, fragments) -> None:
    sentence = refused(*words)

    assert [fragment for fragment in fragments if fragment not in sentence] == [], sentence


def test_a_checkpoint_of_other_fields_than_the_data_is_refused(refused, tmp_path) -> None:
    data = fields()

    assert "has no variable '2t'" in refused(data=data.drop_vars("2m_temperature"))
    assert "lacks 850 hPa of the checkpoint's variables.levels" in refused(data=data.sel(level=[500]))
    assert "has no variable 'q' on levels" in refused(data=data.drop_vars("specific_humidity"))
    assert "a record every 12 hours" in refused(data=data.isel(time=slice(None, None, 2)))
    assert "no 2 states 6 hours apart" in refused(data=data.isel(time=[0]))


def test_a_grid_that_is_no_multiple_of_a_patch_is_refused(refused) -> None:
    data = fields()

    assert "3 x 16 points" in refused(data=data.isel(latitude=slice(3, 6)))
    assert "not whole patches of 4" in refused(data=data.isel(latitude=slice(1, 8)))
    assert "no row of the south pole" in refused("--south_pole", data=data.isel(latitude=slice(0, 8)))


def test_missing_values_of_the_initial_state_are_refused(refused) -> None:
    data = fields(rows=8)
    data["geopotential"][-1, 1, 2, 3] = np.nan

    sentence = refused(data=data)

    assert all(word in sentence for word in ("geopotential", "2020-01-02T06", "850", "1 missing")), sentence


def test_a_file_that_is_not_ours_is_not_replaced(refused, tmp_path) -> None:
    (tmp_path / "forecast.nc").write_text("mine")

    assert "exists and is no output of `dfm weather predict`" in refused("--out", "forecast.nc")
    assert (tmp_path / "forecast.nc").read_text() == "mine"
    path = tmp_path / "mine.nc"
    fields().to_netcdf(path, engine="h5netcdf")
    assert "is the file of the data" in refused("--data.path", path, "--out", path)


def test_members_of_other_fields_and_weights_without_facts_are_refused(refused, folder, tmp_path) -> None:
    longer = checkpoint(tmp_path / "longer.ckpt", step=12.0)
    bare = write_checkpoint({"state_dict": {}, "domainfm": {"format": 1}}, tmp_path / "bare.ckpt")

    assert "an ensemble needs checkpoints of the same fields" in refused("--ckpt_path", longer)
    assert "does not say what data it was trained on" in refused(ckpt=bare)


def test_static_fields_that_nobody_has_are_named(refused, tmp_path) -> None:
    other = checkpoint(tmp_path / "other.ckpt", static=None)

    assert "lacks the static lsm" in refused(ckpt=other, data=fields().drop_vars("land_sea_mask"))
