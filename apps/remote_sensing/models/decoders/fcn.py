"""A fully convolutional decoder: steps that each double the size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from apps.remote_sensing.models.decoders.base import Decoder, Decoding, Maps, at_least_one
from apps.remote_sensing.models.prithvi_eo.segmenter import PixelNorm

__all__ = ["FCN"]


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

    layers_wanted = 1

    def __post_init__(self) -> None:
        at_least_one(self, channels=self.channels, steps=self.steps)

    @property
    def channels_out(self) -> int:
        """Channels made."""
        return self.channels

    def built(self, maps: Maps) -> Decoding:
        """Return the network."""
        return _FCN(self, maps)


class _FCN(Decoding):
    def __init__(self, settings: FCN, maps: Maps) -> None:
        super().__init__()
        self.channels = self.auxiliary = settings.channels
        self.multiple = maps.multiple
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
