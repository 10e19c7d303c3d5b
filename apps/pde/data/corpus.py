"""Opened sources split, scaled and tied to one set of channels on one grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from apps.pde.batch import DatasetFacts, FieldFacts
from apps.pde.data.card_details import Channel
from apps.pde.data.channels import (
    INITIAL,
    ChannelReader,
    channel_groups,
    complete,
    default_details,
    merged,
    thinning,
)
from apps.pde.data.mirrors import odd_fields
from apps.pde.data.readers.arrays import ArraySource, other_units
from apps.pde.data.settings import FieldSettings
from apps.pde.data.sources import OpenSource, open_named, part_rows
from apps.pde.data.window_settings import Histories, Pairs, Steady, WindowSettings
from core.errors import UserError, did_you_mean

__all__ = ["Corpus", "SourcePart", "build"]

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class SourcePart:
    """Some trajectories of one source."""

    reader: ChannelReader
    rows: Sequence[int]


@dataclass(frozen=True)
class Corpus:
    """Everything a data module needs of its sources.

    Attributes:
        readers: The sources, as they are trained on.
        train: Training part of each.
        val: Validation part of each.
        test: Test part of each.
        windows: How trajectories are cut.
        frames: Input frames.
        mask: Whether batches carry a mask: `none`, `channels` or `points`.
        parameters: Names of the equation's numbers that they carry.
        notes: What was decided, for the user.
    """

    readers: list[ChannelReader]
    train: list[SourcePart]
    val: list[SourcePart]
    test: list[SourcePart]
    windows: WindowSettings
    frames: int
    mask: str
    parameters: tuple[str, ...]
    notes: list[str]

    def close(self) -> None:
        """Close the files of this process: forked workers must not inherit them."""
        for part in (*self.train, *self.val, *self.test):
            part.reader.source.close()

    def facts(self) -> FieldFacts:
        """Return what a task must know, enough to predict from a checkpoint alone."""
        first, windows = self.readers[0], self.windows
        outputs = [one.channel.name for one in first.labels]
        groups, titles = channel_groups([one.details for one in self.readers], outputs)
        datasets = [
            reader.facts(
                step=windows.frame_steps(reader)[0],
                reach=windows.reach(reader, self.frames),
                gamma=_heat_ratio(part),
            )
            for reader, part in zip(self.readers, self.test, strict=True)
        ]
        return FieldFacts(
            inputs=tuple(one.channel.name for one in first.inputs),
            outputs=tuple(outputs),
            frames=self.frames,
            windows=windows.name,
            space=first.space if first.window is None else (first.window,),
            periodic=all(one.details.periodic for one in self.readers),
            groups=tuple(groups),
            group_names=tuple(titles),
            datasets=tuple(datasets),
            licences=tuple(sorted({one.licence or _unlicensed(one.source) for one in self.readers})),
            sources=tuple(one.name for one in self.readers),
            parameters=self.parameters,
        )


def build(settings: FieldSettings) -> Corpus:
    """Open, check, split and scale the sources that a recipe names.

    Raises:
        UserError: For every mistake of the user.
    """
    notes: list[str] = []
    sources = [open_named(named, settings) for named in settings.sources]
    windows, frames = _windows(settings, sources)
    for source in sources:
        if not source.details.channels:
            source.details = default_details(source.train, source.details, steady=windows.steady)
        if settings.prepare.periodic is not None:
            source.details = replace(source.details, periodic=settings.prepare.periodic)
    inputs = settings.inputs or merged([[c.name for c in source.details.channels] for source in sources])
    labels = settings.outputs or _labels(sources, inputs, steady=windows.steady)
    every = _by_name([c for s in sources for c in (*s.details.channels, *s.details.labels)])
    cuts = [_cut(settings, source, windows, (inputs, labels), every, notes) for source in sources]
    train, val, test = ([cut[part] for cut in cuts] for part in PARTS)
    main = [part.reader for part in train]
    for other in main[1:]:
        if other.space != main[0].space:
            raise UserError(
                f"{other.name} has a grid of {' x '.join(map(str, other.space))} points and {main[0].name} "
                f"one of {' x '.join(map(str, main[0].space))}; give data.prepare.resolution, or leave "
                "one of them out"
            )
    readers = list(dict.fromkeys(part.reader for cut in cuts for part in cut.values()))
    _check_units(readers, settings.trained)
    for source, part in zip(sources, train, strict=True):
        if source.own:
            notes += _silent_choices(settings, part, windows)
    if settings.prepare.flips:
        _find_odd_fields(readers, settings.prepare.vectors)
    _scale(settings, cuts, notes)
    size = sum(_bytes(part.reader) for part in (*train, *test))
    for reader in readers:
        reader.hold = size <= settings.prepare.keep_mb * 1e6
    return Corpus(
        readers=main,
        train=train,
        val=val,
        test=test,
        windows=windows,
        frames=frames,
        mask=_mask(main),
        parameters=_parameters(settings.parameters, main),
        notes=notes,
    )


def _cut(
    settings: FieldSettings,
    source: OpenSource,
    windows: WindowSettings,
    names: tuple[Sequence[str], Sequence[str]],
    others: Mapping[str, Channel],
    notes: list[str],
) -> dict[str, SourcePart]:
    """Return the parts of a source, each read as the channels of these names, inputs and labels."""
    cut: dict[str, SourcePart] = {}
    readers: dict[int, ChannelReader] = {}
    for part, rows in zip(PARTS, part_rows(settings, source, notes), strict=True):
        file, details = getattr(source, part) or source.train, source.details
        if id(file) not in readers:
            windows.check(file)
            coarse = part != "test" or settings.test.path is None
            reader = readers[id(file)] = _reader(settings, source, file, windows, coarse=coarse)
            pool = _by_name([*details.channels, *details.labels, *map(Channel, file.channels)])
            label_pool = pool | {channel.name: channel for channel in details.labels}
            reader.bind(
                complete(pool, names[0], others, file.path), complete(label_pool, names[1], others, file.path)
            )
        cut[part] = SourcePart(readers[id(file)], rows)
    return cut


def _check_units(readers: Sequence[ChannelReader], trained: FieldFacts | None) -> None:
    """Refuse sources that have times or a field in different units, or in others than a checkpoint's data."""
    stated: dict[str, tuple[str, str]] = {}
    for facts in () if trained is None else trained.datasets:
        said = {name: (unit, facts.path) for name, unit in facts.units.items() if unit not in ("", "1")}
        stated = said | stated
    for reader in readers:
        source = reader.source
        fields = {one.channel.name: one.channel.source or "" for one in (*reader.inputs, *reader.labels)}
        for name, stored in {**fields, "time": "time"}.items():
            unit = source.units.get(stored, "1")
            known, path = stated.get(name, (unit, ""))
            if other_units(known, unit):
                raise UserError(f"{source.path} has {name} in {unit}, {path} in {known}; convert one")
            if unit not in ("", "1"):
                stated.setdefault(name, (unit, source.path))


