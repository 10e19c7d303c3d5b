"""Initial states in, trajectories out: `dfm pde predict` on a network fitted in a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from in_process import dfm

from apps.pde.predict.initial import initial_states
from apps.pde.predict.model import Surrogate
from core.checkpoints.files import read_checkpoint
from core.errors import UserError

xarray = pytest.importorskip("xarray")

NETWORK = {
    "resolution": 16,
    "patch": 2,
    "width": 8,
    "depths": [1, 1],
    "heads": [2, 2],
    "skips": [1, 0],
    "window": 4,
}
OPTIMISER = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}}


@dataclass(frozen=True)
class Fitted:
    """A checkpoint and the trajectories that it was fitted on."""

    checkpoint: Path
    data: Path
    stderr: str = ""


def fitted(
    folder: Path, *, network: dict[str, Any], generate: dict[str, int], data: dict[str, Any], family: str
) -> Fitted:
    recipe = {
        "about": {"system": "poseidon", "test_after_fit": False},
        "seed_everything": 42,
        "model": {
            "class_path": "apps.pde.tasks.Operator",
            "init_args": {"network": network, "optimizer": OPTIMISER},
        },
        "data": {
            "class_path": "apps.pde.data.Fields",
            "init_args": {
                "generate": {"families": {family: 6}, **generate},
                "val_trajectories": 1,
                "test_trajectories": 1,
                "batch_size": 16,
                **data,
            },
        },
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
    }
    config = folder / f"{family}.yaml"
    config.write_text(yaml.safe_dump(recipe))
    code, out, err = dfm("pde", "fit", "--config", config, "--runs", folder / "runs")
    assert code == 0, out + err
    run = next(line for line in out.splitlines() if line.startswith("run folder: "))
    made = [path for path in (folder / "data").rglob("zarr.json") if path.parent.name.startswith(family)]
    return Fitted(
        (Path(run.removeprefix("run folder: ")) / "checkpoints" / "last.ckpt").resolve(), made[0].parent
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFM_DATA", str(made / "data"))
        yield made


@pytest.fixture(scope="module")
def flow(folder: Path) -> Fitted:
    """Poseidon's network on an incompressible flow: it takes a lead time."""
    return fitted(
        folder,
        network={"class_path": "apps.pde.models.poseidon.ScOT", "init_args": NETWORK},
        generate={"resolution": 16, "snapshots": 6},
        data={
            "windows": {"class_path": "apps.pde.data.Pairs", "init_args": {"max_steps": 5, "step": 1}},
        },
        family="ns_sines",
    )


@pytest.fixture(scope="module")
def steady(folder: Path) -> Fitted:
    """The same network on Poisson's equation."""
    return fitted(
        folder,
        network={
            "class_path": "apps.pde.models.poseidon.ScOT",
            "init_args": {**NETWORK, "in_channels": 1, "out_channels": 1},
        },
        generate={"resolution": 16},
        data={},
        family="poisson_gauss",
    )


