"""Losses of the PDE systems against hand-computed values, and what a mask does to them."""

from __future__ import annotations

import math

import pytest
import torch

from core.errors import UserError
from core.objectives.fields import GroupedRelative, MeanSquared, RelativeH1, RelativeLp, ScaledL2

ALL = [GroupedRelative(1), GroupedRelative(2), ScaledL2(), MeanSquared(), RelativeLp(), RelativeH1()]


def fields(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_group_counts_by_its_error_relative_to_its_labels():
    target = torch.ones(2, 1, 3, 4, 4)
    target[:, :, 1:] = 4.0
    prediction = target + 1.0
    loss = GroupedRelative(1)(prediction, target, groups=[0, 1, 3])
    assert loss.item() == pytest.approx((1 / 1 + 1 / 4) / 2)


def test_without_groups_the_error_is_absolute_or_squared():
    target = torch.zeros(2, 1, 3, 4, 4)
    assert GroupedRelative(1)(target - 3, target).item() == 3
    assert GroupedRelative(2)(target - 3, target).item() == 9


def test_a_masked_group_is_no_error_and_still_counts_in_the_mean():
    target, prediction = torch.ones(2, 1, 2, 4, 4), torch.full((2, 1, 2, 4, 4), 3.0)
    mask = torch.tensor([[False, True], [False, True]])
    assert GroupedRelative(1)(prediction, target, mask=mask, groups=[0, 1, 2]).item() == pytest.approx(1.0)


@pytest.mark.parametrize("objective", ALL, ids=repr)
def test_no_gradient_flows_where_the_label_is_masked(objective):
    target, prediction = fields(2, 3, 2, 4, 4), fields(2, 3, 2, 4, 4, seed=1).requires_grad_()
    mask = torch.zeros(2, 2, 4, 4, dtype=torch.bool)
    mask[0, 1, :2] = True
    objective(prediction, target, mask=mask, groups=[0, 1, 2]).backward()
    assert (prediction.grad[0, :, 1, :2] == 0).all() or isinstance(objective, RelativeH1)
    assert prediction.grad[1].abs().min() > 0


@pytest.mark.parametrize("objective", ALL, ids=repr)
def test_a_perfect_prediction_has_no_loss(objective):
    target = fields(2, 3, 2, 4, 4)
    assert objective(target.clone(), target, groups=[0, 2]).item() == 0


def test_relative_errors_do_not_depend_on_the_size_of_the_fields():
    target, prediction = fields(3, 1, 2, 8, 8), fields(3, 1, 2, 8, 8, seed=1)
    for objective in (ScaledL2(), RelativeLp(), RelativeH1(), GroupedRelative(1)):
        once = objective(prediction, target, groups=[0, 2])
        assert objective(1e3 * prediction, 1e3 * target, groups=[0, 2]).item() == pytest.approx(once.item())


def test_a_sum_is_the_mean_times_samples_and_channels():
    target, prediction = fields(3, 1, 2, 8), fields(3, 1, 2, 8, seed=1)
    for kind in (RelativeLp, RelativeH1):
        summed, mean = kind(reduction="sum")(prediction, target), kind()(prediction, target)
        assert summed.item() == pytest.approx(6 * mean.item())


def test_h1_adds_the_slope_of_a_sine():
    x = torch.arange(256, dtype=torch.float64) / 256
    target = torch.sin(2 * math.pi * x)[None, None, None]
    wrong = target + 0.1 * torch.sin(2 * math.pi * 8 * x)
    slope = (2 * math.pi * 8) ** 2
    expected = 0.1 * math.sqrt((1 + slope) / (1 + (2 * math.pi) ** 2))
    assert RelativeH1()(wrong, target).item() == pytest.approx(expected, rel=0.01)


def test_values_out_of_range_are_refused():
    with pytest.raises(UserError, match=r"objective.p is 3; it must be 1 \(absolute\) or 2"):
        GroupedRelative(3)
    with pytest.raises(UserError, match=r"objective\.reduction is 'max'"):
        RelativeLp(reduction="max")
    with pytest.raises(ValueError, match="they must be alike"):
        MeanSquared()(torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 5))