def _silent_choices(settings: FieldSettings, part: SourcePart, windows: WindowSettings) -> list[str]:
    """Return what is taken of a user's own trajectories, where the recipe or a default decides it."""
    reader, source = part.reader, part.reader.source
    notes = []
    if source.walls_assumed and settings.prepare.periodic is None and not windows.steady:
        notes.append(
            f"{reader.name} does not say whether its domain is periodic; walls are assumed, so spectra and "
            "totals are not scored (data.prepare.periodic true changes it)"
        )
    uneven = [
        axis
        for axis, at in zip("xyz", source.coordinates, strict=False)
        if len(at) > 2 and not np.allclose(np.diff(at), at[1] - at[0], rtol=0.01)
    ]
    if uneven and windows.window is None:
        notes.append(
            f"{reader.name} has unequal distances along {', '.join(uneven)}; networks see points alone"
        )
    if isinstance(windows, Pairs):
        last = windows.usual_labels(reader) * windows.frame_steps(reader)[0] + (windows.fix_input_to or 0)
        if last < source.steps - 1:
            notes.append(
                f"{reader.name}: snapshots 0 to {last} of {source.steps} are used, as data.windows.max_steps "
                "and step say"
            )
    return notes


def _unlicensed(source: ArraySource) -> str:
    return f"{Path(source.path).name}: not stated"


