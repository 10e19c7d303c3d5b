"""Attention over packed sequences: tokens of many sequences in one row, each attending to its own only.

Packing and its equality with padding follow "unpadding" (Zeng et al. 2022, arXiv 2208.08124). Which kernel is
the fastest depends on the device; `packed_kernel` names the choice.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["packed_attention", "packed_kernel", "packed_mask", "packed_positions"]

_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_LONG = 400  # tokens from which on attention gains from oneDNN's products

KERNELS = {
    "varlen": "torch's varlen_attn: one flash-attention call for all sequences",
    "sequences": "one fused call of torch's scaled_dot_product_attention per sequence",
    "mask": "one call with a block-diagonal mask; shapes do not depend on the lengths",
}


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    *,
    causal: bool = True,
    max_seqlen: int | None = None,
    kernel: str | None = None,
) -> Tensor:
    """Return softmax attention in which token t sees only tokens of its own sequence.

    Args:
        query: `(T, H, D)`, the tokens of all sequences one after another.
        key: `(T, K, D)`; K divides H, and query head h uses key head `h // (H / K)`.
        value: As `key`.
        cu_seqlens: `(N + 1,)` int32, where each of N sequences begins, with T at the end; equal neighbours
            are sequences without tokens. Padding is a sequence of its own.
        causal: Whether a token sees only itself and what is before it.
        max_seqlen: Length of the longest sequence. Giving it spares CUDA a wait for the device in every
            layer.
        kernel: One of `KERNELS`; None takes what `packed_kernel` names.

    Returns:
        `(T, H, D)` in the dtype of the inputs, or of autocast where that is on.

    Raises:
        ValueError: If shapes do not fit each other or (seen on the CPU only) `cu_seqlens` is not as said.
    """
    tokens, heads, width = query.shape
    if key.shape != value.shape or key.shape[0] != tokens or key.shape[2] != width or heads % key.shape[1]:
        raise ValueError(
            f"query is {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}; they must "
            "be (T, H, D) and twice (T, K, D) with K a divisor of H"
        )
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    kernel = kernel or packed_kernel(query.device, query.dtype, head_width=width)
    if kernel == "varlen":
        return _varlen(query, key, value, cu_seqlens, causal, max_seqlen)
    if kernel == "sequences":
        return _sequences(query, key, value, cu_seqlens, causal)
    if kernel == "mask":
        mask = packed_mask(cu_seqlens.to(query.device), tokens, causal=causal)
        return _attend(query, key, value, causal=False, mask=mask)
    raise ValueError(f"kernel is {kernel!r}; it must be one of {', '.join(KERNELS)}")


def packed_kernel(device: torch.device | str, dtype: torch.dtype, *, head_width: int = 64) -> str:
    """Return the name of the kernel that `packed_attention` takes, a key of `KERNELS`.

    Flash attention on CUDA needs 16 bits, compute capability 8.0 and heads of at most 256 channels, a
    multiple of 8. A compiler of static graphs (Neuron, XLA, `torch.compile`) must not see the lengths, or it
    would compile anew for each batch, so it gets the mask.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        fits = dtype in (torch.float16, torch.bfloat16) and head_width <= 256 and head_width % 8 == 0
        if fits and torch.cuda.get_device_capability(device) >= (8, 0):
            return "varlen"
    return "sequences" if kind in ("cpu", "cuda") and not torch.compiler.is_compiling() else "mask"


