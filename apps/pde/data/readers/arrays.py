"""Trajectories kept in named arrays of one or many files: what the readers of all layouts give."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.data.hdf5 import OpenFiles, open_hdf5
from core.errors import UserError, did_you_mean

__all__ = [
    "ArraySource",
    "Segment",
    "Variable",
    "cells",
    "files_of",
    "joined",
    "natural",
    "other_units",
    "uniform",
    "unpacked",
]

PACKING = {"_FillValue", "missing_value", "scale_factor", "add_offset"}
"""Attributes of netCDF that say how stored numbers become values."""


@dataclass(frozen=True)
class Variable:
    """The array of one channel.

    Attributes:
        dataset: Name of the array in the file; `{}` stands for the label of the trajectory's group.
        axes: A letter for each stored axis: `n` trajectory, `t` time, `c` component, `x`, `y`, `z` space, `1`
            an axis of length one. A space axis that is not there is filled with the same value, as is time; a
            capital one is read backwards.
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
        variables: Channel name to its array.
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
    """Trajectories of named fields, read lazily; picklable, and no file is held open across processes.

    Attributes:
        name: What tables and messages call it.
        path: File or folder as given.
        layout: The layout that was recognised.
        segments: The files in the order of the trajectories.
        times: Of the snapshots, `(steps,)` float64, finite and rising; one for steady problems.
        coordinates: Float64 positions of the points of each axis; falling ones are turned, with the fields.
        channels: Names in order; by default those of the first segment.
        units: Unit of each channel, "1" where dimensionless or unknown, and of `time` where the file says it.
        periodic: Whether the domain is, as far as the file says.
        walls_assumed: Whether nothing says so, where a file could.
        parameters: Names of the columns of `Segment.numbers`.
        constants: Channels that do not change in time.
        inputs: Fields that a steady problem is given; the others are its solution.
        licence: As the file states it, or empty.
        statistics: Channel to published `(mean, std)`, where a file beside the data gives them.
        opener: Opens a file; a function of a module, so that a source can be pickled.

    Raises:
        UserError: If the times do not rise, or positions neither rise nor fall.
    """

    name: str
    path: str
    layout: str
    segments: Sequence[Segment]
    times: NDArray[np.float64]
    coordinates: tuple[NDArray[np.float64], ...]
    channels: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    periodic: bool = False
    walls_assumed: bool = False
    parameters: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    licence: str = ""
    statistics: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    opener: Callable[[str], Any] = open_hdf5

    def __post_init__(self) -> None:
        self.channels = self.channels or tuple(self.segments[0].variables)
        time = {"time": self.units["time"]} if "time" in self.units else {}
        self.units = {name: self.units.get(name, "1") for name in self.channels} | time
        self.times = np.asarray(self.times, dtype=np.float64)
        self.coordinates = tuple(np.asarray(axis, dtype=np.float64) for axis in self.coordinates)
        if not (np.isfinite(self.times).all() and (np.diff(self.times) > 0).all()):
            first = ", ".join(f"{time:g}" for time in self.times[:4])
            raise UserError(
                f"the times of {self.path} do not rise ({first}, …), so they give no lead times; mend the "
                "file's axis of time"
            )
        self._turn_falling_axes()
        self._ends = list(accumulate(segment.count for segment in self.segments))
        self._files = OpenFiles(self.opener)

    def _turn_falling_axes(self) -> None:
        falling = ""
        for axis, at in zip("xyz", self.coordinates, strict=False):
            gaps = np.diff(at)
            if not ((gaps > 0).all() or (gaps < 0).all()):
                raise UserError(
                    f"the positions along {axis} of {self.path} neither rise nor fall; mend that coordinate"
                )
            falling += axis if len(gaps) and gaps[0] < 0 else ""
        if falling:
            self.coordinates = tuple(np.sort(at) for at in self.coordinates)
            turned = str.maketrans(falling, falling.upper())
            self.segments = [
                replace(segment, variables={
                    name: replace(variable, axes=variable.axes.translate(turned))
                    for name, variable in segment.variables.items()
                })
                for segment in self.segments
            ]  # fmt: skip

    @property
    def steps(self) -> int:
        """Snapshots of a trajectory; 1 for steady problems."""
        return len(self.times)

    @property
    def space(self) -> tuple[int, ...]:
        """Grid points along each axis."""
        return tuple(len(axis) for axis in self.coordinates)

    @property
    def trajectories(self) -> int:
        """Number of trajectories in all files together."""
        return self._ends[-1]

    @property
    def clock(self) -> NDArray[np.float64]:
        """Times of the snapshots `(steps,)` in units of their median distance: whole numbers, if equal."""
        gaps = np.diff(self.times)
        if len(gaps) == 0 or np.allclose(gaps, np.median(gaps), rtol=1e-2):
            return np.arange(self.steps, dtype=np.float64)
        return (self.times - self.times[0]) / np.median(gaps)

    def first(self, count: int) -> ArraySource:
        """Return the source of the first `count` trajectories of its first file."""
        return replace(self, segments=[replace(self.segments[0], count=count)])

    def read(
        self, trajectory: int, steps: Sequence[int], channels: Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """Return raw values `(len(steps), C, *space)` float32 of one trajectory; nothing else is read.

        Raises:
            UserError: If there is no such channel, or the file is damaged there.
        """
        wanted = self.channels if channels is None else tuple(channels)
        segment, row = self._find(trajectory)
        out = np.empty((len(steps), len(wanted), *self.space), dtype=np.float32)
        stored: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
        for column, name in enumerate(wanted):
            if name not in segment.variables:
                raise UserError(
                    f"{self.path} has no field '{name}'{did_you_mean(name, segment.variables)} "
                    f"(it has {', '.join(segment.variables)})"
                )
            variable = segment.variables[name]
            label = segment.labels[row] if segment.labels else ""
            key = (variable.file or segment.file, variable.dataset.replace("{}", label), variable.axes)
            stored.setdefault(key, []).append((column, variable.component))
        for (path, dataset, axes), parts in stored.items():
            try:
                array = self._files[path][dataset]
                values = self._values(array, axes, row, list(steps), [component for _, component in parts])
            except (OSError, KeyError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"{path} cannot be read at '{dataset}', trajectory {trajectory} "
                    f"({' '.join(str(error).split())}); the file is damaged, copy or download it again"
                ) from error
            for number, (column, _) in enumerate(parts):
                out[:, column] = values[:, number]
        return out

    def numbers(self, trajectory: int, names: Sequence[str] | None = None) -> NDArray[np.float32]:
        """Return the equation's numbers `(P,)` of one trajectory: those of `names`, or all in order."""
        segment, row = self._find(trajectory)
        columns = range(len(self.parameters)) if names is None else map(self.parameters.index, names)
        if segment.numbers is None:
            return np.zeros(len(self.parameters if names is None else names), dtype=np.float32)
        return np.asarray(segment.numbers[row], dtype=np.float32)[list(columns)]

    def where(self, trajectory: int) -> str:
        """Return the file that holds a trajectory, for messages."""
        return self._find(trajectory)[0].file

    def close(self) -> None:
        """Close the files of this process; the next read opens them again."""
        self._files.close()

    def _find(self, trajectory: int) -> tuple[Segment, int]:
        if not 0 <= trajectory < self.trajectories:
            raise IndexError(f"trajectory {trajectory} of {self.trajectories} in {self.path}")
        number = bisect_right(self._ends, trajectory)
        return self.segments[number], trajectory - (self._ends[number] - self.segments[number].count)

    def _values(
        self, array: Any, axes: str, row: int, steps: list[int], components: list[int]
    ) -> NDArray[np.float32]:
        """Return `(steps, components, *space)` of one stored array, reading only the asked part."""
        if len(array.shape) != len(axes):
            raise ValueError(f"it has {len(array.shape)} axes, expected {len(axes)}")
        # Two frames far apart are cheaper one by one, a run of frames as one block.
        if "t" not in axes:
            slices, gather = [slice(None)], [0] * len(steps)
        elif steps and _regular(steps):
            stride = steps[1] - steps[0] if len(steps) > 1 else 1
            slices, gather = [slice(steps[0], steps[-1] + 1, stride)], list(range(len(steps)))
        else:
            once = sorted(set(steps))
            slices, gather = [slice(step, step + 1) for step in once], [once.index(step) for step in steps]
        parts = [_part(array, axes, row, chosen, components, len(self.space)) for chosen in slices]
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
    stored = unpacked(array[tuple(how.get(axis, slice(None)) for axis in axes)], getattr(array, "attrs", {}))
    if np.iscomplexobj(stored):
        raise ValueError("its values are complex; store real and imaginary part as two fields")
    values = np.asarray(stored, dtype=np.float32)
    left = [axis for axis in axes if axis not in "n1"]
    values = np.flip(values, [number for number, axis in enumerate(left) if axis.isupper()])
    left = [axis.lower() for axis in left]
    for axis in ("t", "c", *"xyz"[:space]):
        if axis not in left:
            values, left = values[None], [axis, *left]
    order = sorted(range(len(left)), key=lambda place: "tcxyz".index(left[place]))
    values = values.transpose(order)  # ... -> t c x y z
    if components != list(range(first, last)):
        values = values[:, [component - first for component in components]]
    return values


def unpacked(values: Any, attributes: Mapping[str, Any]) -> Any:
    """Return stored values as netCDF's attributes mean them: fills are NaN, then scale and offset."""
    packing = PACKING & set(attributes)
    for name in packing & {"_FillValue", "missing_value"}:
        fills = np.ravel(attributes[name])
        if fills.dtype.kind in "iuf" and not np.isnan(fills).any():
            values = np.where(np.isin(values, fills), np.nan, values)
    if packing & {"scale_factor", "add_offset"}:
        values = values * attributes.get("scale_factor", 1.0) + attributes.get("add_offset", 0.0)
    return values


_SPELLINGS = {
    "second": "s", "sec": "s", "minute": "min", "hour": "h", "hr": "h", "day": "d", "millisecond": "ms",
    "meter": "m", "metre": "m", "kelvin": "K", "pascal": "Pa",
}  # fmt: skip


def other_units(first: str, second: str) -> bool:
    """Say whether two units are stated and differ, other than in how they are spelt."""

    def parts(unit: str) -> list[str]:
        above, *below = re.sub(r"\*\*|\^", "", unit).split("/")
        inverse = [f"{part}-1" if part[-1:].isalpha() else re.sub(r"(?=\d)", "-", part) for part in below]
        words = re.split(r"[\s.*·]+", " ".join([above, *inverse]).strip())
        return sorted(_SPELLINGS.get(word.removesuffix("s"), word) for word in words)

    return not {first, second} & {"", "1"} and parts(first) != parts(second)


def joined(sources: Sequence[ArraySource], path: Path, **more: Any) -> ArraySource:
    """Return the trajectories of several files of one set as one source; parameters go by their names.

    Args:
        sources: One a file.
        path: The folder.
        **more: Attributes of the whole.

    Raises:
        UserError: If they have other grids, fields, times or parameters: naming the file.
    """
    first = sources[0]
    segments: list[Segment] = []
    for other in sources:
        for what in ("space", "steps", "channels"):
            if getattr(other, what) != getattr(first, what):
                raise UserError(
                    f"{other.path} has {what} {getattr(other, what)}, {first.path} has "
                    f"{getattr(first, what)}; name files of one kind"
                )
        for name, unit in other.units.items():
            if other_units(known := first.units.get(name, "1"), unit):
                raise UserError(f"{other.path} has {name} in {unit}, {first.path} in {known}; convert one")
        if not np.allclose(other.times - other.times[0], first.times - first.times[0], rtol=1e-3):
            raise UserError(f"{other.path} has other times than {first.path}; name files of one kind")
        if set(other.parameters) != set(first.parameters):
            own, known = (", ".join(one.parameters) or "none" for one in (other, first))
            raise UserError(
                f"{other.path} gives the numbers {own}, {first.path} {known}; name files of one kind"
            )
        order = [other.parameters.index(name) for name in first.parameters]
        for segment in other.segments:
            numbers = None if segment.numbers is None else segment.numbers[:, order]
            segments.append(replace(segment, numbers=numbers))
    return replace(first, segments=segments, path=str(path), **more)


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


def natural(text: str) -> list[tuple[int, int | str]]:
    """Return a key that sorts `a_2` before `a_10`."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", text) if part]