@pytest.fixture(scope="module")
def stepper(folder: Path) -> Fitted:
    """A network of two frames without a lead time, at every second snapshot."""
    return fitted(
        folder,
        network={
            "class_path": "apps.pde.models.fno.FNO",
            "init_args": {
                "in_channels": 2,
                "out_channels": 2,
                "frames": 2,
                "modes": [4, 4],
                "width": 8,
                "depth": 2,
            },
        },
        generate={"resolution": 16, "snapshots": 7},
        data={
            "inputs": ["velocity_x", "velocity_y"],
            "frames": 2,
            "windows": {"class_path": "apps.pde.data.Histories", "init_args": {"step": 2}},
        },
        family="ns_gauss",
    )


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """Run a prediction that must fail with one sentence and leave nothing behind."""

    def run(checkpoint: Path, *words: object, out: str = "out.nc") -> str:
        before = set(tmp_path.iterdir())
        code, said, err = dfm("pde", "predict", "--ckpt_path", checkpoint, "--out", tmp_path / out, *words)
        assert code != 0 and not said, said
        assert "Traceback" not in err and len(err.strip().splitlines()) == 1, err
        assert set(tmp_path.iterdir()) == before
        return err

    return run


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_the_output_is_read_by_xarray_and_by_our_own_reader(
    flow: Fitted, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"out{suffix}"
    code, said, err = dfm(
        "pde", "predict", "--ckpt_path", flow.checkpoint, "--data.path", flow.data, "--start", 0,
        "--steps", 4, "--trajectories", 4, 1, 2, "--batch_size", 2, "--no_figure", "--out", out,
    )  # fmt: skip
    assert code == 0 and said.split() == [str(out)], err
    with xarray.open_dataset(out) as held:
        assert dict(held.sizes) == {"sample": 3, "time": 4, "x": 16, "y": 16}
        assert held["sample"].values.tolist() == [4, 1, 2]
        np.testing.assert_allclose(held["time"], [0.2, 0.4, 0.6, 0.8], rtol=1e-6)
        assert held["velocity_x"].attrs["units"] == "1"
        assert held.attrs["checkpoint"] == str(flow.checkpoint) and held.attrs["rollout"] == "direct"
        assert held.attrs["licences"] and held.attrs["sources"] == "ns_sines"
        values = held["velocity_x"].values
    from apps.pde.data.readers.recognition import open_source

    source = open_source(out)
    assert source.trajectories == 3 and source.steps == 4 and source.periodic
    np.testing.assert_array_equal(source.read(1, [0, 3], ["velocity_x"])[:, 0], values[1, [0, 3]])
    assert not list(tmp_path.glob("*.tmp"))
    again = tmp_path / "again.nc"
    code, _, err = dfm(
        "pde", "predict", "--ckpt_path", flow.checkpoint, "--data.path", out, "--steps", 1, "--no_figure",
        "--out", again,
    )  # fmt: skip
    assert code == 0, err
    with xarray.open_dataset(again) as held:
        np.testing.assert_allclose(held["time"], [1.0], rtol=1e-6)


def test_a_prediction_equals_the_network_called_on_the_training_batches(flow: Fitted) -> None:
    from apps.pde.data import Fields, Generation, Pairs
    from apps.pde.predict.initial import initial_states
    from apps.pde.predict.model import Surrogate
    from core.inference.rollout import direct

    surrogate = Surrogate.from_checkpoint(flow.checkpoint, batch_size=1)
    initial = initial_states(flow.data, surrogate, dataset="ns_sines", start=0)
    times = [surrogate.step("ns_sines") * k for k in range(1, 6)]
    mean, std = surrogate.predict(initial.read([5]), times)
    data = Fields(
        val_trajectories=1,
        test_trajectories=1,
        windows=Pairs(max_steps=5, step=1),
        generate=Generation({"ns_sines": 6}, resolution=16, snapshots=6),
    )
    data.use_statistics(surrogate.facts)
    batch = data.test_set()[(0, 0)]
    facts = data.facts.datasets[0]
    with torch.inference_mode():
        out = direct(surrogate.networks[0], batch.inputs, batch.time)
    expected = out * torch.tensor(facts.out_std).view(-1, 1, 1) + torch.tensor(facts.out_mean).view(-1, 1, 1)
    assert std is None and int(batch.trajectory[0]) == 5
    np.testing.assert_allclose(mean, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_several_checkpoints_give_mean_deviation_and_pictures(flow: Fitted, tmp_path: Path) -> None:
    other = tmp_path / "other.ckpt"
    from core.checkpoints.files import read_checkpoint, write_checkpoint

    content = read_checkpoint(flow.checkpoint)
    weights = content["state_dict"]
    generator = torch.Generator().manual_seed(0)
    for name, value in weights.items():
        if name.startswith("network.") and isinstance(value, torch.Tensor) and value.is_floating_point():
            weights[name] = value + 0.05 * torch.randn(value.shape, generator=generator)
    write_checkpoint(content, other)
    out = tmp_path / "both.nc"
    words = ["--data.path", flow.data, "--start", "0", "--steps", "2", "--trajectories", "0"]
    code, said, err = dfm(
        "pde", "predict", "--ckpt_path", flow.checkpoint, "--ckpt_path", other, *words, "--out", out
    )
    assert code == 0, err
    assert [Path(line).name for line in said.split()] == [
        "both.nc",
        "both.png",
        "both-uncertainty.png",
        "both.gif",
    ]
    assert all(Path(line).stat().st_size > 1000 for line in said.split())
    alone = []
    for number, checkpoint in enumerate((flow.checkpoint, other)):
        path = tmp_path / f"{number}.nc"
        assert dfm("pde", "predict", "--ckpt_path", checkpoint, *words, "--no_figure", "--out", path)[0] == 0
        with xarray.open_dataset(path) as held:
            alone.append(held["velocity_y"].values)
    with xarray.open_dataset(out) as held:
        np.testing.assert_allclose(held["velocity_y"], np.mean(alone, axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            held["velocity_y_std"], np.std(alone, axis=0, ddof=1), rtol=1e-3, atol=1e-6
        )
        assert float(held["velocity_y_std"].max()) > 0


def test_a_network_of_one_grid_refuses_others(flow: Fitted) -> None:
    from apps.pde.predict.model import Surrogate

    surrogate = Surrogate.from_checkpoint(flow.checkpoint)
    surrogate.networks[0].resolution = 16
    fields = len(surrogate.inputs)
    surrogate.check_shape((1, fields, 16, 16))
    with pytest.raises(UserError, match="a grid of 16 x 16 and the data has 12 x 12"):
        surrogate.check_shape((1, fields, 12, 12))


def test_a_rollout_goes_beyond_the_training_times_only_step_by_step(
    flow: Fitted, tmp_path: Path, refused: Callable[..., str]
) -> None:
    data = ["--data.path", flow.data, "--trajectories", 0]
    assert "beyond the 1 that" in refused(flow.checkpoint, *data, "--times", 0.5, 1.5)
    assert "beyond the 1 that" in refused(flow.checkpoint, *data, "--steps", 6)
    assert "rise" in refused(flow.checkpoint, *data, "--times", 0.5, 0.4)
    out = tmp_path / "long.nc"
    code, _, err = dfm(
        "pde", "predict", "--ckpt_path", flow.checkpoint, *data, "--steps", 8, "--rollout", "autoregressive",
        "--no_figure", "--out", out,
    )  # fmt: skip
    assert code == 0, err
    with xarray.open_dataset(out) as held:
        np.testing.assert_allclose(held["time"], 1.0 + 0.2 * np.arange(1, 9), rtol=1e-6)


def test_a_network_without_lead_time_goes_its_own_step_from_its_own_frames(
    stepper: Fitted, tmp_path: Path, refused: Callable[..., str]
) -> None:
    out = tmp_path / "steps.nc"
    data = ["--data.path", stepper.data, "--trajectories", 0]
    code, _, err = dfm(
        "pde", "predict", "--ckpt_path", stepper.checkpoint, *data, "--start", 2, "--steps", 3, "--out", out
    )
    assert code == 0, err
    with xarray.open_dataset(out) as held, xarray.open_zarr(stepper.data) as stored:
        gap = float(stored["time"][1])
        np.testing.assert_allclose(held["time"], gap * np.array([4, 6, 8]), rtol=1e-6)
    assert "multiples" in refused(stepper.checkpoint, *data, "--times", gap)
    assert "no direct rollout" in refused(stepper.checkpoint, *data, "--rollout", "direct")
    assert "2 frames" in refused(stepper.checkpoint, *data, "--start", 1)


def test_a_steady_problem_gives_its_solution_without_times(
    steady: Fitted, tmp_path: Path, refused: Callable[..., str]
) -> None:
    out = tmp_path / "solution.nc"
    code, said, err = dfm(
        "pde", "predict", "--ckpt_path", steady.checkpoint, "--data.path", steady.data, "--out", out
    )
    assert code == 0, err
    assert [Path(line).name for line in said.split()] == ["solution.nc", "solution.png"]
    with xarray.open_dataset(out) as held:
        assert dict(held.sizes) == {"sample": 6, "x": 16, "y": 16} and list(held.data_vars) == ["solution"]
        assert np.isfinite(held["solution"]).all()
    assert "no times" in refused(steady.checkpoint, "--data.path", steady.data, "--steps", 2)


def test_mistakes_are_one_sentence_and_nothing_is_left_behind(
    flow: Fitted, tmp_path: Path, refused: Callable[..., str]
) -> None:
    rng = np.random.default_rng(0)

    def file(name: str, size: int = 16, fields: tuple[str, ...] = ("velocity_x", "velocity_y")) -> Path:
        dims = ("sample", "time", "x", "y")
        held = {field: (dims, rng.normal(size=(2, 3, size, size)).astype("float32")) for field in fields}
        held["velocity_x" if "velocity_x" in held else fields[0]][1][1, 2, 0, 0] = np.nan
        xarray.Dataset(held).to_netcdf(tmp_path / name, engine="h5netcdf")
        return tmp_path / name

    ckpt, bad = flow.checkpoint, file("nan.nc")
    assert "no numbers in the initial state of trajectory 1" in refused(ckpt, "--data.path", bad)
    line = xarray.Dataset(
        {name: (("sample", "x"), np.ones((1, 16))) for name in ("velocity_x", "velocity_y")}
    )
    line.to_netcdf(tmp_path / "line.nc", engine="h5netcdf")
    assert "2 axes of space and the data has 1" in refused(ckpt, "--data.path", tmp_path / "line.nc")
    oblong = xarray.open_dataset(file("oblong.nc")).isel(y=slice(12), sample=[0])
    oblong.to_netcdf(tmp_path / "oblong2.nc", engine="h5netcdf")
    assert "16x12" in refused(ckpt, "--data.path", tmp_path / "oblong2.nc").replace(" ", "")
    wrong = refused(ckpt, "--data.path", file("names.nc", 16, ("velocity_x", "velocityy")))
    assert "no field 'velocity_y'" in wrong and "did you mean 'velocityy'" in wrong
    assert "does not exist" in refused(ckpt, "--data.path", tmp_path / "none.nc")
    assert "does not exist" in refused(tmp_path / "none.ckpt", "--data.path", bad)
    assert "must end in .nc or .zarr" in refused(ckpt, "--data.path", bad, out="out.txt")
    assert "not trained on 'ns_sine'" in refused(ckpt, "--data.path", bad, "--dataset", "ns_sine")
    assert "--trajectories has 2" in refused(ckpt, "--data.path", bad, "--trajectories", 2)
    assert "--start is 3" in refused(ckpt, "--data.path", bad, "--start", 3)
    assert "choose another name" in refused(ckpt, "--data.path", bad, out="nan.nc")
    assert "does not divide" in refused(ckpt, "--data.path", bad, "--resolution", 5)
    code, _, err = dfm(
        "pde", "predict", "--ckpt_path", ckpt, "--data.path", file("fine.nc", 32), "--resolution", 16,
        "--trajectories", 0, "--no_figure", "--out", tmp_path / "fine-out.nc",
    )  # fmt: skip
    assert code == 0, err


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_a_broken_off_output_leaves_the_former_one(tmp_path: Path, suffix: str) -> None:
    from core.inference.netcdf import Solutions, written_to

    solutions = Solutions(
        fields=["u"], samples=[0, 1], times=np.array([1.0]), coordinates=[np.arange(4.0)], units={},
        spread=False, command="dfm pde predict", attributes={},
    )  # fmt: skip
    out = tmp_path / f"out{suffix}"
    with written_to(out, solutions) as write:
        for row in range(2):
            write(row, np.full((1, 1, 4), row, dtype=np.float32), None)
    with pytest.raises(UserError, match="stop"), written_to(out, solutions) as write:
        write(0, np.full((1, 1, 4), 7, dtype=np.float32), None)
        raise UserError("stop")
    with xarray.open_dataset(out) as held:
        assert held["u"][:, 0, 0].values.tolist() == [0, 1]
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def labelled(path: Path, *, width: float = 1.0, unit: str = "m/s", time: str = "s") -> Path:
    """A user's flow on the network's grid."""
    x, values = np.arange(16) / 16, np.random.default_rng(0).normal(size=(2, 3, 16, 16))
    names = ["sample", "time", "x", "y"]
    fields = {name: (names, values, {"units": unit}) for name in ("velocity_x", "velocity_y")}
    coords = {"time": ("time", [0.0, 0.1, 0.2], {"units": time}), "x": width * x, "y": x}
    xarray.Dataset(fields, coords).to_netcdf(path)
    return path


def test_where_a_prediction_starts_and_a_domain_of_another_length_are_said(
    flow: Fitted, tmp_path: Path
) -> None:
    path = labelled(tmp_path / "wide.nc", width=3.0)
    words = ["--data.path", path, "--times", "0.2", "--out", tmp_path / "p.nc", "--no_figure"]

    code, _, err = dfm("pde", "predict", "--ckpt_path", flow.checkpoint, *words)

    assert code == 0 and "started from snapshot 2, the last; --start K takes another" in err
    assert "x spans 3, and 1 in training" in err and "y spans" not in err


@pytest.mark.parametrize(
    ("units", "sentence"),
    [({"unit": "cm/s"}, "has velocity_x in cm/s and"), ({"time": "h"}, "has time in h and")],
)
def test_initial_states_in_other_units_than_the_training_data_are_refused(
    flow: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, units: dict[str, str], sentence: str
) -> None:
    surrogate = Surrogate.from_checkpoint(flow.checkpoint)
    facts = surrogate.constants(surrogate.dataset())
    trained = replace(facts, units={"velocity_x": "m s-1", "velocity_y": "m/s", "time": "seconds"})
    monkeypatch.setattr(surrogate, "constants", lambda name: trained)

    initial_states(labelled(tmp_path / "same.nc"), surrogate, dataset=facts.name)
    with pytest.raises(UserError, match=sentence):
        initial_states(labelled(tmp_path / "other.nc", **units), surrogate, dataset=facts.name)


def test_a_checkpoint_with_a_former_option_that_says_nothing_is_tested(flow: Fitted, tmp_path: Path) -> None:
    held = read_checkpoint(flow.checkpoint)
    held["domainfm"]["config"]["data"]["init_args"]["root"] = None
    torch.save(held, tmp_path / "former.ckpt")

    code, out, err = dfm("pde", "test", "--ckpt_path", tmp_path / "former.ckpt")

    assert code == 0, out + err
