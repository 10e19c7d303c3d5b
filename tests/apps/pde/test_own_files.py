"""Files that say themselves what they hold, ours and a user's, are not taken for published sets."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray

from apps.pde.data import Fields, Histories, Pairs
from apps.pde.data.readers.arrays import other_units
from apps.pde.data.readers.recognition import open_source
from apps.pde.data.settings import FieldPreparation, SourceMixture
from apps.pde.simulation.families import family
from apps.pde.simulation.generate import ensure
from apps.pde.simulation.pdegym_writer import published_layout, refuse_foreign, write_netcdf
from core.data.sample_store import Store
from core.errors import UserError
from core.inference.netcdf import Solutions, check_suffix, written_to


def labelled(path: Path, *, dims: str, sizes: tuple[int, ...], name: str, coordinates: bool = True, **attrs):
    """A user's file with named axes, x from 10 to 20 and t from 0 to 12."""
    words = dims.split()
    values = np.arange(np.prod(sizes), dtype=np.float32).reshape(sizes)
    ends = {"time": (0, 12), "x": (10, 20), "y": (-1, 1)}
    coords = {
        word: np.linspace(*ends[word], size)
        for word, size in zip(words, sizes, strict=True)
        if coordinates and word in ends
    }
    made = xarray.Dataset({name: (words, values, {"units": "m/s"} if coordinates else {})}, coords, attrs)
    made.to_netcdf(path, engine="h5netcdf")
    return values


FLOW = "trajectory time component x y"


@pytest.mark.parametrize("name", ["mysim.nc", "mysim.h5"])
def test_a_users_flow_with_named_axes_is_no_shear_layer(tmp_path, name):
    values = labelled(tmp_path / name, dims=FLOW, sizes=(2, 5, 2, 4, 6), name="velocity")

    source = open_source(tmp_path / name)

    assert (source.layout, source.space, source.periodic) == ("labelled", (4, 6), False)
    assert (source.times[-1], source.coordinates[0][0], source.coordinates[0][-1]) == (12.0, 10.0, 20.0)
    assert set(source.units.values()) == {"m/s"}
    np.testing.assert_array_equal(source.read(1, [3]), values[1, 3:4])


@pytest.mark.parametrize("coordinates", [True, False])
@pytest.mark.parametrize(
    ("name", "dims", "sizes"),
    [
        ("solution", "trajectory time x y", (2, 5, 4, 6)), ("velocity", FLOW, (2, 5, 2, 4, 6)),
        ("velocity", "trajectory time component y x", (2, 5, 2, 4, 6)), ("velocity", FLOW, (2, 5, 3, 4, 6)),
        ("velocity", "x y component time trajectory", (4, 6, 3, 5, 2)), ("data", FLOW, (2, 5, 4, 4, 6)),
    ],
)  # fmt: skip
def test_named_axes_are_not_overruled_by_a_guess(tmp_path, name, dims, sizes, coordinates):
    values = labelled(tmp_path / "mine.nc", dims=dims, sizes=sizes, name=name, coordinates=coordinates)

    source = open_source(tmp_path / "mine.nc")

    order = [dims.split().index(word) for word in FLOW.split() if word in dims]
    assert (source.layout, source.trajectories, source.steps, source.space) == ("labelled", 2, 5, (
        sizes[dims.split().index("x")], sizes[dims.split().index("y")]
    ))  # fmt: skip
    np.testing.assert_array_equal(source.read(1, [3]).reshape(-1), values.transpose(order)[1, 3].reshape(-1))


def test_a_published_file_with_named_axes_keeps_its_layout(tmp_path):
    whole = {"dims": "sample time channel x y", "sizes": (1, 21, 3, 128, 128), "name": "velocity"}
    labelled(tmp_path / "renamed.nc", coordinates=False, **whole)
    small = whole | {"sizes": (2, 21, 3, 4, 4)}
    labelled(tmp_path / "NS-PwC.nc", coordinates=False, **small)
    labelled(tmp_path / "mine.nc", coordinates=False, **small)
    swapped = small | {"sizes": (2, 21, 2, 4, 6)}
    labelled(tmp_path / "NS-SL.nc", coordinates=False, **swapped)

    found = [open_source(tmp_path / name) for name in ("renamed.nc", "NS-PwC.nc", "NS-SL.nc")]
    forced = open_source(tmp_path / "mine.nc", layout="pdegym")

    assert [source.layout for source in (*found, forced)] == ["pdegym"] * 4
    assert found[0].channels == forced.channels == ("velocity_x", "velocity_y", "tracer")
    assert found[2].space == (6, 4)  # its loader exchanges the axes


