"""Labelled arrays are written piece by piece along any axis, and outlive a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError
from core.inference.netcdf import ArrayFile, LabelledArray, arrays_written_to
from core.inference.resumable import resumed

xarray = pytest.importorskip("xarray")
pytest.importorskip("zarr")
pytest.importorskip("h5netcdf")

ROOT = Path(__file__).parents[2]
FILE = ArrayFile(
    arrays={
        "time": LabelledArray(("time",), {"units": "days since 2020-01-01"}, np.arange(2)),
        "lead": LabelledArray(("lead",), {"units": "1"}, np.arange(3)),
        "level": LabelledArray(("level",), {"units": "hPa", "positive": "down"}, np.array([500.0, 850.0])),
        "latitude": LabelledArray(("y", "x"), {"units": "degrees_north"}, np.arange(20.0).reshape(4, 5)),
        "t": LabelledArray(("time", "lead", "level", "y", "x"), {"units": "K", "coordinates": "latitude"}),
        "msl": LabelledArray(("time", "lead", "y", "x"), {"units": "Pa"}),
    },
    command="dfm tests write",
    attributes={"licences": "CC0"},
    pieces={"time": 1, "lead": 1},
)


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
@pytest.mark.parametrize("axis", [1, 2])
def test_pieces_along_any_axis_come_back_with_their_labels(tmp_path: Path, suffix: str, axis: int) -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 2, 4, 5)).astype("float32")
    path = tmp_path / f"out{suffix}"

    with arrays_written_to(path, FILE) as arrays:
        arrays["msl"][:] = values[:, :, 0]
        for number in range(values.shape[axis]):
            piece = (slice(None),) * axis + (number,)
            arrays["t"][piece] = values[piece]

    with xarray.open_dataset(path) as held:
        np.testing.assert_array_equal(held["t"], values)
        assert held["t"].dims == ("time", "lead", "level", "y", "x") and held["t"].units == "K"
        assert held["level"].positive == "down" and str(held["time"].values[1])[:10] == "2020-01-02"
        assert held["latitude"].dims == ("y", "x") and held.attrs["licences"] == "CC0"


def test_an_unfinished_output_is_begun_anew_from_another_origin(tmp_path: Path) -> None:
    path = tmp_path / "out.zarr"
    with pytest.raises(UserError, match="stop"), resumed(path, FILE, {"seed": 1}) as output:
        output.keep(1, {"last": np.ones(2)})
        raise UserError("stop")

    with pytest.raises(UserError, match="stop"), resumed(path, FILE, {"seed": 2}) as output:
        assert (output.steps, dict(output.state)) == (0, {})
        raise UserError("stop")
    assert not list(tmp_path.iterdir())  # nothing was whole, so nothing is kept


def write(path: Path, kill_after: int = -1) -> None:
    """Write six steps, each a function of the last; or kill this process before one is noted."""
    with resumed(path, FILE, {"seed": 3}) as output:
        last = output.state.get("last", np.zeros((4, 5), dtype=np.float32))
        for step in range(output.steps, 6):
            last = np.sin(last + np.float32(step))
            output.arrays["msl"][step // 3, step % 3] = last
            for level in range(2):
                output.arrays["t"][step // 3, step % 3, level] = last + level
            if step == kill_after:
                os.kill(os.getpid(), signal.SIGKILL)
            output.keep(step + 1, {"last": last})


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_a_killed_output_goes_on_and_ends_as_an_unbroken_one(tmp_path: Path, suffix: str) -> None:
    killed, whole = tmp_path / f"killed{suffix}", tmp_path / f"whole{suffix}"
    code = f"import test_labelled_arrays as t; t.write(t.Path({str(killed)!r}), kill_after=3)"
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    words = [sys.executable, "-c", code]
    assert subprocess.run(words, env={**os.environ, "PYTHONPATH": path}).returncode == -signal.SIGKILL
    assert not killed.exists()

    write(killed)
    write(whole)

    with xarray.open_dataset(whole) as one, xarray.open_dataset(killed) as other:
        xarray.testing.assert_identical(one, other)
        assert np.isfinite(other["t"]).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == [killed.name, whole.name]
