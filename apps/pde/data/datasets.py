"""Data sets of field batches: windows of one source, and several such sets one after another."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch.utils.data import Dataset

from apps.pde.batch import FieldBatch
from apps.pde.data.channels import ChannelReader
from apps.pde.data.windows import Window, Windows
from core.data.batch import Batch
from core.data.randomness import generator

__all__ = ["JoinedSets", "WindowSet"]


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
