"""A source as a network's channels: the field that fills each, how it is scaled, where it is masked.

Training, tests and predictions read files through `ChannelReader`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.pde.batch import DatasetFacts
from apps.pde.data.card_details import CardDetails, Channel
from apps.pde.data.mirrors import VECTORS, mirrored_fill
from apps.pde.data.readers.arrays import ArraySource
from core.data.counting import counted
from core.data.statistics import Moments
from core.errors import UserError, did_you_mean

__all__ = [
    "FLUID",
    "INITIAL",
    "BatchChannel",
    "ChannelReader",
    "channel_groups",
    "complete",
    "default_details",
    "merged",
    "thinning",
]

FLUID = ("density", "velocity_x", "velocity_y", "pressure")
INITIAL = "initial "
"""Before the name of a series' output: the input channel that holds its value before the window."""
_FILLS = {"density": 1.0, "pressure": 0.0}
"""What an incompressible flow has where a compressible one has a field; the pressure counts in no error."""


@dataclass(frozen=True)
class BatchChannel:
    """One channel of a batch.

    Attributes:
        channel: Its name, constants and mask; mean and std are known.
        row: Its index among the fields that are read, or None where it is filled.
        fill: `(*space)` or a number, physical, where it is filled.
    """

    channel: Channel
    row: int | None
    fill: NDArray[np.float32] | float = 0.0

    @property
    def constants(self) -> tuple[float, float]:
        """The mean, with the shift in it, and the deviation."""
        return self.channel.shift + (self.channel.mean or 0.0), self.channel.std or 1.0


