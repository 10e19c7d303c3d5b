"""Layers of SineNet: convolution block, the two half-levels of a wave, doubling of a grid, embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError, did_you_mean

__all__ = [
    "Activation",
    "Conditioning",
    "ConvBlock",
    "Down",
    "EmbeddingMLP",
    "Interpolation",
    "Padding",
    "Pooling",
    "Up",
    "Wave",
    "activation_function",
    "chosen",
    "doubling",
    "fourier_features",
]

Activation = Literal["gelu", "relu", "silu", "tanh", "sigmoid"]
Conditioning = Literal["scale_shift", "add"]
Interpolation = Literal["bicubic", "bilinear", "nearest"]
Padding = Literal["zeros", "circular"]
Pooling = Literal["average", "max"]

_FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


class ConvBlock(nn.Module):
    """Twice a 3x3 convolution, group normalisation over all channels, and the activation.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out, of both convolutions.
        padding: What lies beyond the grid's edge.
        activation: Name of the activation.
        norm: Whether there is normalisation.
        conditioning: How an embedding acts on the features between the two halves, if at all.
        embedding: Width of that embedding.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        padding: Padding,
        activation: Activation,
        norm: bool,
        conditioning: Conditioning | None,
        embedding: int,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode=padding)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, padding_mode=padding)
        self.norm1 = nn.GroupNorm(1, out_channels) if norm else nn.Identity()
        self.norm2 = nn.GroupNorm(1, out_channels) if norm else nn.Identity()
        self.conditioning = conditioning
        if conditioning is not None:
            outputs = 2 * out_channels if conditioning == "scale_shift" else out_channels
            self.condition = nn.Linear(embedding, outputs)
        self._activate = activation_function(activation)

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """Map `(B, in, H, W)`, with an embedding `(B, E)` where it is conditioned, to `(B, out, H, W)`."""
        h = self._activate(self.norm1(self.conv1(x)))
        if self.conditioning is not None:
            given = self.condition(embedding)[..., None, None]
            if self.conditioning == "scale_shift":
                scale, shift = given.chunk(2, dim=1)
                h = torch.addcmul(shift, h, 1 + scale)
            else:
                h = h + given
        return self._activate(self.norm2(self.conv2(h)))


class Down(nn.Module):
    """The left half of a level, after pooling: convolution blocks beside a 1x1 shortcut.

    Args:
        in_channels: Channels of the finer level.
        out_channels: Channels of this one.
        extra: Channels of the wave's own input that join those of the finer level; 0 for none.
        blocks: Convolution blocks, at least 1.
        residual: Whether each block has a way around it.
        settings: Those of `ConvBlock`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        extra: int,
        blocks: int,
        residual: bool,
        settings: Mapping[str, object],
    ) -> None:
        super().__init__()
        self.joins = extra > 0
        self.blocks = _stack(in_channels + extra, out_channels, blocks, settings)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if residual else None

    def forward(self, h: Tensor, start: Tensor, embedding: Tensor | None) -> Tensor:
        """Map pooled features `(B, in, H, W)` to `(B, out, H, W)`.

        Args:
            h: Features of the finer level, pooled.
            start: The wave's input, pooled to this level, `(B, c, H, W)`; the shortcut does not see it.
            embedding: `(B, E)` or None.
        """
        joined = torch.cat([h, start], dim=1) if self.joins else h
        return _through(self.blocks, joined, h, self.shortcut, embedding)


class Up(nn.Module):
    """The right half of a level: doubling, joining what the left half saw, convolution blocks and shortcut.

    Args:
        in_channels: Channels of the coarser level.
        out_channels: Channels of this one; the joined features have as many.
        blocks: Convolution blocks, at least 1.
        residual: Whether each block has a way around it.
        settings: Those of `ConvBlock`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        blocks: int,
        residual: bool,
        settings: Mapping[str, object],
    ) -> None:
        super().__init__()
        self.blocks = _stack(in_channels + out_channels, out_channels, blocks, settings)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if residual else None

    def forward(
        self, h: Tensor, skip: Tensor, embedding: Tensor | None, tables: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Map `(B, in, H, W)` and the left half's `(B, out, 2H, 2W)` to `(B, out, 2H, 2W)`.

        Args:
            h: Features of the coarser level.
            skip: Features of this level on the way down.
            embedding: `(B, E)` or None.
            tables: `doubling` of both axes, `(H, 2H)` and `(W, 2W)`; None repeats each point.
        """
        if tables is None:
            h = F.interpolate(h, scale_factor=2, mode="nearest")
        else:
            rows, columns = tables
            h = rows.mT @ (h @ columns)
        return _through(self.blocks, torch.cat([skip, h], dim=1), h, self.shortcut, embedding)


class Wave(nn.Module):
    """One U-Net of the row: down through all levels, up again, and around it the input.

    Args:
        widths: Channels of every level, the wave's own first.
        blocks: Convolution blocks of a level.
        disentangle: Whether every level below the first also sees the wave's input, pooled to its grid.
        residual: Whether each convolution block has a way around it.
        wave_residual: Whether the wave has one.
        pooling: How four points become one.
        settings: Those of `ConvBlock`.
    """

    def __init__(
        self,
        widths: list[int],
        *,
        blocks: int,
        disentangle: bool,
        residual: bool,
        wave_residual: bool,
        pooling: Pooling,
        settings: Mapping[str, object],
    ) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(
            Down(
                fine,
                coarse,
                extra=widths[0] if disentangle and level > 0 else 0,
                blocks=blocks,
                residual=residual,
                settings=settings,
            )
            for level, (fine, coarse) in enumerate(pairs)
        )
        self.up = nn.ModuleList(
            Up(coarse, fine, blocks=blocks, residual=residual, settings=settings)
            for fine, coarse in reversed(pairs)
        )
        self.residual = wave_residual
        self.disentangle = disentangle
        self._pool: Callable[[Tensor, int], Tensor] = F.avg_pool2d if pooling == "average" else F.max_pool2d

    def forward(
        self, x: Tensor, embedding: Tensor | None, tables: list[tuple[Tensor, Tensor]] | None
    ) -> Tensor:
        """Map `(B, c, H, W)` to the same shape.

        Args:
            x: Features.
            embedding: `(B, E)` or None.
            tables: For every level upwards the `doubling` of both axes, or None to repeat each point.
        """
        start, skips = x, [x]
        for level in self.down:
            h = self._pool(skips[-1], 2)
            if self.disentangle:
                start = h if len(skips) == 1 else self._pool(start, 2)
            skips.append(level(h, start, embedding))
        h = skips.pop()
        for i, level in enumerate(self.up):
            h = level(h, skips.pop(), embedding, None if tables is None else tables[i])
        return x + h if self.residual else h


class EmbeddingMLP(nn.Module):
    """Two linear layers with the activation between, on Fourier features of one number per sample.

    Args:
        width: Number of features.
        activation: Name of the activation.
    """

    def __init__(self, width: int, activation: Activation) -> None:
        super().__init__()
        self.width = width
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, 4 * width)
        self._activate = activation_function(activation)

    def forward(self, value: Tensor) -> Tensor:
        """Map `(B,)` to `(B, 4 * width)`."""
        features = fourier_features(value, self.width).to(self.fc1.weight.dtype)
        return self.fc2(self._activate(self.fc1(features)))


def fourier_features(value: Tensor, width: int) -> Tensor:
    """Return `[cos(v f_i), sin(v f_i)]` with `f_i = 10000^(-i / half)`, `(B,)` to `(B, width)`.

    An odd width ends with a zero.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=value.device)
    angles = value[:, None].float() * torch.exp(-math.log(10000.0) * steps / half)
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, width % 2))


