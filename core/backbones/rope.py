"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864) in the half-split convention.

Feature `i` turns together with feature `i + D/2`. Checkpoints in the interleaved convention (pairs `2i`,
`2i + 1`) need the rows of their query and key weights reordered (`core.checkpoints.official.llama`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from core.errors import UserError

__all__ = ["Rope", "rotate"]

KINDS = ("default", "linear", "llama3")


class Rope(nn.Module):
    """Cosines and sines of `position · theta^(-2i/D)`.

    Args:
        width: Size `D` of a head; even.
        theta: Base of the frequencies.
        scaling: None, or how to stretch them for long contexts: `rope_type` and its fields. `linear` divides
            all by `factor`. `llama3` (Llama 3.1) divides those by `factor` whose wavelength exceeds
            `original_max_position_embeddings / low_freq_factor`, leaves those below
            `original_max_position_embeddings / high_freq_factor`, and interpolates between.

    Raises:
        UserError: If the width is odd, or the scaling is unknown or lacks a field.
    """

    frequencies: Tensor

    def __init__(
        self, width: int, *, theta: float = 10_000.0, scaling: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        if width % 2:
            raise UserError(f"a rotary embedding turns pairs: the head width {width} must be even")
        self.width, self.theta = width, theta
        self.scaling = _checked(scaling)
        self.register_buffer("frequencies", torch.empty(width // 2), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Compute the frequencies anew."""
        if self.frequencies.is_meta:
            return
        # Made on the CPU wherever the buffer is, so that every device turns by the same angles.
        steps = torch.arange(0, self.width, 2, dtype=torch.float32, device="cpu") / self.width
        plain = 1.0 / self.theta**steps
        self.frequencies = _scaled(plain, self.scaling).to(self.frequencies.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Rope:
        super()._apply(fn, recurse)
        if self.frequencies.dtype != torch.float32:  # a cast of the network would round the angles
            self.frequencies = self.frequencies.float()
            self.reset_parameters()
        return self

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Map positions `(B, S)` to cosines and sines `(B, S, D/2)` in float32."""
        angles = positions[..., None].float() * self.frequencies
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the heads of `x` `(B, S, H, D)`, whose type stays, by their positions' angles.

    `cos` and `sin` are `(B, S, D/2)`, or have one row for all samples.
    """
    cos, sin = cos.to(x.dtype)[:, :, None], sin.to(x.dtype)[:, :, None]
    if type(x) is Tensor and x.device.type == "cpu" and not torch.compiler.is_compiling():
        return _Rotate.apply(x, cos, sin)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class _Rotate(torch.autograd.Function):
    """The same without temporaries; heads come first in memory, as attention likes them best."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        out = x.new_empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2)
        return _turn(x, cos, sin, out, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        out = torch.empty_like(grads[0], memory_format=torch.contiguous_format)
        return _turn(grads[0], cos, sin, out, -1.0), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor, sign: float) -> Tensor:
    (first, second), (low, high) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    torch.mul(first, cos, out=low).addcmul_(second, sin, value=-sign)
    torch.mul(second, cos, out=high).addcmul_(first, sin, value=sign)
    return out


def _checked(scaling: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind not in KINDS:
        raise UserError(f"the rope scaling is of type '{kind}'; known are {', '.join(KINDS)}")
    needed = {
        "default": (),
        "linear": ("factor",),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    }[kind]
    if missing := [name for name in needed if name not in scaling]:
        raise UserError(f"the rope scaling of type '{kind}' lacks {', '.join(missing)}")
    return None if kind == "default" else {"rope_type": kind, **{name: scaling[name] for name in needed}}


def _scaled(plain: Tensor, scaling: Mapping[str, Any] | None) -> Tensor:
    if scaling is None:
        return plain
    factor = float(scaling["factor"])
    if scaling["rope_type"] == "linear":
        return plain / factor
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    context = float(scaling["original_max_position_embeddings"])
    turns = context * plain / (2 * math.pi)  # how often a frequency turns in the original context
    smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - smooth) * plain / factor + smooth * plain