@dataclass(eq=False)
class ChannelReader:
    """Reads one source as normalised channels.

    Attributes:
        name: Of the data set, for messages and facts.
        source: The trajectories.
        details: What the card says, or what was made of the file.
        inputs: Channels of the network's input.
        labels: Channels of the labels.
        factors: Every how many-th point is kept along each axis.
        missing: What is done with values that are not finite: `error`, `zero` (after scaling), or `keep`.
        hold: Whether trajectories stay in memory once they are read.
        licence: Of the data.
        time_constant: Snapshots that make a lead time of 1.
        window: Samples of a window where the source is a driven system's series.
        odd: Field to the axes along which mirroring changes its sign, see `apps.pde.data.mirrors`.

    Raises:
        UserError: If a field is not there.
    """

    name: str
    source: ArraySource
    details: CardDetails = field(default_factory=CardDetails)
    inputs: list[BatchChannel] = field(default_factory=list)
    labels: list[BatchChannel] = field(default_factory=list)
    stored: tuple[str, ...] = ()
    factors: tuple[int, ...] = ()
    missing: str = "error"
    hold: bool = False
    licence: str = ""
    time_constant: float = 1.0
    window: int | None = None
    odd: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.factors = self.factors or (1,) * len(self.source.space)
        self._held: dict[int, NDArray[np.float32]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave what is held behind: a worker reads for itself."""
        return {**self.__dict__, "_held": {}}

    @property
    def space(self) -> tuple[int, ...]:
        """Grid points that a batch has along each axis."""
        return tuple(size // by for size, by in zip(self.source.space, self.factors, strict=True))

    @property
    def coordinates(self) -> tuple[NDArray[np.float64], ...]:
        """Positions of those points."""
        return tuple(at[::by] for at, by in zip(self.source.coordinates, self.factors, strict=True))

    def bind(self, inputs: Sequence[Channel], labels: Sequence[Channel]) -> None:
        """Take the channels, with or without constants, and note which fields have to be read."""
        if self.window is not None:
            initial = (replace(one, name=f"{INITIAL}{one.name}", stored=one.source) for one in labels)
            inputs = [*inputs, *initial]
        wanted = [one.source for one in (*inputs, *labels)] + [self.details.obstacle]
        self.stored = tuple(dict.fromkeys(name for name in wanted if name is not None))
        for name in self.stored:
            if name not in self.source.channels:
                raise UserError(
                    f"{self.source.path} has no field '{name}'{did_you_mean(name, self.source.channels)} "
                    f"(it has {', '.join(self.source.channels)}; data.inputs and data.outputs name others)"
                )
        self.inputs = [self._channel(channel) for channel in inputs]
        self.labels = [self._channel(channel) for channel in labels]

    def scale(self, constants: Mapping[str, tuple[float, float]]) -> None:
        """Give channels the constants `(mean with shift, std)` by name; others keep theirs."""

        def scaled(one: BatchChannel) -> BatchChannel:
            if one.channel.name not in constants:
                return one
            mean, std = constants[one.channel.name]
            return replace(one, channel=replace(one.channel, shift=0.0, mean=mean, std=std))

        self.inputs, self.labels = [scaled(one) for one in self.inputs], [scaled(one) for one in self.labels]

    def measure(self, trajectories: Sequence[int], steps: Sequence[int]) -> dict[str, tuple[float, float]]:
        """Return field to `(mean, std)` over these trajectories and snapshots; one is in memory at a time."""
        total: Moments | None = None
        what = f"data: statistics of {self.name}"
        with counted(what, len(trajectories), unit="trajectories") as advance:
            for trajectory in trajectories:
                fields = np.moveaxis(self.raw(trajectory, steps), 1, 0)
                part = Moments.of(fields.reshape(len(fields), -1))
                total = part if total is None else total + part
                advance(1)
        if total is None:
            raise ValueError("there are no trajectories")
        return {
            name: (float(mean), float(std))
            for name, mean, std in zip(self.stored, total.mean, total.std, strict=True)
        }

    def raw(self, trajectory: int, steps: Sequence[int]) -> NDArray[np.float32]:
        """Return physical values `(len(steps), fields, *space)` on the batch's grid.

        Raises:
            UserError: If a value is not finite, if `missing` is `error`.
        """
        if self.hold:
            if trajectory not in self._held:
                self._held[trajectory] = self._read(trajectory, range(self.source.steps))
            return self._held[trajectory][list(steps)]
        return self._read(trajectory, steps)

    def encode(
        self,
        raw: NDArray[np.float32],
        channels: Sequence[BatchChannel],
        out: NDArray[np.float32],
        *,
        mirrored: Sequence[int] = (),
    ) -> None:
        """Write normalised channels of `raw (S, fields, *space)` into `out (S, C, *space)`.

        Args:
            raw: Physical values, see `raw`; already mirrored.
            channels: Of the batch.
            out: Where to.
            mirrored: The axes along which `flip` mirrored `raw`; what channels are filled with follows.
        """
        for number, one in enumerate(channels):
            values = mirrored_fill(one.fill, mirrored) if one.row is None else raw[:, one.row]
            if one.row is not None and self.window is not None and one.channel.name.startswith(INITIAL):
                values = raw[:, one.row, :1]
            offset, scale = map(np.float32, one.constants)
            out[:, number] = (values - offset) / scale
        if self.missing == "zero":
            np.nan_to_num(out, copy=False, nan=0.0, posinf=0.0, neginf=0.0)

    def obstacle(self, raw: NDArray[np.float32]) -> NDArray[np.bool_] | None:
        """Return where the obstacle is, `(S, *space)`, or None if there is none."""
        name = self.details.obstacle
        return None if name is None else raw[:, self.stored.index(name)] > 0.5

    def flip(self, raw: NDArray[np.float32], axes: Sequence[int]) -> NDArray[np.float32]:
        """Return the mirrored fields; `odd` says which change their sign."""
        if not axes:
            return raw
        out = np.flip(raw, axis=tuple(2 + axis for axis in axes)).copy()
        for row, name in enumerate(self.stored):
            if sum(axis in axes for axis in self.odd.get(name, ())) % 2:
                out[:, row] *= -1
        return out

    def facts(self, *, step: int, reach: float, gamma: float | None = None) -> DatasetFacts:
        """Return what a task must know of this data set; the arguments are those of `DatasetFacts`."""
        source, labels = self.source, [one.channel.name for one in self.labels]
        mean, std = zip(*(one.constants for one in self.inputs), strict=True)
        out_mean, out_std = zip(*(one.constants for one in self.labels), strict=True)
        interest = [name for name in self.details.interest if name in labels]
        units = {
            one.channel.name: source.units.get(one.channel.source or "", "1")
            for one in (*self.inputs, *self.labels)
        }
        axes = {
            axis: (float(at[0]), float(at[-1]), len(at))
            for axis, at in zip("xyz", self.coordinates, strict=False)
        }
        if "time" in source.units:
            units["time"] = source.units["time"]
        if self.window is not None:
            at = source.coordinates[0]
            axes = {"x": (0.0, float(at[1] - at[0]) * (self.window - 1), self.window)}
            units = {"time": "s"} | units
        return DatasetFacts(
            name=self.name,
            mean=mean,
            std=std,
            out_mean=out_mean,
            out_std=out_std,
            interest=tuple(interest or [one.channel.name for one in self.labels if one.row is not None]),
            masked=tuple(one.channel.name for one in self.labels if one.channel.masked),
            time_constant=self.time_constant,
            units=units,
            stored={one.channel.name: one.channel.source for one in self.inputs if one.channel.source},
            fills={one.channel.name: one.channel.fill for one in self.inputs if one.channel.fill is not None},
            times=tuple(source.times.tolist()),
            coordinates=axes,
            axes=("x", "y", "z") if self.window is None else ("time",),
            periodic=self.details.periodic,
            parameters=tuple(source.parameters),
            path=source.path,
            step=step,
            reach=reach,
            gamma=gamma,
        )

    def thinned(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return every how many-th point of `(..., *space)` of the file."""
        kept: Any = (..., *(slice(None, None, by) for by in self.factors))
        return values[kept]

    def _read(self, trajectory: int, steps: Sequence[int]) -> NDArray[np.float32]:
        if not self.stored:
            return np.zeros((len(steps), 0, *self.space), dtype=np.float32)
        raw = self.source.read(trajectory, list(steps), self.stored)
        if any(by > 1 for by in self.factors):
            raw = np.ascontiguousarray(self.thinned(raw))
        if self.missing == "error" and not np.isfinite(raw).all():
            step, row = (int(one[0]) for one in np.nonzero(~np.isfinite(raw))[:2])
            raise UserError(
                f"{self.source.where(trajectory)} has values of {self.stored[row]} that are no numbers in "
                f"trajectory {trajectory}, snapshot {list(steps)[step]}; mend the file, or set "
                "data.prepare.missing to 'zero'"
            )
        return raw

    def _channel(self, channel: Channel) -> BatchChannel:
        if channel.source is not None:
            return BatchChannel(channel, self.stored.index(channel.source))
        if channel.fill == "kolmogorov":
            grid = [
                np.linspace(0.0, 1.0, size)[::by]
                for size, by in zip(self.source.space, self.factors, strict=True)
            ]
            x, y = np.meshgrid(*grid, indexing="ij")
            return BatchChannel(channel, None, (0.1 * np.sin(2 * np.pi * (x + y))).astype(np.float32))
        return BatchChannel(channel, None, float(channel.fill or 0.0))


def thinning(source: ArraySource, resolution: int | Sequence[int] | None, *, option: str) -> tuple[int, ...]:
    """Return every how many-th point is kept along each axis.

    Raises:
        UserError: If the resolution that `option` gives does not divide the grid.
    """
    if resolution is None:
        return (1,) * len(source.space)
    wanted = [resolution] * len(source.space) if isinstance(resolution, int) else list(resolution)
    if len(wanted) != len(source.space) or any(
        size < 1 or have % size for size, have in zip(wanted, source.space, strict=False)
    ):
        grid = " x ".join(map(str, source.space))
        raise UserError(
            f"{option} is {resolution}, which does not divide the grid: {source.path} has {grid} points; "
            "each axis must be a whole multiple of the resolution, for every k-th point is kept"
        )
    return tuple(have // size for size, have in zip(wanted, source.space, strict=True))


def default_details(source: ArraySource, details: CardDetails, *, steady: bool) -> CardDetails:
    """Return the details with what can be said without a card: all fields are channels, to be standardised.

    Raises:
        UserError: If a steady problem has only one field.
    """

    def channels(names: Sequence[str]) -> list[Channel]:
        constants = ((name, *source.statistics.get(name, (None, None))) for name in names)
        return [Channel(name, mean=mean, std=std) for name, mean, std in constants]

    inputs, outputs = list(source.channels), None
    if steady:
        inputs = [name for name in source.inputs if name in source.channels] or inputs[:1]
        outputs = [name for name in source.channels if name not in inputs]
        if not outputs:
            raise UserError(
                f"{source.path} has only the field {inputs[0]}; a steady problem needs an input and a "
                "solution"
            )
    return replace(
        details,
        channels=channels(inputs),
        outputs=None if outputs is None else channels(outputs),
        steady=steady,
        periodic=details.periodic or source.periodic,
    )


def merged(names: Sequence[Sequence[str]]) -> list[str]:
    """Return the union of channel names in order; the fields of a fluid come first, in their usual order."""
    union = list(dict.fromkeys(name for one in names for name in one))
    if len(names) > 1 and ("density" in union or "pressure" in union):
        first = [name for name in FLUID if name in union]
        union = first + [name for name in union if name not in first]
    return union


def complete(
    own: Mapping[str, Channel], names: Sequence[str], others: Mapping[str, Channel], where: str
) -> list[Channel]:
    """Return one channel for each of `names`: the set's own, else a filled one.

    A channel that only other sets of a mixture have is filled with zero and masked; the density of a flow
    without one is 1 and counts, as that of an incompressible flow. The constants are those of the set that
    has it.

    Raises:
        UserError: If no set has it and it is no field of a fluid.
    """
    found = []
    for name in names:
        if name not in own and name not in others and name not in _FILLS:
            raise UserError(
                f"{where} has no channel '{name}'{did_you_mean(name, own)} "
                f"(it has {', '.join(own) or 'none'}; data.inputs and data.outputs name others)"
            )
        other = others.get(name)
        found.append(
            own.get(name)
            or Channel(
                name=name,
                fill=_FILLS.get(name, 0.0),
                mean=0.0 if other is None or other.mean is None else other.mean,
                std=1.0 if other is None or other.std is None else other.std,
                masked=name != "density" or "velocity_x" not in own,
            )
        )
    return found


def channel_groups(every: Sequence[CardDetails], names: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return the starts of the groups (last = number of labels) and their names.

    The first set that says how any of the labels belong together decides; components of a vector that stand
    side by side are one group otherwise.
    """
    member = {}
    for details in reversed(every):
        member.update({channel: group for group, some in details.groups.items() for channel in some})
    starts: list[int] = []
    titles: list[str] = []
    for number, name in enumerate(names):
        vector, _, letter = name.rpartition("_")
        title = member.get(name) or (vector if vector in VECTORS and letter in "xyz" else name)
        if not titles or titles[-1] != title:
            starts.append(number)
            titles.append(title)
    return [*starts, len(names)], titles
