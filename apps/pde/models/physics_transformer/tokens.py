"""How GPhyT makes tokens of fields and fields of tokens: one convolution, or a chain of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from core.errors import UserError

__all__ = [
    "ConvDetokenizer",
    "ConvTokenizer",
    "LinearDetokenizer",
    "LinearTokenizer",
    "flat",
    "standing",
    "strides",
    "token_grid",
]


class LinearTokenizer(nn.Conv3d):
    """One convolution whose stride is the patch; its kernel is larger by an even `overlap`."""

    def __init__(self, fields: int, width: int, *, patch: Sequence[int], overlap: int = 0) -> None:
        kernel = [p + overlap for p in patch]
        super().__init__(fields, width, kernel, stride=tuple(patch), padding=overlap // 2)


class LinearDetokenizer(nn.ConvTranspose3d):
    """The transposed convolution with the same kernel, stride and padding."""

    def __init__(self, width: int, fields: int, *, patch: Sequence[int], overlap: int = 0) -> None:
        kernel = [p + overlap for p in patch]
        super().__init__(width, fields, kernel, stride=tuple(patch), padding=overlap // 2)


class _Chain(nn.Module):
    """Convolutions with instance normalisation and GELU between; the last one stands alone.

    Args:
        channels: Of the input, of every hidden layer, and of the output.
        patch: Frames and points of a patch, spread over the layers (see `strides`).
    """

    def __init__(self, channels: Sequence[int], *, patch: Sequence[int]) -> None:
        super().__init__()
        pairs = list(pairwise(channels))
        per_layer = zip(*(self._strides(side, len(pairs)) for side in patch), strict=True)
        self.layers = nn.ModuleList(
            _Layer(self._convolution(into, out, list(stride)), out, last=i == len(pairs) - 1)
            for i, ((into, out), stride) in enumerate(zip(pairs, per_layer, strict=True))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, F, T, H, W)` to `(B, D, t, h, w)`, or back."""
        for layer in self.layers:
            x = layer(x)
        return x


class ConvTokenizer(_Chain):
    """A chain with kernel 4; on an axis that a layer does not shrink its kernel is 1."""

    @staticmethod
    def _strides(patch: int, layers: int) -> list[int]:
        return strides(patch, layers)

    @staticmethod
    def _convolution(into: int, out: int, stride: list[int]) -> nn.Module:
        kernel = [1 if s == 1 else 4 for s in stride]
        return nn.Conv3d(into, out, kernel, stride=stride, padding=[0 if s == 1 else 1 for s in stride])


class ConvDetokenizer(_Chain):
    """A chain of transposed convolutions with kernel = stride, the strides of `ConvTokenizer` in reverse."""

    @staticmethod
    def _strides(patch: int, layers: int) -> list[int]:
        return strides(patch, layers)[::-1]

    @staticmethod
    def _convolution(into: int, out: int, stride: list[int]) -> nn.Module:
        return nn.ConvTranspose3d(into, out, stride, stride=stride)


class _Layer(nn.Module):
    def __init__(self, conv: nn.Module, channels: int, *, last: bool) -> None:
        super().__init__()
        self.conv = conv
        self.norm = None if last else nn.InstanceNorm3d(channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x if self.norm is None else nn.functional.gelu(self.norm(x))


def strides(patch: int, layers: int) -> list[int]:
    """Spread the side of a patch over a chain of layers.

    All start at 2. While their product is below the patch they are doubled from the first layer on; while it
    is above they are set to 1 from the last layer backwards.

    Raises:
        UserError: If no such strides multiply to the patch.
    """
    sides = [2] * layers
    product = 2**layers
    i = 0
    while product < patch:
        sides[i % layers] *= 2
        product *= 2
        i += 1
    for i in range(layers - 1, -1, -1):
        if product > patch:
            product //= sides[i]
            sides[i] = 1
    if product != patch:
        raise UserError(
            f"patch has a side of {patch}, which {layers} convolutions cannot make; take a power of two"
        )
    return sides


def token_grid(frames: int, grid: Sequence[int], patch: Sequence[int]) -> tuple[int, int, int]:
    """Return the tokens along time and both axes.

    Raises:
        UserError: If a patch does not divide its axis.
    """
    sides = (frames, *grid)
    names = ("frames", "the grid's first axis", "the grid's second axis")
    for name, side, step in zip(names, sides, patch, strict=True):
        if step < 1 or side % step:
            raise UserError(
                f"{name} has {side} points, which a patch of {step} does not divide; choose another"
            )
    t, h, w = (side // step for side, step in zip(sides, patch, strict=True))
    return t, h, w


def flat(tokens: Tensor) -> Tensor:
    """Put tokens in a row: `(B, D, t, h, w)` to `(B, N, D)`."""
    return tokens.flatten(2).transpose(1, 2)


def standing(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """Undo `flat`: `(B, N, D)` to `(B, D, t, h, w)`."""
    return tokens.transpose(1, 2).unflatten(2, torch.Size(grid))
