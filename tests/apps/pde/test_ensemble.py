"""Ensembles: members that differ, are trained as if alone, and travel in one checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from apps.pde.models.chained import Chained
from apps.pde.models.deeponet import DeepONet
from apps.pde.models.ensemble import Ensemble
from apps.pde.models.fno import FNO, TimedFNO
from core.checkpoints.files import write_checkpoint
from core.checkpoints.weights import load_weights
from core.errors import UserError


def small(kind: type[FNO] = FNO, **more) -> FNO:
    torch.manual_seed(4)
    return kind(modes=(4,), width=6, depth=1, **more)


def test_members_differ_and_their_mean_is_predicted():
    network = Ensemble(small(), members=3)
    history = torch.randn(2, 1, 1, 8)

    members = network.members_advance(history)

    assert members.shape == (3, 2, 1, 1, 8)
    assert all(not torch.allclose(members[0], members[i]) for i in (1, 2))
    assert not torch.allclose(members[1], members[2])
    torch.testing.assert_close(network.advance(history), members.mean(0))
    mean, std = network.mean_and_std(history)
    torch.testing.assert_close(mean, members.mean(0))
    torch.testing.assert_close(std, members.std(0))


def test_the_first_member_is_the_network_itself_and_the_others_follow_the_seed():
    alone, again, other = (Ensemble(small(), members=2, seed=seed) for seed in (0, 0, 1))
    state = small().state_dict()

    assert all(torch.equal(tensor, state[key]) for key, tensor in alone.members[0].state_dict().items())
    first, second, third = (e.members[1].layers[0].spectral.weight for e in (alone, again, other))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_making_one_leaves_the_global_random_numbers_alone():
    network = small()
    torch.manual_seed(9)
    Ensemble(network, members=3)
    after = torch.rand(3)

    torch.manual_seed(9)
    assert torch.equal(after, torch.rand(3))


def test_each_member_is_trained_as_if_it_were_alone():
    ensemble = Ensemble(small(), members=2)
    alone = Ensemble(small(), members=2).members[1]
    history, label = torch.randn(4, 1, 1, 8), torch.randn(4, 1, 1, 8)
    together = torch.optim.SGD(ensemble.parameters(), lr=0.1)
    single = torch.optim.SGD(alone.parameters(), lr=0.1)
    for _ in range(3):
        together.zero_grad()
        single.zero_grad()
        sum((out - label).square().mean() for out in ensemble.members_advance(history)).backward()
        (alone.advance(history) - label).square().mean().backward()
        together.step()
        single.step()

    for one, other in zip(ensemble.members[1].parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_it_is_a_network_like_its_members():
    timed = Ensemble(small(TimedFNO, in_channels=2, out_channels=1), members=2)
    fixed = Ensemble(Chained(DeepONet(resolution=(5,), in_channels=3, constants=1)), members=2)

    assert (timed.frames, timed.in_channels, timed.out_channels, timed.resolution) == (1, 2, 1, None)
    assert timed.timed and timed.future == 1
    assert timed.advance(torch.randn(3, 1, 2, 8), torch.rand(3)).shape == (3, 1, 1, 8)
    assert (fixed.timed, fixed.resolution) == (False, (5,))
    assert fixed.members_advance(torch.randn(2, 1, 3, 15)).shape == (2, 2, 1, 1, 15)
    assert list(fixed.blocks()) == list(fixed.members)


def test_its_weights_come_back_from_a_checkpoint(tmp_path: Path):
    network, other = Ensemble(small(), members=2), Ensemble(small(), members=2, seed=5)
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    path = write_checkpoint({"state_dict": state, "domainfm": {"format": 1}}, tmp_path / "e.ckpt")

    load_weights(path, other)

    history = torch.randn(2, 1, 1, 8)
    assert torch.equal(other.members_advance(history), network.members_advance(history))


def test_a_network_without_memory_is_filled_by_its_own_reset():
    with torch.device("meta"):
        network = Ensemble(small(), members=2)
    network.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(7)

    network.reset_parameters()

    assert not any(bool((parameter == 7).any()) for parameter in network.parameters())
    assert not torch.equal(
        network.members[0].layers[0].skip.linear.weight, network.members[1].layers[0].skip.linear.weight
    )


def test_what_makes_no_ensemble_is_named():
    with pytest.raises(UserError, match="at least 2"):
        Ensemble(small(), members=1)
    with pytest.raises(UserError, match="cannot draw its weights anew"):
        Ensemble(nn.Sequential(), members=2)
