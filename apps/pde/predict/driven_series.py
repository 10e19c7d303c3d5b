"""Driven systems in a file: the commands over time and the outputs' first values that a network of windows
continues.

Time is the only axis. A sample's commands and the outputs' values at the first instant go in; the outputs at
all later instants come out, as many whole windows as fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apps.pde.batch import DatasetFacts
from apps.pde.data.readers.arrays import ArraySource
from core.errors import UserError, did_you_mean

__all__ = ["PREFIX", "InitialSeries"]

PREFIX = "initial "
"""Before the name of an output: the input channel that holds its first value."""


@dataclass(frozen=True)
class InitialSeries:
    """What a network of windows starts from; it is used like `apps.pde.predict.initial.Initial`.

    Attributes:
        source: The file.
        inputs: Channels of the network: the commands, and `initial <output>` for each output.
        dataset: The facts of its data set.
        trajectories: Rows of the file.

    Raises:
        UserError: If the file is no series, lacks a field, is too short or has another interval.
    """

    source: ArraySource
    inputs: Sequence[str]
    dataset: DatasetFacts
    trajectories: tuple[int, ...]

    def __post_init__(self) -> None:
        source = self.source
        if len(source.space) != 1 or source.steps != 1:
            raise UserError(
                f"{source.path} has {len(source.space)} space axes and {source.steps} snapshots; the network "
                "continues series: one axis, which is time, and one snapshot"
            )
        for name in self.fields:
            if name not in source.channels:
                raise UserError(
                    f"{source.path} has no field '{name}', which the network takes"
                    f"{did_you_mean(name, source.channels)} (it has {', '.join(source.channels)})"
                )
        if self.length < self.window:
            raise UserError(
                f"{source.path} has {source.space[0]} samples; the network's windows have {self.window}, "
                f"so it needs at least {self.window + 1}"
            )
        first, last, count = self.dataset.coordinates["x"]
        wanted, own = (last - first) / max(count - 1, 1), np.diff(source.coordinates[0])
        if not np.allclose(own, wanted, rtol=1e-3):
            raise UserError(
                f"the samples of {source.path} are {np.median(own):g} apart and those of the training data "
                f"{wanted:g}; give series of that interval"
            )

    @property
    def window(self) -> int:
        """Samples of a window."""
        return int(self.dataset.coordinates["x"][2])

    @property
    def length(self) -> int:
        """Samples that are predicted."""
        return (self.source.space[0] - 1) // self.window * self.window

    @property
    def fields(self) -> list[str]:
        """What is read: commands, then outputs."""
        return [name.removeprefix(PREFIX) for name in self.inputs]

    @property
    def commands(self) -> int:
        """How many inputs are commands."""
        return sum(not name.startswith(PREFIX) for name in self.inputs)

    @property
    def coordinates(self) -> tuple[NDArray[np.float64], ...]:
        """Times of the predictions."""
        return (self.source.coordinates[0][1 : self.length + 1],)

    @property
    def space(self) -> tuple[int, ...]:
        """Their number."""
        return (self.length,)

    @property
    def time(self) -> float:
        """Time of the values that are known."""
        return float(self.source.coordinates[0][0])

    def read(self, trajectories: Sequence[int]) -> NDArray[np.float32]:
        """Return `(N, 1, C, length)`, physical.

        Raises:
            UserError: If a value is not finite.
        """
        first = self.commands
        out = np.empty((len(trajectories), 1, len(self.inputs), self.length), dtype=np.float32)
        for row, trajectory in enumerate(trajectories):
            raw = self.source.read(trajectory, [0], self.fields)[0]
            out[row, 0, :first] = raw[:first, : self.length]
            out[row, 0, first:] = raw[first:, :1]
            if not np.isfinite(out[row]).all():
                place = int(np.argwhere(~np.isfinite(out[row, 0]))[0, 0])
                raise UserError(
                    f"{self.source.where(trajectory)} has values of {self.fields[place]} that are no numbers "
                    f"in trajectory {trajectory}; leave it out with --trajectories"
                )
        return out

    def numbers(self, trajectories: Sequence[int], names: Sequence[str], given: Mapping[str, float]) -> None:
        """Return None: such networks take no numbers of an equation."""
        return None

    def later(
        self, trajectory: int, times: Sequence[float], fields: Sequence[str]
    ) -> NDArray[np.float32] | None:
        """Return what the file itself holds of `fields`, `(1, C', length)`, or None."""
        values = self.source.read(trajectory, [0], list(fields))[:, :, 1 : self.length + 1]
        return values if np.isfinite(values).all() else None
