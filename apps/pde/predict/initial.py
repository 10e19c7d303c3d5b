"""Initial states from a file: the snapshots that a trained network starts from, in physical units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apps.pde.data.channels import Bound
from apps.pde.data.readers.arrays import ArraySource
from apps.pde.data.readers.recognition import open_source
from apps.pde.data.spec import Channel, Spec
from apps.pde.predict.driven_series import InitialSeries
from apps.pde.predict.model import Surrogate
from core.errors import UserError, did_you_mean

__all__ = ["Initial", "initial_states"]


@dataclass(frozen=True)
class Initial:
    """Where trajectories start.

    Attributes:
        bound: Reads the network's input channels.
        snapshots: The input frames in the file, the last is the start.
        trajectories: Rows of the file.
    """

    bound: Bound
    snapshots: tuple[int, ...]
    trajectories: tuple[int, ...]

    @property
    def source(self) -> ArraySource:
        """The file."""
        return self.bound.source

    @property
    def space(self) -> tuple[int, ...]:
        """Grid points along each axis."""
        return self.bound.space

    @property
    def coordinates(self) -> tuple[NDArray[np.float64], ...]:
        """Positions of the points of each axis."""
        return self.bound.coordinates

    @property
    def time(self) -> float:
        """Time of the last input frame."""
        return float(self.source.times[self.snapshots[-1]])

    def read(self, trajectories: Sequence[int]) -> NDArray[np.float32]:
        """Return `(N, frames, C, *space)`, physical.

        Raises:
            UserError: If a value is not finite.
        """
        bound = self.bound
        out = np.empty(
            (len(trajectories), len(self.snapshots), len(bound.inputs), *bound.space), dtype=np.float32
        )
        for row, trajectory in enumerate(trajectories):
            bound.encode(bound.raw(trajectory, self.snapshots), bound.inputs, out[row])
            if not np.isfinite(out[row]).all():
                place = int(np.argwhere(~np.isfinite(out[row]))[0, 1])
                raise UserError(
                    f"{self.source.where(trajectory)} has values of {bound.inputs[place].channel.name} that "
                    f"are no numbers in the initial state of trajectory {trajectory}; leave it out with "
                    "--trajectories, or start elsewhere with --start"
                )
        return out

    def numbers(
        self, trajectories: Sequence[int], names: Sequence[str], given: Mapping[str, float]
    ) -> NDArray[np.float32] | None:
        """Return the equation's numbers `(N, P)`: those `given`, else the file's; None if there are no
        `names`.

        Raises:
            UserError: If one is neither given nor in the file.
        """
        if not names:
            return None
        own = list(self.source.parameters)
        for name in names:
            if name not in given and name not in own:
                raise UserError(
                    f"{self.source.path} does not give {name} of the equation, which the network takes; "
                    f"say it with --parameter {name}=NUMBER"
                )
        rows = [self.source.numbers(trajectory) for trajectory in trajectories]
        return np.array(
            [[given[name] if name in given else row[own.index(name)] for name in names] for row in rows],
            dtype=np.float32,
        )

    def later(
        self, trajectory: int, times: Sequence[float], fields: Sequence[str]
    ) -> NDArray[np.float32] | None:
        """Return what the file itself holds at `times` after the start, `(K, C', *space)`, or None."""
        own = self.source.times
        wanted = self.time + np.asarray(times)
        places = [int(np.argmin(abs(own - time))) for time in wanted]
        scale = float(np.ptp(own)) or 1.0
        if any(abs(own[place] - time) > 1e-4 * scale for place, time in zip(places, wanted, strict=True)):
            return None
        stored = {place.channel.name: place.channel.source for place in self.bound.inputs}
        names = [stored.get(name) or name for name in fields]
        if any(name not in self.source.channels for name in names):
            return None
        values = self.source.read(trajectory, places, names)
        return values[(..., *(slice(None, None, by) for by in self.bound.factors))]


def initial_states(
    path: str | Path,
    surrogate: Surrogate,
    *,
    dataset: str,
    start: int | None = None,
    stride: int | None = None,
    trajectories: Sequence[int] | None = None,
    resolution: int | None = None,
    layout: str | None = None,
    split: str | None = None,
) -> Initial | InitialSeries:
    """Find the initial states of a file in any layout of `apps.pde.data.readers.recognition`.

    Args:
        path: File or folder.
        surrogate: The network.
        dataset: Whose names of fields are taken.
        start: Snapshot of the last input frame, negative from the end; default: the last.
        stride: Snapshots between input frames; default: from the times of the file and the training data.
        trajectories: Rows; default: all.
        resolution: Keep every k-th point, so that this many are left along each axis.
        layout: See `open_source`.
        split: See `open_source`.

    Raises:
        UserError: If the file is not there or not read, fields are missing, or the grid does not fit.
    """
    source = open_source(path, layout=layout, split=split)
    rows = tuple(dict.fromkeys(range(source.trajectories) if trajectories is None else trajectories))
    for row in rows:
        if not 0 <= row < source.trajectories:
            raise UserError(
                f"--trajectories has {row}, but {source.path} has {source.trajectories} (0 to "
                f"{source.trajectories - 1})"
            )
    if surrogate.constants(dataset).is_series:
        return InitialSeries(source, surrogate.inputs, surrogate.constants(dataset), rows)
    bound = Bound(dataset, source, Spec(), factors=_factors(source, resolution), missing="keep")
    bound.bind([_channel(name, source, surrogate, dataset) for name in surrogate.inputs], [])
    surrogate.check_shape((surrogate.frames, len(surrogate.inputs), *bound.space))
    snapshots = _snapshots(source, surrogate, dataset=dataset, start=start, stride=stride)
    return Initial(bound, snapshots, rows)


def _channel(name: str, source: ArraySource, surrogate: Surrogate, dataset: str) -> Channel:
    facts = surrogate.constants(dataset)
    stored, fill = facts.stored.get(name), facts.fills.get(name)
    if stored in source.channels or name in source.channels:
        return Channel(name, stored=stored if stored in source.channels else name)
    if fill is not None:
        return Channel(name, fill=fill, mean=0.0, std=1.0)
    raise UserError(
        f"{source.path} has no field '{name}', which the network takes"
        f"{did_you_mean(name, source.channels)} (it has {', '.join(source.channels)})"
    )


def _snapshots(
    source: ArraySource, surrogate: Surrogate, *, dataset: str, start: int | None, stride: int | None
) -> tuple[int, ...]:
    last = source.steps - 1 if start is None else start if start >= 0 else source.steps + start
    if not 0 <= last < source.steps:
        raise UserError(
            f"--start is {start}, but {source.path} has {source.steps} snapshots (0 to {source.steps - 1})"
        )
    if surrogate.frames == 1:
        return (last,)
    wanted, own = surrogate.step(dataset), np.diff(source.times)
    gap = float(np.median(own)) if len(own) else 1.0
    by = stride if stride is not None else round(wanted / gap)
    if by < 1 or (stride is None and abs(by * gap - wanted) > 1e-3 * wanted):
        raise UserError(
            f"the network's input frames are {wanted:g} apart and the snapshots of {source.path} {gap:g}; "
            "say with --stride how many snapshots lie between frames"
        )
    first = last - by * (surrogate.frames - 1)
    if first < 0:
        raise UserError(
            f"the network takes {surrogate.frames} frames, {by} snapshots apart, and {source.path} has only "
            f"{last + 1} up to the start; give a later --start or longer trajectories"
        )
    return tuple(range(first, last + 1, by))


def _factors(source: ArraySource, resolution: int | None) -> tuple[int, ...]:
    if resolution is None:
        return (1,) * len(source.space)
    if resolution < 1 or any(size % resolution for size in source.space):
        raise UserError(
            f"--resolution is {resolution}, which does not divide the grid "
            f"{' x '.join(map(str, source.space))} of {source.path}"
        )
    return tuple(size // resolution for size in source.space)