def packed_positions(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """Return `(T,)` int64, each token's place in its own sequence, for T = `tokens`."""
    token = torch.arange(tokens, device=cu_seqlens.device)
    return token - cu_seqlens.to(token.dtype)[_sequence_of(cu_seqlens, token)]


def packed_mask(cu_seqlens: Tensor, tokens: int, *, causal: bool = True) -> Tensor:
    """Return `(T, T)` bool, True where the token of the row sees that of the column."""
    token = torch.arange(tokens, device=cu_seqlens.device)
    sequence = _sequence_of(cu_seqlens, token)
    seen = sequence[:, None] == sequence
    return seen & (token[:, None] >= token) if causal else seen


def _sequence_of(cu_seqlens: Tensor, token: Tensor) -> Tensor:
    return torch.searchsorted(cu_seqlens[1:].to(token.dtype).contiguous(), token, right=True)


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, causal: bool, longest: int | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    if longest is None:
        longest = int(cu_seqlens.diff().max())
    bounds = cu_seqlens.to(device=query.device, dtype=torch.int32)
    window = (-1, 0) if causal else (-1, -1)
    grouped = key.shape[1] != query.shape[1]
    return varlen_attn(
        query, key, value, bounds, bounds, longest, longest, window_size=window, enable_gqa=grouped
    )  # type: ignore[return-value]


def _sequences(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, causal: bool) -> Tensor:
    lengths = _lengths(cu_seqlens, query.shape[0])
    if query.device.type == "cpu":
        return _OnCPU.apply(query, key, value, lengths, causal)
    # split, not slices: the gradient of a slice is as large as the whole
    parts = zip(*(x.split(lengths) for x in (query, key, value)), strict=True)
    return torch.cat([_attend(*part, causal=causal) for part in parts])


class _OnCPU(torch.autograd.Function):
    """Torch's flash attention for CPUs on one sequence after another.

    Where products of float32 go to oneDNN (`core.accelerators.cpu`), it builds a kernel for every new length,
    and is several times slower on short ones: those go another way, forward and backward.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, lengths: list[int], causal: bool
    ) -> Tensor:
        parts, logs = [], []
        with _Products() as products:
            for part in zip(*(x.split(lengths) for x in (query, key, value)), strict=True):
                products.suit(part[0].shape[0])
                mixed, log = _FLASH(*map(_heads_first, part), 0.0, causal)
                parts.append(_heads_last(mixed))
                logs.append(log)
        whole = torch.cat(parts)
        ctx.save_for_backward(query, key, value, whole, *logs)
        ctx.lengths, ctx.causal = lengths, causal
        return whole

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mixed, *logs = ctx.saved_tensors
        parts = zip(*(x.split(ctx.lengths) for x in (grads[0], query, key, value, mixed)), strict=True)
        gradients = []
        with _Products() as products:
            for part, log in zip(parts, logs, strict=True):
                products.suit(part[0].shape[0])
                gradients.append(_FLASH_BACKWARD(*map(_heads_first, part), log, 0.0, ctx.causal))
        joined = (torch.cat([_heads_last(part) for part in which]) for which in zip(*gradients, strict=True))
        return *joined, None, None


class _Products:
    """Leaves float32 products of long sequences where the process sends them, and keeps those of short ones
    from oneDNN.
    """

    def __enter__(self) -> _Products:
        self.before = self.now = torch.get_float32_matmul_precision()
        return self

    def suit(self, length: int) -> None:
        wanted = self.before if length >= _LONG else "highest"
        if wanted != self.now:
            torch.set_float32_matmul_precision(wanted)
            self.now = wanted

    def __exit__(self, *_: object) -> None:
        if self.now != self.before:
            torch.set_float32_matmul_precision(self.before)


def _heads_first(x: Tensor) -> Tensor:
    return x.transpose(0, 1)[None]  # S H D -> 1 H S D


def _heads_last(x: Tensor) -> Tensor:
    return x[0].transpose(0, 1)


def _attend(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, mask: Tensor | None = None) -> Tensor:
    """Map `(S, H, D)` to `(S, H, D)`."""
    grouped = key.shape[1] != query.shape[1]
    query, key, value = map(_heads_first, (query, key, value))
    mixed = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=grouped
    )
    return _heads_last(mixed)


def _lengths(cu_seqlens: Tensor, tokens: int) -> list[int]:
    """Return the lengths of the sequences that have tokens."""
    ends = cu_seqlens.tolist()
    lengths = [end - begin for begin, end in pairwise(ends)]
    if not lengths or ends[0] != 0 or ends[-1] != tokens or min(lengths) < 0:
        raise ValueError(f"cu_seqlens is {ends}; for {tokens} tokens it must rise from 0 to {tokens}")
    return [length for length in lengths if length]
