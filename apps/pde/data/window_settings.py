"""Settings that say how trajectories are cut into windows: pairs, histories, steady problems, series."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from apps.pde.data.channels import ChannelReader
from apps.pde.data.readers.arrays import ArraySource
from apps.pde.data.windows import (
    SINGLE,
    RandomHistories,
    Window,
    Windows,
    every_history,
    pairs,
    whole_trajectory,
)
from core.data.checks import at_least, one_of
from core.errors import UserError

__all__ = [
    "DrivenSeries",
    "EvaluationSet",
    "Histories",
    "Pairs",
    "Steady",
    "WindowSettings",
    "check_series",
    "whole_windows",
]


@dataclass(frozen=True)
class EvaluationSet:
    """Trajectories of the test.

    Attributes:
        steps: Label frames of each; by default the windows' `max_steps` for pairs, else the card's, else all.
            Sources with fewer cut the others.
        starts: `first`: a trajectory is tested once, from its first frames; `all`: from every frame that has
            `steps` after its input.
        path: Another file or folder whose trajectories are all tested, on any grid.
        part: The part of a card that is tested, such as `test_32` of the card darcy.
    """

    steps: int | None = None
    starts: str = "first"
    path: str | None = None
    part: str = "test"

    def __post_init__(self) -> None:
        one_of(("first", "all"), room="data.test", starts=self.starts)
        at_least(1, room="data.test", steps=self.steps)


class WindowSettings(ABC):
    """How trajectories are cut into samples; subclasses are frozen dataclasses that a recipe names."""

    name: ClassVar[str]
    steady: ClassVar[bool] = False
    """Whether there are no leads: input and solution are fields of one snapshot."""
    window: int | None = None
    """Samples of a window, where the only axis is time."""

    @abstractmethod
    def training(self, reader: ChannelReader, frames: int) -> Windows:
        """Return the training samples of one trajectory with `frames` input frames."""

    def validation(self, reader: ChannelReader, frames: int) -> Windows:
        """Return its validation samples, in which nothing is random."""
        return self.training(reader, frames)

    def testing(
        self, reader: ChannelReader, frames: int, test: EvaluationSet, *, most: int | None = None
    ) -> Windows:
        """Return its test sample: the first frames, and all that follow as labels, `most` at most."""
        labels, every = test.steps or self.usual_labels(reader), test.starts == "all"
        if every and labels is None:
            raise UserError("data.test.starts 'all' needs data.test.steps, the label frames after each start")
        return whole_trajectory(
            reader.source.steps,
            frames=frames,
            step=self.frame_steps(reader)[0],
            labels=most or labels,
            every=every,
        )

    def prediction(self, reader: ChannelReader, frames: int) -> Windows:
        """Return its first frames alone."""
        step = self.frame_steps(reader)[0]
        return whole_trajectory(reader.source.steps, frames=frames, step=step, labels=0)

    def usual_labels(self, reader: ChannelReader) -> int | None:
        """Return the label frames of a test trajectory, if nobody gives them; None for all."""
        return reader.details.test_frames

    def frame_steps(self, reader: ChannelReader) -> list[int]:
        """Return the snapshots between the frames that a network sees, the first for its rollouts."""
        return [1]

    def reach(self, reader: ChannelReader, frames: int) -> float:
        """Return the longest lead that a call is trained with, in snapshots; 0 where there are no leads."""
        return 0.0

    def check(self, source: ArraySource) -> None:
        """Refuse a source that cannot be cut so."""
        return None


@dataclass(frozen=True)
class Pairs(WindowSettings):
    """All-to-all pairs in time, see `pairs`.

    Attributes:
        max_steps: K: snapshots 0, s, ..., K s; by default the card's, else as many as there are.
        step: s, also between the frames of a rollout; by default the card's, else 1.
        lead_steps: Allowed leads, in steps.
        fix_input_to: The one snapshot that pairs start from; its labels are the K after it.
        extended: Take the longer K of the card by default (the published suffix `.out`).
    """

    name: ClassVar[str] = "pairs"
    max_steps: int | None = None
    step: int | None = None
    lead_steps: list[int] | None = None
    fix_input_to: int | None = None
    extended: bool = False

    def __post_init__(self) -> None:
        room, least = "data.windows", min(self.lead_steps) if self.lead_steps else None
        at_least(1, room=room, max_steps=self.max_steps, step=self.step)
        at_least(0, room=room, fix_input_to=self.fix_input_to, lead_steps=least)

    def training(self, reader: ChannelReader, frames: int) -> Windows:
        """Return all pairs."""
        every, steps = self.pairs(reader), reader.source.steps
        last = max(label for _, label in every)
        if steps == 1:
            raise UserError(
                f"{reader.source.path} has one snapshot, so nothing follows in time; for a steady problem "
                "give --data.windows apps.pde.data.Steady and name its fields in data.inputs and data.outputs"
            )
        if last >= steps:
            raise UserError(
                f"data.windows.max_steps {self.usual_labels(reader)} of {self.frame_steps(reader)[0]} "
                f"snapshots reach snapshot {last}, but trajectories have {steps} (0 to {steps - 1}); make "
                "one of them smaller"
            )
        longest = self.reach(reader, frames) / reader.time_constant
        if longest > 1.05:
            raise UserError(
                f"pairs of {reader.name} reach a lead time of {longest:.3g}, but networks are fed times up "
                f"to 1; the time constant is {reader.time_constant:g} snapshots, give "
                "data.prepare.time_constant or a smaller data.windows.max_steps"
            )
        return Windows([Window((first,), (label,)) for first, label in every])

    def usual_labels(self, reader: ChannelReader) -> int:
        """Return K."""
        if self.max_steps is not None:
            return self.max_steps
        most = (reader.source.steps - 1 - (self.fix_input_to or 0)) // self.frame_steps(reader)[0]
        usual = reader.details.max_steps
        if usual is not None and self.extended:
            usual = reader.details.extended_steps or usual
        return max(1, min(most, usual or most))

    def frame_steps(self, reader: ChannelReader) -> list[int]:
        """Return the step."""
        return [reader.details.step if self.step is None else self.step]

    def reach(self, reader: ChannelReader, frames: int) -> float:
        """Return the longest lead among the pairs."""
        clock = reader.source.clock
        return max(
            float(clock[last] - clock[first]) if last < len(clock) else float(last - first)
            for first, last in self.pairs(reader)
        )

    def pairs(self, reader: ChannelReader) -> list[tuple[int, int]]:
        """Return the pairs of a source."""
        how: dict[str, Any] = {"lead_steps": self.lead_steps, "fix_input_to": self.fix_input_to}
        return pairs(self.usual_labels(reader), step=self.frame_steps(reader)[0], **how)


@dataclass(frozen=True)
class Histories(WindowSettings):
    """Frames in and those after them out, from random starts.

    Attributes:
        horizon: Label frames; by default the card's, else 1.
        val_horizon: Label frames of the validation, whose loss then is that of a rollout of so many frames
            (SineNet chooses its checkpoint by it); by default `horizon`.
        step: Snapshots between frames; by default the card's, else 1.
        strides: Several such steps, one drawn for each sample; by default `step`.
        samples: Samples a trajectory gives in an epoch; by default as many as it has snapshots.
    """

    name: ClassVar[str] = "history"
    horizon: int | None = None
    val_horizon: int | None = None
    step: int | None = None
    strides: list[int] | None = None
    samples: int | None = None

    def __post_init__(self) -> None:
        at_least(
            1, room="data.windows", horizon=self.horizon, val_horizon=self.val_horizon, step=self.step,
            samples=self.samples, strides=min(self.strides) if self.strides else None,
        )  # fmt: skip

    def training(self, reader: ChannelReader, frames: int) -> Windows:
        """Return windows from random starts."""
        how: dict[str, Any] = {"strides": self.frame_steps(reader), "samples": self.samples}
        return RandomHistories(reader.source.steps, frames=frames, horizon=self.horizon or 1, **how)

    def validation(self, reader: ChannelReader, frames: int) -> Windows:
        """Return a window from every start, with fewer than `val_horizon` labels in short trajectories."""
        strides, steps, horizon = self.frame_steps(reader), reader.source.steps, self.horizon or 1
        most = (steps - 1) // min(strides) - frames + 1
        horizon = max(horizon, min(self.val_horizon or horizon, most))
        return every_history(steps, frames=frames, horizon=horizon, strides=strides)

    def frame_steps(self, reader: ChannelReader) -> list[int]:
        """Return the strides, or the one step."""
        return list(self.strides or [reader.details.step if self.step is None else self.step])

    def reach(self, reader: ChannelReader, frames: int) -> float:
        """Return the longest stride that fits: several label frames are reached step by step."""
        strides, span = self.frame_steps(reader), frames + (self.horizon or 1) - 1
        return float(max([one for one in strides if one * span < reader.source.steps] or strides))


@dataclass(frozen=True)
class Steady(WindowSettings):
    """Steady problems: one input, one solution."""

    name: ClassVar[str] = "steady"
    steady: ClassVar[bool] = True

    def training(self, reader: ChannelReader, frames: int) -> Windows:
        """Return one sample a trajectory."""
        return Windows([SINGLE])

    def testing(
        self, reader: ChannelReader, frames: int, test: EvaluationSet, *, most: int | None = None
    ) -> Windows:
        """Return the same sample."""
        return Windows([SINGLE])


@dataclass(frozen=True)
class DrivenSeries(WindowSettings):
    """Windows of a system driven by commands, such as the diesel engine's air path: time is the only axis.

    A window's inputs are the commands on it and the outputs' values just before it; its labels are the
    outputs on it: the label at sample j goes with the command that is in force from sample j - 1 on. A test
    sample is a whole trajectory, which `apps.pde.models.chained.Chained` predicts window by window.

    Attributes:
        window: Samples in a window.
        stride: Samples between the starts of two training or validation windows.
    """

    name: ClassVar[str] = "steady"
    steady: ClassVar[bool] = True
    window: int = 20
    stride: int = 4

    def __post_init__(self) -> None:
        at_least(1, room="data.windows", window=self.window, stride=self.stride)

    def training(self, reader: ChannelReader, frames: int) -> Windows:
        """Return a window from every `stride`-th sample."""
        starts = range(0, reader.source.space[0] - self.window, self.stride)
        return Windows([Window((0,), (0,), (start, self.window)) for start in starts])

    def testing(
        self, reader: ChannelReader, frames: int, test: EvaluationSet, *, most: int | None = None
    ) -> Windows:
        """Return one window as long as whole windows fit."""
        return self.prediction(reader, frames)

    def prediction(self, reader: ChannelReader, frames: int) -> Windows:
        """Return what is tested: its labels are not looked at."""
        return Windows([Window((0,), (0,), (0, whole_windows(reader.source, self.window)))])

    def check(self, source: ArraySource) -> None:
        """Refuse fields, and series that are too short for a window."""
        check_series(source, self.window, what="windows")


def whole_windows(source: ArraySource, window: int) -> int:
    """Return the samples that whole windows after the first sample of a series cover."""
    return (source.space[0] - 1) // window * window


def check_series(source: ArraySource, window: int, *, what: str) -> None:
    """Refuse what is no series, or too short for a window.

    Raises:
        UserError: Naming what `what` needs.
    """
    if len(source.space) != 1 or source.steps != 1:
        raise UserError(
            f"{source.path} has {len(source.space)} space axes and {source.steps} snapshots; {what} need "
            "series: one axis, which is time, and one snapshot"
        )
    if source.space[0] <= window:
        raise UserError(
            f"{source.path} has {source.space[0]} samples; {what} have {window}, so it needs at least "
            f"{window + 1}"
        )