def _windows(settings: FieldSettings, sources: Sequence[OpenSource]) -> tuple[WindowSettings, int]:
    """Return how trajectories are cut, as the recipe or the cards say, and the number of input frames."""
    first, windows = sources[0], settings.windows
    if windows is None and (
        first.details.steady or (first.train.steps == 1 and (first.details.outputs or first.train.inputs))
    ):
        windows = Steady()
    if windows is not None and not isinstance(windows, Histories):
        return windows, 1
    frames = _agreed("frames", settings.frames, {one.name: one.details.frames for one in sources})
    given = None if windows is None else windows.horizon
    horizon = _agreed("windows.horizon", given, {one.name: one.details.horizon_frames for one in sources})
    if windows is None and frames == horizon == 1:
        return Pairs(), 1
    return replace(windows or Histories(), horizon=horizon), frames


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


def _labels(sources: Sequence[OpenSource], inputs: Sequence[str], *, steady: bool) -> list[str]:
    own = merged([[channel.name for channel in one.details.labels] for one in sources])
    return own if steady else [name for name in inputs if name in own or name in ("density", "pressure")]


def _by_name(channels: Sequence[Channel]) -> dict[str, Channel]:
    """Return the first channel of each name."""
    return {channel.name: channel for channel in reversed(channels)}


def _reader(
    settings: FieldSettings, one: OpenSource, source: ArraySource, windows: WindowSettings, *, coarse: bool
) -> ChannelReader:
    constant = settings.prepare.time_constant or one.details.time_constant
    if constant is None and settings.trained is not None:
        constant = _trained_dataset(settings.trained, one.name).time_constant
    resolution = settings.prepare.resolution if coarse else None
    return ChannelReader(
        name=one.name,
        source=source,
        details=one.details,
        factors=thinning(source, resolution, option="data.prepare.resolution"),
        missing=settings.prepare.missing,
        licence=one.licence,
        time_constant=float(constant) if constant else float(max(source.clock[-1], 1.0)),
        window=windows.window,
    )


def _find_odd_fields(readers: Sequence[ChannelReader], vectors: Sequence[Sequence[str]] | None) -> None:
    """Note in every reader which of its fields change their sign in a mirror.

    Args:
        readers: Of every source and part.
        vectors: What the recipe names, see `odd_fields`; None if nothing.

    Raises:
        UserError: If none of a source's fields is known to and none is named, or a named one is nowhere.
    """
    read: set[str] = set()
    for reader in readers:
        channels = {one.channel.name: one.channel.source for one in (*reader.inputs, *reader.labels)}
        named = [[channels.get(name) or name for name in vector] for vector in vectors or ()]
        space = len(reader.space)
        if wrong := next((vector for vector in named if len(vector) > space), None):
            raise UserError(
                f"data.prepare.vectors has {', '.join(wrong)}, but {reader.name} has {space} axes; name one "
                "component an axis, along x first"
            )
        reader.odd = odd_fields(reader.source.channels, space, named)
        read.update(channels, reader.source.channels)
        if vectors is None and not any(name in reader.odd for name in reader.stored):
            raise UserError(
                f"data.prepare.flips mirrors {', '.join(reader.stored)} of {reader.name}, of which none is "
                "known as a component of a vector; name those in data.prepare.vectors, as in [[u, v]], or "
                "give [] if all are scalars"
            )
    for name in (name for vector in vectors or () for name in vector):
        if name not in read:
            raise UserError(
                f"data.prepare.vectors has '{name}', which is no field{did_you_mean(name, read)} "
                f"(there are {', '.join(sorted(read))})"
            )


