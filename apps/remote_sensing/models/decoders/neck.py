"""Prithvi-EO 1.0's neck and convolutional head (Jakubik et al. 2023, arXiv 2310.18660)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from apps.remote_sensing.models.decoders.base import Decoder, Decoding, Maps, at_least_one
from apps.remote_sensing.models.prithvi_eo.segmenter import NormedConvolution, UpsamplingNeck

__all__ = ["Neck"]


@dataclass(frozen=True)
class Neck(Decoder):
    """Four doublings of the size in two pairs, then convolutions with batch norm and ReLU.

    Dates among the channels are put in version 1's order, `d * T + date`; its files load with the head.

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

    layers_wanted = 1

    def __post_init__(self) -> None:
        at_least_one(self, channels=self.channels, convolutions=self.convolutions)
        if self.outputs is not None:
            at_least_one(self, outputs=self.outputs)

    @property
    def channels_out(self) -> int:
        """Channels made."""
        return self.channels

    def built(self, maps: Maps) -> Decoding:
        """Return the network."""
        return _Neck(self, maps)


class _Neck(Decoding):
    def __init__(self, settings: Neck, maps: Maps) -> None:
        super().__init__()
        inputs = maps.channels[-1]
        self.channels, self.auxiliary = settings.channels, settings.outputs or inputs
        self.multiple, self.slots = maps.multiple, maps.slots
        self.neck = UpsamplingNeck(inputs, self.auxiliary)
        sizes = [self.auxiliary] + [settings.channels] * settings.convolutions
        self.convs = nn.ModuleList(
            NormedConvolution(sizes[i], sizes[i + 1]) for i in range(settings.convolutions)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.with_auxiliary(maps)[0]

    def with_auxiliary(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        x = maps[-1]
        if self.slots > 1:
            x = x.unflatten(1, (self.slots, -1)).transpose(1, 2).flatten(1, 2)  # B (T D) -> B (D T)
        first = x = self.neck(x)
        for convolution in self.convs:
            x = convolution(x)
        return x, first
