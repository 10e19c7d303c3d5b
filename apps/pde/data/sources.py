"""The sources that a recipe names, opened and split: files, data cards, our own solvers' stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from apps.pde.data.card_details import CardDetails, SplitCounts, details_of
from apps.pde.data.readers.arrays import ArraySource
from apps.pde.data.readers.recognition import open_source, recognised, splits_of
from apps.pde.data.settings import FieldSettings, Generation, NamedSource, SourceMixture
from core.data.cards import Card, card_names, load_card
from core.errors import UserError, did_you_mean
from core.files import data_folder

__all__ = ["OpenSource", "fractions", "named_sources", "open_named", "part_rows", "split"]

_KEYS = ("path", "card", "generate", "weight", "layout", "axes")


@dataclass
class OpenSource:
    """One named source opened; parts that are None are cut from `train` by position.

    Attributes:
        name: Of the data set.
        details: Of its card; empty without one.
        train: Training trajectories, or all.
        val: Validation trajectories.
        test: Test trajectories.
        licence: Of the data.
        own: Whether it is a file of the user's own, without a card.
    """

    name: str
    details: CardDetails
    train: ArraySource
    val: ArraySource | None
    test: ArraySource | None
    licence: str = ""
    own: bool = False


def named_sources(
    *,
    path: str | None,
    card: str | None,
    layout: str | None,
    axes: str | None = None,
    generate: Generation | None,
    mixture: SourceMixture | None,
) -> list[NamedSource]:
    """Return the sources that a recipe names.

    Raises:
        UserError: If none or several ways are used, or an entry is wrong.
    """
    ways = {"path or card": path or card, "generate": generate, "mixture": mixture}
    given = [name for name, value in ways.items() if value]
    if len(given) != 1:
        raise UserError(
            f"data.{' and data.'.join(given)} are given, but only one of them may be"
            if given
            else "no data are named; give data.path, data.card, data.generate or data.mixture"
        )
    if mixture is not None:
        return [one for number, entry in enumerate(mixture.sources) for one in _entry(number, entry)]
    return [NamedSource(path, card, layout, axes)] if generate is None else _families(generate, None)


def _entry(number: int, entry: Mapping[str, Any]) -> list[NamedSource]:
    """Return the sources of one entry of a mixture: one, or one a family."""
    room = f"data.mixture.sources.{number}"
    if unknown := [name for name in entry if name not in _KEYS]:
        raise UserError(
            f"{room} has the entry '{unknown[0]}'{did_you_mean(unknown[0], _KEYS)}; known: {', '.join(_KEYS)}"
        )
    if bool(entry.get("generate")) == bool(entry.get("path") or entry.get("card")):
        raise UserError(f"{room} must name either generate, or path and card")
    if not entry.get("generate"):
        return [NamedSource(**entry)]
    try:
        made = entry["generate"]
        generation = made if isinstance(made, Generation) else Generation(**made)
    except TypeError as error:
        raise UserError(f"{room}.generate is wrong: {error}; give families and their settings") from error
    return _families(generation, entry.get("weight"))


def _families(generation: Generation, weight: float | None) -> list[NamedSource]:
    total = sum(generation.families.values())
    return [
        NamedSource(
            generate=replace(generation, families={family: samples}),
            weight=None if weight is None else weight * samples / total,
        )
        for family, samples in generation.families.items()
    ]


def open_named(named: NamedSource, settings: FieldSettings) -> OpenSource:
    """Return a named source; no values are read, but our solvers' trajectories are made if need be.

    Raises:
        UserError: If it is not there or cannot be read.
    """
    other = None if settings.test.path is None else open_source(settings.test.path, axes=named.axes)
    if named.generate is not None:
        return _open_generated(named.generate, other)
    card = None if named.card is None else load_card(named.card)
    if card is not None and card.domain != "pde":
        raise UserError(f"the card '{card.name}' is of the domain {card.domain}; choose one of pde")
    details = CardDetails() if card is None else details_of(card)
    where = Path(named.path).expanduser() if named.path else data_folder()
    if card is not None and not where.is_file():
        where = _locate(card, details, where, named=named.path is not None)
    layout = named.layout or (details.layout if named.path is None else None)
    if card is not None and details.parts and where.is_dir():
        if settings.test.part not in details.parts:
            raise UserError(
                f"card '{card.name}' has no part '{settings.test.part}'"
                f"{did_you_mean(settings.test.part, details.parts)}; it has {', '.join(details.parts)}"
            )
        wanted = ("train", "val") if other is not None else ("train", "val", settings.test.part)
        files = {
            part: open_source(where / file, layout=layout)
            for part, file in details.parts.items()
            if part in wanted
        }
        test = other or files.get(settings.test.part)
        return OpenSource(card.name, details, files["train"], files.get("val"), test, card.licence)
    own = () if named.axes else splits_of(where, layout=layout)
    parts = {part: open_source(where, layout=layout, split=part) for part in own if "train" in own}
    train = parts.get("train") or open_source(where, layout=layout, axes=named.axes)
    name, licence = (train.name, train.licence) if card is None else (card.name, card.licence)
    test = other or parts.get("test")
    return OpenSource(name, details, train, parts.get("valid"), test, licence, own=card is None)


def _locate(card: Card, details: CardDetails, folder: Path, *, named: bool) -> Path:
    """Return the file or folder of a card's data; for one with parts the folder that holds them.

    A folder that the user named may itself be the data.
    """
    bases = [folder / card.name, folder, folder / "pde" / card.name, folder / "pde"]
    if details.parts:
        first = details.parts["train"]
        found = next((base for base in bases if (base / first).is_file()), None)
    else:
        places = [*details.places, *(file.path for file in card.files)]
        candidates = (base / place for base in bases for place in places)
        found = next((one for one in candidates if one.exists()), None)
        if found is None and not places and (folder / card.name).exists():
            found = folder / card.name
    if found is None and named and folder.exists() and recognised(folder):
        return folder
    if found is None:
        how = f"type 'dfm data fetch {card.name}'" if card.files else f"take them from {card.hub}"
        raise UserError(
            f"the data of card '{card.name}' are not in {folder}; {how}, or name the file or the folder "
            "that holds them in data.path, or the folder in DFM_DATA"
        )
    return found


def _open_generated(generation: Generation, test: ArraySource | None) -> OpenSource:
    from apps.pde.simulation.generate import ensure

    options = asdict(generation)
    ((family, samples),) = options.pop("families").items()
    source = open_source(ensure(family, samples, **options), layout="store")
    if source.trajectories > samples:
        # An earlier run wanted more: the same names of trajectories must mean the same split here.
        source = source.first(samples)
    details = CardDetails(periodic=source.periodic)
    if source.name in card_names():
        known = details_of(load_card(source.name))
        fields = {channel.source for channel in (*known.channels, *known.labels)} - {None}
        if fields <= set(source.channels) and known.channels:
            constant = known.time_constant
            if constant is not None and known.snapshots and source.steps > 1:
                # The same time has other numbers of snapshots where frames are kept more or less often.
                constant *= (source.steps - 1) / (known.snapshots - 1)
            same = known.snapshots == source.steps
            details = replace(
                known,
                time_constant=constant,
                split=None,
                step=known.step if same else 1,
                max_steps=known.max_steps if same else None,
            )
    return OpenSource(source.name, details, source, None, test, source.licence)


def split(counts: SplitCounts, train: int = -1) -> tuple[range, range, range]:
    """Return the trajectories of training, validation and test, by position.

    Validation begins at `total - val - test`, the test set is the last `test`: neither depends on how many
    are trained on.

    Args:
        counts: How many there are.
        train: The first n; -1 for all, -2 for half, -8 for an eighth of those left.

    Raises:
        UserError: If there are not so many.
    """
    left = counts.total - counts.val - counts.test
    if left < 0:
        raise UserError(
            f"data.val_trajectories {counts.val} and data.test_trajectories {counts.test} are more than the "
            f"{counts.total} that there are; make them smaller"
        )
    n = left // -train if train < 0 else train
    if train == 0 or n > left or (n == 0 and left > 0):
        raise UserError(
            f"data.trajectories is {train}, but {left} of {counts.total} are for training; give 1 to {left}, "
            "or -1 for all, -2 for half, -8 for an eighth"
        )
    return range(n), range(left, left + counts.val), range(counts.total - counts.test, counts.total)


def fractions(total: int, val: float = 0.1, test: float = 0.1) -> SplitCounts:
    """Return the counts of a set without a published split; at least one for each part from three on."""
    least = 1 if total >= 3 else 0
    return SplitCounts(total, max(least, round(val * total)), max(least, round(test * total)))


def part_rows(settings: FieldSettings, source: OpenSource, notes: list[str]) -> list[range]:
    """Return the trajectories of training, validation and test, each counted in its own file.

    Args:
        settings: With the numbers that the recipe gives.
        source: The files.
        notes: Takes what was decided, for the user.

    Raises:
        UserError: If there are not so many.
    """
    asked = (settings.val_trajectories, settings.test_trajectories)
    total, published = source.train.trajectories, source.details.split
    if published is not None and published.total != total and source.val is None and source.test is None:
        if None in asked:
            notes.append(
                f"{source.name} has {total} trajectories, published are {published.total}; a tenth each is "
                "for validation and test"
            )
        published = None
    usual = fractions(total) if published is None else SplitCounts(total, published.val, published.test)
    val, test = (
        own if wanted is None else wanted for wanted, own in zip(asked, (usual.val, usual.test), strict=True)
    )
    counts = SplitCounts(total, 0 if source.val else val, 0 if source.test else test)
    rows = list(split(counts, settings.trajectories))
    left = total - counts.val - counts.test
    if source.own and len(rows[0]) < left:
        notes.append(
            f"{source.name}: the first {len(rows[0])} of {left} training trajectories are used, as "
            "data.trajectories says"
        )
    for part, file, limit in ((1, source.val, asked[0]), (2, source.test, asked[1])):
        if file is not None:
            if limit is not None and limit > file.trajectories:
                raise UserError(f"{file.path} has {file.trajectories} trajectories, {limit} are asked for")
            rows[part] = range(file.trajectories if limit is None else limit)
    return rows
