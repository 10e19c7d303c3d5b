"""Attention within windows in pieces, and a linear layer behind a GELU: both as the plain formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core.backbones.dot_product import window_attention
from core.backbones.gelu_linear import gelu_linear
from core.backbones.windows import WindowPlan, join_windows, plan_windows, split_windows

GEOMETRIES = [
    ((4, 5, 10), (2, 3, 4), (0, 0, 0)),
    ((4, 5, 10), (2, 3, 4), (1, 1, 2)),
    ((2, 4, 4), (2, 4, 4), (0, 0, 0)),
    ((2, 6), (2, 3), (1, 1)),
]


def plain(qkv: torch.Tensor, plan: WindowPlan, heads: int, padding: torch.Tensor, bias=None) -> torch.Tensor:
    windows = split_windows(qkv, plan, padding=padding)
    query, key, value = windows.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if bias is not None:
        logits = logits + bias
    mask = plan.mask(value=-100.0, dtype=qkv.dtype)
    if mask is not None:
        logits = logits + mask.repeat(len(qkv), 1, 1)[:, None]
    return join_windows((logits.softmax(-1) @ value).transpose(1, 2).flatten(2), plan)


def problem(grid, window, shift) -> tuple[WindowPlan, torch.Tensor, torch.Tensor]:
    plan = plan_windows(grid, window, shift, padding="around", periodic=(len(grid) - 1,))
    qkv = torch.randn(3, math.prod(grid), 24, dtype=torch.float64, requires_grad=True)
    return plan, qkv, torch.randn(24, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(("grid", "window", "shift"), GEOMETRIES)
@pytest.mark.parametrize("piece", [1, 1 << 20], ids=["a window at a time", "all windows at once"])
def test_attention_in_pieces_equals_the_formula_with_its_gradients(grid, window, shift, piece, monkeypatch):
    monkeypatch.setattr("core.backbones.dot_product._PIECE", piece)
    plan, qkv, padding = problem(grid, window, shift)
    mixed = window_attention(qkv, plan, heads=2, padding=padding)
    wanted = plain(qkv, plan, 2, padding)
    back = torch.randn_like(wanted)

    torch.testing.assert_close(mixed, wanted)
    given = torch.autograd.grad(mixed, (qkv, padding), back)
    right = torch.autograd.grad(wanted, (qkv, padding), back, materialize_grads=True)
    torch.testing.assert_close(given, right)


def test_masked_places_count_where_all_logits_are_far_below_zero():
    plan, qkv, padding = problem((4, 6), (2, 3), (1, 1))
    large = torch.cat([qkv[..., :8].abs() * 40, -qkv[..., 8:16].abs(), qkv[..., 16:]], -1).detach()

    mixed = window_attention(large, plan, heads=2, padding=padding)

    torch.testing.assert_close(mixed, plain(large, plan, 2, padding))


def test_a_bias_for_each_pair_is_added_and_learnt():
    plan, qkv, padding = problem((4, 6), (2, 3), (1, 1))
    bias = torch.randn(2, 6, 6, dtype=torch.float64, requires_grad=True)

    mixed = window_attention(qkv, plan, heads=2, padding=padding, bias=bias)

    torch.testing.assert_close(mixed, plain(qkv, plan, 2, padding, bias))
    assert torch.autograd.grad(mixed.sum(), bias)[0].abs().max() > 0


def test_attention_in_lower_precision_stays_near():
    plan, qkv, padding = problem((4, 6), (2, 3), (1, 1))

    mixed = window_attention(qkv.bfloat16(), plan, heads=2, padding=padding.bfloat16())

    torch.testing.assert_close(mixed.double(), plain(qkv, plan, 2, padding), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_behind_a_gelu_has_the_formulas_gradients(bias):
    layer = nn.Linear(5, 3, bias=bias, dtype=torch.float64)
    hidden = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)

    torch.testing.assert_close(gelu_linear(hidden, layer), layer(F.gelu(hidden)))
    assert torch.autograd.gradcheck(lambda x, *_: gelu_linear(x, layer), (hidden, *layer.parameters()))


def test_a_linear_layer_behind_a_gelu_follows_autocast_and_frozen_weights():
    layer = nn.Linear(5, 3).requires_grad_(False)
    hidden = torch.randn(4, 5, requires_grad=True)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        mapped = gelu_linear(hidden, layer)
    mapped.float().sum().backward()

    assert mapped.dtype == torch.bfloat16
    assert hidden.grad.dtype == torch.float32
    assert layer.weight.grad is None
