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
    """One convolution whose stride is the patch; patches may overlap.

    Args:
        fields: Channels in.
        width: Features of a token.
        patch: Frames and points of a patch.
        overlap: Points by which the kernel is larger than the patch on every axis, an even number.
    """

    def __init__(self, fields: int, width: int, *, patch: Sequence[int], overlap: int = 0) -> None:
        kernel = [p + overlap for p in patch]
        super().__init__(fields, width, kernel, stride=tuple(patch), padding=overlap // 2)


class LinearDetokenizer(nn.ConvTranspose3d):
    """The transposed convolution with the same kernel, stride and padding.

    Args:
        width: Features of a token.
        fields: Channels out.
        patch: Frames and points of a patch.
        overlap: As in `LinearTokenizer`.
    """

    def __init__(self, width: int, fields: int, *, patch: Sequence[int], overlap: int = 0) -> None:
        kernel = [p + overlap for p in patch]
        super().__init__(width, fields, kernel, stride=tuple(patch), padding=overlap // 2)


class ConvTokenizer(nn.Module):
    """Convolutions with kernel 4, instance normalisation and GELU between; the last one stands alone.

    On an axis that a layer does not shrink its kernel is 1.

    Args:
        channels: Of the input, of every hidden layer, and the features of a token.
        patch: Frames and points of a patch, spread over the layers (see `strides`).
    """

    def __init__(self, channels: Sequence[int], *, patch: Sequence[int]) -> None:
        super().__init__()
        layers = len(channels) - 1
        per_axis = [strides(p, layers) for p in patch]
        self.layers = nn.ModuleList()
        for i, (into, out) in enumerate(pairwise(channels)):
            stride = [axis[i] for axis in per_axis]
            kernel = [1 if s == 1 else 4 for s in stride]
            padding = [0 if s == 1 else 1 for s in stride]
            conv = nn.Conv3d(into, out, kernel, stride=stride, padding=padding)
            self.layers.append(_Layer(conv, out, last=i == layers - 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, F, T, H, W)` to `(B, D, t, h, w)`."""
        for layer in self.layers:
            x = layer(x)
        return x


class ConvDetokenizer(nn.Module):
    """Transposed convolutions with kernel = stride, the strides of `ConvTokenizer` in reverse.

    Args:
        channels: Features of a token, of every hidden layer, and channels of the output.
        patch: Frames and points of a patch.
    """

    def __init__(self, channels: Sequence[int], *, patch: Sequence[int]) -> None:
        super().__init__()
        layers = len(channels) - 1
        per_axis = [strides(p, layers)[::-1] for p in patch]
        self.layers = nn.ModuleList()
        for i, (into, out) in enumerate(pairwise(channels)):
            stride = [axis[i] for axis in per_axis]
            conv = nn.ConvTranspose3d(into, out, stride, stride=stride)
            self.layers.append(_Layer(conv, out, last=i == layers - 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, D, t, h, w)` to `(B, F, T, H, W)`."""
        for layer in self.layers:
            x = layer(x)
        return x


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
    found = [2] * layers
    product = 2**layers
    i = 0
    while product < patch:
        found[i % layers] *= 2
        product *= 2
        i += 1
    for i in range(layers - 1, -1, -1):
        if product > patch:
            product //= found[i]
            found[i] = 1
    if product != patch:
        raise UserError(
            f"patch has a side of {patch}, which {layers} convolutions cannot make; take a power of two"
        )
    return found


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
