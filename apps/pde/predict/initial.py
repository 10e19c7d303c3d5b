"""Initial states from a file: the snapshots that a trained network starts from, in physical units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apps.pde.batch import DatasetFacts
from apps.pde.data.card_details import Channel
from apps.pde.data.channels import INITIAL, ChannelReader, thinning
from apps.pde.data.readers.arrays import ArraySource, other_units
from apps.pde.data.readers.recognition import open_source
from apps.pde.data.window_settings import check_series, whole_windows
from apps.pde.data.windows import Window, Windows, WindowSet
from apps.pde.predict.model import Surrogate
from core.errors import UserError, did_you_mean

__all__ = ["InitialStates", "initial_states"]


@dataclass(frozen=True)
class InitialStates:
    """Starts of trajectories; of a driven system its commands over time and the outputs' first values.

    Attributes:
        reader: Reads the network's input channels, unscaled.
        snapshots: The input frames in the file, the last is the start.
        trajectories: Rows of the file.
        length: Samples of a series that are predicted, None for fields.
    """

    reader: ChannelReader
    snapshots: tuple[int, ...]
    trajectories: tuple[int, ...]
    length: int | None = None

    @property
    def source(self) -> ArraySource:
        """The file."""
        return self.reader.source

    @property
    def space(self) -> tuple[int, ...]:
        """Grid points along each axis."""
        return self.reader.space if self.length is None else (self.length,)

    @property
    def coordinates(self) -> tuple[NDArray[np.float64], ...]:
        """Positions of the points of each axis; of a series the times of the predictions."""
        at = self.reader.coordinates
        return at if self.length is None else (at[0][1 : self.length + 1],)

    @property
    def time(self) -> float:
        """Time of the last values that are known."""
        source = self.source
        return float(source.times[self.snapshots[-1]] if self.length is None else source.coordinates[0][0])

    def read(self, trajectories: Sequence[int]) -> NDArray[np.float32]:
        """Return `(N, frames, C, *space)`, physical.

        Raises:
            UserError: If a value is not finite.
        """
        window = Window(self.snapshots, (), None if self.length is None else (0, self.length))
        starts = WindowSet(self.reader, trajectories, Windows([window]))
        inputs = starts.__getitems__([(0, row) for row in range(len(trajectories))]).inputs.numpy()
        if not np.isfinite(inputs).all():
            row, _, channel = (int(one) for one in np.argwhere(~np.isfinite(inputs))[0, :3])
            name = self.reader.inputs[channel].channel.name.removeprefix(INITIAL)
            raise UserError(
                f"{self.source.where(trajectories[row])} has values of {name} that are no numbers in the "
                f"initial state of trajectory {trajectories[row]}; leave it out with --trajectories, or "
                "start elsewhere with --start"
            )
        return inputs

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
        for name in names:
            if name not in given and name not in self.source.parameters:
                raise UserError(
                    f"{self.source.path} does not give {name} of the equation, which the network takes; "
                    f"say it with --parameter {name}=NUMBER"
                )
        return np.array(
            [
                [given[name] if name in given else self.source.numbers(row, [name])[0] for name in names]
                for row in trajectories
            ],
            dtype=np.float32,
        )

    def later(
        self, trajectory: int, times: Sequence[float], fields: Sequence[str]
    ) -> NDArray[np.float32] | None:
        """Return what the file itself holds at `times` after the start, `(K, C', *space)`, or None."""
        reader, own = self.reader, self.source.times
        if self.length is not None:
            values = self.source.read(trajectory, [0], list(fields))[:, :, 1 : self.length + 1]
            return values if np.isfinite(values).all() else None
        wanted = self.time + np.asarray(times)
        steps = [int(np.argmin(abs(own - time))) for time in wanted]
        scale = float(np.ptp(own)) or 1.0
        if any(abs(own[step] - time) > 1e-4 * scale for step, time in zip(steps, wanted, strict=True)):
            return None
        stored = {one.channel.name: one.channel.source for one in reader.inputs}
        names = [stored.get(name) or name for name in fields]
        if any(name not in self.source.channels for name in names):
            return None
        return reader.thinned(self.source.read(trajectory, steps, names))


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
    axes: str | None = None,
) -> InitialStates:
    """Return the initial states in a file of any layout of `apps.pde.data.readers.recognition`.

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
        axes: See `open_source`.

    Raises:
        UserError: If the file is not there or not read, fields are missing, or the grid does not fit.
    """
    source, facts = open_source(path, layout=layout, split=split, axes=axes), surrogate.constants(dataset)
    rows = tuple(dict.fromkeys(range(source.trajectories) if trajectories is None else trajectories))
    for row in rows:
        if not 0 <= row < source.trajectories:
            raise UserError(
                f"--trajectories has {row}, but {source.path} has {source.trajectories} (0 to "
                f"{source.trajectories - 1})"
            )
    channels = [_channel(name, source, facts) for name in surrogate.inputs if not name.startswith(INITIAL)]
    if facts.is_series:
        window = facts.coordinates["x"][2]
        check_series(source, window, what="the network's windows")
        _check_interval(source, facts)
        reader = ChannelReader(dataset, source, missing="keep", window=window)
        reader.bind(channels, [_channel(name, source, facts) for name in surrogate.outputs])
        return InitialStates(reader, (0,), rows, whole_windows(source, window))
    _check_unit("time", source.units.get("time", "1"), source, facts)
    thin = thinning(source, resolution, option="--resolution")
    reader = ChannelReader(dataset, source, factors=thin, missing="keep")
    reader.bind(channels, [])
    surrogate.check_shape((surrogate.frames, len(surrogate.inputs), *reader.space))
    return InitialStates(reader, _snapshots(source, surrogate, facts, start=start, stride=stride), rows)


def _channel(name: str, source: ArraySource, facts: DatasetFacts) -> Channel:
    stored, fill = facts.stored.get(name), facts.fills.get(name)
    if stored in source.channels or name in source.channels:
        field = stored if stored in source.channels else name
        _check_unit(name, source.units[field], source, facts)
        return Channel(name, stored=field)
    if fill is not None:
        return Channel(name, fill=fill, mean=0.0, std=1.0)
    raise UserError(
        f"{source.path} has no field '{name}', which the network takes"
        f"{did_you_mean(name, source.channels)} (it has {', '.join(source.channels)})"
    )


def _check_unit(name: str, unit: str, source: ArraySource, facts: DatasetFacts) -> None:
    if other_units(known := facts.units.get(name, "1"), unit):
        raise UserError(
            f"{source.path} has {name} in {unit} and the network was trained on it in {known}; convert it"
        )


def _check_interval(source: ArraySource, facts: DatasetFacts) -> None:
    first, last, count = facts.coordinates["x"]
    wanted, own = (last - first) / max(count - 1, 1), np.diff(source.coordinates[0])
    if not np.allclose(own, wanted, rtol=1e-3):
        raise UserError(
            f"the samples of {source.path} are {np.median(own):g} apart and those of the training data "
            f"{wanted:g}; give series of that interval"
        )


def _snapshots(
    source: ArraySource, surrogate: Surrogate, facts: DatasetFacts, *, start: int | None, stride: int | None
) -> tuple[int, ...]:
    last = source.steps - 1 if start is None else start if start >= 0 else source.steps + start
    if not 0 <= last < source.steps:
        raise UserError(
            f"--start is {start}, but {source.path} has {source.steps} snapshots (0 to {source.steps - 1})"
        )
    if surrogate.frames == 1:
        return (last,)
    wanted, own = facts.spacing * facts.step, np.diff(source.times)
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
