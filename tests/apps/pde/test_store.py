"""The store of trajectories, and its copy in the published netCDF layout."""

from __future__ import annotations

import warnings
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
import xarray

from apps.pde.simulation.families.family import Family, PublishedSet
from apps.pde.simulation.pdegym_writer import write_netcdf
from core.data.sample_store import Store
from core.errors import UserError

TIMES = np.linspace(0, 1, 4)
GRID = np.arange(8) / 8
CHANNELS = ("density", "velocity_x", "velocity_y", "pressure")


def values(count: int, seed: int = 0, frames: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 1, (count, frames, 4, 8, 8)).astype(np.float32)


def a_store(path, samples=3, **how) -> Store:
    settings = {
        "channels": CHANNELS,
        "times": TIMES,
        "coordinates": [GRID, GRID],
        "units": {"density": "kg m-3", "time": "ms"},
        "attributes": {
            "family": "toy",
            "equation": "none",
            "parameters": {"nu": 0.1},
            "seed": 7,
            "periodic": True,
        },
    } | how
    return Store.create(path, samples=samples, **settings)


def a_family(**how) -> Family:
    settings = {
        "name": "toy",
        "title": "A toy",
        "equation": "none",
        "source": "here",
        "channels": CHANNELS,
        "units": {},
        "snapshots": 4,
        "horizon": 1.0,
        "draw": lambda g, p: {"x": torch.zeros(())},
        "solve": lambda problem: None,
    } | how
    return Family(**settings)


def test_what_is_written_is_read_by_snapshot_and_channel(tmp_path):
    store, data = a_store(tmp_path / "s"), values(2)

    store.write([2, 0], data)

    np.testing.assert_array_equal(store.read(2), data[0])
    np.testing.assert_array_equal(Store.open(tmp_path / "s").read(0, [3, 1], [2]), data[1][[3, 1]][:, [2]])


def test_only_written_samples_are_complete(tmp_path):
    store = a_store(tmp_path / "s")

    store.write([1], values(1))

    assert [store.finished(k) for k in range(-1, 4)] == [False, False, True, False, False]
    assert store.complete().tolist() == [False, True, False]
    with pytest.raises(UserError, match=r"sample 0 .* is not complete"):
        store.read(0)


def test_one_file_holds_a_sample_and_one_chunk_a_snapshot(tmp_path):
    store = a_store(tmp_path / "s")
    store.write([0, 1], values(2))

    files = [path for path in (tmp_path / "s" / "fields" / "c").rglob("*") if path.is_file()]

    assert len(files) == 2
    import zarr

    assert zarr.open_group(tmp_path / "s", mode="r")["fields"].chunks == (1, 1, 4, 8, 8)


def test_xarray_reads_labels_units_and_attributes_without_a_warning(tmp_path):
    store = a_store(tmp_path / "s")
    store.write([0, 1, 2], values(3))
    store.extend(4)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = xarray.open_zarr(tmp_path / "s", chunks=None)

    assert data["fields"].dims == ("sample", "time", "channel", "x", "y") and data.sizes["sample"] == 4
    picked = data["fields"].sel(channel="pressure", time=1.0, x=0.25).isel(sample=1)
    np.testing.assert_array_equal(picked, values(3)[1, 3, 3, 2])
    assert data.attrs["parameters"] == {"nu": 0.1} and data.attrs["units"]["density"] == "kg m-3"
    assert data["time"].attrs["units"] == "ms" and data["x"].attrs["units"] == "1"
    assert data["complete"].values.tolist() == [True, True, True, False]


def test_a_store_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(TypeError):
        a_store(tmp_path / "s", attributes={"bad": object()})

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("space", [1, 2, 3])
def test_one_two_and_three_axes_are_stored(tmp_path, space):
    store = a_store(tmp_path / "s", coordinates=[GRID] * space)
    data = np.random.default_rng(0).normal(size=(1, 4, 4, *[8] * space)).astype(np.float32)

    store.write([1], data)

    np.testing.assert_array_equal(store.read(1), data[0])
    assert store.space == (8,) * space


def test_wrong_shapes_and_foreign_folders_are_refused(tmp_path):
    import zarr

    store = a_store(tmp_path / "s")
    zarr.create_group(tmp_path / "other")

    with pytest.raises(ValueError, match="instead of"):
        store.write([0], values(1)[:, :3])
    with pytest.raises(UserError, match="exists already"):
        a_store(tmp_path / "s")
    with pytest.raises(UserError, match="is no Zarr group"):
        Store.open(tmp_path / "none")
    with pytest.raises(UserError, match="not of `dfm data generate`"):
        Store.open(tmp_path / "other")