def test_a_sets_name_without_its_arrays_is_no_set(tmp_path):
    labelled(tmp_path / "ace.nc", dims="sample time x y", sizes=(2, 5, 4, 6), name="phase")
    labelled(tmp_path / "helmholtz.nc", dims="sample x y", sizes=(2, 4, 6), name="u")

    for name, channel in (("ace.nc", "phase"), ("helmholtz.nc", "u")):
        source = open_source(tmp_path / name)
        assert (source.layout, source.channels) == ("labelled", (channel,))


GENERATED = (
    "helmholtz", "poisson_gauss", "darcy", "wave_gauss", "gce_rt", "ce_rp", "ace", "ns_sl", "fns_kf",
    "burgers", "swe_dam_break",
)  # fmt: skip


@pytest.mark.parametrize("name", GENERATED)
def test_what_is_generated_is_read_back_from_both_formats(tmp_path, name):
    one = family(name)
    short = replace(one, horizon=one.horizon / (one.snapshots - 1 or 1))
    store = Store.open(
        ensure(
            short, 2, resolution=16, snapshots=1 if one.steady else 3, folder=tmp_path / "s", progress=False
        )
    )
    file = write_netcdf(store, one, tmp_path / "out" / published_layout(one).file, samples=2)

    zarr, netcdf = open_source(store.path), open_source(file)

    assert (zarr.layout, netcdf.layout) == ("store", "labelled")
    for source in (zarr, netcdf):
        assert (source.trajectories, source.space, source.periodic) == (2, store.space, one.periodic)
        assert source.inputs == one.inputs and source.licence == store.attributes["licence"]
        assert set(one.constants) & set(source.channels) <= set(source.constants)
        np.testing.assert_array_equal(source.times, store.times)
        np.testing.assert_array_equal(source.coordinates, store.coordinates)
        assert dict(zip(source.parameters, source.numbers(1), strict=True)) == pytest.approx(one.parameters)
    kept = [channel for channel in one.channels if channel in netcdf.channels]
    assert set(netcdf.channels) - {"energy"} == set(kept) == set(one.channels) - {"forcing"}
    assert {channel: netcdf.units[channel] for channel in kept} == {
        channel: zarr.units[channel] for channel in kept
    }
    steps = range(len(store.times))
    np.testing.assert_array_equal(netcdf.read(1, steps, kept), zarr.read(1, steps, kept))


def test_a_folder_with_a_generated_file_stands_for_it(tmp_path):
    store = Store.open(ensure("ce_rp", 1, resolution=16, snapshots=2, folder=tmp_path / "s", progress=False))
    write_netcdf(store, family("ce_rp"), tmp_path / "out" / "CE-RP.nc", samples=1)

    source = open_source(tmp_path / "out")

    np.testing.assert_array_equal(source.coordinates, store.coordinates)


# --- `periodic` and lists in attributes ---


@pytest.mark.parametrize(
    ("said", "periodic"),
    [
        ("yes", True), ("True", True), ("1", True), (1, True), (np.float64(1), True), ([1, 1], True),
        ("no", False), ("FALSE", False), (0, False), ("0", False), (None, False),
    ],
)  # fmt: skip
def test_periodic_is_read_as_it_is_written(tmp_path, said, periodic):
    attrs = {} if said is None else {"periodic": said}
    labelled(tmp_path / "mine.nc", dims="time x y", sizes=(3, 4, 6), name="u", **attrs)

    assert open_source(tmp_path / "mine.nc").periodic is periodic


@pytest.mark.parametrize("said", ["maybe", 2, [1, 0], ""])
def test_another_word_for_periodic_is_one_sentence(tmp_path, said):
    labelled(tmp_path / "mine.nc", dims="time x y", sizes=(3, 4, 6), name="u", periodic=said)

    with pytest.raises(UserError, match=r"mine\.nc has the attribute periodic = .* true or false") as raised:
        open_source(tmp_path / "mine.nc")

    assert "\n" not in str(raised.value)


