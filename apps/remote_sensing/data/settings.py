"""Settings of the data module that belong together, named in recipes by their fields or by `class_path`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.data.checks import at_least
from core.errors import UserError

__all__ = ["Augment", "Normalise", "Rule", "Tiles"]

Rule = Literal["auto", "published", "statistics", "none"]
"""Where mean and deviation come from."""


@dataclass(frozen=True)
class Normalise:
    """How stored numbers become what a network is given.

    Args:
        rule: `published` (the data set's own constants), `statistics` (mean and deviation of the training
            scenes, computed once and kept), `auto` (published if there are any for these bands), or `none`
            (numbers as stored, times `scale`).
        mean: Of each band, in place of all these, with `std`; in units of stored numbers times `scale`.
        std: Of each band.
        scale: Stored numbers are multiplied by it; None is the data set's own.
        fill: What pixels without data become.
        fill_before: Put `fill` in before the normalisation instead of after it.
    """

    rule: Rule = "auto"
    mean: list[float] | None = None
    std: list[float] | None = None
    scale: float | None = None
    fill: float = 0.0
    fill_before: bool = False

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise UserError(
                "only one of data.normalise.mean and data.normalise.std is given; give both or none"
            )
        if self.std is not None and min(self.std) <= 0:
            raise UserError(f"data.normalise.std holds {min(self.std)}; every deviation must be above 0")


@dataclass(frozen=True)
class Tiles:
    """Tiles that every scene is cut into, each a sample.

    Args:
        side: In pixels; None leaves scenes whole.
        stride: Step between them; None is `side`.
    """

    side: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        at_least(1, room="data.tiles", side=self.side, stride=self.stride)
        if self.stride is not None and self.side is None:
            raise UserError(
                "data.tiles.stride is given without data.tiles.side; give the side of the tiles too"
            )


@dataclass(frozen=True)
class Augment:
    """What training windows are turned into by chance.

    Args:
        flips: Mirror half of them along each axis; `horizontal` mirrors left to right alone.
        turns: Turn them by quarters as well.
    """

    flips: bool | Literal["horizontal"] = False
    turns: bool = False
