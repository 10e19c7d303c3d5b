"""Windows of trajectories, the snapshots that make a sample, and the data sets of their batches."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch.utils.data import Dataset

from apps.pde.batch import FieldBatch
from apps.pde.data.channels import ChannelReader
from core.data.batch import Batch
from core.data.randomness import generator
from core.errors import UserError

__all__ = [
    "SINGLE",
    "JoinedSets",
    "RandomHistories",
    "Window",
    "WindowSet",
    "Windows",
    "every_history",
    "pairs",
    "whole_trajectory",
]


@dataclass(frozen=True)
class Window:
    """Snapshots of one sample: those the network sees, then those it predicts.

    Attributes:
        inputs: Of the network.
        labels: After them.
        span: Of a series: the sample whose outputs are known, and the number of those that follow.
    """

    inputs: tuple[int, ...]
    labels: tuple[int, ...]
    span: tuple[int, int] | None = None


SINGLE = Window((0,), (0,))
"""The only snapshot as input and as label."""


class Windows:
    """Samples that every trajectory gives in an epoch, in order, nothing random.

    Args:
        samples: All of them, each with as many labels.
    """

    def __init__(self, samples: Sequence[Window]) -> None:
        self.samples = list(samples)

    def __len__(self) -> int:
        """Return how many samples a trajectory gives in an epoch."""
        return len(self.samples)

    @property
    def labels(self) -> int:
        """Label frames of a sample."""
        return len(self.samples[0].labels)

    def window(self, seed: int, epoch: int, index: int, number: int, *, source: int = 0) -> Window:
        """Return one sample.

        Args:
            seed: The run's seed.
            epoch: Number of the epoch.
            index: Number of the sample among those of all trajectories; decides its randomness.
            number: Number of the sample in its trajectory, below `len(self)`.
            source: Number of the source in the mixture: each has random windows of its own.
        """
        return self.samples[number]


class RandomHistories(Windows):
    """Some frames in a row and those after them, from a random start and with a random stride.

    Args:
        steps: Snapshots of a trajectory.
        frames: Input frames.
        horizon: Label frames.
        strides: Snapshots between frames; one is drawn for each sample.
        samples: Samples of a trajectory in an epoch; None takes as many as it has snapshots (SineNet).

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
    ) -> None:
        self.frames, self.horizon = frames, horizon
        self.strides = _fitting(steps, frames, horizon, strides)
        self.starts = {stride: steps - stride * (frames + horizon - 1) for stride in self.strides}
        super().__init__([SINGLE] * (steps if samples is None else samples))

    def window(self, seed: int, epoch: int, index: int, number: int, *, source: int = 0) -> Window:
        """Return the sample; its start and stride are a function of (seed, epoch, index, source)."""
        drawn = generator(seed, epoch, index, f"window {source}" if source else "window")
        stride = self.strides[int(torch.randint(len(self.strides), (), generator=drawn))]
        start = int(torch.randint(self.starts[stride], (), generator=drawn))
        return _history(start, stride, self.frames, self.horizon)


def every_history(steps: int, *, frames: int, horizon: int = 1, strides: Sequence[int] = (1,)) -> Windows:
    """Return the histories from all starts in order, with the first stride that fits."""
    stride = _fitting(steps, frames, horizon, strides)[0]
    starts = range(steps - stride * (frames + horizon - 1))
    return Windows([_history(start, stride, frames, horizon) for start in starts])


def _history(start: int, stride: int, frames: int, horizon: int) -> Window:
    every = [start + stride * k for k in range(frames + horizon)]
    return Window(tuple(every[:frames]), tuple(every[frames:]))


def _fitting(steps: int, frames: int, horizon: int, strides: Sequence[int]) -> list[int]:
    """Return the strides with which a history fits into a trajectory."""
    reach = frames + horizon - 1
    fitting = [stride for stride in strides if stride * reach < steps]
    if not fitting:
        raise UserError(
            f"trajectories have {steps} snapshots, too few for {frames} input and {horizon} label frames "
            f"at a stride of {min(strides)}, which need {min(strides) * reach + 1}; make data.frames, "
            "data.windows.horizon, val_horizon or strides smaller"
        )
    return fitting