def doubling(size: int, *, mode: Interpolation, circular: bool, like: Tensor) -> Tensor:
    """Return the `(size, 2 * size)` matrix that doubles an axis as torch's interpolation does.

    A product with it costs less than torch's own bicubic kernel in the forward and far less in the backward
    pass, is deterministic on every device, and needs no padded copy on a periodic axis.

    Args:
        size: Points of the axis.
        mode: How new points are made.
        circular: Whether the axis is periodic.
        like: Gives device and dtype.
    """
    unit = torch.eye(size, device=like.device, dtype=torch.float32)[None, :, None]  # 1 size 1 size
    margin = 2 if circular else 0
    around = torch.arange(-margin, size + margin, device=like.device) % size
    doubled = F.interpolate(unit[..., around], size=(1, 2 * len(around)), mode=mode)
    return doubled[0, :, 0, 2 * margin : 2 * (margin + size)].to(like.dtype)


def activation_function(name: Activation) -> Callable[[Tensor], Tensor]:
    """Return the function of an activation's name.

    Raises:
        UserError: If there is none of that name.
    """
    return _FUNCTIONS[chosen("activation", name, get_args(Activation))]


def chosen(argument: str, value: str, choices: tuple[str, ...]) -> str:
    """Return `value` if it is one of the choices.

    Raises:
        UserError: If it is not; the sentence names the argument and what it may be.
    """
    if value not in choices:
        hint = did_you_mean(str(value), choices)
        raise UserError(f"{argument} is {value!r}; it must be one of {', '.join(choices)}{hint}")
    return value


def _stack(first: int, width: int, blocks: int, settings: Mapping[str, object]) -> nn.ModuleList:
    return nn.ModuleList(ConvBlock(first if i == 0 else width, width, **settings) for i in range(blocks))  # type: ignore[arg-type]


def _through(
    blocks: nn.ModuleList, h: Tensor, around: Tensor, shortcut: nn.Module | None, embedding: Tensor | None
) -> Tensor:
    """Apply the blocks; the first has the 1x1 shortcut around it, the others the identity."""
    for i, block in enumerate(blocks):
        if shortcut is None:
            h = block(h, embedding)
        else:
            h = block(h, embedding) + (shortcut(around) if i == 0 else h)
    return h
