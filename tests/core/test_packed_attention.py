"""Attention over packed sequences is attention over each of them, forward and backward, by every kernel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.backbones.packed_attention import packed_attention, packed_kernel, packed_mask, packed_positions


def cumulated(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def inputs(lengths: list[int], heads: int, kv_heads: int, width: int = 8) -> list[Tensor]:
    torch.manual_seed(len(lengths))
    tokens = sum(lengths)
    shapes = [(tokens, heads, width), (tokens, kv_heads, width), (tokens, kv_heads, width)]
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


def padded(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], causal: bool) -> Tensor:
    """Attention over rows padded to the longest, written out, as an unpacked batch has it."""
    rows = [torch.nn.utils.rnn.pad_sequence(x.split(lengths), batch_first=True) for x in (query, key, value)]
    groups = query.shape[1] // key.shape[1]
    q, k, v = rows[0], rows[1].repeat_interleave(groups, 2), rows[2].repeat_interleave(groups, 2)
    logits = torch.einsum("nqhd,nkhd->nhqk", q, k) / q.shape[-1] ** 0.5
    size = q.shape[1]
    unseen = (torch.arange(size) >= torch.tensor(lengths)[:, None])[:, None, None]
    if causal:
        unseen = unseen | torch.ones(size, size, dtype=torch.bool).triu(1)
    mixed = torch.einsum("nhqk,nkhd->nqhd", logits.masked_fill(unseen, -1e30).softmax(-1), v)
    return torch.cat([row[:length] for row, length in zip(mixed, lengths, strict=True)])


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=6),
    groups=st.sampled_from([(4, 4), (4, 2), (6, 1)]),
    causal=st.booleans(),
    kernel=st.sampled_from(["sequences", "mask"]),
)
def test_packed_equals_padded(lengths: list[int], groups: tuple[int, int], causal: bool, kernel: str) -> None:
    given = inputs(lengths, *groups)
    weight = torch.randn(sum(lengths), groups[0], 8)
    packed = packed_attention(*given, cumulated(lengths), causal=causal, kernel=kernel)
    grads = torch.autograd.grad((packed * weight).sum(), given)
    wanted = padded(*given, lengths, causal)
    wanted_grads = torch.autograd.grad((wanted * weight).sum(), given)
    torch.testing.assert_close(packed, wanted, rtol=1e-6, atol=2e-6)
    for one, other in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_sequence_without_tokens_changes_nothing() -> None:
    given = inputs([3, 2], 2, 2)
    plain = packed_attention(*given, cumulated([3, 2]))
    torch.testing.assert_close(packed_attention(*given, cumulated([3, 0, 2, 0])), plain)


def test_positions_restart_and_the_mask_is_block_diagonal() -> None:
    ends = cumulated([3, 0, 2])
    assert packed_positions(ends, 5).tolist() == [0, 1, 2, 0, 1]
    blocks = torch.block_diag(torch.ones(3, 3), torch.ones(2, 2)).bool()
    assert torch.equal(packed_mask(ends, 5, causal=False), blocks)
    assert torch.equal(packed_mask(ends, 5), blocks.tril())


def test_the_kernel_has_a_name_on_every_device() -> None:
    assert packed_kernel("cpu", torch.float32) == "sequences"
    assert packed_kernel("meta", torch.float32) == "mask"  # as on any device with static shapes


def test_autocast_gives_its_dtype() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert packed_attention(*inputs([4, 3], 2, 1), cumulated([4, 3])).dtype == torch.bfloat16


@pytest.mark.parametrize("ends", [[0, 3], [1, 5], [0, 4, 3, 5], [0]])
def test_wrong_bounds_are_refused(ends: list[int]) -> None:
    with pytest.raises(ValueError, match="rise from 0 to 5"):
        packed_attention(*inputs([5], 2, 2), torch.tensor(ends, dtype=torch.int32))


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="divisor"):
        packed_attention(*inputs([5], 3, 2), cumulated([5]))


def test_one_sequence_is_ordinary_attention() -> None:
    given = inputs([9], 2, 2)
    plain = F.scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in given), is_causal=True)
    torch.testing.assert_close(packed_attention(*given, cumulated([9])), plain[0].transpose(0, 1))


@pytest.mark.parametrize("causal", [True, False])
def test_gradients_are_right_in_float64(causal: bool) -> None:
    given = [x.detach().double().requires_grad_() for x in inputs([3, 1, 4], 4, 2, width=2)]
    bounds = cumulated([3, 1, 4])
    assert torch.autograd.gradcheck(lambda *x: packed_attention(*x, bounds, causal=causal), given)


def test_short_sequences_are_kept_from_onednn_and_the_setting_is_put_back() -> None:
    given = inputs([5, 300, 450], 2, 1)
    plain = packed_attention(*given, cumulated([5, 300, 450]))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        packed = packed_attention(*given, cumulated([5, 300, 450]))
        packed.sum().backward()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    torch.testing.assert_close(packed[:305], plain[:305], rtol=0, atol=0)


def test_recomputing_in_the_backward_pass_changes_nothing() -> None:
    given = inputs([5, 3], 2, 1)
    bounds = cumulated([5, 3])
    plain = torch.autograd.grad(packed_attention(*given, bounds).square().sum(), given)
    again = torch.utils.checkpoint.checkpoint(packed_attention, *given, bounds, use_reentrant=False)
    for one, other in zip(torch.autograd.grad(again.square().sum(), given), plain, strict=True):
        assert torch.equal(one, other)
