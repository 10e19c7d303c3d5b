"""What every decoder is: a choice that a recipe names, and the network that it builds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from core.errors import UserError

__all__ = ["Decoder", "Decoding", "Maps", "at_least_one"]


@dataclass(frozen=True)
class Maps:
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
    def one_stride(self) -> bool:
        """Whether no map is coarser than another, as in a plain transformer."""
        return len(set(self.strides)) == 1

    @property
    def multiple(self) -> tuple[int, int]:
        """What the sides of an image must be multiples of, so that every map has whole pixels."""
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
    multiple: tuple[int, int]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map the features of each layer to `(B, channels, h', w')`."""
        return self.with_auxiliary(maps)[0]

    def with_auxiliary(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return what `forward` does, and the image that an auxiliary head is given."""
        image = self(maps)
        return image, image


class Decoder:
    """Which decoder; subclasses are frozen dataclasses that a recipe names.

    Attributes:
        layers_wanted: Layers of the encoder that it takes.
    """

    layers_wanted: ClassVar[int] = 1

    @property
    def channels_out(self) -> int | None:
        """Channels made; None where they follow from the encoder."""
        return None

    def build(self, inputs: Sequence[int], *, maps: Maps | None = None) -> Decoding:
        """Return the network.

        Args:
            inputs: Channels of each layer's features.
            maps: More about them; None is a plain encoder's with patches of 16 pixels and one date.
        """
        given = Maps(tuple(inputs), ((16, 16),) * len(inputs)) if maps is None else maps
        if len(given.channels) != self.layers_wanted:
            raise UserError(
                f"{type(self).__name__} takes the features of {self.layers_wanted} layer(s) and was given "
                f"{len(given.channels)}; name {self.layers_wanted} under layers"
            )
        return self.built(given)

    def built(self, maps: Maps) -> Decoding:
        """Return the network for features of the right number."""
        raise UserError(f"{type(self).__name__} is no decoder; name a subclass such as FCN")


def at_least_one(decoder: Decoder, **numbers: int) -> None:
    """Refuse settings below 1.

    Raises:
        UserError: With the first one's name and value.
    """
    for name, value in numbers.items():
        if value < 1:
            raise UserError(f"{type(decoder).__name__}: {name} is {value}; it must be at least 1")
