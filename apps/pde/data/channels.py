"""A source tied to a network's channels: which field fills which channel, scaled how, masked where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.pde.batch import DatasetFacts
from apps.pde.data.mirrors import VECTORS, mirrored_fill
from apps.pde.data.readers.arrays import ArraySource
from apps.pde.data.spec import Channel, Spec
from core.data.counting import counted
from core.data.statistics import Moments
from core.errors import UserError, did_you_mean

__all__ = ["FLUID", "Bound", "channel_groups", "complete", "default_spec", "merged"]

FLUID = ("density", "velocity_x", "velocity_y", "pressure")
_FILLS = {"density": 1.0, "pressure": 0.0}
"""What an incompressible flow has where a compressible one has a field; the pressure counts in no error."""


@dataclass(frozen=True)
class Place:
    """One channel of a batch.

    Attributes:
        channel: Its name, constants and mask; mean and std are known.
        row: Place among the fields that are read, or None where it is filled.
        fill: `(*space)` or a number, physical, where it is filled.
    """

    channel: Channel
    row: int | None
    fill: NDArray[np.float32] | float = 0.0


@dataclass(eq=False)
class Bound:
    """Reads one source as normalised channels.

    Attributes:
        name: Of the data set, for messages and facts.
        source: The trajectories.
        spec: What the card says, or what was made of the file.
        inputs: Channels of the network's input.
        labels: Channels of the labels.
        factors: Every how many-th point is kept along each axis.
        missing: What to do with values that are not finite: `error` or `zero`.
        hold: Whether trajectories stay in memory once they are read.
        licence: Of the data.
        time_constant: Snapshots that make a lead time of 1.
        odd: Field to the axes along which mirroring changes its sign, see
            `apps.pde.data.mirrors`.
    """

    name: str
    source: ArraySource
    spec: Spec
    inputs: list[Place] = field(default_factory=list)
    labels: list[Place] = field(default_factory=list)
    stored: tuple[str, ...] = ()
    factors: tuple[int, ...] = ()
    missing: str = "error"
    hold: bool = False
    licence: str = ""
    time_constant: float = 1.0
    odd: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
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
        wanted: list[str] = []
        for channel in (*inputs, *labels):
            if channel.source is not None and channel.source not in wanted:
                wanted.append(channel.source)
        if self.spec.obstacle is not None and self.spec.obstacle not in wanted:
            wanted.append(self.spec.obstacle)
        for name in wanted:
            if name not in self.source.channels:
                raise UserError(
                    f"{self.source.path} has no field '{name}'{did_you_mean(name, self.source.channels)} "
                    f"(it has {', '.join(self.source.channels)}; data.inputs and data.outputs name others)"
                )
        self.stored = tuple(wanted)
        self.inputs = [self._place(channel) for channel in inputs]
        self.labels = [self._place(channel) for channel in labels]

    def scale(self, constants: Mapping[str, tuple[float, float]]) -> None:
        """Give channels the constants `(mean with shift, std)` by name; others keep theirs."""

        def scaled(place: Place) -> Place:
            if place.channel.name not in constants:
                return place
            mean, std = constants[place.channel.name]
            return replace(place, channel=replace(place.channel, shift=0.0, mean=mean, std=std))

        self.inputs = [scaled(place) for place in self.inputs]
        self.labels = [scaled(place) for place in self.labels]

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
            UserError: If a value is not finite and `missing` is `error`.
        """
        if self.hold:
            if trajectory not in self._held:
                self._held[trajectory] = self._read(trajectory, range(self.source.steps))
            return self._held[trajectory][list(steps)]
        return self._read(trajectory, steps)

    def encode(
        self,
        raw: NDArray[np.float32],
        places: Sequence[Place],
        out: NDArray[np.float32],
        *,
        mirrored: Sequence[int] = (),
    ) -> None:
        """Write normalised channels of `raw (S, fields, *space)` into `out (S, C, *space)`.

        Args:
            raw: Physical values, see `raw`; already mirrored.
            places: The channels.
            out: Where to.
            mirrored: The axes along which `flip` mirrored `raw`; what channels are filled with follows.
        """
        for number, place in enumerate(places):
            channel = place.channel
            values = mirrored_fill(place.fill, mirrored) if place.row is None else raw[:, place.row]
            offset, scale = np.float32(channel.shift + (channel.mean or 0.0)), np.float32(channel.std or 1.0)
            out[:, number] = (values - offset) / scale
        if self.missing == "zero":
            np.nan_to_num(out, copy=False, nan=0.0, posinf=0.0, neginf=0.0)

    def obstacle(self, raw: NDArray[np.float32]) -> NDArray[np.bool_] | None:
        """Return where the obstacle is, `(S, *space)`, or None if there is none."""
        name = self.spec.obstacle
        return None if name is None else raw[:, self.stored.index(name)] > 0.5

    def flip(self, raw: NDArray[np.float32], axes: Sequence[int]) -> NDArray[np.float32]:
        """Return the mirrored fields; `odd` says which change their sign."""
        if not axes:
            return raw
        out = np.flip(raw, axis=[2 + axis for axis in axes]).copy()
        for row, name in enumerate(self.stored):
            if sum(axis in axes for axis in self.odd.get(name, ())) % 2:
                out[:, row] *= -1
        return out

    def facts(self, *, step: int, reach: int) -> DatasetFacts:
        """Return what a task must know of this data set.

        Args:
            step: Snapshots of one step of a rollout.
            reach: Longest lead that is trained, in snapshots.
        """
        mean, std = _constants(self.inputs)
        out_mean, out_std = _constants(self.labels)
        labels = [place.channel.name for place in self.labels]
        interest = [name for name in self.spec.interest if name in labels]
        return DatasetFacts(
            name=self.name,
            mean=mean,
            std=std,
            out_mean=out_mean,
            out_std=out_std,
            interest=tuple(interest or [p.channel.name for p in self.labels if p.row is not None]),
            masked=tuple(place.channel.name for place in self.labels if place.channel.masked),
            time_constant=self.time_constant,
            units={
                place.channel.name: self.source.units.get(place.channel.source or "", "1")
                for place in (*self.inputs, *self.labels)
            },
            stored={p.channel.name: p.channel.source for p in self.inputs if p.channel.source},
            fills={p.channel.name: p.channel.fill for p in self.inputs if p.channel.fill is not None},
            times=tuple(self.source.times.tolist()),
            coordinates={
                axis: (float(at[0]), float(at[-1]), len(at))
                for axis, at in zip("xyz", self.coordinates, strict=False)
            },
            periodic=self.spec.periodic,
            parameters=tuple(self.source.parameters),
            path=self.source.path,
            step=step,
            reach=reach,
        )

    def _read(self, trajectory: int, steps: Sequence[int]) -> NDArray[np.float32]:
        if not self.stored:
            return np.zeros((len(steps), 0, *self.space), dtype=np.float32)
        raw = self.source.read(trajectory, list(steps), self.stored)
        if any(by > 1 for by in self.factors):
            raw = np.ascontiguousarray(raw[(..., *(slice(None, None, by) for by in self.factors))])
        if self.missing == "error" and not np.isfinite(raw).all():
            step, row = (int(one[0]) for one in np.nonzero(~np.isfinite(raw))[:2])
            raise UserError(
                f"{self.source.where(trajectory)} has values of {self.stored[row]} that are no numbers in "
                f"trajectory {trajectory}, snapshot {list(steps)[step]}; mend the file, or set "
                "data.missing to 'zero'"
            )
        return raw

    def _place(self, channel: Channel) -> Place:
        if channel.source is not None:
            return Place(channel, self.stored.index(channel.source))
        if channel.fill == "kolmogorov":
            grid = [
                np.linspace(0.0, 1.0, size)[::by]
                for size, by in zip(self.source.space, self.factors, strict=True)
            ]
            x, y = np.meshgrid(*grid, indexing="ij")
            return Place(channel, None, (0.1 * np.sin(2 * np.pi * (x + y))).astype(np.float32))
        return Place(channel, None, float(channel.fill or 0.0))


