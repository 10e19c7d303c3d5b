"""Decoders that make an image of features from those of an encoder; a recipe names one by its class path.

Each is a frozen dataclass of settings, and the network that it builds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.remote_sensing.models.prithvi_eo.segmenter import (
    BatchNorm,
    NormedConvolution,
    PixelNorm,
    UpsamplingNeck,
)
from core.errors import UserError

__all__ = ["FCN", "Decoder", "Decoding", "FeatureShapes", "Linear", "Neck", "UNet", "UperNet"]

_STEPS = 4  # of UNet


@dataclass(frozen=True)
class FeatureShapes:
    """The features that a decoder is given, shallow ones first.

    Args:
        channels: Of each map.
        strides: Rows and columns of the image's pixels for each pixel of a map.
        slots: Dates that stand among the channels, channel `date * D + d`.
        any_size: Whether the encoder takes images of other sizes than one.
    """

    channels: tuple[int, ...]
    strides: tuple[tuple[int, int], ...]
    slots: int = 1
    any_size: bool = True

    @property
    def multiple(self) -> tuple[int, int]:
        """Divisors of the sides of an image with which every map has whole pixels."""
        rows, columns = (max(axis) for axis in zip(*self.strides, strict=True))
        return rows, columns


class Decoding(nn.Module):
    """A decoder as built: maps features `(B, D, h, w)` of each layer to one image of features.

    Attributes:
        channels: Channels made.
        auxiliary: Channels of the image that an auxiliary head is given.
        multiple: What the sides of an image in pixels must be multiples of.
    """

    channels: int
    auxiliary: int

    def __init__(self, settings: Any, maps: FeatureShapes) -> None:
        super().__init__()
        self.multiple = maps.multiple

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map the features of each layer to `(B, channels, h', w')`."""
        return self.with_auxiliary(maps)[0]

    def with_auxiliary(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return what `forward` does, and the image that an auxiliary head is given."""
        image = self(maps)
        return image, image


class Decoder:
    """Settings of a decoder; subclasses are frozen dataclasses that a recipe names.

    Attributes:
        layers_wanted: Layers of the encoder that it takes.
    """

    layers_wanted: ClassVar[int] = 1
    network: ClassVar[type[Decoding] | None] = None

    @property
    def channels_out(self) -> int | None:
        """Channels made; None where they follow from the encoder."""
        channels = getattr(self, "channels", None)
        return channels[-1] if isinstance(channels, tuple) else channels

    def build(self, inputs: Sequence[int], *, maps: FeatureShapes | None = None) -> Decoding:
        """Return the network.

        Args:
            inputs: Channels of each layer's features.
            maps: More about them; None is a plain encoder's with patches of 16 pixels and one date.

        Raises:
            UserError: If there is another number of layers, or this is no decoder.
        """
        shapes = FeatureShapes(tuple(inputs), ((16, 16),) * len(inputs)) if maps is None else maps
        if len(shapes.channels) != self.layers_wanted:
            raise UserError(
                f"{type(self).__name__} takes the features of {self.layers_wanted} layer(s) and was given "
                f"{len(shapes.channels)}; name {self.layers_wanted} under layers"
            )
        if self.network is None:
            raise UserError(f"{type(self).__name__} is no decoder; name a subclass such as FCN")
        return self.network(self, shapes)

    def _check(self, **numbers: int) -> None:
        for name, value in numbers.items():
            if value < 1:
                raise UserError(f"{type(self).__name__}: {name} is {value}; it must be at least 1")


class _FCN(Decoding):
    def __init__(self, settings: FCN, maps: FeatureShapes) -> None:
        super().__init__(settings, maps)
        self.channels = self.auxiliary = settings.channels
        sizes = [maps.channels[-1]] + [settings.channels] * settings.steps
        self.steps = nn.Sequential(
            *(
                nn.Sequential(
                    nn.ConvTranspose2d(sizes[i], sizes[i + 1], 2, 2),
                    nn.Conv2d(sizes[i + 1], sizes[i + 1], 3, padding=1),
                    PixelNorm(sizes[i + 1]),
                    nn.GELU(),
                )
                for i in range(settings.steps)
            )
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.steps(maps[-1])


@dataclass(frozen=True)
class FCN(Decoder):
    """Transposed convolution, convolution, norm over channels and exact GELU, several times.

    Args:
        channels: Of every step.
        steps: Each makes the image twice as wide and high; 4 undo patches of 16 pixels.

    Raises:
        UserError: If one is below 1.
    """

    channels: int = 256
    steps: int = 4

    network = _FCN

    def __post_init__(self) -> None:
        self._check(channels=self.channels, steps=self.steps)


class _Linear(Decoding):
    def __init__(self, settings: Linear, maps: FeatureShapes) -> None:
        super().__init__(settings, maps)
        self.channels = self.auxiliary = maps.channels[-1]
        self.norm = BatchNorm(self.channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.norm(maps[-1])


@dataclass(frozen=True)
class Linear(Decoder):
    """A batch norm, as in DINOv2's linear evaluation of maps (Oquab et al. 2023, arXiv 2304.07193).

    The network's head behind it is linear, and its logits are enlarged to the image's size.
    """

    network = _Linear


class _Neck(Decoding):
    def __init__(self, settings: Neck, maps: FeatureShapes) -> None:
        super().__init__(settings, maps)
        inputs = maps.channels[-1]
        self.channels, self.auxiliary = settings.channels, settings.outputs or inputs
        self.slots = maps.slots
        self.neck = UpsamplingNeck(inputs, self.auxiliary)
        sizes = [self.auxiliary] + [settings.channels] * settings.convolutions
        self.convs = nn.ModuleList(
            NormedConvolution(sizes[i], sizes[i + 1]) for i in range(settings.convolutions)
        )

    def with_auxiliary(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        x = maps[-1]
        if self.slots > 1:
            x = x.unflatten(1, (self.slots, -1)).transpose(1, 2).flatten(1, 2)  # B (T D) -> B (D T)
        first = x = self.neck(x)
        for convolution in self.convs:
            x = convolution(x)
        return x, first


@dataclass(frozen=True)
class Neck(Decoder):
    """Prithvi-EO 1.0's neck and convolutional head (Jakubik et al. 2023, arXiv 2310.18660).

    Four doublings of the size in two pairs, then convolutions with batch norm and ReLU. Dates among the
    channels are put in version 1's order, `d * T + date`; its files load with the head.

    Args:
        channels: Of the convolutions.
        outputs: Of the neck; None is as many as it is given.
        convolutions: How many.

    Raises:
        UserError: If a number is below 1.
    """

    channels: int = 256
    outputs: int | None = None
    convolutions: int = 1

    network = _Neck

    def __post_init__(self) -> None:
        self._check(channels=self.channels, convolutions=self.convolutions)
        if self.outputs is not None:
            self._check(outputs=self.outputs)


class _Pyramid(nn.Module):
    """Four sizes of the features of an encoder that has only one.

    Learnt enlargement by 4 and by 2, the features as they are, and half their size by maxima.
    """

    def __init__(self, inputs: Sequence[int]) -> None:
        super().__init__()
        first, second, third, fourth = inputs
        self.channels = (first // 4, second // 2, third, fourth)
        self.fourfold = nn.Sequential(
            nn.ConvTranspose2d(first, first // 2, 2, 2),
            BatchNorm(first // 2),
            nn.GELU(),
            nn.ConvTranspose2d(first // 2, first // 4, 2, 2),
        )
        self.twofold = nn.ConvTranspose2d(second, second // 2, 2, 2)
        self.halved = nn.MaxPool2d(2, ceil_mode=True)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        first, second, third, fourth = maps
        return [self.fourfold(first), self.twofold(second), third, self.halved(fourth)]


class _FourSizes(Decoding):
    """A decoding of four sizes of features, the encoder's own or those of a pyramid."""

    def __init__(self, settings: Any, maps: FeatureShapes) -> None:
        super().__init__(settings, maps)
        self.pyramid, self.inputs = None, maps.channels
        if len(set(maps.strides)) == 1:  # as in a plain transformer
            self.pyramid = _Pyramid(maps.channels)
            self.inputs = self.pyramid.channels
            halves = 2 if maps.any_size else 1  # an image of the only size there is cannot be padded
            self.multiple = (halves * maps.multiple[0], halves * maps.multiple[1])
        self.auxiliary = self.inputs[2]

    def with_auxiliary(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        sizes = list(maps) if self.pyramid is None else self.pyramid(maps)
        return self.joined(sizes), sizes[2]

    def joined(self, sizes: list[Tensor]) -> Tensor:
        raise TypeError(f"{type(self).__name__} joins no sizes")


class _UNet(_FourSizes):
    def __init__(self, settings: UNet, maps: FeatureShapes) -> None:
        super().__init__(settings, maps)
        self.channels = settings.channels[-1]
        inputs = (self.inputs[-1], *settings.channels[:-1])
        beside = (*reversed(self.inputs[:-1]), 0)
        self.steps = nn.ModuleList(
            nn.Sequential(NormedConvolution(coarser + finer, outputs), NormedConvolution(outputs, outputs))
            for coarser, finer, outputs in zip(inputs, beside, settings.channels, strict=True)
        )

    def joined(self, sizes: list[Tensor]) -> Tensor:
        x = sizes[-1]
        for finer, step in zip([*reversed(sizes[:-1]), None], self.steps, strict=True):
            if finer is None:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            else:
                x = torch.cat([F.interpolate(x, finer.shape[-2:], mode="nearest"), finer], dim=1)
            x = step(x)
        return x


@dataclass(frozen=True)
class UNet(Decoder):
    """UNet's decoder: doublings with the features of the finer size beside (arXiv 1505.04597).

    Four steps: twice the size by nearest neighbours, the finer features beside, two convolutions. The last
    step has no finer features; what comes out has twice the size of the finest.

    Args:
        channels: Of each step, the coarsest first.

    Raises:
        UserError: If they are not four, each at least 1.
    """

    channels: tuple[int, ...] = (512, 256, 128, 64)

    layers_wanted = 4
    network = _UNet

    def __post_init__(self) -> None:
        channels = (self.channels,) if isinstance(self.channels, int) else tuple(self.channels)
        object.__setattr__(self, "channels", channels)
        if len(channels) != _STEPS:
            raise UserError(
                f"UNet: channels are {list(channels)}; give {_STEPS}, one for each step, "
                "as in [256, 128, 64, 32]"
            )
        self._check(channels=min(channels))


class _UperNet(_FourSizes):
    def __init__(self, settings: UperNet, maps: FeatureShapes) -> None:
        super().__init__(settings, maps)
        channels, self.channels, self.scales = self.inputs, settings.channels, settings.scales
        width = settings.channels
        self.pooled = nn.ModuleList(NormedConvolution(channels[-1], width, 1) for _ in self.scales)
        self.coarsest = NormedConvolution(channels[-1] + len(self.scales) * width, width)
        self.laterals = nn.ModuleList(NormedConvolution(count, width, 1) for count in channels[:-1])
        self.smooth = nn.ModuleList(NormedConvolution(width, width) for _ in channels[:-1])
        self.fusion = NormedConvolution(len(channels) * width, width)

    def joined(self, sizes: list[Tensor]) -> Tensor:
        coarsest = sizes[-1]
        parts = [coarsest]
        for scale, convolution in zip(self.scales, self.pooled, strict=True):
            parts.append(_enlarged(convolution(F.adaptive_avg_pool2d(coarsest, scale)), coarsest))
        x = self.coarsest(torch.cat(parts, dim=1))
        levels = [x]
        for i in reversed(range(len(self.laterals))):
            x = self.laterals[i](sizes[i]) + _enlarged(x, sizes[i])
            levels.insert(0, self.smooth[i](x))
        finest = levels[0]
        return self.fusion(torch.cat([finest, *(_enlarged(level, finest) for level in levels[1:])], dim=1))


@dataclass(frozen=True)
class UperNet(Decoder):
    """UPerNet: pooled context, and features joined from coarse to fine (Xiao et al. 2018, arXiv 1807.10221).

    Args:
        channels: Of every convolution.
        scales: Pixels along a side that the coarsest features are pooled to.

    Raises:
        UserError: If one is below 1, or there is no scale.
    """

    channels: int = 256
    scales: tuple[int, ...] = (1, 2, 3, 6)

    layers_wanted = 4
    network = _UperNet

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        self._check(channels=self.channels)
        if not self.scales or min(self.scales) < 1:
            raise UserError(f"UperNet: scales are {list(self.scales)}; give at least one, each at least 1")


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=True)
