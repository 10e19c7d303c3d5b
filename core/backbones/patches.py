"""Patches of a grid with one to three axes: cutting, joining, and a linear map from patch to token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PatchEmbed", "cut", "patch_grid", "patchify", "unpatchify"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def patch_grid(axes: Sequence[int], patch: Sequence[int]) -> tuple[int, ...]:
    """Return how many whole patches fit along each axis; what remains at the ends is not counted.

    Raises:
        ValueError: If the numbers of axes differ.
    """
    if len(axes) != len(patch):
        raise ValueError(f"axes {tuple(axes)} and patch {tuple(patch)} must have as many entries")
    return tuple(n // p for n, p in zip(axes, patch, strict=True))


def cut(x: Tensor, patch: Sequence[int]) -> Tensor:
    """Return patches `(B, L, C, *patch)` of `(B, C, *axes)`, row-major; remainders at the ends are dropped.

    Raises:
        ValueError: If the numbers of axes differ.
    """
    grid = patch_grid(x.shape[2:], patch)
    for axis, (count, side) in enumerate(zip(grid, patch, strict=True), start=2):
        x = x.narrow(axis, 0, count * side)
    apart, outer, inner = _apart(x, grid, patch)
    return apart.permute(0, *outer, 1, *inner).reshape(len(x), math.prod(grid), x.shape[1], *patch)


def patchify(x: Tensor, patch: Sequence[int]) -> Tensor:
    """Return tokens `(B, L, prod(patch) * C)` of `(B, C, *axes)`, within a token the channel fastest.

    Raises:
        ValueError: If a side of the patch does not divide its axis.
    """
    if any(n % p for n, p in zip(x.shape[2:], patch, strict=True)):
        raise ValueError(f"the patch {tuple(patch)} does not divide the axes {tuple(x.shape[2:])}")
    grid = patch_grid(x.shape[2:], patch)
    apart, outer, inner = _apart(x, grid, patch)
    return apart.permute(0, *outer, *inner, 1).reshape(len(x), math.prod(grid), -1)


def _apart(x: Tensor, grid: Sequence[int], patch: Sequence[int]) -> tuple[Tensor, range, range]:
    """Return `(B, C, g, p, g, p, ...)`, and which of its axes count patches and which pixels in them."""
    apart = x.reshape(*x.shape[:2], *(n for pair in zip(grid, patch, strict=True) for n in pair))
    return apart, range(2, apart.dim(), 2), range(3, apart.dim(), 2)


def unpatchify(tokens: Tensor, *, grid: Sequence[int], patch: Sequence[int]) -> Tensor:
    """Return `(B, C, *axes)` of tokens `(B, L, prod(patch) * C)`, row-major: the inverse of `patchify`.

    Raises:
        ValueError: If the tokens do not make such a grid.
    """
    batch, count, size = tokens.shape
    if count != math.prod(grid) or size % math.prod(patch):
        raise ValueError(
            f"tokens of the shape {tuple(tokens.shape)} make no grid {tuple(grid)} of patches {tuple(patch)}"
        )
    n = len(grid)
    split = tokens.reshape(batch, *grid, *patch, -1)
    pairs = (axis for i in range(n) for axis in (1 + i, 1 + n + i))
    axes = [g * p for g, p in zip(grid, patch, strict=True)]
    return split.permute(0, 1 + 2 * n, *pairs).reshape(batch, -1, *axes)  # B g… p… C -> B C (g p)…


class PatchEmbed(nn.Module):
    """A linear map from each patch of `channels` C to a token of `width` D, the same as a convolution whose
    stride is its kernel, `patch` along each of one to three axes.

    The parameters are those of the convolution, `proj.weight` `(D, C, *patch)` and `proj.bias`, so that
    official checkpoints fit. It is computed as one matrix product, which also serves a part of the patches.
    """

    def __init__(self, channels: int, width: int, *, patch: Sequence[int]) -> None:
        super().__init__()
        self.patch = tuple(patch)
        convolution: Any = _CONVOLUTIONS[len(patch) - 1]
        self.proj: nn.Conv1d | nn.Conv2d | nn.Conv3d = convolution(channels, width, self.patch, self.patch)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight by Xavier's rule as a matrix `(D, C * prod(patch))`, the bias as torch does."""
        self.proj.reset_parameters()
        nn.init.xavier_uniform_(self.proj.weight.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, *axes)` to tokens `(B, L, D)`, row-major; remainders at the ends are dropped."""
        return self.embed(self.cut(x))

    def cut(self, x: Tensor) -> Tensor:
        """Return the patches that `embed` takes, `(B, L, C * prod(patch))`, the channel slowest."""
        return cut(x, self.patch).flatten(2)

    def embed(self, patches: Tensor) -> Tensor:
        """Map patches `(..., C * prod(patch))` to tokens `(..., D)`."""
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)