def _constants(places: Sequence[Place]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean, with the shift in it, and the deviation of each channel."""
    means = tuple(place.channel.shift + (place.channel.mean or 0.0) for place in places)
    return means, tuple(place.channel.std or 1.0 for place in places)


def default_spec(source: ArraySource, *, steady: bool) -> Spec:
    """Return what can be said of a source without a card: all fields are channels, to be standardised.

    Raises:
        UserError: If a steady problem has only one field.
    """
    names = list(source.channels)
    outputs = None
    if steady:
        given = [name for name in source.inputs if name in names] or names[:1]
        outputs = [Channel(name) for name in names if name not in given]
        if not outputs:
            raise UserError(
                f"{source.path} has only the field {names[0]}; a steady problem needs an input and a solution"
            )
        names = given
    return Spec(
        channels=[Channel(name) for name in names],
        outputs=outputs,
        steady=steady,
        periodic=source.periodic,
    )


def merged(names: Sequence[Sequence[str]]) -> list[str]:
    """Return the union of channel names in order; the fields of a fluid come first, in their usual order."""
    union: list[str] = []
    for one in names:
        union += [name for name in one if name not in union]
    if len(names) > 1 and ("density" in union or "pressure" in union):
        first = [name for name in FLUID if name in union]
        union = first + [name for name in union if name not in first]
    return union


def complete(
    spec: Sequence[Channel], names: Sequence[str], others: Mapping[str, Channel], where: str
) -> list[Channel]:
    """Return one channel for each of `names`: the set's own, else a filled one.

    A channel that only other sets of a mixture have is filled with zero and masked; the density of a flow
    without one is 1 and counts, as that of an incompressible flow. The constants are those of the set that
    has it.

    Raises:
        UserError: If no set has it and it is no field of a fluid.
    """
    own = {channel.name: channel for channel in spec}
    found = []
    for name in names:
        if name in own:
            found.append(own[name])
            continue
        if name not in others and name not in _FILLS:
            raise UserError(
                f"{where} has no channel '{name}'{did_you_mean(name, own)} "
                f"(it has {', '.join(own) or 'none'}; data.inputs and data.outputs name others)"
            )
        known = others.get(name)
        found.append(
            Channel(
                name=name,
                fill=_FILLS.get(name, 0.0),
                mean=0.0 if known is None or known.mean is None else known.mean,
                std=1.0 if known is None or known.std is None else known.std,
                masked=name != "density" or "velocity_x" not in own,
            )
        )
    return found


def channel_groups(specs: Sequence[Spec], names: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return the starts of the groups (last = number of labels) and their names.

    The first spec that says how any of the labels belong together decides; components of a vector that stand
    side by side are one group otherwise.
    """
    member = {}
    for spec in reversed(specs):
        member.update({channel: group for group, channels in spec.groups.items() for channel in channels})
    starts: list[int] = []
    titles: list[str] = []
    for place, name in enumerate(names):
        vector, _, letter = name.rpartition("_")
        title = member.get(name) or (vector if vector in VECTORS and letter in "xyz" else name)
        if not titles or titles[-1] != title:
            starts.append(place)
            titles.append(title)
    return [*starts, len(names)], titles
