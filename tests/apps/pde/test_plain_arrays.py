"""Arrays without names of axes: said by the user, in every container, read with the right value."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import xarray
import zarr
from in_process import dfm

from apps.pde.data import Fields
from apps.pde.data.readers.recognition import open_source
from core.errors import UserError

RUNS, STEPS, NX, NY = 6, 5, 4, 8
U = np.arange(RUNS * STEPS * NY * NX, dtype=np.float64).reshape(RUNS, STEPS, NY, NX)
AXES = "run time y x"
NU = np.arange(RUNS, dtype=np.float64)
T = np.array([0.0, 1.0, 2.0, 4.0, 8.0])


def hdf5(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["flow/u"], file["flow/mask"] = U.astype(">f8"), U[0, 0]
        file["nu"], file["flow/t"] = NU, T
    return path


def matlab(path: Path) -> Path:
    """MATLAB's own HDF5: a block before it, and axes in the other order than MATLAB shows."""
    with h5py.File(path, "w", userblock_size=512) as file:
        file["u"], file["t"], file["nu"], file["mask"] = U.T, T[None], NU, U[0, 0].T
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file")
    return path


def old_matlab(path: Path) -> Path:
    scipy.io.savemat(path, {"u": U, "t": T, "nu": NU, "mask": U[0, 0]}, oned_as="row")
    return path


def numpy(path: Path) -> Path:
    np.savez(path, u=U.astype("f2"), t=T, nu=NU, mask=U[0, 0])
    return path


def store(path: Path, zarr_format: int = 2) -> Path:
    dims = ["run", "moment", "row", "column"]
    xarray.Dataset({"u": (dims, U), "t": ("moment", T)}).to_zarr(path, zarr_format=zarr_format)
    return path


def classic(path: Path) -> Path:
    dims = ["a", "b", "c", "d"]
    packed = {"scale_factor": 0.5, "add_offset": 3.0, "dtype": "i2", "_FillValue": -999}
    fields = {"u": (dims, U), "t": ("b", T), "nu": ("a", NU), "mask": (dims[2:], U[0, 0])}
    xarray.Dataset(fields).to_netcdf(path, format="NETCDF3_CLASSIC", engine="scipy", encoding={"u": packed})
    return path


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (hdf5, "u.h5"), (matlab, "u.mat"), (old_matlab, "u.mat"), (numpy, "u.npz"), (classic, "u.nc"),
    ],
    ids=["HDF5", "MATLAB 7.3", "MATLAB 5", "NumPy", "netCDF classic"],
)  # fmt: skip
def test_axes_are_those_that_are_named(tmp_path: Path, write: Callable[[Path], Path], name: str):
    source = open_source(write(tmp_path / name), axes=AXES)

    assert (source.trajectories, source.steps, source.space) == (RUNS, STEPS, (NX, NY))
    np.testing.assert_array_equal(source.read(2, [3], ["u"])[0, 0], U[2, 3].T)
    np.testing.assert_array_equal(source.read(2, [3], ["mask"])[0, 0], U[0, 0].T)
    assert source.constants == ("mask",) and source.numbers(4, ["nu"]) == 4.0
    np.testing.assert_array_equal(source.times, T)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_store_with_other_names_of_axes_is_read(tmp_path, zarr_format):
    source = open_source(store(tmp_path / "u.zarr", zarr_format), axes=AXES)

    assert source.times[-1] == 8.0
    np.testing.assert_array_equal(source.read(5, [1], ["u"])[0, 0], U[5, 1].T)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_store_with_known_names_needs_no_suffix(tmp_path, zarr_format):
    fields = {"u": (["sample", "time", "y", "x"], U)}
    xarray.Dataset(fields).to_zarr(tmp_path / "mine", zarr_format=zarr_format, consolidated=False)

    np.testing.assert_array_equal(open_source(tmp_path / "mine").read(5, [1])[0, 0], U[5, 1].T)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_store_without_names_of_axes_is_refused(tmp_path, zarr_format):
    zarr.open_group(tmp_path / "u.zarr", mode="w", zarr_format=zarr_format)["u"] = U

    with pytest.raises(UserError, match="arrays without dimensions' names; write it with xarray"):
        open_source(tmp_path / "u.zarr", axes=AXES)


def test_one_array_of_numpy(tmp_path):
    np.save(tmp_path / "u.npy", U)

    source = open_source(tmp_path / "u.npy", axes="run, channel, y, x")

    assert source.channels == tuple(f"u_{number}" for number in range(STEPS)) and source.steps == 1
    np.testing.assert_array_equal(source.read(1, [0], ["u_2"])[0, 0], U[1, 2].T)


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        (None, r"u.h5 is not known and its axes have no names \(mask \(8, 4\), u \(6, 5, 8, 4\)"),
        ("run time y", "x among them"),
        ("run time y y x", "each axis once"),
        ("run time foo x", "each axis once"),
        ("run time channel y x", "no numbers with 5 axes"),
    ],
)
def test_axes_that_do_not_fit_are_refused(tmp_path, axes, sentence):
    with pytest.raises(UserError, match=sentence):
        open_source(hdf5(tmp_path / "u.h5"), axes=axes)


def test_complex_values_are_refused(tmp_path):
    np.save(tmp_path / "u.npy", U.astype(complex))

    with pytest.raises(UserError, match="complex values in u; store the real and the imaginary part"):
        open_source(tmp_path / "u.npy", axes=AXES)


def test_pickled_and_cut_files_are_one_sentence(tmp_path):
    np.save(tmp_path / "o.npy", np.array([None, {}], dtype=object), allow_pickle=True)
    (tmp_path / "c.mat").write_bytes(old_matlab(tmp_path / "u.mat").read_bytes()[:300])

    for name in ("o.npy", "c.mat"):
        with pytest.raises(
            UserError, match=r"is cut off, damaged or of another kind|o.npy holds Python objects"
        ):
            open_source(tmp_path / name, axes=AXES)


def test_an_array_for_each_run_is_refused(tmp_path):
    with h5py.File(tmp_path / "sims.h5", "w") as file:
        file["sims/sim0"], file["sims/sim1"] = U[0], U[1]

    with pytest.raises(UserError, match=r"an array for each run \(sim0 .*join them in one"):
        open_source(tmp_path / "sims.h5", axes="time y x")


def test_batches_have_the_named_axes(tmp_path):
    data = Fields(path=str(hdf5(tmp_path / "u.h5")), axes=AXES, inputs=["u"], outputs=["u"])

    assert data.train_set()[0, 0].inputs.shape == (1, 1, 1, NX, NY)


@pytest.mark.parametrize("name", ["held.nc", "held.h5"])
def test_a_file_that_is_written_meanwhile_is_held(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    fields = {"u": (["sample", "time", "x", "y"], U)}
    xarray.Dataset(fields).to_netcdf(name, engine="h5netcdf")
    with open(name) as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)

        code, _, err = dfm("pde", "fit", "--config", "fno/flow", "--data.path", name)

    assert code == 2 and f"dfm: {name} is held by a program that is writing it" in err
    void = "val_trajectories 8, test_trajectories 32, prepare.time_constant 7 no longer hold"
    assert f"data: --data.path instead of the recipe's data: its {void}" in err
