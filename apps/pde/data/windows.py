"""Windows of a trajectory, the snapshots of a sample: all-to-all pairs, histories, steady pairs, series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from core.data.randomness import generator
from core.errors import UserError

__all__ = [
    "FixedWindow",
    "HistoryWindows",
    "PairWindows",
    "SeriesWindows",
    "WholeWindows",
    "Window",
    "Windows",
    "pairs",
]


@dataclass(frozen=True)
class Window:
    """Snapshots of one sample: those the network sees, then those it predicts.

    Attributes:
        inputs: Of the network.
        labels: After them.
        span: Of a series: the sample whose values are known, and the number of those that follow.
    """

    inputs: tuple[int, ...]
    labels: tuple[int, ...]
    span: tuple[int, int] | None = None


class Windows(Protocol):
    """Samples of one trajectory."""

    def __len__(self) -> int:
        """Return how many samples a trajectory gives in an epoch."""
        ...

    def window(self, seed: int, epoch: int, index: int, number: int, *, source: int = 0) -> Window:
        """Return one sample.

        Args:
            seed: The run's seed.
            epoch: Number of the epoch.
            index: Number of the sample among those of all trajectories; decides its randomness.
            number: Number of the sample in its trajectory, below `len(self)`.
            source: Number of the source in the mixture: each has random windows of its own.
        """
        ...


def pairs(
    max_steps: int,
    *,
    step: int = 1,
    lead_steps: Sequence[int] | None = None,
    fix_input_to: int | None = None,
) -> list[tuple[int, int]]:
    """Return the pairs (input, label) of Poseidon's all-to-all training, by input, then by label.

    For K steps of size s the snapshots are 0, s, …, K s, and every ordered pair with `i <= j` is a sample,
    the one with itself included: (K + 1)(K + 2) / 2 pairs (Herde et al. 2024, arXiv 2405.19101, section 2.2).

    Args:
        max_steps: K.
        step: s, in snapshots.
        lead_steps: Allowed differences in steps; None allows all.
        fix_input_to: A snapshot that is the input of all samples; the labels are those of the K snapshots
            after it, s apart, that `lead_steps` allows.

    Raises:
        UserError: If a number is out of range, or no pair is left.
    """
    if max_steps < 1 or step < 1:
        raise UserError(f"data.windows.max_steps is {max_steps} and step {step}; both must be at least 1")
    if fix_input_to is not None:
        if fix_input_to < 0:
            raise UserError(f"data.windows.fix_input_to is {fix_input_to}; it must be 0 or more")
        found = [
            (fix_input_to, fix_input_to + step * lead)
            for lead in range(1, max_steps + 1)
            if lead_steps is None or lead in lead_steps
        ]
    else:
        found = [
            (step * i, step * j)
            for i in range(max_steps + 1)
            for j in range(i, max_steps + 1)
            if lead_steps is None or j - i in lead_steps
        ]
    if not found:
        raise UserError(
            f"data.windows.lead_steps is {list(lead_steps or ())}, which leaves no pair; it must hold numbers "
            f"from {0 if fix_input_to is None else 1} to {max_steps}"
        )
    return found


class PairWindows:
    """All-to-all pairs, see `pairs`.

    Args:
        steps: Snapshots of a trajectory.
        max_steps: K.
        step: s.
        lead_steps: Allowed differences.
        fix_input_to: One input for all.

    Raises:
        UserError: If the trajectory is too short.
    """

    def __init__(
        self,
        steps: int,
        *,
        max_steps: int,
        step: int = 1,
        lead_steps: Sequence[int] | None = None,
        fix_input_to: int | None = None,
    ) -> None:
        self.pairs = pairs(max_steps, step=step, lead_steps=lead_steps, fix_input_to=fix_input_to)
        last = max(label for _, label in self.pairs)
        if last >= steps:
            raise UserError(
                f"data.windows.max_steps {max_steps} of {step} snapshots reach snapshot {last}, but "
                f"trajectories have {steps} (0 to {steps - 1}); make one of them smaller"
            )

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.pairs)

    def window(self, seed: int, epoch: int, index: int, number: int, *, source: int = 0) -> Window:
        """Return pair `number`; nothing is random."""
        first, label = self.pairs[number]
        return Window((first,), (label,))


class HistoryWindows:
    """Some frames in a row and those after them, from a random start and with a random stride.

    An epoch counts a trajectory as many times as it has snapshots (SineNet) unless `samples` says otherwise.

    Args:
        steps: Snapshots of a trajectory.
        frames: Input frames.
        horizon: Label frames.
        strides: Snapshots between frames; one is drawn for each sample.
        samples: Samples of a trajectory in an epoch; None is `steps`.
        every: All starts in order, one sample each, with the first stride and nothing random.

    Raises:
        UserError: If no stride fits the trajectory.
    """

    def __init__(
        self,
        steps: int,
        *,
        frames: int,
        horizon: int = 1,
        strides: Sequence[int] = (1,),
        samples: int | None = None,
        every: bool = False,
    ) -> None:
        if frames < 1 or horizon < 1 or not strides or min(strides) < 1:
            raise UserError(
                f"data.frames is {frames}, data.windows.horizon {horizon}, strides {list(strides)}; "
                "all must be at least 1"
            )
        self.frames, self.horizon, self.every = frames, horizon, every
        reach = frames + horizon - 1
        fitting = [stride for stride in strides if stride * reach < steps]
        if not fitting:
            raise UserError(
                f"trajectories have {steps} snapshots, too few for {frames} input and {horizon} label frames "
                f"at a stride of {min(strides)}, which need {min(strides) * reach + 1}; make data.frames, "
                "data.windows.horizon, val_horizon or strides smaller"
            )
        self.strides = tuple(fitting[:1] if every else fitting)
        self.starts = {stride: steps - stride * reach for stride in self.strides}
        self.samples = self.starts[self.strides[0]] if every else steps if samples is None else samples

    def __len__(self) -> int:
        """Return the samples of a trajectory in an epoch."""
        return self.samples

    def window(self, seed: int, epoch: int, index: int, number: int, *, source: int = 0) -> Window:
        """Return the sample; its start and stride are a function of (seed, epoch, index, source)."""
        stride, start = self.strides[0], number
        if not self.every:
            drawn = generator(seed, epoch, index, f"window {source}" if source else "window")
            stride = self.strides[int(torch.randint(len(self.strides), (), generator=drawn))]
            start = int(torch.randint(self.starts[stride], (), generator=drawn))
        frames = [start + stride * k for k in range(self.frames + self.horizon)]
        return Window(tuple(frames[: self.frames]), tuple(frames[self.frames :]))


class FixedWindow:
    """One sample a trajectory, always the same; of a steady problem its only snapshot."""

    def __init__(
        self, inputs: Sequence[int] = (0,), labels: Sequence[int] = (0,), span: tuple[int, int] | None = None
    ) -> None:
        self.only, self.labels = Window(tuple(inputs), tuple(labels), span), len(labels)

    def __len__(self) -> int:
        """Return 1."""
        return 1

    def window(self, seed: int, epoch: int, index: int, number: int, *, source: int = 0) -> Window:
        """Return the sample."""
        return self.only


class SeriesWindows:
    """Pieces of a series: the commands on it and the outputs before it go in, the outputs on it come out.

    Args:
        starts: First sample of each, whose outputs are known.
        length: Samples of each.
    """

    labels = 1

    def __init__(self, starts: Sequence[int], length: int) -> None:
        self.starts, self.length = starts, length

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self.starts)

    def window(self, seed: int, epoch: int, index: int, number: int, *, source: int = 0) -> Window:
        """Return piece `number`; nothing is random."""
        return Window((0,), (0,), (self.starts[number], self.length))


class WholeWindows:
    """One sample a trajectory: its first frames, and all that follow as labels.

    Args:
        steps: Snapshots of a trajectory.
        frames: Input frames.
        step: Snapshots between frames.
        labels: How many follow at most; None takes all, 0 none (to predict).
        every: A sample from every start that leaves as many labels as the first, in order.

    Attributes:
        labels: How many follow.

    Raises:
        UserError: If the trajectory is too short.
    """

    def __init__(
        self, steps: int, *, frames: int, step: int = 1, labels: int | None = None, every: bool = False
    ) -> None:
        inputs = [step * k for k in range(frames)]
        later = list(range(inputs[-1] + step, steps, step))[:labels]
        if inputs[-1] >= steps or (not later and labels != 0):
            raise UserError(
                f"trajectories have {steps} snapshots, none is left after {frames} input frames at a step of "
                f"{step}"
            )
        self.labels = len(later)
        self._first = Window(tuple(inputs), tuple(later))
        self._starts = steps - (*inputs, *later)[-1] if every else 1

    def __len__(self) -> int:
        """Return the number of starts."""
        return self._starts

    def window(self, seed: int, epoch: int, index: int, number: int, *, source: int = 0) -> Window:
        """Return the trajectory from start `number` on; nothing is random."""
        first = self._first
        return Window(tuple(k + number for k in first.inputs), tuple(k + number for k in first.labels))
