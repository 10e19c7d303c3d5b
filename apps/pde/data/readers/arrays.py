"""Trajectories kept in named arrays of one or many files: what all readers of HDF5, netCDF and Zarr share."""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError, did_you_mean

__all__ = [
    "ArraySource",
    "Segment",
    "Variable",
    "cells",
    "files_of",
    "is_hdf5",
    "natural",
    "open_hdf5",
    "uniform",
]

_OPEN_FILES = 32


def open_hdf5(path: str) -> Any:
    """Open an HDF5 or netCDF-4 file for reading; where it cannot be locked (network storage), without a lock.

    Raises:
        UserError: If it is damaged, cut off or no HDF5 file.
    """
    import h5py

    try:
        try:
            return h5py.File(path, "r")
        except OSError as error:
            if "lock" not in str(error):
                raise
            # "lock" is also said where this process has it open with other flags: then the same ones do.
            return h5py.File(path, "r", locking=False)
    except FileNotFoundError as error:
        raise UserError(f"the file {path} does not exist; check data.path") from error
    except OSError as error:
        if "truncated file" in str(error):
            why = f"is cut off: it has {os.path.getsize(path)} bytes, its own header tells of more"
        else:
            why = f"is no HDF5 file or is damaged ({' '.join(str(error).split())})"
        raise UserError(f"{path} {why}; copy or download it again") from error


@dataclass(frozen=True)
class Variable:
    """Where one channel lies.

    Attributes:
        dataset: Name of the array in the file; `{}` stands for the label of the trajectory's group.
        axes: A letter for each stored axis: `n` trajectory, `t` time, `c` component, `x`, `y`, `z` space, `1`
            an axis of length one. A space axis that is not there is filled with the same value, as is time.
        component: Index along `c`.
        file: Its file, if another than the segment's.
    """

    dataset: str
    axes: str
    component: int = 0
    file: str | None = None


@dataclass(frozen=True)
class Segment:
    """A run of trajectories that lie in one file.

    Attributes:
        file: Path of the file.
        count: How many trajectories.
        variables: Channel name to where it lies.
        labels: Names of the groups, one a trajectory, where each has a group of its own.
        numbers: `(count, P)` parameters of the equation, or None.
    """

    file: str
    count: int
    variables: Mapping[str, Variable]
    labels: tuple[str, ...] = ()
    numbers: NDArray[np.float32] | None = None


