"""Opened sources split, scaled and tied to one set of channels on one grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apps.pde.batch import DatasetFacts
from apps.pde.data.channels import Bound, complete, default_spec, merged
from apps.pde.data.mirrors import tell_odd_fields
from apps.pde.data.named_sources import Opened
from apps.pde.data.named_sources import opened as open_entry
from apps.pde.data.readers.arrays import ArraySource
from apps.pde.data.spec import Channel, Spec
from apps.pde.data.windows import Counts, fractions, split
from core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from apps.pde.data.module import Fields

__all__ = ["Part", "Parts", "build"]


@dataclass(frozen=True)
class Part:
    """Some trajectories of one source."""

    bound: Bound
    rows: Sequence[int]


@dataclass(frozen=True)
class Parts:
    """Everything a data module needs of its sources.

    Attributes:
        bound: The sources, as they are trained on.
        train: Training part of each.
        val: Validation part of each.
        test: Test part of each.
        kind: Kind of windows.
        frames: Input frames.
        horizon: Label frames of histories.
        mask: Whether batches carry a mask: `none`, `channels` or `points`.
        parameters: Names of the equation's numbers that they carry.
        notes: What was decided, for the user.
    """

    bound: list[Bound]
    train: list[Part]
    val: list[Part]
    test: list[Part]
    kind: str
    frames: int
    horizon: int
    mask: str
    parameters: tuple[str, ...]
    notes: list[str]

    def close(self) -> None:
        """Close the files of this process: forked workers must not inherit them."""
        for part in (*self.train, *self.val, *self.test):
            part.bound.source.close()


def build(data: Fields) -> Parts:
    """Open, check, split and scale the sources of a data module.

    Raises:
        UserError: For every mistake of the user.
    """
    notes: list[str] = []
    opened = [open_entry(entry, data) for entry in data.entries]
    kind, frames, horizon = _kind(data, opened)
    for one in opened:
        if not one.spec.channels:
            one.spec = _filled(one.spec, one.train, steady=kind == "steady")
    inputs = data.inputs or merged([[c.name for c in one.spec.channels] for one in opened])
    labels = _labels(data, opened, inputs, kind)
    known: dict[str, Channel] = {}
    for one in opened:
        for channel in (*one.spec.channels, *one.spec.labels):
            known.setdefault(channel.name, channel)
    bounds: list[dict[str, Bound]] = []
    parts: dict[str, list[Part]] = {"train": [], "val": [], "test": []}
    for one in opened:
        rows = _rows(data, one, notes)
        made: dict[str, Bound] = {}
        shared: dict[int, Bound] = {}
        for part in ("train", "val", "test"):
            source = getattr(one, part) or one.train
            if id(source) not in shared:
                shared[id(source)] = _bound(data, one, source, inputs, labels, known, strict=part != "test")
            made[part] = shared[id(source)]
        bounds.append(made)
        for part, chosen in zip(parts, rows, strict=True):
            parts[part].append(Part(made[part], chosen))
    _check_grids([made["train"] for made in bounds])
    if data.flips:
        tell_odd_fields(bounds, data.vectors)
    _scale(data, bounds, parts["train"], kind, notes)
    budget = sum(_size(part.bound) for part in (*parts["train"], *parts["test"]))
    for made in bounds:
        for bound in made.values():
            bound.hold = budget <= data.keep_mb * 1e6
    main = [made["train"] for made in bounds]
    return Parts(
        bound=main,
        train=parts["train"],
        val=parts["val"],
        test=parts["test"],
        kind=kind,
        frames=frames,
        horizon=horizon,
        mask=_mask(main),
        parameters=_parameters(data.parameters, main),
        notes=notes,
    )


def _kind(data: Fields, opened: Sequence[Opened]) -> tuple[str, int, int]:
    """Return the kind of windows, their input frames and their label frames."""
    first, kind = opened[0], data.kind
    if kind is None and (
        first.spec.steady or (first.train.steps == 1 and (first.spec.outputs or first.train.inputs))
    ):
        kind = "steady"
    if kind in ("steady", "pairs"):
        return kind, 1, 1
    frames = _agreed("frames", data.frames, {one.name: one.spec.frames for one in opened})
    horizon = _agreed("horizon", data.horizon, {one.name: one.spec.horizon_frames for one in opened})
    return kind or ("history" if frames > 1 or horizon > 1 else "pairs"), frames, horizon


def _agreed(name: str, given: int | None, cards: Mapping[str, int | None]) -> int:
    """Return what the recipe gives, else what the cards say, else 1.

    Raises:
        UserError: If the cards of a mixture differ.
    """
    if given is not None:
        return given
    said = {card: value for card, value in cards.items() if value is not None}
    if len(set(said.values())) > 1:
        told = ", ".join(f"{card} {value}" for card, value in said.items())
        raise UserError(f"the cards have different {name} ({told}); give data.{name}")
    return next(iter(said.values()), 1)


def _filled(spec: Spec, source: ArraySource, *, steady: bool) -> Spec:
    made = default_spec(source, steady=steady)
    channels, outputs = made.channels, made.outputs
    if source.statistics:

        def known(channel: Channel) -> Channel:
            mean, std = source.statistics.get(channel.name, (None, None))
            return dataclasses.replace(channel, mean=mean, std=std)

        channels = [known(channel) for channel in channels]
        outputs = None if outputs is None else [known(channel) for channel in outputs]
    return dataclasses.replace(
        spec, channels=channels, outputs=outputs, steady=steady, periodic=spec.periodic or source.periodic
    )


def _labels(data: Fields, opened: Sequence[Opened], inputs: Sequence[str], kind: str) -> list[str]:
    if data.outputs:
        return list(data.outputs)
    own = merged([[channel.name for channel in one.spec.labels] for one in opened])
    if kind == "steady":
        return own
    return [name for name in inputs if name in own or name in ("density", "pressure")]


def _bound(
    data: Fields,
    one: Opened,
    source: ArraySource,
    inputs: Sequence[str],
    labels: Sequence[str],
    known: Mapping[str, Channel],
    *,
    strict: bool,
) -> Bound:
    bound = Bound(
        name=one.name,
        source=source,
        spec=one.spec,
        factors=_factors(source, data.resolution if strict or data.test_path is None else None),
        missing=data.missing,
        licence=one.licence,
        time_constant=_time_constant(data, one, source),
    )
    held = {name for channels in (one.spec.channels, one.spec.labels) for name in (c.name for c in channels)}
    extra = [Channel(name) for name in source.channels if name not in held]
    own = [*one.spec.channels, *extra]
    bound.bind(
        complete(own, inputs, known, source.path),
        complete([*one.spec.labels, *own], labels, known, source.path),
    )
    return bound


def _time_constant(data: Fields, one: Opened, source: ArraySource) -> float:
    chosen = data.time_constant or one.spec.time_constant
    if chosen is None and data.statistics:
        chosen = _checkpoints(data, one.name).time_constant
    return float(chosen) if chosen else float(max(source.steps - 1, 1))


def _factors(source: ArraySource, resolution: int | Sequence[int] | None) -> tuple[int, ...]:
    if resolution is None:
        return (1,) * len(source.space)
    wanted = [resolution] * len(source.space) if isinstance(resolution, int) else list(resolution)
    grid = " x ".join(map(str, source.space))
    if len(wanted) != len(source.space) or any(
        size < 1 or have % size for size, have in zip(wanted, source.space, strict=False)
    ):
        raise UserError(
            f"data.resolution is {resolution}, but {source.path} has {grid} points; each axis must be "
            "a whole multiple of the resolution, for every k-th point is kept"
        )
    return tuple(have // size for size, have in zip(wanted, source.space, strict=True))


def _check_grids(bounds: Sequence[Bound]) -> None:
    first = bounds[0]
    for other in bounds[1:]:
        if other.space != first.space:
            raise UserError(
                f"{other.name} has a grid of {' x '.join(map(str, other.space))} points and {first.name} one "
                f"of {' x '.join(map(str, first.space))}; give data.resolution, or leave one of them out"
            )


def _rows(data: Fields, one: Opened, notes: list[str]) -> tuple[range, range, range]:
    """Return the trajectories of the three parts, each counted in its own source."""
    total = one.train.trajectories
    published = one.spec.split
    if published is not None and published.total != total and one.val is None and one.test is None:
        if data.val_trajectories is None or data.test_trajectories is None:
            notes.append(
                f"{one.name} has {total} trajectories, published are {published.total}; a tenth each is for "
                "validation and test"
            )
        published = None
    usual = fractions(total) if published is None else Counts(total, published.val, published.test)
    val = usual.val if data.val_trajectories is None else data.val_trajectories
    test = usual.test if data.test_trajectories is None else data.test_trajectories
    counts = Counts(total, 0 if one.val else val, 0 if one.test else test)
    rows = list(split(counts, data.trajectories))
    for place, source, limit in ((1, one.val, data.val_trajectories), (2, one.test, data.test_trajectories)):
        if source is not None:
            size = source.trajectories
            if limit is not None and limit > size:
                raise UserError(f"{source.path} has {size} trajectories, {limit} are asked for")
            rows[place] = range(size if limit is None else limit)
    return rows[0], rows[1], rows[2]


def _scale(
    data: Fields, bounds: Sequence[Mapping[str, Bound]], train: Sequence[Part], kind: str, notes: list[str]
) -> None:
    """Give every channel its constants."""
    for number, made in enumerate(bounds):
        bound = made["train"]
        places = (*bound.inputs, *bound.labels)
        constants: dict[str, tuple[float, float]] = {}
        if data.statistics:
            constants = _known(data, bound.name)
        elif data.normalise == "none":
            constants = {place.channel.name: (0.0, 1.0) for place in places}
        else:
            anew = data.normalise == "statistics"
            lacking = [
                place.channel
                for place in places
                if place.row is not None and (anew or place.channel.mean is None or place.channel.std is None)
            ]
            if lacking:
                rows = train[number].rows
                steps = range(bound.source.steps)
                measured = bound.measure(rows, steps)
                constants = {channel.name: measured[channel.source or ""] for channel in lacking}
                notes.append(
                    f"{bound.name}: {', '.join(dict.fromkeys(channel.name for channel in lacking))} scaled "
                    f"with the mean and deviation of {len(rows)} training trajectories"
                )
        for one in {id(one): one for one in made.values()}.values():
            one.scale(constants)
    if data.statistics or data.normalise == "none":
        return
    # A channel that one set lacks is filled in the units of a set that has it.
    have = {
        place.channel.name: place.channel
        for made in bounds
        for place in (*made["train"].inputs, *made["train"].labels)
        if place.row is not None
    }
    for made in bounds:
        for one in {id(one): one for one in made.values()}.values():
            filled = [p.channel for p in (*one.inputs, *one.labels) if p.row is None]
            own = {channel.name for channel in (*one.spec.channels, *one.spec.labels)}
            one.scale(
                {
                    channel.name: (have[channel.name].mean or 0.0, have[channel.name].std or 1.0)
                    for channel in filled
                    if channel.name in have and channel.name not in own
                }
            )


def _checkpoints(data: Fields, name: str) -> DatasetFacts:
    return next((one for one in data.statistics if one.name == name), data.statistics[0])


def _known(data: Fields, name: str) -> dict[str, tuple[float, float]]:
    """Return the constants of a checkpoint's data set of that name, else of its first one."""
    found = _checkpoints(data, name)
    inputs, outputs = data._statistics_names
    constants = {}
    for names, means, stds in (
        (outputs, found.out_mean, found.out_std),
        (inputs, found.mean, found.std),
    ):
        constants.update({one: (m, s) for one, m, s in zip(names, means, stds, strict=True)})
    return constants


def _mask(bounds: Sequence[Bound]) -> str:
    if any(bound.spec.obstacle for bound in bounds):
        return "points"
    return "channels" if any(place.channel.masked for bound in bounds for place in bound.labels) else "none"


def _parameters(asked: bool | Sequence[str], bounds: Sequence[Bound]) -> tuple[str, ...]:
    """Return the numbers of the equation that batches carry.

    Raises:
        UserError: If a source lacks one that is named.
    """
    own = [bound.source.parameters for bound in bounds]
    if isinstance(asked, bool):
        return own[0] if asked and all(names == own[0] for names in own) else ()
    for bound, names in zip(bounds, own, strict=True):
        for name in asked:
            if name not in names:
                raise UserError(
                    f"data.parameters has '{name}', which {bound.source.path} does not give"
                    f"{did_you_mean(name, names)} (it gives {', '.join(names) or 'none'})"
                )
    return tuple(asked)


def _size(bound: Bound) -> float:
    points = 1
    for size in bound.space:
        points *= size
    return 4.0 * bound.source.trajectories * bound.source.steps * len(bound.stored) * points
