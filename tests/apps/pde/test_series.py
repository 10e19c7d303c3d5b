"""Predicting driven series from a file: whole windows, first values, times, deviations, and mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray

from apps.pde.data import DrivenSeries, Fields
from apps.pde.data.readers.recognition import open_source
from apps.pde.models.chained import Chained
from apps.pde.models.deeponet import DeepONet
from apps.pde.models.ensemble import Ensemble
from apps.pde.predict.command import predict_to
from apps.pde.predict.initial import initial_states
from apps.pde.predict.model import Surrogate
from core.data.sample_store import Store
from core.errors import UserError

FIELDS = ("valve", "load", "speed")


def store(path: Path, *, samples: int = 3, length: int = 34, fields=FIELDS, interval: float = 0.5) -> Path:
    times = interval * np.arange(length)
    made = Store.create(
        path, samples=samples, channels=fields, times=[0.0], coordinates=[times], units={"speed": "m/s"}
    )
    phase = np.arange(samples)[:, None, None] + np.arange(len(fields))[None, :, None]
    made.write(range(samples), (np.sin(times + phase) + 3)[:, None].astype("f4"))
    return made.path


@pytest.fixture
def surrogate(tmp_path: Path) -> Surrogate:
    """An ensemble for windows of 8 samples: two commands, one output."""
    torch.manual_seed(0)
    data = Fields(
        path=str(store(tmp_path / "train", samples=4)), trajectories=2, val_trajectories=1,
        test_trajectories=1, inputs=list(FIELDS[:2]), outputs=list(FIELDS[2:]),
        windows=DrivenSeries(window=8),
    )  # fmt: skip
    member = DeepONet(resolution=(8,), in_channels=3, out_channels=1, constants=1, basis=4)
    return Surrogate([Ensemble(Chained(member), members=3)], [data.facts])


def test_the_spread_stands_beside_the_mean_over_time(surrogate, tmp_path):
    path = store(tmp_path / "other")
    initial = initial_states(path, surrogate, dataset=surrogate.dataset(), trajectories=[2, 0])

    made = predict_to(tmp_path / "out.nc", surrogate, initial, times=[0.0])

    assert [one.name for one in made] == ["out.nc", "out.png"]
    with xarray.open_dataset(made[0]) as held:
        assert held["speed"].dims == ("sample", "time") and held["speed"].shape == (2, 32)
        assert held["time"].values.tolist() == pytest.approx((0.5 * np.arange(1, 33)).tolist())
        assert held["time"].attrs["units"] == "s"
        facts = surrogate.facts.datasets[0]
        history = (torch.from_numpy(initial.read([0])) - torch.tensor(facts.mean).view(-1, 1)) / (
            torch.tensor(facts.std).view(-1, 1)
        )
        std, mean = torch.std_mean(surrogate.networks[0].members_advance(history)[:, 0, 0, 0], dim=0)
        scale = facts.out_std[0]
        np.testing.assert_allclose(held["speed"][1], mean.detach() * scale + facts.out_mean[0], rtol=1e-5)
        np.testing.assert_allclose(held["speed_std"][1], std.detach() * scale, rtol=1e-4, atol=1e-7)


def test_it_starts_from_the_first_values_and_goes_as_far_as_whole_windows(surrogate, tmp_path):
    path = store(tmp_path / "other", samples=1)
    initial = initial_states(path, surrogate, dataset=surrogate.dataset())
    raw = open_source(path).read(0, [0])[0]

    history = initial.read([0])[0, 0]

    assert initial.space == (32,)
    np.testing.assert_array_equal(history[:2], raw[:2, :32])
    assert (history[2] == raw[2, 0]).all()
    np.testing.assert_array_equal(initial.later(0, [0.0], ["speed"])[0, 0], raw[2, 1:33])


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"fields": ("valve", "loads", "speed")}, "has no field 'load'.*did you mean 'loads'"),
        ({"length": 8}, "has 8 samples; the network's windows have 8, so it needs at least 9"),
        ({"interval": 0.25}, "are 0.25 apart and those of the training data 0.5"),
    ],
)
def test_series_that_do_not_fit_are_named(surrogate, tmp_path, how, words):
    path = store(tmp_path / "other", **how)

    with pytest.raises(UserError, match=words):
        initial_states(path, surrogate, dataset=surrogate.dataset())
