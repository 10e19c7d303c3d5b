"""No decoder but a norm: what a linear layer on each patch can tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from apps.remote_sensing.models.decoders.base import Decoder, Decoding, Maps
from apps.remote_sensing.models.prithvi_eo.segmenter import BatchNorm

__all__ = ["Linear"]


@dataclass(frozen=True)
class Linear(Decoder):
    """A batch norm, as in DINOv2's linear evaluation of maps (Oquab et al. 2023, arXiv 2304.07193).

    The network's head behind it is linear, and its logits are enlarged to the image's size.
    """

    layers_wanted = 1

    def built(self, maps: Maps) -> Decoding:
        """Return the network."""
        return _Linear(maps)


class _Linear(Decoding):
    def __init__(self, maps: Maps) -> None:
        super().__init__()
        self.channels = self.auxiliary = maps.channels[-1]
        self.multiple = maps.multiple
        self.norm = BatchNorm(self.channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.norm(maps[-1])