def test_newer_format_is_refused_and_lost_arrays_are_told(tmp_path):
    import shutil

    import zarr

    a_store(tmp_path / "new")
    zarr.open_group(tmp_path / "new", mode="r+").attrs["format"] = 99
    with pytest.raises(UserError, match="has format 99"):
        Store.open(tmp_path / "new")
    a_store(tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "complete")
    with pytest.raises(UserError, match="lacks a part"):
        Store.open(tmp_path / "cut")


@pytest.fixture
def filled(tmp_path) -> Store:
    store = a_store(tmp_path / "s")
    store.write([0, 1, 2], values(3))
    return store


def test_published_file_has_the_layout_of_the_compressible_sets(tmp_path, filled):
    layout = PublishedSet(file="CE-X.nc", variables={"data": (*CHANNELS, "energy")})

    write_netcdf(filled, a_family(published=layout), tmp_path / "CE-X.nc", samples=2)

    with h5py.File(tmp_path / "CE-X.nc") as file:
        data = file["data"][:]
        assert file["data"].maxshape[0] is None and file["data"].dtype == np.float32
    assert data.shape == (2, 4, 5, 8, 8)
    np.testing.assert_array_equal(data[:, :, :4], values(3)[:2])
    rho, u, v, p = np.moveaxis(values(3)[:2].astype(np.float64), 2, 0)
    np.testing.assert_allclose(data[:, :, 4], 0.5 * rho * (u**2 + v**2) + p / 0.4, rtol=1e-6)


def test_published_constants_have_no_time_and_single_fields_no_channel_axis(tmp_path, filled):
    layout = PublishedSet(
        file="W.nc", variables={"solution": ("density",), "c": ("pressure",)}, constants=("c",)
    )

    write_netcdf(filled, a_family(published=layout), tmp_path / "W.nc", samples=3)

    with xarray.open_dataset(tmp_path / "W.nc", engine="h5netcdf") as data:
        assert data["solution"].dims == ("sample", "time", "x", "y") and data["c"].dims == (
            "sample",
            "x",
            "y",
        )
        np.testing.assert_array_equal(data["c"], values(3)[:, 0, 3])
        np.testing.assert_array_equal(data["time"], TIMES)


def test_published_axes_can_be_exchanged(tmp_path, filled):
    layout = PublishedSet(file="SL.nc", variables={"velocity": ("velocity_x", "velocity_y")}, axes="tyx")

    write_netcdf(filled, a_family(published=layout), tmp_path / "SL.nc", samples=1)

    with h5py.File(tmp_path / "SL.nc") as file:
        np.testing.assert_array_equal(file["velocity"][0], values(3)[0, :, 1:3].swapaxes(-1, -2))


def test_steady_families_have_no_time_axis(tmp_path):
    store = a_store(tmp_path / "s", channels=("source", "solution"), times=[0.0])
    data = values(3, frames=1)[:, :, :2]
    store.write([0, 1, 2], data)
    layout = PublishedSet(file="P.nc", variables={"source": ("source",), "solution": ("solution",)})
    family = a_family(channels=("source", "solution"), snapshots=1, horizon=0.0, published=layout)

    write_netcdf(store, family, tmp_path / "P.nc", samples=3)

    with h5py.File(tmp_path / "P.nc") as file:
        assert file["source"].shape == (3, 8, 8)
        np.testing.assert_array_equal(file["solution"][:], data[:, 0, 1])


def test_a_file_of_somebody_else_is_not_overwritten_and_ours_is(tmp_path, filled):
    family = a_family()
    with h5py.File(tmp_path / "NS.nc", "w") as file:
        file["velocity"] = np.zeros(3)

    with pytest.raises(UserError, match="was not made by this command"):
        write_netcdf(filled, family, tmp_path / "NS.nc", samples=1)
    write_netcdf(filled, family, tmp_path / "own.nc", samples=1)
    write_netcdf(filled, replace(family), tmp_path / "own.nc", samples=3)
    with h5py.File(tmp_path / "own.nc") as file:
        assert file["solution"].shape == (3, 4, 4, 8, 8)


def test_a_file_that_cannot_be_finished_leaves_nothing(tmp_path, filled):
    filled.extend(4)

    with pytest.raises(UserError, match=r"sample 3 .* is not complete"):
        write_netcdf(filled, a_family(), tmp_path / "out.nc", samples=4)

    assert [path.name for path in tmp_path.iterdir()] == ["s"]
