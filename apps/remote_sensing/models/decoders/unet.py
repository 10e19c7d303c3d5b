"""UNet's decoder: doublings with the features of the finer size beside (arXiv 1505.04597)."""

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

__all__ = ["UNet"]

_STEPS = 4


@dataclass(frozen=True)
class UNet(Decoder):
    """Four steps: twice the size by nearest neighbours, the finer features beside, two convolutions.

    The last step has no finer features; what comes out has twice the size of the finest.

    Args:
        channels: Of each step, the coarsest first.

    Raises:
        UserError: If they are not four, each at least 1.
    """

    channels: tuple[int, ...] = (512, 256, 128, 64)

    layers_wanted = 4

    def __post_init__(self) -> None:
        given = (self.channels,) if isinstance(self.channels, int) else tuple(self.channels)
        object.__setattr__(self, "channels", given)
        if len(given) != _STEPS:
            raise UserError(
                f"UNet: channels are {list(given)}; give {_STEPS}, one for each step, "
                "as in [256, 128, 64, 32]"
            )
        at_least_one(self, channels=min(self.channels))

    @property
    def channels_out(self) -> int:
        """Channels made."""
        return self.channels[-1]

    def built(self, maps: Maps) -> Decoding:
        """Return the network."""
        return _UNet(self, maps)


class _UNet(Decoding):
    def __init__(self, settings: UNet, maps: Maps) -> None:
        super().__init__()
        self.pyramid, channels, self.multiple = pyramid_for(maps)
        self.channels, self.auxiliary = settings.channels[-1], channels[2]
        inputs = (channels[-1], *settings.channels[:-1])
        beside = (*reversed(channels[:-1]), 0)
        self.steps = nn.ModuleList(
            nn.Sequential(NormedConvolution(given + finer, made), NormedConvolution(made, made))
            for given, finer, made in zip(inputs, beside, settings.channels, strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.with_auxiliary(maps)[0]

    def with_auxiliary(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        sizes = list(maps) if self.pyramid is None else self.pyramid(maps)
        x = sizes[-1]
        for finer, step in zip([*reversed(sizes[:-1]), None], self.steps, strict=True):
            if finer is None:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            else:
                x = torch.cat([F.interpolate(x, finer.shape[-2:], mode="nearest"), finer], dim=1)
            x = step(x)
        return x, sizes[2]