def _scale(settings: FieldSettings, cuts: Sequence[Mapping[str, SourcePart]], notes: list[str]) -> None:
    """Give every channel its constants."""
    for cut in cuts:
        constants = _constants(settings, cut["train"], notes)
        for reader in {part.reader for part in cut.values()}:
            reader.scale(constants)
    if settings.trained is not None or settings.prepare.normalise == "none":
        return
    # A channel that one set lacks is filled in the units of a set that has it.
    measured = {
        one.channel.name: (one.channel.mean or 0.0, one.channel.std or 1.0)
        for reader in (cut["train"].reader for cut in cuts)
        for one in (*reader.inputs, *reader.labels)
        if one.row is not None
    }
    for reader in {part.reader for cut in cuts for part in cut.values()}:
        card = {channel.name for channel in (*reader.details.channels, *reader.details.labels)}
        filled = {one.channel.name for one in (*reader.inputs, *reader.labels) if one.row is None} - card
        reader.scale({name: measured[name] for name in filled if name in measured})


def _constants(settings: FieldSettings, part: SourcePart, notes: list[str]) -> dict[str, tuple[float, float]]:
    """Return mean and deviation of those channels of a source that its card does not decide."""
    reader, normalise = part.reader, settings.prepare.normalise
    channels = (*reader.inputs, *reader.labels)
    if settings.trained is not None:
        facts, dataset = settings.trained, _trained_dataset(settings.trained, reader.name)
        return dict(
            zip(
                (*facts.outputs, *facts.inputs),
                zip((*dataset.out_mean, *dataset.mean), (*dataset.out_std, *dataset.std), strict=True),
                strict=True,
            )
        )
    if normalise == "none":
        return {one.channel.name: (0.0, 1.0) for one in channels}
    lacking = [
        one.channel
        for one in channels
        if one.row is not None
        and (normalise == "statistics" or one.channel.mean is None or one.channel.std is None)
    ]
    if not lacking:
        return {}
    measured = reader.measure(part.rows, range(reader.source.steps))
    names = dict.fromkeys(channel.name for channel in lacking if not channel.name.startswith(INITIAL))
    notes.append(
        f"{reader.name}: {', '.join(names)} scaled with the mean and deviation of {len(part.rows)} training "
        "trajectories"
    )
    return {channel.name: measured[channel.source or ""] for channel in lacking}


def _trained_dataset(facts: FieldFacts, name: str) -> DatasetFacts:
    """Return a checkpoint's data set of that name, else its first one."""
    return next((one for one in facts.datasets if one.name == name), facts.datasets[0])


def _mask(readers: Sequence[ChannelReader]) -> str:
    if any(reader.details.obstacle for reader in readers):
        return "points"
    return "channels" if any(one.channel.masked for reader in readers for one in reader.labels) else "none"


def _parameters(asked: bool | Sequence[str], readers: Sequence[ChannelReader]) -> tuple[str, ...]:
    """Return the numbers of the equation that batches carry.

    Raises:
        UserError: If a source lacks one that is named.
    """
    own = [reader.source.parameters for reader in readers]
    if isinstance(asked, bool):
        return own[0] if asked and all(set(names) == set(own[0]) for names in own) else ()
    for reader, names in zip(readers, own, strict=True):
        for name in asked:
            if name not in names:
                raise UserError(
                    f"data.parameters has '{name}', which {reader.source.path} does not give"
                    f"{did_you_mean(name, names)} (it gives {', '.join(names) or 'none'})"
                )
    return tuple(asked)


def _heat_ratio(part: SourcePart) -> float | None:
    """Return the `gamma` of the equation, if all trajectories of the part say the same."""
    source = part.reader.source
    if "gamma" not in source.parameters:
        return None
    every = {float(source.numbers(row, ["gamma"])[0]) for row in part.rows}
    return every.pop() if len(every) == 1 else None


def _bytes(reader: ChannelReader) -> float:
    source = reader.source
    return 4.0 * source.trajectories * source.steps * len(reader.stored) * prod(reader.space)
