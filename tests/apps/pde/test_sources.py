"""Readers of simulation files: tiny files in the documented layouts, and real ones beside the checkout."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray

from apps.pde.data import FieldPreparation, Fields, Pairs
from apps.pde.data.readers.recognition import LAYOUTS, open_source, splits_of
from apps.pde.simulation.families import family
from apps.pde.simulation.generate import ensure
from apps.pde.simulation.pdegym_writer import write_netcdf
from core.data.sample_store import Store
from core.errors import UserError


def numbers(*shape: int, start: int = 0) -> np.ndarray:
    """All values differ, so that a wrong index is seen."""
    return np.arange(start, start + int(np.prod(shape)), dtype=np.float32).reshape(shape)


def write(path: Path, arrays: dict, attrs: dict | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
        for where, values in (attrs or {}).items():
            for name, value in values.items():
                file[where].attrs[name] = value
    return path


# --- PDEgym ---


def test_pdegym_velocity_is_read_by_trajectory_snapshot_and_channel(tmp_path):
    data = numbers(3, 21, 3, 4, 5)
    source = open_source(write(tmp_path / "NS-Sines.nc", {"velocity": data}))

    assert (source.layout, source.trajectories, source.steps, source.space) == ("pdegym", 3, 21, (4, 5))
    assert source.channels == ("velocity_x", "velocity_y", "tracer") and source.periodic
    assert source.times[-1] == 1.0 and source.coordinates[0].tolist() == [0.0, 0.25, 0.5, 0.75]
    np.testing.assert_array_equal(
        source.read(2, [5, 0, 5], ["tracer", "velocity_x"]), data[2][[5, 0, 5]][:, [2, 0]]
    )


def test_pdegym_chunks_are_joined_in_the_order_of_their_numbers(tmp_path):
    folder = tmp_path / "NS-PwC"
    parts = {k: numbers(2, 21, 3, 4, 4, start=k * 10_000) for k in (0, 1, 2, 10)}
    for k, values in parts.items():
        write(folder / f"velocity_{k}.nc", {"velocity": values})

    source = open_source(folder)

    whole = np.concatenate([parts[k] for k in (0, 1, 2, 10)])
    assert source.trajectories == 8
    for trajectory in range(8):
        np.testing.assert_array_equal(source.read(trajectory, range(21)), whole[trajectory])


def test_the_double_shear_layer_is_transposed(tmp_path):
    data = numbers(2, 21, 2, 4, 6)  # stored y, x

    for name in ("NS-SL.nc", "mine.nc"):  # by its name, and by its two channels
        source = open_source(write(tmp_path / name, {"velocity": data}))
        assert source.space == (6, 4)
        np.testing.assert_array_equal(source.read(1, [3]), data[1, 3:4].transpose(0, 1, 3, 2))


def test_waves_have_a_speed_that_does_not_change(tmp_path):
    u, c = numbers(2, 15, 4, 4), numbers(2, 4, 4, start=9000)
    whole = open_source(write(tmp_path / "Wave-Gauss.nc", {"solution": u, "c": c}))
    write(tmp_path / "Wave-Layer" / "solution_0.nc", {"solution": u})
    write(tmp_path / "Wave-Layer" / "c_0.nc", {"c": c})
    chunked = open_source(tmp_path / "Wave-Layer")

    for source in (whole, chunked):
        assert source.channels == ("displacement", "speed") and source.constants == ("speed",)
        got = source.read(1, [14, 2])
        np.testing.assert_array_equal(got[:, 0], u[1][[14, 2]])
        np.testing.assert_array_equal(got[:, 1], np.stack([c[1], c[1]]))


@pytest.mark.parametrize(
    ("name", "variable", "shape", "channels"),
    [
        ("CE-RP", "data", (2, 21, 5, 4, 4), 5), ("CE-RM", "solution", (2, 21, 5, 4, 4), 5),
        ("GCE-RT", "solution", (2, 11, 6, 4, 4), 6), ("FNS-KF", "solution", (2, 21, 2, 4, 4), 2),
        ("ACE", "solution", (2, 20, 4, 4), 1),
    ],
)  # fmt: skip
def test_sets_are_known_by_name_and_by_their_arrays(tmp_path, name, variable, shape, channels):
    data = numbers(*shape)
    named = open_source(write(tmp_path / f"{name}.nc", {variable: data}))
    other = open_source(write(tmp_path / "mine.nc", {variable: data}))

    assert named.channels == other.channels and len(named.channels) == channels
    for source in (named, other):
        np.testing.assert_array_equal(source.read(1, [3]).reshape(-1), data[1, 3].reshape(-1))


def test_steady_sets(tmp_path):
    airfoil = numbers(3, 2, 4, 4)
    source = open_source(write(tmp_path / "SE-AF.nc", {"solution": airfoil}))
    assert (source.steps, source.channels, source.inputs) == (1, ("shape", "density"), ("shape",))
    np.testing.assert_array_equal(source.read(2, [0])[0], airfoil[2])

    f, u = numbers(3, 4, 4), numbers(3, 4, 4, start=500)
    source = open_source(write(tmp_path / "Poisson-Gauss.nc", {"source": f, "solution": u}))
    assert (source.steps, source.inputs) == (1, ("source",))
    np.testing.assert_array_equal(source.read(1, [0])[0], np.stack([f[1], u[1]]))


def test_helmholtz_groups_are_in_the_order_of_their_numbers(tmp_path):
    arrays = {}
    for k in range(12):
        arrays |= {f"Sample_{k}/a": np.full((4, 4), k, "f4"), f"Sample_{k}/bc": np.float32(k / 10)}
        arrays |= {f"Sample_{k}/u": np.full((4, 4), -k, "f4")}
    source = open_source(write(tmp_path / "Helmholtz.h5", arrays))

    assert (source.trajectories, source.channels) == (12, ("coefficient", "boundary", "solution"))
    got = source.read(11, [0])[0]
    assert [float(one.mean()) for one in got] == pytest.approx([11.0, 1.1, -11.0])


# --- PDEBench ---


def test_pdebench_scalar_darcy_and_compressible(tmp_path):
    line = numbers(3, 5, 8)
    source = open_source(
        write(tmp_path / "1D_Advection.hdf5", {"tensor": line, "t-coordinate": np.linspace(0, 2, 6)})
    )
    assert (source.steps, source.space, len(source.times)) == (5, (8,), 5)
    np.testing.assert_array_equal(source.read(2, [1, 4])[:, 0], line[2, [1, 4]])

    nu, u = numbers(3, 4, 4), numbers(3, 1, 4, 4, start=99)
    source = open_source(write(tmp_path / "2D_DarcyFlow.hdf5", {"nu": nu, "tensor": u}, {"/": {"beta": 0.5}}))
    assert (source.steps, source.parameters, source.numbers(1).tolist()) == (1, ("beta",), [0.5])
    np.testing.assert_array_equal(source.read(1, [0])[0], np.stack([nu[1], u[1, 0]]))

    fields = {
        name: numbers(2, 3, 4, 6, start=k * 999) for k, name in enumerate(("density", "pressure", "Vx", "Vy"))
    }
    source = open_source(write(tmp_path / "2D_CFD.hdf5", {**fields, "t-coordinate": np.arange(4.0)}))
    assert source.channels == ("density", "velocity_x", "velocity_y", "pressure") and len(source.times) == 3
    np.testing.assert_array_equal(source.read(1, [2], ["pressure"])[0, 0], fields["pressure"][1, 2])


def test_pdebench_groups_of_seeds(tmp_path):
    arrays = {f"{k:04d}/data": numbers(6, 4, 5, 2, start=1000 * k) for k in range(3)}
    arrays |= {f"{k:04d}/grid/t": np.linspace(0, 1, 6) for k in range(3)}
    source = open_source(write(tmp_path / "2D_diff-react.h5", arrays))

    assert (source.trajectories, source.steps, source.space) == (3, 6, (4, 5))
    np.testing.assert_array_equal(source.read(2, [4])[0], arrays["0002/data"][4].transpose(2, 0, 1))


# --- The Well ---


def well(path: Path, start: int, trajectories: int = 2) -> dict[str, np.ndarray]:
    fields = {
        "t0_fields/tracer": numbers(trajectories, 5, 4, 6, start=start),
        "t0_fields/depth": numbers(4, start=7),
        "t1_fields/velocity": numbers(trajectories, 5, 4, 6, 2, start=start + 5000),
    }
    extra = {
        "dimensions/time": np.arange(5.0),
        "dimensions/x": np.arange(4.0),
        "dimensions/y": np.arange(6.0),
    }
    how = {"sample_varying": True, "time_varying": True, "dim_varying": [True, True]}
    write(
        path, fields | extra | {"boundary_conditions/x_periodic/mask": np.ones(4)},
        {
            "/": {
                "dataset_name": "shear", "n_trajectories": trajectories, "n_spatial_dims": 2,
                "simulation_parameters": ["Reynolds"], "Reynolds": float(start),
            },
            "dimensions": {"spatial_dims": ["x", "y"]},
            "t0_fields": {"field_names": ["tracer", "depth"]}, "t1_fields": {"field_names": ["velocity"]},
            "t0_fields/tracer": how, "t1_fields/velocity": how,
            "t0_fields/depth": {"sample_varying": False, "time_varying": False, "dim_varying": [True, False]},
            "boundary_conditions/x_periodic": {"bc_type": "PERIODIC"},
        },
    )  # fmt: skip
    return fields


def test_the_well_joins_files_of_a_split_and_repeats_what_does_not_vary(tmp_path):
    first = well(tmp_path / "data" / "train" / "a.hdf5", 0)
    second = well(tmp_path / "data" / "train" / "b.hdf5", 100, trajectories=1)
    well(tmp_path / "data" / "test" / "a.hdf5", 200)
    (tmp_path / "stats.yaml").write_text(
        "mean: {tracer: 1.0, velocity: [2.0, 3.0]}\nstd: {tracer: 0.00001, velocity: [4.0, 5.0]}\n"
    )

    source = open_source(tmp_path, split="train")

    assert splits_of(tmp_path) == ("train", "test") and source.layout == "the_well"
    assert source.channels == ("tracer", "depth", "velocity_x", "velocity_y") and source.periodic
    assert (source.trajectories, source.constants) == (3, ("depth",))
    assert [source.numbers(k).tolist() for k in (0, 2)] == [[0.0], [100.0]]
    assert source.statistics["tracer"] == (1.0, 1e-4) and source.statistics["velocity_y"] == (3.0, 5.0)
    got = source.read(2, [0, 4])
    np.testing.assert_array_equal(got[:, 0], second["t0_fields/tracer"][0, [0, 4]])
    np.testing.assert_array_equal(got[1, 1], np.tile(first["t0_fields/depth"][:, None], (1, 6)))
    np.testing.assert_array_equal(got[:, 3], second["t1_fields/velocity"][0, [0, 4], ..., 1])


def test_the_well_refuses_a_split_that_is_not_there(tmp_path):
    well(tmp_path / "data" / "train" / "a.hdf5", 0)
    with pytest.raises(UserError, match="no split 'valid'; it has train"):
        open_source(tmp_path, split="valid")


# --- PDEArena ---


def test_pdearena_files_of_a_split_are_joined(tmp_path):
    for k in range(2):
        arrays = {
            f"train/{n}": numbers(2, 14, 4, 4, start=k * 9999 + i) for i, n in enumerate(("u", "vx", "vy"))
        }
        write(tmp_path / f"NavierStokes2D_train_{k}.h5", arrays | {"train/buo_y": np.array([0.1, 0.2 + k])})
    source = open_source(tmp_path)

    assert splits_of(tmp_path) == ("train",) and source.layout == "pdearena"
    assert (source.trajectories, source.channels) == (4, ("u", "velocity_x", "velocity_y"))
    assert source.numbers(3).tolist() == pytest.approx([1.2])
    np.testing.assert_array_equal(
        source.read(3, [13], ["velocity_y"])[0, 0], numbers(2, 14, 4, 4, start=10_001)[1, 13]
    )


def test_pdearena_seeds_and_shallow_water(tmp_path):
    fields = {
        f"valid/{s}/{n}": numbers(2, 3, 4, 4, 1, start=s) for s in range(11) for n in ("D", "P", "Vx", "Vy")
    }
    source = open_source(write(tmp_path / "cfd.h5", fields), split="valid")
    assert (source.trajectories, source.channels[0]) == (22, "density")
    np.testing.assert_array_equal(source.read(21, [1])[0, 0], fields["valid/10/D"][1, 1, ..., 0])

    fields = {f"train/{n}": numbers(2, 3, 4, 4) for n in ("u", "v", "pres")}
    assert open_source(write(tmp_path / "sw.h5", fields)).channels == ("pressure", "velocity_x", "velocity_y")


# --- ours, tensors, labelled ---


def test_our_stores_and_their_netcdf_give_the_same_fields(tmp_path):
    path = ensure("ns_sl", 2, resolution=16, snapshots=3, folder=tmp_path / "store", progress=False)
    source = open_source(path)
    written = open_source(write_netcdf(Store.open(path), family("ns_sl"), tmp_path / "NS-SL.nc", samples=2))

    assert source.layout == "store" and source.periodic and source.licence.startswith("CC0")
    np.testing.assert_array_equal(source.read(1, [2, 0]), Store.open(path).read(1, [2, 0]))
    np.testing.assert_array_equal(source.read(1, [0, 1, 2]), written.read(1, [0, 1, 2]))


def test_labelled_netcdf_and_zarr_may_have_axes_in_any_order(tmp_path):
    u, k = numbers(3, 5, 4, 6), numbers(6, 4)
    dataset = xarray.Dataset(
        {"u": (("trajectory", "time", "x", "y"), u, {"units": "m s-1"}), "k": (("y", "x"), k)},
        coords={"time": [0.0, 0.5, 1.0, 1.5, 2.0], "x": np.linspace(0, 3, 4)},
        attrs={"periodic": 1},
    )
    dataset.to_netcdf(tmp_path / "mine.nc", engine="h5netcdf")
    dataset.to_netcdf(tmp_path / "old.nc", engine="scipy")
    dataset.to_zarr(tmp_path / "mine.zarr", consolidated=False)

    for name in ("mine.nc", "old.nc", "mine.zarr"):
        source = open_source(tmp_path / name)
        assert (source.layout, source.trajectories, source.steps) == ("labelled", 3, 5)
        assert (source.units["u"], source.periodic, source.constants) == ("m s-1", True, ("k",))
        assert source.times.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0] and source.coordinates[0][-1] == 3.0
        got = source.read(2, [4, 1], ["u", "k"])
        np.testing.assert_array_equal(got[:, 0], u[2][[4, 1]])
        np.testing.assert_array_equal(got[0, 1], k.T)


def test_real_files_are_read(shared):
    pde = shared / "data" / "pde"

    train = open_source(pde / "darcy" / "darcy_train_16.pt")
    mean, std = (f([train.read(k, [0], ["y"]) for k in range(1000)]) for f in (np.mean, np.std))
    assert (mean, std) == (pytest.approx(0.3863, abs=1e-4), pytest.approx(0.3400, abs=1e-4))
    assert set(np.unique(train.read(0, [0], ["x"]))) == {0.0, 1.0}
    fine, coarse = (open_source(pde / "darcy" / f"darcy_test_{n}.pt") for n in (32, 16))
    np.testing.assert_array_equal(fine.read(7, [0], ["y"])[..., ::2, ::2], coarse.read(7, [0], ["y"]))
    hdf5 = open_source(pde / "darcy" / "darcy_test_32.hdf5")
    np.testing.assert_array_equal(hdf5.read(7, [0]), fine.read(7, [0]))

    burgers = open_source(pde / "burgers" / "burgers_train_16.hdf5")
    assert (burgers.trajectories, burgers.steps, burgers.space) == (400, 17, (16,))
    assert burgers.periodic and burgers.numbers(0).tolist() == pytest.approx([0.01])

    shock = open_source(pde / "clawpack" / "shock_bubble_t0.2.nc")
    assert (shock.channels, shock.space, shock.steps) == (("density",), (160, 40), 1)


# --- files and processes ---


def read_there(source, queue):
    queue.put(source.read(1, [2]).tolist())


def test_a_forked_process_opens_the_file_itself(tmp_path):
    source = open_source(write(tmp_path / "ACE.nc", {"solution": numbers(2, 4, 3, 3)}))
    here = source.read(1, [2]).tolist()  # open in the parent
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    child = context.Process(target=read_there, args=(source, queue))
    child.start()
    there = queue.get()
    child.join()

    assert there == here and source.read(1, [2]).tolist() == here


def test_a_fresh_process_needs_only_the_pickled_source(tmp_path, repository):
    source = open_source(write(tmp_path / "ACE.nc", {"solution": numbers(2, 4, 3, 3)}))
    here = source.read(1, [2])
    (tmp_path / "source").write_bytes(pickle.dumps(source))
    code = "import pickle,sys; s = pickle.load(open(sys.argv[1], 'rb')); print(float(s.read(1, [2]).sum()))"

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "source")],
        capture_output=True, text=True, cwd=repository, check=True,
    )  # fmt: skip

    assert float(done.stdout) == float(here.sum())


def test_a_source_is_pickled_without_its_open_file(tmp_path):
    source = open_source(write(tmp_path / "ACE.nc", {"solution": numbers(2, 4, 3, 3)}))
    source.read(0, [0])

    again = pickle.loads(pickle.dumps(source))

    np.testing.assert_array_equal(again.read(1, [3]), source.read(1, [3]))


@pytest.mark.parametrize("name", ["NS-Sines.nc", "mine.hdf5", "mine.pt", "old.nc", "x.zarr"])
def test_a_file_cut_in_half_is_one_sentence(tmp_path, name):
    path = tmp_path / name
    if name == "mine.pt":
        torch.save({"x": torch.zeros(50, 8, 8), "y": torch.zeros(50, 8, 8)}, path)
    elif name == "old.nc":
        xarray.Dataset({"u": (("x", "y"), numbers(40, 40))}).to_netcdf(path, engine="scipy")
    elif name == "x.zarr":
        path.mkdir()
        (path / "zarr.json").write_text('{"zarr_for')
        with pytest.raises(UserError, match=r"x\.zarr"):
            open_source(path)
        return
    else:
        write(path, {"velocity": numbers(20, 3, 3, 8, 8), "tensor": numbers(20, 8, 8)})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])

    with pytest.raises(UserError, match=r"cut off|damaged") as raised:
        open_source(path).read(0, [0])

    assert "\n" not in str(raised.value) and name in str(raised.value)


def test_mistakes_with_names_are_one_sentence(tmp_path):
    path = write(tmp_path / "NS-Sines.nc", {"velocity": numbers(2, 3, 3, 4, 4)})
    source = open_source(path)

    with pytest.raises(UserError, match="did you mean 'velocity_x'"):
        source.read(0, [0], ["velocty_x"])
    with pytest.raises(UserError, match="does not exist"):
        open_source(tmp_path / "none.nc")
    with pytest.raises(UserError, match="did you mean 'pdegym'"):
        open_source(path, layout="pdegim")
    with pytest.raises(UserError, match="has no part 'train'"):
        open_source(path, split="train")
    (tmp_path / "x.bin").write_bytes(b"123")
    with pytest.raises(UserError, match="readable are " + ", ".join(LAYOUTS)):
        open_source(tmp_path / "x.bin")
    with pytest.raises(UserError, match="has no array 'velocity'"):
        open_source(write(tmp_path / "NS-BB.nc", {"speed": numbers(2, 3)}))
    with pytest.raises(UserError, match=r"layout of .*odd\.h5 is not known"):
        open_source(write(tmp_path / "odd.h5", {"speed": numbers(2, 3)}))


# --- what a file says of times, numbers and channels ---


def test_leads_follow_times_that_are_not_equal(tmp_path):
    times = [0.0, 0.1, 0.2, 0.4, 0.8]
    data = xarray.Dataset({"u": (("sample", "time", "x"), numbers(4, 5, 8))}, {"time": times})
    data.to_netcdf(tmp_path / "mine.nc", engine="h5netcdf")
    fields = Fields(
        path=str(tmp_path / "mine.nc"), windows=Pairs(), prepare=FieldPreparation(time_constant=8.0)
    )

    batch = fields.train_set().__getitems__([(0, 4), (0, 12)])  # (0, 4) and (3, 3)

    torch.testing.assert_close(batch.time, torch.tensor([[0.8 / 0.15 / 8], [0.0]]))
    assert fields.facts.datasets[0].spacing == pytest.approx(0.15)
    assert fields.facts.datasets[0].reach == pytest.approx(0.8 / 0.15)


@pytest.mark.parametrize("times", [[0.0, 0.0, 0.0], [2.0, 1.0, 0.0], [0.0, np.nan, 1.0]])
def test_times_that_do_not_rise_are_refused(tmp_path, times):
    data = xarray.Dataset({"u": (("time", "x"), numbers(3, 8))}, {"time": times})
    data.to_netcdf(tmp_path / "mine.nc", engine="h5netcdf")

    with pytest.raises(UserError, match=r"times of .*mine\.nc do not rise"):
        open_source(tmp_path / "mine.nc")


def test_numbers_that_differ_by_trajectory_are_read(tmp_path):
    viscosity = np.array([0.1, 0.2, 0.3])
    data = xarray.Dataset(
        {"u": (("sample", "time", "x"), numbers(3, 4, 8)), "viscosity": ("sample", viscosity)},
        attrs={"parameters": "speed=2"},
    )
    data.to_netcdf(tmp_path / "mine.nc", engine="h5netcdf")

    source = open_source(tmp_path / "mine.nc")

    assert source.parameters == ("speed", "viscosity") and source.channels == ("u",)
    assert source.numbers(2).tolist() == pytest.approx([2.0, 0.3])
    assert source.numbers(1, ["viscosity"]).tolist() == pytest.approx([0.2])


def test_numbers_of_several_files_go_by_their_names(tmp_path):
    for name, order in (("a", ["nu", "Re"]), ("b", ["Re", "nu"])):
        path = tmp_path / "data" / "train" / f"{name}.hdf5"
        well(path, 0)
        with h5py.File(path, "r+") as file:
            file.attrs["simulation_parameters"], file.attrs["nu"], file.attrs["Re"] = order, 0.5, 100.0

    source = open_source(tmp_path, split="train")

    assert source.parameters == ("nu", "Re")
    assert source.numbers(0).tolist() == source.numbers(3).tolist() == [0.5, 100.0]


def test_files_of_one_set_with_other_times_or_numbers_are_refused(tmp_path):
    first, second = (tmp_path / "data" / "train" / f"{name}.hdf5" for name in "ab")
    well(first, 0)
    well(second, 1)
    with h5py.File(second, "r+") as file:
        file["dimensions/time"][...] = 2 * np.arange(5.0)
    with pytest.raises(UserError, match=r"b\.hdf5 has other times"):
        open_source(tmp_path, split="train")
    well(second, 1)
    with h5py.File(second, "r+") as file:
        file.attrs["simulation_parameters"] = []
    with pytest.raises(UserError, match=r"b\.hdf5 gives the numbers none"):
        open_source(tmp_path, split="train")


@pytest.mark.parametrize(
    ("change", "words"),
    [({"data": numbers(5, 4, 4, 1)}, "group 0001"), ({"grid/t": [0, 2, 4]}, "other times")],
)
def test_groups_of_other_lengths_or_times_are_refused(tmp_path, change, words):
    usual = {"data": numbers(3, 4, 4, 1), "grid/t": np.arange(3.0)}
    arrays = {f"0000/{name}": values for name, values in usual.items()}
    arrays |= {f"0001/{name}": values for name, values in (usual | change).items()}

    with pytest.raises(UserError, match=words):
        open_source(write(tmp_path / "2D_rdb.h5", arrays))


def test_pdebench_incompressible_flow(tmp_path):
    velocity, force = numbers(2, 3, 4, 6, 2), numbers(2, 4, 6, 2, start=5000)
    arrays = {"velocity": velocity, "particles": numbers(2, 3, 4, 6, 1), "force": force}
    arrays["t"] = np.tile(np.arange(3.0) / 10, (2, 1))

    source = open_source(write(tmp_path / "ns_incom_inhom_2d.h5", arrays))

    assert source.channels == ("velocity_x", "velocity_y", "particles", "force_x", "force_y")
    assert (source.trajectories, source.steps, source.space) == (2, 3, (4, 6))
    assert source.times.tolist() == [0.0, 0.1, 0.2] and source.constants == ("force_x", "force_y")
    got = source.read(1, [2])[0]
    np.testing.assert_array_equal(got[1], velocity[1, 2, ..., 1])
    np.testing.assert_array_equal(got[4], force[1, ..., 1])


@pytest.mark.parametrize("place", [1, -1], ids=["first", "last"])
def test_tensors_may_have_channels(tmp_path, place):
    x, y = numbers(3, 2, 8, 8), numbers(3, 1, 8, 8)
    stored = {name: torch.from_numpy(values).movedim(1, place) for name, values in (("x", x), ("y", y))}
    torch.save(stored, tmp_path / "mine.pt")

    source = open_source(tmp_path / "mine.pt")

    assert (source.space, source.channels, source.inputs) == ((8, 8), ("x_0", "x_1", "y"), ("x_0", "x_1"))
    np.testing.assert_array_equal(source.read(2, [0])[0], np.concatenate([x[2], y[2]]))


def test_a_gas_says_its_ratio_of_specific_heats_where_all_trajectories_have_the_same(tmp_path):
    for name, ratios in (("same", [1.25] * 4), ("other", [1.25, 1.25, 1.25, 1.4])):
        data = xarray.Dataset(
            {"density": (("sample", "time", "x"), numbers(4, 3, 8)), "gamma": ("sample", ratios)}
        )
        data.to_netcdf(tmp_path / f"{name}.nc", engine="h5netcdf")

    found = [
        Fields(path=str(tmp_path / f"{name}.nc"), test_trajectories=2).facts.datasets[0].gamma
        for name in ("same", "other")
    ]

    assert found == [1.25, None]
