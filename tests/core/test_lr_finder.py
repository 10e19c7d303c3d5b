"""The learning-rate finder: its rule, its curve, and that it leaves no trace."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from core.errors import UserError
from core.optim import LRFinder
from core.optim.lr_finder import valley


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 1))


def batches(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(16, 4, generator=generator) for _ in range(count)]


def loss_of(module: nn.Module):
    def loss(x):
        noise = random.random() + np.random.rand()  # draws from the host's streams, as augmentation would
        return ((module(x) - x.sum(1, keepdim=True)) ** 2).mean() + 0 * noise

    return loss


def adamw(parameters) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1.0)


def test_the_curve_runs_through_all_rates_and_the_suggestion_lies_on_it():
    module = network()
    result = LRFinder().run(loss_of(module), module, adamw, batches(7))
    ratios = np.diff(np.log(result.rates))
    assert result.rates[0] == 1e-7
    assert ratios == pytest.approx(np.full(len(ratios), np.log(1e8) / 99))
    assert result.rate == result.rates[result.index]
    assert 1e-5 < result.rate < 1.0


def test_nothing_is_changed_by_a_search():
    module = network()
    module[1].eval()
    module(batches(1)[0]).sum().backward()
    before = copy.deepcopy(module.state_dict())
    gradients = [p.grad.clone() for p in module.parameters()]
    streams = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    LRFinder(steps=20).run(loss_of(module), module, adamw, batches(3))
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(module.parameters(), gradients, strict=True))
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert random.getstate() == streams[1]
    assert np.array_equal(np.random.get_state()[1], streams[2])
    assert not module[1].training and module[0].training


def test_everything_is_put_back_after_an_error_too():
    module = network()
    before = copy.deepcopy(module.state_dict())

    def fails_later(x, seen=[]):  # noqa: B006
        seen.append(x)
        if len(seen) > 3:
            raise RuntimeError("broken")
        return loss_of(module)(x)

    with pytest.raises(RuntimeError, match="broken"):
        LRFinder().run(fails_later, module, adamw, batches(9))
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_frozen_parameters_are_left_out():
    module = network()
    module[0].requires_grad_(False)
    seen = []
    LRFinder(steps=5).run(loss_of(module), module, lambda ps: seen.append(len(ps)) or adamw(ps), batches(2))
    assert seen == [4]


@pytest.mark.parametrize(
    ("losses", "index"),
    [
        # falls throughout: n = 9, end = 8, start = -1, s = 3, index = -1 + 3 + 1
        ([9, 8, 7, 6, 5, 4, 3, 2, 1], 3),
        # flat, then 6 falling values ending at 8: start = 2, s = 2, index = 2 + 2 + 1
        ([9, 9, 9, 9, 8, 7, 6, 5, 4, 20, 30], 5),
        # a bump does not break the subsequence 9 8 7 6 5 4, ending at 6: start = 0, s = 2
        ([9, 8, 30, 7, 6, 5, 4, 40], 3),
        ([5, 6, 7], 0),
        ([5, 4], 0),
        ([5], 0),
    ],
)
def test_the_valley_rule(losses, index):
    assert valley(losses) == index


def test_a_loss_that_explodes_ends_the_sweep():
    module = network()
    result = LRFinder(maximum=1e6, beta=0.0).run(loss_of(module), module, adamw, batches(7))
    assert len(result.losses) < 100
    assert np.isfinite(result.losses).all()


def test_data_without_a_finite_loss_or_without_a_batch_is_refused():
    module = network()
    with pytest.raises(UserError, match="saw 0 finite losses"):
        LRFinder().run(lambda x: module(x).mean() * float("nan"), module, adamw, batches(3))
    with pytest.raises(UserError, match="found no batch"):
        LRFinder().run(loss_of(module), module, adamw, [])


@pytest.mark.parametrize(
    "wrong", [{"minimum": 0.0}, {"minimum": 1.0, "maximum": 0.1}, {"steps": 2}, {"beta": 1.0}, {"stop": 1.0}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=f"LRFinder: {next(iter(wrong))}"):
        LRFinder(**wrong)
