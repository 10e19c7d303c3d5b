"""Settings of field data: small frozen dataclasses that a recipe gives by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from apps.pde.data.windows import FixedWindow, HistoryWindows, PairWindows, SeriesWindows, WholeWindows, pairs
from core.data.checks import at_least, one_of
from core.errors import UserError

if TYPE_CHECKING:
    from apps.pde.batch import FieldFacts
    from apps.pde.data.channels import ChannelReader
    from apps.pde.data.readers.arrays import ArraySource
    from apps.pde.data.windows import Windows

__all__ = [
    "DrivenSeries",
    "EvaluationSet",
    "FieldSettings",
    "Generation",
    "Histories",
    "NamedSource",
    "Pairs",
    "Preparation",
    "SourceMixture",
    "Steady",
    "WindowSettings",
    "check_series",
    "whole_windows",
]


@dataclass(frozen=True)
class Generation:
    """Trajectories of our own solvers, made when they are first needed.

    Attributes:
        families: Family of `dfm data generate` to the number of trajectories.
        resolution: Grid points along each axis; by default the family's.
        seed: Seed of the samples.
        snapshots: Frames of a trajectory; by default the family's.
        parameters: Numbers of the equation that differ from the family's own.
        folder: The store; by default one in the cache, named after everything that it depends on.
        batch: Samples solved at a time; chosen by their size by default.
        device: `cpu`, `cuda` (or `cuda:1`), or `auto`.
        dtype: Precision of the solver, `float32` or `float64`.
    """

    families: dict[str, int]
    resolution: int | None = None
    seed: int = 0
    snapshots: int | None = None
    parameters: dict[str, float] | None = None
    folder: str | None = None
    batch: int | None = None
    device: str = "cpu"
    dtype: str = "float64"

    def __post_init__(self) -> None:
        for family, samples in self.families.items():
            if not isinstance(samples, int) or samples < 1:
                raise UserError(
                    f"data.generate.families.{family} is {samples}; it must be a number of trajectories"
                )


@dataclass(frozen=True)
class SourceMixture:
    """Several sources that are trained on together.

    Attributes:
        sources: Entries with `path`, `card` and `layout`, or `generate` (as `Generation` takes it), each with
            an optional `weight`, its share of the samples.
        samples: Training samples in an epoch where there are weights; else the sum of all.
        repeats: Times a source with a weight may be walked through; null for any number.
    """

    sources: list[dict[str, Any]]
    samples: int | None = None
    repeats: float | None = None

    def __post_init__(self) -> None:
        at_least(1, room="data.mixture", samples=self.samples)


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


@dataclass(frozen=True)
class Preparation:
    """How values, grids and times of files become those of batches.

    Attributes:
        resolution: Points along each axis (or a list of them): every k-th point is kept. Nothing is
            interpolated or filtered, so a coarser grid must divide the stored one.
        normalise: `card` (its constants; what it does not give is computed), `statistics` (mean and standard
            deviation of the training trajectories) or `none`.
        missing: Values that are no numbers: `error`, or `zero` (0 after scaling, as GPhyT does).
        time_constant: Snapshots that make a lead time of 1; by default the card's, else the last snapshot.
        flips: Mirror each axis in half of the training samples; components along it change their sign.
        vectors: For `flips`: lists of fields that are a vector's components, along x first. Known without it:
            velocity and momentum, and what has a field for every axis, such as `force_x` and `force_y`.
        keep_mb: Keep trajectories in memory once read where all sources together are smaller than this.
    """

    resolution: int | list[int] | None = None
    normalise: str = "card"
    missing: str = "error"
    time_constant: float | None = None
    flips: bool = False
    vectors: list[list[str]] | None = None
    keep_mb: float = 512.0

    def __post_init__(self) -> None:
        room = "data.prepare"
        one_of(("card", "statistics", "none"), room=room, normalise=self.normalise)
        one_of(("error", "zero"), room=room, missing=self.missing)
        if self.time_constant is not None and not self.time_constant > 0:
            raise UserError(f"{room}.time_constant is {self.time_constant}; it must be positive")


class WindowSettings:
    """How trajectories are cut into samples; subclasses are frozen dataclasses."""

    name: ClassVar[str]
    steady: ClassVar[bool] = False
    """Whether there are no leads: input and solution are fields of one snapshot."""

    def training(self, reader: ChannelReader, frames: int) -> Windows:
        """Return the training samples of one trajectory with `frames` input frames."""
        raise NotImplementedError

    def validation(self, reader: ChannelReader, frames: int) -> Windows:
        """Return its validation samples, in which nothing is random."""
        return self.training(reader, frames)

    def whole(
        self, reader: ChannelReader, frames: int, test: EvaluationSet, *, most: int | None = None
    ) -> WholeWindows | FixedWindow:
        """Return its test sample: the first frames, and all that follow as labels, `most` at most."""
        if test.starts == "all" and self.test_steps(reader, test) is None:
            raise UserError("data.test.starts 'all' needs data.test.steps, the label frames after each start")
        return WholeWindows(
            reader.source.steps,
            frames=frames,
            step=self.frame_steps(reader)[0],
            labels=most or self.test_steps(reader, test),
            every=test.starts == "all",
        )

    def first(self, reader: ChannelReader, frames: int) -> Windows:
        """Return the first frames alone, to predict from."""
        return WholeWindows(reader.source.steps, frames=frames, step=self.frame_steps(reader)[0], labels=0)

    def test_steps(self, reader: ChannelReader, test: EvaluationSet) -> int | None:
        """Return the label frames of a test trajectory; None for all."""
        return test.steps or reader.details.test_frames

    def frame_steps(self, reader: ChannelReader) -> list[int]:
        """Return the snapshots between the frames that a network sees, the first for its rollouts."""
        return [1]

    def reach(self, reader: ChannelReader, frames: int) -> float:
        """Return the longest lead that a call is trained with, in snapshots; 0 where there are no leads."""
        return 0

    def check(self, source: ArraySource) -> None:
        """Refuse a source that cannot be cut so."""


@dataclass(frozen=True)
class Pairs(WindowSettings):
    """All-to-all pairs in time (see `apps.pde.data.windows.pairs`).

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
        room = "data.windows"
        at_least(1, room=room, max_steps=self.max_steps, step=self.step)
        least = min(self.lead_steps) if self.lead_steps else None
        at_least(0, room=room, fix_input_to=self.fix_input_to, lead_steps=least)

    def training(self, reader: ChannelReader, frames: int) -> Windows:
        """Return all pairs."""
        windows = PairWindows(reader.source.steps, **self._how(reader))
        longest = self.reach(reader, frames) / reader.time_constant
        if longest > 1.05:
            raise UserError(
                f"pairs of {reader.name} reach a lead time of {longest:.3g}, but networks are fed times up "
                f"to 1; the time constant is {reader.time_constant:g} snapshots, give "
                "data.prepare.time_constant or a smaller data.windows.max_steps"
            )
        return windows

    def test_steps(self, reader: ChannelReader, test: EvaluationSet) -> int | None:
        """Return as many as the pairs reach."""
        return test.steps or self._most(reader)

    def frame_steps(self, reader: ChannelReader) -> list[int]:
        """Return the step."""
        return [reader.details.step if self.step is None else self.step]

    def reach(self, reader: ChannelReader, frames: int) -> float:
        """Return the longest lead among the pairs."""
        clock = reader.source.clock
        return max(
            float(clock[last] - clock[first]) if last < len(clock) else float(last - first)
            for first, last in pairs(**self._how(reader))
        )

    def _how(self, reader: ChannelReader) -> dict[str, Any]:
        return {
            "max_steps": self._most(reader),
            "step": self.frame_steps(reader)[0],
            "lead_steps": self.lead_steps,
            "fix_input_to": self.fix_input_to,
        }

    def _most(self, reader: ChannelReader) -> int:
        if self.max_steps is not None:
            return self.max_steps
        most = (reader.source.steps - 1 - (self.fix_input_to or 0)) // self.frame_steps(reader)[0]
        usual = reader.details.max_steps
        if usual is not None and self.extended:
            usual = reader.details.extended_steps or usual
        return max(1, min(most, usual or most))


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
        return HistoryWindows(
            reader.source.steps,
            frames=frames,
            horizon=self.horizon or 1,
            strides=self.frame_steps(reader),
            samples=self.samples,
        )

    def validation(self, reader: ChannelReader, frames: int) -> Windows:
        """Return a window from every start."""
        return HistoryWindows(
            reader.source.steps,
            frames=frames,
            horizon=self.val_horizon or self.horizon or 1,
            strides=self.frame_steps(reader),
            every=True,
        )

    def frame_steps(self, reader: ChannelReader) -> list[int]:
        """Return the strides, or the one step."""
        return list(self.strides or [reader.details.step if self.step is None else self.step])

    def reach(self, reader: ChannelReader, frames: int) -> float:
        """Return the longest stride that fits: several label frames are reached step by step."""
        strides, span = self.frame_steps(reader), frames + (self.horizon or 1) - 1
        return max([one for one in strides if one * span < reader.source.steps] or strides)


