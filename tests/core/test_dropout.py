"""Dropout in wide words: right rate, unbiased, right gradient, repeatable."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.backbones.dropout import Dropout


@pytest.fixture
def ones() -> Tensor:
    return torch.ones(400_003)  # not a multiple of four


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.7])
def test_the_rate_and_the_mean_are_right(ones: Tensor, p: float) -> None:
    torch.manual_seed(0)

    y = Dropout(p).train()(ones)

    spread = 4 * (p * (1 - p) / ones.numel()) ** 0.5
    assert abs(float((y == 0).double().mean()) - p) < spread
    assert abs(float(y.double().mean()) - 1) < 1.1 * spread / (1 - p)


def test_every_lane_of_a_word_drops_alike(ones: Tensor) -> None:
    torch.manual_seed(0)

    lanes = (Dropout(0.3).train()(ones)[:400_000].view(-1, 4) == 0).double().mean(0)

    assert torch.allclose(lanes, torch.full((4,), 0.3, dtype=torch.float64), atol=0.006)


def test_neighbouring_elements_drop_independently(ones: Tensor) -> None:
    torch.manual_seed(0)

    kept = (Dropout(0.5).train()(ones) > 0).double() - 0.5
    lags = [float((kept[lag:] * kept[:-lag]).mean()) / 0.25 for lag in range(1, 9)]

    assert max(abs(value) for value in lags) < 0.01


def test_the_gradient_passes_where_the_value_passed() -> None:
    x = torch.randn(64, 33, requires_grad=True)

    y = Dropout(0.25).train()(x)
    y.sum().backward()

    assert x.grad is not None
    assert torch.allclose(x.grad * x.detach(), y.detach())


def test_the_gradient_agrees_with_finite_differences() -> None:
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)

    def seeded(value: Tensor) -> Tensor:
        torch.manual_seed(3)
        return Dropout(0.3).train()(value)

    assert torch.autograd.gradcheck(seeded, (x,))


def test_a_seed_repeats_the_mask_for_any_number_of_threads(ones: Tensor) -> None:
    before = torch.get_num_threads()
    masks = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(5)
        masks.append(Dropout(0.2).train()(ones))
    torch.set_num_threads(before)

    assert torch.equal(masks[0], masks[1])


@settings(max_examples=20, deadline=None)
@given(p=st.floats(0, 1), n=st.integers(0, 9), fast=st.booleans())
def test_any_probability_and_size_keeps_the_shape(p: float, n: int, fast: bool) -> None:
    y = Dropout(p, fast=fast).train()(torch.ones(n, 3))

    assert y.shape == (n, 3)
    assert bool(torch.isfinite(y).all())


def test_evaluation_and_zero_change_nothing() -> None:
    x = torch.randn(10)

    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0).train()(x) is x


def test_turned_off_it_is_torch_s_own_dropout() -> None:
    x = torch.randn(1000)
    torch.manual_seed(1)
    ours = Dropout(0.4, fast=False).train()(x)
    torch.manual_seed(1)

    assert torch.equal(ours, torch.nn.functional.dropout(x, 0.4))


def test_a_probability_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"p is 1\.5"):
        Dropout(1.5)


def test_a_zeroed_tensor_times_the_gain_is_the_dropped_one(ones: Tensor) -> None:
    dropout = Dropout(0.2).train()
    torch.manual_seed(6)
    whole = dropout(ones)
    torch.manual_seed(6)

    assert torch.equal(dropout.zeroed(ones) * dropout.gain(ones), whole)
    assert dropout.eval().gain(ones) == 1.0
