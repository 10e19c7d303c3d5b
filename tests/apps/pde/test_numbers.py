"""Numbers of the equation on their way from the file to the network: batches, rollouts, predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray

from apps.pde.data.module import Fields
from apps.pde.data.readers.recognition import open_source
from apps.pde.data.window_settings import Histories
from apps.pde.models.ensemble import Ensemble
from apps.pde.models.fno import FNO
from apps.pde.models.sinenet import SineNet
from apps.pde.predict.command import predict_to
from apps.pde.predict.initial import initial_states
from apps.pde.predict.model import Surrogate
from apps.pde.simulation.generate import ensure
from apps.pde.tasks import Operator
from core.errors import UserError
from core.inference.rollout import autoregressive, by_member, direct


def sinenet(**more) -> SineNet:
    torch.manual_seed(0)
    settings = {"frames": 2, "in_channels": 3, "out_channels": 3, "width": 4, "waves": 1, "levels": 1}
    return SineNet(**settings, conditioning="scale_shift", parameter=True, **more)


@pytest.fixture
def smoke(tmp_path: Path) -> Path:
    """A folder in PDEArena's layout with a buoyancy for each trajectory."""
    folder = tmp_path / "smoke"
    folder.mkdir()
    random = np.random.default_rng(0)
    for split, many in (("train", 4), ("valid", 2), ("test", 2)):
        with h5py.File(folder / f"NavierStokes2D_{split}.h5", "w") as file:
            for name in ("u", "vx", "vy"):
                file[f"{split}/{name}"] = random.normal(size=(many, 6, 4, 4)).astype("f4")
            file[f"{split}/buo_y"] = np.linspace(0.2, 0.5, many).astype("f4")
    return folder


def fields(folder: Path, **more) -> Fields:
    return Fields(path=str(folder), frames=2, parameters=["buoyancy"], windows=Histories(), **more)


def test_batches_carry_the_numbers_that_are_named(smoke):
    data = fields(smoke)

    got = data.train_set().__getitems__([(0, 0), (0, len(data.train_set()) - 1)])

    assert data.facts.parameters == ("buoyancy",)
    assert got.parameters.ravel().tolist() == pytest.approx([0.2, 0.5])
    assert Fields(path=str(smoke), frames=2, windows=Histories()).train_set()[(0, 0)].parameters is None


def test_generated_stores_give_their_familys_numbers(tmp_path):
    thick = {"viscosity": 0.02}
    path = ensure(
        "burgers", 2, resolution=16, snapshots=3, parameters=thick, folder=tmp_path / "store", progress=False
    )
    source = open_source(path)

    assert source.numbers(1)[source.parameters.index("viscosity")] == pytest.approx(0.02)


def test_the_network_sees_them_in_training_and_in_rollouts(smoke):
    data = fields(smoke)
    network, batch = sinenet(), data.test_set()[(0, 0)]
    task = Operator(network)
    task._groups, task._feedback = [0, 1, 2, 3], [0, 1, 2]
    other = replace(batch, parameters=batch.parameters + 1)

    one = task.predict_frames(batch, rollout="autoregressive")
    z = batch.parameters
    expected = autoregressive(network, batch.inputs, batch.time, feedback=[0, 1, 2], parameters=z)
    torch.testing.assert_close(one, expected)
    first = network(batch.inputs, batch.time[:, 0], z[:, 0])
    torch.testing.assert_close(one[:, :1], first)
    assert not torch.allclose(one, autoregressive(network, batch.inputs, batch.time, parameters=z + 1))
    torch.testing.assert_close(direct(network, batch.inputs, batch.time[:, :1], parameters=z), first)
    assert not torch.allclose(task.loss(batch), task.loss(other))


def test_members_of_an_ensemble_take_them_and_other_networks_are_left_alone(smoke):
    batch = fields(smoke).test_set()[(0, 0)]
    ensemble, plain = (
        Ensemble(sinenet(), members=2),
        FNO(modes=(2, 2), in_channels=3, out_channels=3, width=4),
    )

    out = by_member(ensemble, batch.inputs, batch.time, way="autoregressive", parameters=batch.parameters)

    alone = [
        autoregressive(one, batch.inputs, batch.time, parameters=batch.parameters) for one in ensemble.members
    ]
    torch.testing.assert_close(out, torch.stack(alone))
    history = batch.inputs[:, -1:]
    torch.testing.assert_close(
        autoregressive(plain, history, batch.time, parameters=batch.parameters),
        autoregressive(plain, history, batch.time),
    )


def test_predictions_take_the_files_numbers_or_those_that_are_given(smoke, tmp_path):
    data = fields(smoke)
    surrogate = Surrogate([sinenet()], [data.facts])
    name = surrogate.dataset()
    initial = initial_states(smoke, surrogate, dataset=name, start=1, split="test")

    def speed(out: str, **how) -> np.ndarray:
        predict_to(
            tmp_path / out, surrogate, initial, times=[1.0], rollout="autoregressive", figure=False, **how
        )
        with xarray.open_dataset(tmp_path / out) as held:
            return held["velocity_x"].values

    own, same = speed("own.nc"), speed("same.nc", parameters={"buoyancy": 0.2})

    np.testing.assert_allclose(same[0], own[0])  # 0.2 is the first trajectory's own
    assert not np.allclose(same[1], own[1])
    with pytest.raises(UserError, match="takes buoyancy of the equation; give `parameters`"):
        surrogate.predict(initial.read([0]), [1.0])


def test_numbers_that_are_missing_are_named(smoke, tmp_path):
    with pytest.raises(UserError, match=r"has 'buoyance', which .* did you mean 'buoyancy'"):
        _ = Fields(path=str(smoke), frames=2, parameters=["buoyance"], windows=Histories()).facts
    plain = Fields(path=str(smoke), frames=2, windows=Histories())
    with pytest.raises(UserError, match=r"set data.parameters to its name \(the data's numbers: buoyancy\)"):
        Operator(sinenet()).check_facts(plain.facts)
    surrogate = Surrogate([sinenet()], [fields(smoke).facts])
    with h5py.File(smoke / "NavierStokes2D_test.h5", "a") as file:
        del file["test/buo_y"]
    initial = initial_states(smoke, surrogate, dataset=surrogate.dataset(), start=1, split="test")
    with pytest.raises(UserError, match="say it with --parameter buoyancy=NUMBER"):
        initial.numbers([0], ["buoyancy"], {})


def test_a_network_of_other_axes_than_the_data_is_refused(smoke):
    flat = FNO(modes=(2,), frames=2, in_channels=3, out_channels=3, width=4)

    with pytest.raises(UserError, match=r"works on 1 axes of space and the data has 2 \(4 x 4\)"):
        Operator(flat).check_facts(fields(smoke).facts)