def pairs(
    max_steps: int, *, step: int = 1, lead_steps: Sequence[int] | None = None, fix_input_to: int | None = None
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
        UserError: If no pair is left.
    """
    allowed = range(max_steps + 1) if lead_steps is None else lead_steps
    if fix_input_to is not None:
        leads = [lead for lead in range(1, max_steps + 1) if lead in allowed]
        found = [(fix_input_to, fix_input_to + step * lead) for lead in leads]
    else:
        ends = ((i, j) for i in range(max_steps + 1) for j in range(i, max_steps + 1))
        found = [(step * i, step * j) for i, j in ends if j - i in allowed]
    if not found:
        raise UserError(
            f"data.windows.lead_steps is {list(lead_steps or ())}, which leaves no pair; it must hold "
            f"numbers from {0 if fix_input_to is None else 1} to {max_steps}"
        )
    return found


def whole_trajectory(
    steps: int, *, frames: int, step: int = 1, labels: int | None = None, every: bool = False
) -> Windows:
    """Return one sample: the first frames, and all that follow as labels.

    Args:
        steps: Snapshots of a trajectory.
        frames: Input frames.
        step: Snapshots between frames.
        labels: How many follow at most; None takes all, 0 none (to predict).
        every: A sample from every start that leaves as many labels as the first, in order.

    Raises:
        UserError: If the trajectory is too short.
    """
    inputs = [step * k for k in range(frames)]
    later = list(range(inputs[-1] + step, steps, step))[:labels]
    if inputs[-1] >= steps or (not later and labels != 0):
        raise UserError(
            f"trajectories have {steps} snapshots, none is left after {frames} input frames at a step of "
            f"{step}"
        )
    starts = range(steps - (*inputs, *later)[-1] if every else 1)
    return Windows([Window(tuple(k + s for k in inputs), tuple(k + s for k in later)) for s in starts])


class WindowSet(Dataset):
    """Windows of some trajectories of one source, indexed by `(epoch, index)`.

    Sample n is window `n % len(windows)` of the `n // len(windows)`-th trajectory.

    Args:
        reader: Reads and scales.
        trajectories: Their rows in the source.
        windows: The snapshots of each sample.
        seed: Of the run.
        number: Number of the source in the mixture.
        steady: Whether time is 1.0 for every label.
        flips: Whether every axis is mirrored in half of the samples.
        mask: Whether batches carry no mask, one a channel, or one a point.
        parameters: Names of the equation's numbers that batches carry.
    """

    def __init__(
        self,
        reader: ChannelReader,
        trajectories: Sequence[int],
        windows: Windows,
        *,
        seed: int = 0,
        number: int = 0,
        steady: bool = False,
        flips: bool = False,
        mask: str = "none",
        parameters: Sequence[str] = (),
    ) -> None:
        self.reader, self.trajectories, self.windows = reader, trajectories, windows
        self.seed, self.number, self.steady, self.flips = seed, number, steady, flips
        self.mask, self.parameters = mask, parameters

    def __len__(self) -> int:
        """Return the number of samples in an epoch."""
        return len(self.trajectories) * len(self.windows)

    def window(self, epoch: int, index: int) -> tuple[int, Window]:
        """Return the trajectory and the snapshots of a sample."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        row, number = divmod(index, len(self.windows))
        window = self.windows.window(self.seed, epoch, index, number, source=self.number)
        return self.trajectories[row], window

    def __getitem__(self, where: tuple[int, int]) -> FieldBatch:
        """Return one sample as a batch of one."""
        return self.__getitems__([where])

    def __getitems__(self, where: Sequence[tuple[int, int]]) -> FieldBatch:
        """Return a batch; each trajectory in it is read once."""
        chosen = [self.window(epoch, index) for epoch, index in where]
        size, first, reader = len(chosen), chosen[0][1], self.reader
        space = reader.space if first.span is None else (first.span[1],)
        inputs = np.empty((size, len(first.inputs), len(reader.inputs), *space), dtype=np.float32)
        targets = np.empty((size, len(first.labels), len(reader.labels), *space), dtype=np.float32)
        mask = self._empty_mask(size, space)
        asked: dict[int, list[int]] = {}
        for row, (trajectory, _) in enumerate(chosen):
            asked.setdefault(trajectory, []).append(row)
        for trajectory, rows in asked.items():
            steps = sorted(
                {step for row in rows for step in (*chosen[row][1].inputs, *chosen[row][1].labels)}
            )
            raw = reader.raw(trajectory, steps)
            for row in rows:
                window, axes = chosen[row][1], self._axes(*where[row], len(space))
                values = reader.flip(raw, axes)
                before = values[[steps.index(step) for step in window.inputs]]
                after = values[[steps.index(step) for step in window.labels]]
                if window.span is not None:  # labels follow the sample whose outputs are known
                    start, length = window.span
                    before, after = before[..., start:][..., :length], after[..., start + 1 :][..., :length]
                reader.encode(before, reader.inputs, inputs[row], mirrored=axes)
                reader.encode(after, reader.labels, targets[row], mirrored=axes)
                inside = reader.obstacle(after) if self.mask == "points" else None
                if mask is not None and inside is not None and len(inside):
                    targets[row][np.broadcast_to(inside[:, None], targets[row].shape)] = 1.0
                    mask[row] |= inside.any(axis=0)
        snapshots = [[window.inputs[-1], *window.labels] for _, window in chosen]
        clock = reader.source.clock
        lead = [[clock[step] - clock[one[0]] for step in one[1:]] for one in snapshots]
        time = torch.tensor(lead, dtype=torch.float32).reshape(size, -1) / reader.time_constant
        numbers = [reader.source.numbers(trajectory, self.parameters) for trajectory, _ in chosen]
        return FieldBatch(
            inputs=torch.from_numpy(inputs),
            targets=torch.from_numpy(targets),
            time=torch.ones_like(time) if self.steady else time,
            mask=None if mask is None else torch.from_numpy(mask),
            parameters=torch.from_numpy(np.stack(numbers)) if self.parameters else None,
            source=torch.full((size,), self.number, dtype=torch.int64),
            trajectory=torch.tensor([trajectory for trajectory, _ in chosen], dtype=torch.int64),
            snapshots=torch.tensor(snapshots, dtype=torch.int64),
        )

    def _axes(self, epoch: int, index: int, space: int) -> list[int]:
        """Return the axes that a sample is mirrored along."""
        if not self.flips:
            return []
        drawn = torch.rand(space, generator=generator(self.seed, epoch, index, f"flip {self.number}"))
        return [axis for axis in range(space) if drawn[axis] < 0.5]

    def _empty_mask(self, size: int, space: tuple[int, ...]) -> np.ndarray | None:
        if self.mask == "none":
            return None
        channels = np.array([one.channel.masked for one in self.reader.labels], dtype=bool)
        if self.mask == "channels":
            return np.tile(channels, (size, 1))
        whole = channels.reshape(1, -1, *(1,) * len(space))
        return np.broadcast_to(whole, (size, len(channels), *space)).copy()


class JoinedSets(Dataset):
    """Several sets one after another: every sample of every set comes once in an epoch."""

    def __init__(self, sets: Sequence[WindowSet]) -> None:
        self.sets = list(sets)
        self._ends = list(accumulate(len(one) for one in self.sets))

    def __len__(self) -> int:
        """Return the number of samples of all sets."""
        return self._ends[-1] if self._ends else 0

    def locate(self, index: int) -> tuple[int, int]:
        """Return the set and the sample in it."""
        number = bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)

    def __getitem__(self, where: tuple[int, int]) -> Batch:
        """Return one sample as a batch of one."""
        return self.__getitems__([where])

    def __getitems__(self, where: Sequence[tuple[int, int]]) -> Batch:
        """Return a batch; each set is asked once."""
        asked: dict[int, list[tuple[int, int]]] = {}
        rows: list[list[int]] = [[] for _ in self.sets]
        for row, (epoch, index) in enumerate(where):
            number, sample = self.locate(index)
            asked.setdefault(number, []).append((epoch, sample))
            rows[number].append(row)
        if len(asked) == 1:
            number, pairs = next(iter(asked.items()))
            return self.sets[number].__getitems__(pairs)
        parts = [self.sets[number].__getitems__(pairs) for number, pairs in asked.items()]
        order = [row for number in asked for row in rows[number]]
        place = {row: number for number, row in enumerate(order)}
        return FieldBatch.concatenate(parts).select([place[row] for row in range(len(where))])
