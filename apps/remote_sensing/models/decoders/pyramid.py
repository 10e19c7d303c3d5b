"""Four sizes of the features of an encoder that has only one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from apps.remote_sensing.models.decoders.base import Maps
from apps.remote_sensing.models.prithvi_eo.segmenter import BatchNorm

__all__ = ["Pyramid", "pyramid_for"]


class Pyramid(nn.Module):
    """Learnt enlargement by 4 and by 2, the features as they are, and half their size by maxima.

    Args:
        inputs: Channels of the four maps.
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
        """Map four images of one size to four sizes, the largest first."""
        first, second, third, fourth = maps
        return [self.fourfold(first), self.twofold(second), third, self.halved(fourth)]


def pyramid_for(maps: Maps) -> tuple[nn.Module | None, tuple[int, ...], tuple[int, int]]:
    """Return what makes four sizes of the maps (None where they have their own), the channels that come out,
    and what an image's sides must be multiples of.
    """
    rows, columns = maps.multiple
    if not maps.one_stride:
        return None, maps.channels, (rows, columns)
    pyramid = Pyramid(maps.channels)
    halves = 2 if maps.any_size else 1  # an image of the only size there is cannot be padded
    return pyramid, pyramid.channels, (halves * rows, halves * columns)