@dataclass(eq=False)
class ArraySource:
    """A `Source` over arrays; files are opened on the first read of each process.

    Attributes:
        name: What tables and messages call it.
        path: File or folder as given.
        layout: Which layout was recognised.
        segments: The files in the order of the trajectories.
        steps: Snapshots of a trajectory.
        space: Grid points along each axis.
        times: `(steps,)`.
        coordinates: Positions of the points of each axis.
        channels: Names in order; by default those of the first segment.
        units: Unit of each channel.
        periodic: Whether the domain is.
        parameters: Names of the columns of `Segment.numbers`.
        constants: Channels that do not change in time.
        inputs: Fields that a steady problem is given; the others are its solution.
        licence: As the file states it, or empty.
        statistics: Channel to published `(mean, std)`, where a file beside the data gives them.
        opener: Opens a file; a function of a module, so that a source can be pickled.
    """

    name: str
    path: str
    layout: str
    segments: Sequence[Segment]
    steps: int
    space: tuple[int, ...]
    times: NDArray[np.float64]
    coordinates: tuple[NDArray[np.float64], ...]
    channels: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    periodic: bool = False
    parameters: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    licence: str = ""
    statistics: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    opener: Callable[[str], Any] = open_hdf5

    def __post_init__(self) -> None:
        self.channels = self.channels or tuple(self.segments[0].variables)
        self.units = {name: self.units.get(name, "1") for name in self.channels}
        self.times = np.asarray(self.times, dtype=np.float64)
        self.coordinates = tuple(np.asarray(axis, dtype=np.float64) for axis in self.coordinates)
        self._ends = list(accumulate(segment.count for segment in self.segments))
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._process = os.getpid()

    @property
    def trajectories(self) -> int:
        """How many trajectories all files have together."""
        return self._ends[-1]

    def read(
        self, trajectory: int, steps: Sequence[int], channels: Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """Return raw values `(len(steps), C, *space)` float32 of one trajectory.

        Raises:
            UserError: If there is no such channel, or the file is damaged there.
        """
        wanted = self.channels if channels is None else tuple(channels)
        segment, row = self._find(trajectory)
        out = np.empty((len(steps), len(wanted), *self.space), dtype=np.float32)
        stored: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
        for place, name in enumerate(wanted):
            if name not in segment.variables:
                raise UserError(
                    f"{self.path} has no field '{name}'{did_you_mean(name, segment.variables)} "
                    f"(it has {', '.join(segment.variables)})"
                )
            variable = segment.variables[name]
            label = segment.labels[row] if segment.labels else ""
            key = (variable.file or segment.file, variable.dataset.replace("{}", label), variable.axes)
            stored.setdefault(key, []).append((place, variable.component))
        for (path, dataset, axes), parts in stored.items():
            try:
                array = self._file(path)[dataset]
                values = self._values(array, axes, row, list(steps), [part for _, part in parts])
            except (OSError, KeyError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"{path} cannot be read at '{dataset}', trajectory {trajectory} "
                    f"({' '.join(str(error).split())}); the file is damaged, copy or download it again"
                ) from error
            for number, (place, _) in enumerate(parts):
                out[:, place] = values[:, number]
        return out

    def numbers(self, trajectory: int) -> NDArray[np.float32]:
        """Return the equation's numbers `(P,)` of one trajectory."""
        segment, row = self._find(trajectory)
        if segment.numbers is None:
            return np.zeros(len(self.parameters), dtype=np.float32)
        return np.asarray(segment.numbers[row], dtype=np.float32)

    def where(self, trajectory: int) -> str:
        """Return the file that holds a trajectory, for messages."""
        return self._find(trajectory)[0].file

    def close(self) -> None:
        """Close the files of this process; the next read opens them again."""
        for file in self._open.values():
            getattr(file, "close", lambda: None)()
        self._open.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind: each process opens its own."""
        return {**self.__dict__, "_open": OrderedDict()}

    def _find(self, trajectory: int) -> tuple[Segment, int]:
        if not 0 <= trajectory < self.trajectories:
            raise IndexError(f"trajectory {trajectory} of {self.trajectories} in {self.path}")
        number = bisect_right(self._ends, trajectory)
        return self.segments[number], trajectory - (self._ends[number] - self.segments[number].count)

    def _file(self, path: str) -> Any:
        if self._process != os.getpid():
            # Forked: HDF5 must not read through what the parent opened.
            self.close()
            self._process = os.getpid()
        if path not in self._open:
            if len(self._open) >= _OPEN_FILES:
                oldest = self._open.popitem(last=False)[1]
                getattr(oldest, "close", lambda: None)()
            self._open[path] = self.opener(path)
        self._open.move_to_end(path)
        return self._open[path]

    def _values(
        self, array: Any, axes: str, row: int, steps: list[int], components: list[int]
    ) -> NDArray[np.float32]:
        """Return `(steps, components, *space)` of one stored array, reading only the asked part."""
        if len(array.shape) != len(axes):
            raise ValueError(f"it has {len(array.shape)} axes, expected {len(axes)}")
        # Two frames far apart are cheaper one by one, a run of frames as one block.
        if "t" not in axes:
            parts = [_part(array, axes, row, slice(None), components, len(self.space))]
            gather = [0] * len(steps)
        elif steps and _regular(steps):
            stride = steps[1] - steps[0] if len(steps) > 1 else 1
            parts = [
                _part(array, axes, row, slice(steps[0], steps[-1] + 1, stride), components, len(self.space))
            ]
            gather = list(range(len(steps)))
        else:
            once = sorted(set(steps))
            parts = [
                _part(array, axes, row, slice(step, step + 1), components, len(self.space)) for step in once
            ]
            gather = [once.index(step) for step in steps]
        values = np.concatenate(parts) if len(parts) > 1 else parts[0]
        values = np.broadcast_to(values, (*values.shape[:2], *self.space))
        return values[gather] if gather != list(range(len(values))) else values


def _regular(steps: list[int]) -> bool:
    gaps = {second - first for first, second in pairwise(steps)}
    return len(gaps) == 0 or (len(gaps) == 1 and 0 < next(iter(gaps)) <= 4)


def _part(
    array: Any, axes: str, row: int, steps: slice, components: list[int], space: int
) -> NDArray[np.float32]:
    """Return `(steps or 1, components, *space)`; an axis that is not stored has length one."""
    first, last = min(components), max(components) + 1
    how = {"n": row, "t": steps, "c": slice(first, last), "1": 0}
    values = np.asarray(array[tuple(how.get(axis, slice(None)) for axis in axes)], dtype=np.float32)
    left = [axis for axis in axes if axis not in "n1"]
    for axis in ("t", "c", *"xyz"[:space]):
        if axis not in left:
            values, left = values[None], [axis, *left]
    order = sorted(range(len(left)), key=lambda place: "tcxyz".index(left[place]))
    values = values.transpose(order)  # ... -> t c x y z
    if components != list(range(first, last)):
        values = values[:, [component - first for component in components]]
    return values


def uniform(count: int, last: float = 1.0) -> NDArray[np.float64]:
    """Return `count` equally spaced numbers from 0 to `last`, both included."""
    return np.linspace(0.0, last, count, dtype=np.float64)


def cells(count: int) -> NDArray[np.float64]:
    """Return `i / count`: the left edge of the unit interval is a point, the right edge is not."""
    return np.arange(count, dtype=np.float64) / count


def files_of(path: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the file itself, or all files below a folder that end so, in the order of their numbers."""
    if path.is_file():
        return [path]
    found = [one for one in path.rglob("*") if one.is_file() and one.suffix.lower() in suffixes]
    return sorted(found, key=lambda one: natural(str(one.relative_to(path))))


def is_hdf5(path: Path) -> bool:
    """Say whether a file begins as HDF5 and netCDF-4 files do."""
    with open(path, "rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def natural(text: str) -> list[tuple[int, int | str]]:
    """Return a key that sorts `a_2` before `a_10`."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", text) if part]
