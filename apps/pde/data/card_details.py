"""What a PDE data card says beyond the common fields: channels, constants, splits (`details` of the card)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from core.errors import UserError

if TYPE_CHECKING:
    from core.data.cards import Card

__all__ = ["CardDetails", "Channel", "SplitCounts", "details_of", "read_details"]

_STRICT = {"extra": "forbid"}
FILLS = ("kolmogorov",)


@dataclass(frozen=True)
class Channel:
    """One channel of a network: `z = (value - shift - mean) / std`.

    Attributes:
        name: The network's name for it.
        stored: The field's name in the file; None takes `name`, unless `fill` is given.
        fill: What a channel without a field holds: a number, or `kolmogorov`, the forcing
            `0.1 sin(2 pi (x + y))` on a grid that includes both ends.
        shift: Subtracted first, such as the mean pressure of a compressible set.
        mean: The mean; None takes the one published beside the data, or computes it.
        std: The standard deviation; likewise.
        masked: Whether it counts in no loss and no error.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    name: str
    stored: str | None = None
    fill: float | str | None = None
    shift: float = 0.0
    mean: float | None = None
    std: float | None = None
    masked: bool = False

    def __post_init__(self) -> None:
        if self.stored is not None and self.fill is not None:
            raise ValueError(f"channel '{self.name}' has both stored and fill")
        if isinstance(self.fill, str) and self.fill not in FILLS:
            raise ValueError(f"channel '{self.name}' is filled with '{self.fill}'; known: {', '.join(FILLS)}")
        if self.std is not None and not self.std > 0:
            raise ValueError(f"channel '{self.name}' has the std {self.std}; it must be positive")
        if self.fill is not None and (self.mean is None or self.std is None):
            raise ValueError(f"channel '{self.name}' is filled, so it needs mean and std")

    @property
    def source(self) -> str | None:
        """The field's name in the file; None where it is filled."""
        return None if self.fill is not None else self.stored or self.name


@dataclass(frozen=True)
class SplitCounts:
    """A split by position: trajectories in all, the last ones for the test, those before for validation."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    total: int
    val: int
    test: int

    def __post_init__(self) -> None:
        if min(self.val, self.test) < 0 or self.val + self.test > self.total:
            raise UserError(
                f"{self.val} validation and {self.test} test trajectories do not fit into {self.total}; make "
                "data.val_trajectories or data.test_trajectories smaller"
            )


@dataclass(frozen=True)
class CardDetails:
    """How a set is fed to a network.

    Attributes:
        channels: Input channels in order; empty takes all fields of the file.
        outputs: Label channels where they are others than the inputs (steady problems).
        groups: Name of a group to its label channels, in order; errors are taken over a group.
        interest: Label channels of the reported error; empty takes all.
        time_constant: Lead time in snapshots is divided by this.
        snapshots: Snapshots of a published trajectory.
        horizon: Time of the last one, where known.
        split: The published split.
        parts: Part (train, val, test, …) to its file, where parts are files of their own.
        places: Names under which the data may lie in the data folder: a file or a folder.
        max_steps: K of the all-to-all pairs.
        step: s of the pairs; stride of histories.
        extended_steps: K of the longer variant (the published suffix `.out`), taken by `data.extended`.
        frames: Input frames, where the published models take histories: the default of `data.frames`.
        horizon_frames: Label frames of these, the default of `data.horizon`.
        test_frames: Label frames of the published rollout, the default of `data.test_steps`.
        transpose: Whether y is stored before x (the reader exchanges them).
        steady: Whether there is no time.
        periodic: Whether the domain is.
        obstacle: A field that is 1 inside an obstacle, where normalised labels are 1 and masked.
        layout: The reader (`apps.pde.data.readers`); None recognises it.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    channels: list[Channel] = field(default_factory=list)
    outputs: list[Channel] | None = None
    groups: dict[str, list[str]] = field(default_factory=dict)
    interest: list[str] = field(default_factory=list)
    time_constant: float | None = None
    snapshots: int | None = None
    horizon: float | None = None
    split: SplitCounts | None = None
    parts: dict[str, str] = field(default_factory=dict)
    places: list[str] = field(default_factory=list)
    max_steps: int | None = None
    step: int = 1
    extended_steps: int | None = None
    frames: int | None = None
    horizon_frames: int | None = None
    test_frames: int | None = None
    transpose: bool = False
    steady: bool = False
    periodic: bool = False
    obstacle: str | None = None
    layout: str | None = None

    def __post_init__(self) -> None:
        labels = [channel.name for channel in self.labels]
        for name, group in self.groups.items():
            for channel in group:
                if channel not in labels:
                    raise ValueError(f"group '{name}' has the channel '{channel}', which is no label")
        grouped = [channel for group in self.groups.values() for channel in group]
        if self.groups and grouped != labels:
            raise ValueError(f"groups list {grouped}; they must list the labels {labels} in order")
        for name in ("max_steps", "step", "extended_steps", "frames", "horizon_frames", "test_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if missing := [name for name in self.interest if labels and name not in labels]:
            raise ValueError(f"interest names '{missing[0]}', which is no label")

    @property
    def labels(self) -> list[Channel]:
        """Label channels."""
        return self.channels if self.outputs is None else self.outputs


def details_of(card: Card) -> CardDetails:
    """Return the checked details of a card.

    Raises:
        UserError: If an entry is wrong; it is named.
    """
    return read_details(card.details, where=f"data card '{card.name}'")


def read_details(details: Mapping[str, Any], *, where: str) -> CardDetails:
    """Return checked details; errors as in `details_of`."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(CardDetails).validate_python(dict(details))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        entry = ".".join(str(part) for part in first["loc"]) or "details"
        raise UserError(f"the details of {where} have a wrong entry at {entry}: {first['msg']}") from error