@dataclass(frozen=True)
class Steady(WindowSettings):
    """Steady problems: one input, one solution."""

    name: ClassVar[str] = "steady"
    steady: ClassVar[bool] = True

    def training(self, reader: ChannelReader, frames: int) -> Windows:
        """Return one sample a trajectory."""
        return FixedWindow()

    def whole(
        self, reader: ChannelReader, frames: int, test: EvaluationSet, *, most: int | None = None
    ) -> WholeWindows | FixedWindow:
        """Return the same sample."""
        return FixedWindow()


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
        return SeriesWindows(range(0, reader.source.space[0] - self.window, self.stride), self.window)

    def whole(
        self, reader: ChannelReader, frames: int, test: EvaluationSet, *, most: int | None = None
    ) -> WholeWindows | FixedWindow:
        """Return one window as long as whole windows fit."""
        return FixedWindow(span=(0, whole_windows(reader.source, self.window)))

    def first(self, reader: ChannelReader, frames: int) -> Windows:
        """Return what is tested: its labels are not looked at."""
        return self.whole(reader, frames, EvaluationSet())

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


@dataclass(frozen=True)
class NamedSource:
    """One source as a recipe names it.

    Attributes:
        path: File or folder.
        card: Data card.
        layout: Layout of the path.
        generate: One family that our solvers make, in place of these.
        weight: Share in a mixture.
    """

    path: str | None = None
    card: str | None = None
    layout: str | None = None
    generate: Generation | None = None
    weight: float | None = None


@dataclass(frozen=True, kw_only=True)
class FieldSettings:
    """Everything that decides which fields are read and how they are cut (see `apps.pde.data.module.Fields`).

    Attributes:
        known: Facts of the checkpoint whose scaling is used, if any.
    """

    sources: Sequence[NamedSource]
    root: str | None
    inputs: Sequence[str] | None
    outputs: Sequence[str] | None
    parameters: bool | Sequence[str]
    frames: int | None
    windows: WindowSettings | None
    trajectories: int
    val_trajectories: int | None
    test_trajectories: int | None
    test: EvaluationSet
    prepare: Preparation
    known: FieldFacts | None = None
