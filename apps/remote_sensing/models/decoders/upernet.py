"""UPerNet: pooled context, and features joined from coarse to fine (Xiao et al. 2018, arXiv 1807.10221)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.remote_sensing.models.decoders.base import Decoder, Decoding, Maps, at_least_one
from apps.remote_sensing.models.decoders.pyramid import pyramid_for
from apps.remote_sensing.models.prithvi_eo.segmenter import NormedConvolution
from core.errors import UserError

__all__ = ["UperNet"]


@dataclass(frozen=True)
class UperNet(Decoder):
    """Four sizes of features joined at the finest of them.

    Args:
        channels: Of every convolution.
        scales: Pixels along a side that the coarsest features are pooled to.

    Raises:
        UserError: If one is below 1, or there is no scale.
    """

    channels: int = 256
    scales: tuple[int, ...] = (1, 2, 3, 6)

    layers_wanted = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        at_least_one(self, channels=self.channels)
        if not self.scales or min(self.scales) < 1:
            raise UserError(f"UperNet: scales are {list(self.scales)}; give at least one, each at least 1")

    @property
    def channels_out(self) -> int:
        """Channels made."""
        return self.channels

    def built(self, maps: Maps) -> Decoding:
        """Return the network."""
        return _UperNet(self, maps)


class _UperNet(Decoding):
    def __init__(self, settings: UperNet, maps: Maps) -> None:
        super().__init__()
        made, self.scales = settings.channels, settings.scales
        self.pyramid, channels, self.multiple = pyramid_for(maps)
        self.channels, self.auxiliary = made, channels[2]
        self.pooled = nn.ModuleList(NormedConvolution(channels[-1], made, 1) for _ in self.scales)
        self.coarsest = NormedConvolution(channels[-1] + len(self.scales) * made, made)
        self.laterals = nn.ModuleList(NormedConvolution(count, made, 1) for count in channels[:-1])
        self.smooth = nn.ModuleList(NormedConvolution(made, made) for _ in channels[:-1])
        self.fusion = NormedConvolution(len(channels) * made, made)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.with_auxiliary(maps)[0]

    def with_auxiliary(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        sizes = list(maps) if self.pyramid is None else self.pyramid(maps)
        x = self._pooled(sizes[-1])
        levels = [x]
        for i in reversed(range(len(self.laterals))):
            x = self.laterals[i](sizes[i]) + _enlarged(x, sizes[i])
            levels.insert(0, self.smooth[i](x))
        finest = levels[0]
        joined = torch.cat([finest, *(_enlarged(level, finest) for level in levels[1:])], dim=1)
        return self.fusion(joined), sizes[2]

    def _pooled(self, x: Tensor) -> Tensor:
        parts = [x]
        for scale, convolution in zip(self.scales, self.pooled, strict=True):
            parts.append(_enlarged(convolution(F.adaptive_avg_pool2d(x, scale)), x))
        return self.coarsest(torch.cat(parts, dim=1))


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=True)
