"""Layers of SineNet: convolution block, levels of a wave, doubling of a grid, embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.data.checks import one_of

__all__ = [
    "Activation",
    "Conditioning",
    "EmbeddingMLP",
    "Interpolation",
    "LevelSettings",
    "Padding",
    "Pooling",
    "Wave",
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


@dataclass(frozen=True)
class LevelSettings:
    """What all levels of all waves have in common; see `SineNet`."""

    padding: Padding
    activation: Activation
    norm: bool
    conditioning: Conditioning | None
    embedding: int
    """Width of the embedding that the features are conditioned on."""
    blocks: int
    residual: bool


class ConvBlock(nn.Module):
    """Twice a 3x3 convolution, group normalisation over all channels, and the activation; between the two an
    embedding acts on the features.
    """

    def __init__(self, in_channels: int, out_channels: int, settings: LevelSettings) -> None:
        super().__init__()
        padding, norm = settings.padding, settings.norm
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode=padding)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, padding_mode=padding)
        self.norm1 = nn.GroupNorm(1, out_channels) if norm else nn.Identity()
        self.norm2 = nn.GroupNorm(1, out_channels) if norm else nn.Identity()
        self.conditioning = settings.conditioning
        if self.conditioning is not None:
            outputs = 2 * out_channels if self.conditioning == "scale_shift" else out_channels
            self.condition = nn.Linear(settings.embedding, outputs)
        self._activate = activation_function(settings.activation)

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """Map `(B, in, H, W)`, with an embedding `(B, E)` where it is conditioned, to `(B, out, H, W)`."""
        h = self._activate(self.norm1(self.conv1(x)))
        if self.conditioning is not None:
            condition = self.condition(embedding)[..., None, None]
            if self.conditioning == "scale_shift":
                scale, shift = condition.chunk(2, dim=1)
                h = torch.addcmul(shift, h, 1 + scale)
            else:
                h = h + condition
        return self._activate(self.norm2(self.conv2(h)))


class Level(nn.Module):
    """One side of a level of a wave: convolution blocks beside a 1x1 shortcut.

    Args:
        in_channels: Channels of the level that the features come from.
        extra: Channels that join those.
        out_channels: Channels of this level.
        settings: The same for all levels.
    """

    def __init__(self, in_channels: int, extra: int, out_channels: int, settings: LevelSettings) -> None:
        super().__init__()
        widths = [in_channels + extra, *[out_channels] * settings.blocks]
        self.blocks = nn.ModuleList(ConvBlock(inner, outer, settings) for inner, outer in pairwise(widths))
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if settings.residual else None

    def forward(self, joined: Tensor, h: Tensor, embedding: Tensor | None) -> Tensor:
        """Map `joined (B, in + extra, H, W)` to `(B, out, H, W)`.

        The first block has the shortcut of `h (B, in, H, W)` around it, the others the identity.
        """
        for i, block in enumerate(self.blocks):
            out = block(h if i else joined, embedding)
            h = out if self.shortcut is None else out + (h if i else self.shortcut(h))
        return h


class Wave(nn.Module):
    """One U-Net of the row: down through all levels, up again, and around it the input.

    Args:
        widths: Channels of every level, the wave's own first.
        settings: Those of the levels.
        disentangle: Whether every level below the first also sees the wave's input, pooled to its grid.
        wave_residual: Whether the wave has a way around it.
        pooling: How four points become one.
    """

    def __init__(
        self,
        widths: list[int],
        settings: LevelSettings,
        *,
        disentangle: bool,
        wave_residual: bool,
        pooling: Pooling,
    ) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(
            Level(fine, widths[0] if disentangle and level > 0 else 0, coarse, settings)
            for level, (fine, coarse) in enumerate(pairs)
        )
        self.up = nn.ModuleList(Level(coarse, fine, fine, settings) for fine, coarse in reversed(pairs))
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
        for number, level in enumerate(self.down):
            h = self._pool(skips[-1], 2)
            joined = h
            if self.disentangle:
                start = h if number == 0 else self._pool(start, 2)
                joined = torch.cat([h, start], dim=1) if number else h
            skips.append(level(joined, h, embedding))
        h = skips.pop()
        for number, level in enumerate(self.up):
            if tables is None:
                h = F.interpolate(h, scale_factor=2, mode="nearest")
            else:
                rows, columns = tables[number]
                h = rows.mT @ (h @ columns)
            h = level(torch.cat([skips.pop(), h], dim=1), h, embedding)
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
    one_of(_FUNCTIONS, room="network", activation=name)
    return _FUNCTIONS[name]