def test_an_attribute_names_the_inputs_of_a_steady_problem(tmp_path):
    fields = {name: (("sample", "x", "y"), np.ones((2, 4, 4), np.float32)) for name in ("a", "b", "u")}
    for file, attrs in (("said", {"inputs": "a, b"}), ("other", {"inputs": "run 12, a"}), ("none", {})):
        xarray.Dataset(fields, attrs=attrs).to_netcdf(tmp_path / f"{file}.nc", engine="h5netcdf")

    found = [open_source(tmp_path / f"{file}.nc").inputs for file in ("said", "other", "none")]

    assert found == [("a", "b"), (), ()]


# --- PDEBench ---


def cells(low: float, high: float, count: int) -> np.ndarray:
    return low + (high - low) * (np.arange(count) + 0.5) / count


def fluid(space: int) -> dict[str, np.ndarray]:
    return {name: np.zeros((2, 3, *[8] * space)) for name in ("density", "Vx", "pressure")}


def seeds(edge: float, fields: int) -> dict[str, np.ndarray]:
    grid = {f"0000/grid/{axis}": cells(-edge, edge, 8) for axis in "xy"}
    return {"0000/data": np.zeros((3, 8, 8, fields)), **grid}


LINE = {"tensor": np.zeros((2, 3, 8))}
DARCY = {"nu": np.zeros((2, 8, 8)), "tensor": np.zeros((2, 1, 8, 8))}


@pytest.mark.parametrize(
    ("name", "arrays", "periodic"),
    [
        ("1D_Advection_Sols_beta0.1.hdf5", LINE | {"x-coordinate": cells(0, 1, 8)}, True),
        ("both_edges.hdf5", LINE | {"x-coordinate": np.linspace(0, 1, 8)}, False),
        ("2D_rdb_NA_NA.h5", seeds(2.5, 1), False), ("2D_diff-react_NA_NA.h5", seeds(1, 2), False),
        ("2D_DarcyFlow_beta1.0_Train.hdf5", DARCY, False),
        ("plane.hdf5", {"tensor": np.zeros((2, 3, 8, 8))}, False),
        ("1D_CFD_Rand_Eta0.01_Zeta0.01_periodic_Train.hdf5", fluid(1), True),
        ("1D_CFD_Shock_Eta1e-08_Zeta1e-08_trans_Train.hdf5", fluid(1), False),
        ("1D_unknown.hdf5", fluid(1), False), ("2D_CFD.hdf5", fluid(2), True),
        ("2D_shock.hdf5", fluid(2), False),
    ],
)  # fmt: skip
def test_pdebench_is_periodic_where_the_equation_is_known_to_be(tmp_path, name, arrays, periodic):
    with h5py.File(tmp_path / name, "w") as file:
        for array, values in arrays.items():
            file[array] = values

    source = open_source(tmp_path / name)

    assert (source.layout, source.periodic) == ("pdebench", periodic)


# --- what `predict` writes and overwrites ---

SOLUTIONS = Solutions(
    fields=["phase"], samples=[0, 1], times=np.array([0.5, 3.0]),
    coordinates=[np.linspace(2, 3, 4), np.linspace(0, 9, 6)], units={"phase": "K", "time": "s"}, spread=False,
    command="dfm pde predict", attributes={"periodic": 0},
)  # fmt: skip


def predicted(path: Path, value: float = 1.0) -> None:
    with written_to(path, SOLUTIONS) as write:
        for row in range(2):
            write(row, np.full((2, 1, 4, 6), value, dtype=np.float32), None)


