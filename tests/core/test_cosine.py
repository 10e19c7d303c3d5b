"""Cosine attention in pieces equals the formula, in values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from core.backbones import cosine
from core.backbones.cosine import cosine_attention
from core.strategies.parallelise import checkpoint_blocks


def formula(query, key, value, scale, bias, mask):
    """Return the attention one step after the other."""
    heads = bias.shape[0]
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    logits = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(2, 3) * scale[:, None, None] + bias
    if mask is not None:
        logits = (logits.unflatten(0, (-1, mask.shape[0])) + mask[:, None]).flatten(0, 1)
    return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)


def arguments(*, windows: int, heads: int = 3, size: int = 4, masked: bool, dtype=torch.float64):
    made = [torch.randn(2 * windows, size, heads * 2, dtype=dtype, requires_grad=True) for _ in range(3)]
    scale = (torch.rand(heads, dtype=dtype) * 10 + 1).requires_grad_()
    bias = torch.randn(heads, size, size, dtype=dtype, requires_grad=True)
    far = torch.rand(windows, size, size) > 0.7
    mask = torch.zeros(windows, size, size, dtype=dtype).masked_fill(far, -200.0) if masked else None
    return [*made, scale, bias, mask]


# Bytes of a piece: one row, part of the heads, one window, some windows, one sample, everything.
@pytest.mark.parametrize("piece", [1, 130, 400, 800, 1600, 1 << 20])
@pytest.mark.parametrize("masked", [True, False])
def test_pieces_of_every_size_equal_the_formula(monkeypatch, piece, masked):
    torch.manual_seed(0)
    monkeypatch.setattr(cosine, "_PIECE", piece)
    given = arguments(windows=4, masked=masked)
    query, key, value, scale, bias, mask = given
    found = cosine_attention(query, key, value, scale=scale, bias=bias, mask=mask)
    wanted = formula(*given)
    weight = torch.randn_like(wanted)

    torch.testing.assert_close(found, wanted)
    for a, b in zip(
        torch.autograd.grad((found * weight).sum(), given[:5]),
        torch.autograd.grad((wanted * weight).sum(), given[:5]),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_without_gradients_the_result_is_the_same():
    query, key, value, scale, bias, mask = arguments(windows=4, masked=True, dtype=torch.float32)
    trained = cosine_attention(query, key, value, scale=scale, bias=bias, mask=mask)

    with torch.no_grad():
        assert torch.equal(cosine_attention(query, key, value, scale=scale, bias=bias, mask=mask), trained)


def test_the_fused_form_of_other_devices_equals_the_one_in_pieces():
    given = arguments(windows=4, masked=True, dtype=torch.float32)
    query, key, value, scale, bias, mask = given

    fused = cosine._composed(query, key, value, scale, bias, mask, 0.0)

    torch.testing.assert_close(
        fused, cosine_attention(query, key, value, scale=scale, bias=bias, mask=mask), atol=1e-5, rtol=1e-4
    )


def test_a_query_of_zeros_has_a_finite_gradient():
    query, key, value, scale, bias, _ = arguments(windows=1, masked=False, dtype=torch.float32)
    query = torch.zeros_like(query, requires_grad=True)

    cosine_attention(query, key, value, scale=scale, bias=bias).sum().backward()

    assert bool(torch.isfinite(query.grad).all())


def test_low_precision_values_keep_their_dtype_and_full_precision_logits():
    query, key, value, scale, bias, mask = arguments(windows=4, masked=True, dtype=torch.float32)
    low = [x.bfloat16() for x in (query, key, value)]

    found = cosine_attention(*low, scale=scale, bias=bias, mask=mask)
    wanted = formula(*[x.float() for x in low], scale, bias, mask)

    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, atol=1e-2, rtol=1e-2)


def test_selective_checkpointing_recomputes_it_as_a_whole():
    query, *others, mask = arguments(windows=2, masked=True)
    block = torch.nn.Module()
    block.forward = (
        lambda query: cosine_attention(  # its products are not to be kept
            query * 2, *others[:2], scale=others[2], bias=others[3], mask=mask
        )
    )
    inputs = (query, *others)
    wanted = torch.autograd.grad(block(query).square().sum(), inputs)
    checkpoint_blocks([block], "selective")

    given = torch.autograd.grad(block(query).square().sum(), inputs)

    torch.testing.assert_close(given, wanted)