def content(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    return {str(file): file.read_bytes() for file in files}


@pytest.mark.parametrize("name", ["ace.nc", "NS-SL.nc", "ace.zarr"])
def test_a_prediction_is_read_back_whatever_its_name(tmp_path, name):
    predicted(tmp_path / name)

    source = open_source(tmp_path / name)

    assert (source.layout, source.channels, source.periodic) == ("labelled", ("phase",), False)
    assert source.times.tolist() == [0.5, 3.0] and source.units["phase"] == "K"
    np.testing.assert_array_equal(source.coordinates[1], np.linspace(0, 9, 6))
    np.testing.assert_array_equal(source.read(1, [1]), np.ones((1, 1, 4, 6), np.float32))


def test_a_prediction_that_was_packed_since_is_unpacked(tmp_path):
    predicted(tmp_path / "out.nc", 2.5)
    packed = {"phase": {"dtype": "int16", "scale_factor": 0.5, "add_offset": 1.0, "_FillValue": -1}}
    with xarray.open_dataset(tmp_path / "out.nc") as held:
        held.to_netcdf(tmp_path / "packed.nc", engine="h5netcdf", encoding=packed)

    np.testing.assert_array_equal(open_source(tmp_path / "packed.nc").read(1, [1]).mean(), 2.5)


def foreign(folder: Path) -> list[Path]:
    """Things that must outlive a prediction."""
    import zarr

    store = Store.open(ensure("ace", 1, resolution=16, snapshots=2, folder=folder / "s.zarr", progress=False))
    write_netcdf(store, family("ace"), folder / "ACE.nc", samples=1)
    labelled(folder / "mine.nc", dims="x y", sizes=(4, 6), name="u")
    labelled(folder / "theirs.nc", dims="x y", sizes=(4, 6), name="u", made_by="Anna")
    (folder / "notes.nc").write_text("no netCDF")
    (folder / "empty.nc").touch()
    zarr.create_group(folder / "group.zarr")
    (folder / "folder.zarr").mkdir()
    (folder / "folder.zarr" / "kept").write_text("1")
    (folder / "file.zarr").write_text("1")
    (folder / "bad.zarr").mkdir()
    (folder / "bad.zarr" / "zarr.json").write_text("[")
    return [path for path in folder.iterdir() if path.suffix in (".nc", ".zarr")]


def test_a_prediction_overwrites_nothing_but_a_prediction(tmp_path):
    there = foreign(tmp_path)
    before = content(tmp_path)

    assert len(there) == 10
    for path in there:
        with pytest.raises(UserError, match="choose another name") as raised:
            check_suffix(path, "dfm pde predict")
        assert "\n" not in str(raised.value)
        with pytest.raises(UserError, match="choose another name"):
            predicted(path)
    assert content(tmp_path) == before


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_a_former_prediction_is_replaced(tmp_path, suffix):
    out = tmp_path / f"out{suffix}"

    predicted(out, 1.0)
    predicted(out, 2.0)

    assert open_source(out).read(0, [0]).mean() == 2.0
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_a_former_store_is_there_after_a_failed_replacement(tmp_path, monkeypatch):
    out = tmp_path / "out.zarr"
    predicted(out, 1.0)
    before = content(out)

    def failing(move):
        # The new store cannot take its place; the former one can be given back its name.
        def moved(source, target, **how):
            if Path(target) == out and str(source) == f"{out}.{os.getpid()}.tmp":
                raise OSError(28, "No space left on device")
            return move(source, target, **how)

        return moved

    monkeypatch.setattr("os.rename", failing(os.rename))
    monkeypatch.setattr("os.replace", failing(os.replace))
    monkeypatch.setattr("core.files._exchange", lambda one, other: False)  # as on file systems without one

    with pytest.raises(UserError, match="No space left"):
        predicted(out, 2.0)

    assert content(out) == before
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_generated_data_do_not_overwrite_a_prediction(tmp_path):
    predicted(tmp_path / "ACE.nc")

    with pytest.raises(UserError, match="was not made by this command"):
        refuse_foreign(tmp_path / "ACE.nc")


def test_falling_positions_are_turned_with_the_fields(tmp_path):
    values = np.arange(2 * 3 * 4 * 6, dtype=np.float64).reshape(2, 3, 4, 6)
    north, east = np.linspace(60, 30, 4), np.linspace(0, 50, 6)
    fields = {"u": (["sample", "time", "lat", "lon"], values), "relief": (["lat", "lon"], values[0, 0])}
    xarray.Dataset(fields, {"lat": north, "lon": east}).to_netcdf(tmp_path / "map.nc")

    source = open_source(tmp_path / "map.nc")

    np.testing.assert_array_equal(source.coordinates[1], north[::-1])  # lon is x, lat is y
    np.testing.assert_array_equal(source.read(1, [2])[0, 0], values[1, 2, ::-1].T)
    np.testing.assert_array_equal(source.first(1).read(0, [0, 2], ["relief"])[1, 0], values[0, 0, ::-1].T)


def test_positions_that_neither_rise_nor_fall_are_refused(tmp_path):
    fields = {"u": (["time", "x"], np.zeros((3, 3)))}
    xarray.Dataset(fields, {"x": [0.0, 2.0, 1.0]}).to_netcdf(tmp_path / "mixed.nc")

    with pytest.raises(UserError, match=r"positions along x of .*mixed.nc neither rise nor fall"):
        open_source(tmp_path / "mixed.nc")


@pytest.mark.parametrize("name", ["tensor.hdf5", "ACE.nc"])
def test_packed_numbers_of_published_layouts_are_unpacked(tmp_path, name):
    stored = np.arange(2 * 5 * 4 * 4, dtype=np.int16).reshape(2, 5, 4, 4)
    with h5py.File(tmp_path / name, "w") as file:
        file["tensor" if name == "tensor.hdf5" else "solution"] = stored
        array = file["tensor" if name == "tensor.hdf5" else "solution"]
        array.attrs.update(
            scale_factor=0.5, add_offset=10.0, _FillValue=np.int16(17), missing_value=np.int16(18)
        )

    values = open_source(tmp_path / name).read(0, [0, 1])[:, 0]

    expected = stored[0, :2] * 0.5 + 10
    expected[1, 0, 1:3] = np.nan
    np.testing.assert_array_equal(values, expected)


def test_complex_numbers_of_a_published_layout_are_refused(tmp_path):
    with h5py.File(tmp_path / "waves.hdf5", "w") as file:
        file["tensor"] = np.ones((2, 5, 8), dtype=complex)

    with pytest.raises(UserError, match="its values are complex; store real and imaginary part"):
        open_source(tmp_path / "waves.hdf5").read(0, [0])


@pytest.mark.parametrize(
    ("first", "second", "differ"),
    [
        ("m/s", "m s-1", False), ("m s**-1", "m/s", False), ("m/s2", "m s-2", False), ("m/s", "cm/s", True),
        ("Pa", "kPa", True), ("", "m/s", False), ("1", "K", False), ("kg m-3", "m^-3 kg", False),
        ("seconds", "s", False), ("s", "ms", True), ("months", "days", True),
    ],
)  # fmt: skip
def test_units_differ_by_what_they_mean(first, second, differ):
    assert other_units(first, second) is differ


def own_flow(path: Path, *, unit: str = "m/s", **attrs: object) -> str:
    values = np.random.default_rng(0).normal(size=(8, 5, 8))
    x = np.array([0.0, 1, 2, 3, 5, 8, 13, 21])
    fields = {"u": (["sample", "time", "x"], values, {"units": unit})}
    xarray.Dataset(fields, {"x": x}, attrs).to_netcdf(path)
    return str(path)


def test_what_is_taken_of_own_flows_is_said(tmp_path, capsys):
    data = Fields(path=own_flow(tmp_path / "own.nc"), windows=Pairs(max_steps=2), trajectories=3)
    data.setup("fit")

    said = capsys.readouterr().err
    assert "own: the first 3 of 6 training trajectories are used" in said
    assert "own does not say whether its domain is periodic; walls are assumed" in said
    assert "own has unequal distances along x" in said
    assert "own: snapshots 0 to 2 of 5 are used" in said
    assert data.facts.licences == ("own.nc: not stated",) and not data.facts.periodic


def test_nothing_is_said_of_what_a_file_or_the_user_says(tmp_path, capsys):
    path = own_flow(tmp_path / "own.nc", licence="CC-BY-4.0")
    data = Fields(path=path, prepare=FieldPreparation(periodic=True))
    data.setup("fit")

    said = capsys.readouterr().err
    assert "walls" not in said and "snapshots 0" not in said and "are used" not in said
    assert data.facts.licences == ("CC-BY-4.0",) and data.facts.periodic


def test_sources_in_other_units_are_refused(tmp_path):
    paths = [own_flow(tmp_path / "a.nc"), own_flow(tmp_path / "b.nc", unit="cm/s")]

    with pytest.raises(UserError, match=r"b.nc has u in cm/s, .*a.nc in m/s; convert one"):
        Fields(mixture=SourceMixture(sources=[{"path": path} for path in paths])).setup("fit")


def test_a_test_on_other_units_than_the_checkpoints_is_refused(tmp_path):
    trained = Fields(path=own_flow(tmp_path / "a.nc"))
    other = Fields(path=own_flow(tmp_path / "b.nc", unit="km/h"))
    other.use_statistics(trained.facts)

    with pytest.raises(UserError, match=r"b.nc has u in km/h, .*a.nc in m/s"):
        other.setup("test")


def test_short_trajectories_are_validated_as_far_as_they_go(tmp_path, capsys):
    windows = Histories(horizon=1, val_horizon=10)
    data = Fields(path=own_flow(tmp_path / "own.nc"), frames=2, windows=windows, val_trajectories=1)

    assert data.val_set()[0, 0].targets.shape[1] == 3
    assert "takes 3 label frames, not the 10 of data.windows.val_horizon" in capsys.readouterr().err
    with pytest.raises(UserError, match="too few for 2 input and 9 label frames"):
        Fields(path=str(tmp_path / "own.nc"), frames=2, windows=Histories(horizon=9)).train_set()


def test_no_test_trajectories_are_told_before_the_training(tmp_path, capsys):
    Fields(path=own_flow(tmp_path / "own.nc"), test_trajectories=0).setup("fit")

    assert "no trajectories are kept for a test" in capsys.readouterr().err


def test_one_snapshot_is_no_evolution(tmp_path):
    fields = {"u": (["sample", "x"], np.zeros((8, 8)))}
    xarray.Dataset(fields).to_netcdf(tmp_path / "still.nc")

    with pytest.raises(UserError, match=r"still.nc has one snapshot, .* --data.windows apps.pde.data.Steady"):
        Fields(path=str(tmp_path / "still.nc")).train_set()


def test_times_and_positions_may_have_names_of_their_own(tmp_path):
    times = np.array([0.0, 1, 3])
    fields = {
        "u": (["sample", "time", "x"], np.zeros((2, 3, 4))),
        "t": ("time", times),
        "lon": ("x", np.arange(4.0)),
    }
    xarray.Dataset(fields).to_netcdf(tmp_path / "own.nc")
    by_run = {"u": fields["u"], "times": (["sample", "time"], np.stack([times, times]))}
    xarray.Dataset(by_run).to_netcdf(tmp_path / "runs.nc")

    for name in ("own.nc", "runs.nc"):
        source = open_source(tmp_path / name)
        assert source.channels == ("u",) and source.times.tolist() == [0.0, 1.0, 3.0]
    assert open_source(tmp_path / "own.nc").coordinates[0][-1] == 3.0


def test_times_that_differ_by_trajectory_are_refused(tmp_path):
    fields = {
        "u": (["sample", "time", "x"], np.zeros((2, 3, 4))),
        "times": (["sample", "time"], np.array([[0.0, 1, 2], [0, 2, 4]])),
    }
    xarray.Dataset(fields).to_netcdf(tmp_path / "runs.nc")

    with pytest.raises(UserError, match="other positions along time in some trajectories"):
        open_source(tmp_path / "runs.nc")


def test_an_empty_axis_of_the_same_meaning_hides_no_times(tmp_path):
    fields = {"empty": (["t", "i"], np.zeros((0, 0))), "u": (["sample", "time", "x"], np.zeros((2, 3, 4)))}
    xarray.Dataset(fields, {"time": [0.0, 5, 10]}).to_netcdf(tmp_path / "own.nc")

    assert open_source(tmp_path / "own.nc").times.tolist() == [0.0, 5.0, 10.0]


@pytest.mark.parametrize("shape", [(1, 3, 5, 8), (3, 8, 5)], ids=["an axis of devices", "times last"])
def test_pdebench_arrays_with_other_axes_are_refused(tmp_path, shape):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["tensor"] = np.zeros(shape, dtype="f4")
        file["x-coordinate"], file["t-coordinate"] = np.arange(8.0), np.arange(6.0)

    with pytest.raises(
        UserError, match=r"positions along . for . points; its arrays must be \(samples, times"
    ):
        open_source(tmp_path / "x.hdf5")


def test_the_unit_of_time_is_the_files(tmp_path):
    fields = {"u": (["sample", "time", "x"], np.zeros((6, 3, 4)))}
    times = ("time", [0.0, 1, 2], {"units": "days since 2001-01-01", "calendar": "noleap"})
    xarray.Dataset(fields, {"time": times}).to_netcdf(tmp_path / "days.nc")
    xarray.Dataset(fields, {"time": ("time", [0.0, 1, 2], {"units": "s"})}).to_netcdf(tmp_path / "s.nc")

    source = open_source(tmp_path / "days.nc")
    assert source.units == {"u": "1", "time": "days"} and source.times.tolist() == [0.0, 1.0, 2.0]
    both = SourceMixture(sources=[{"path": str(tmp_path / name)} for name in ("days.nc", "s.nc")])
    with pytest.raises(UserError, match=r"s.nc has time in s, .*days.nc in days; convert one"):
        Fields(mixture=both).setup("fit")
