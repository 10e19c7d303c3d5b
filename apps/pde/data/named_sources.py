"""The sources that a recipe names, found and opened: paths, data cards and our own solvers' stores."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.pde.data.readers.arrays import ArraySource
from apps.pde.data.readers.recognition import open_source, splits_of
from apps.pde.data.spec import Spec, spec_of
from core.data.cards import Card, card_names, load_card
from core.errors import UserError, did_you_mean
from core.files import data_folder

if TYPE_CHECKING:
    from apps.pde.data.module import Fields

__all__ = ["Entry", "Opened", "entries", "locate", "opened"]

_KEYS = ("path", "card", "generate", "weight", "layout")


@dataclass(frozen=True)
class Entry:
    """One source as a recipe names it.

    Attributes:
        path: File or folder.
        card: Data card.
        family: Family that our solvers make.
        samples: How many trajectories of it.
        options: Further arguments of `apps.pde.simulation.generate.ensure`.
        weight: Share in the mixture.
        layout: Layout of the path.
    """

    path: str | None = None
    card: str | None = None
    family: str | None = None
    samples: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    weight: float | None = None
    layout: str | None = None


def entries(
    *,
    path: str | None,
    card: str | None,
    generate: Mapping[str, int] | None,
    options: Mapping[str, Any] | None,
    sources: Sequence[Mapping[str, Any]] | None,
    layout: str | None,
) -> list[Entry]:
    """Return the sources that a recipe names.

    Raises:
        UserError: If none or several ways are used, or an entry is wrong.
    """
    given = [
        name
        for name, value in (("path or card", path or card), ("generate", generate), ("sources", sources))
        if value
    ]
    if len(given) != 1:
        raise UserError(
            f"data.{' and data.'.join(given)} are given, but only one of them may be"
            if given
            else "no data are named; give data.path, data.card, data.generate or data.sources"
        )
    if path or card:
        return [Entry(path=path, card=card, layout=layout)]
    if generate:
        return _generated(generate, options, None)
    found: list[Entry] = []
    for number, one in enumerate(sources or ()):
        if unknown := [name for name in one if name not in _KEYS]:
            raise UserError(
                f"data.sources.{number} has the entry '{unknown[0]}'{did_you_mean(unknown[0], _KEYS)}; "
                f"known: {', '.join(_KEYS)}"
            )
        if bool(one.get("generate")) == bool(one.get("path") or one.get("card")):
            raise UserError(f"data.sources.{number} must name either generate, or path and card")
        if one.get("generate"):
            found += _generated(one["generate"], options, one.get("weight"))
        else:
            found.append(
                Entry(
                    path=one.get("path"),
                    card=one.get("card"),
                    weight=one.get("weight"),
                    layout=one.get("layout"),
                )
            )
    return found


def _generated(
    wanted: Mapping[str, int], options: Mapping[str, Any] | None, weight: float | None
) -> list[Entry]:
    for family, samples in wanted.items():
        if not isinstance(samples, int) or samples < 1:
            raise UserError(f"data.generate.{family} is {samples}; it must be a number of trajectories")
    total = sum(wanted.values())
    made = []
    for family, samples in wanted.items():
        share = None if weight is None else weight * samples / total
        made.append(Entry(family=family, samples=samples, options=dict(options or {}), weight=share))
    return made


@dataclass
class Opened:
    """One entry opened; parts that are None are cut from `train` by position.

    Attributes:
        name: Of the data set.
        spec: Its card's details; empty without a card.
        train: Training trajectories, or all.
        val: Validation trajectories.
        test: Test trajectories.
        licence: Of the data.
    """

    name: str
    spec: Spec
    train: ArraySource
    val: ArraySource | None
    test: ArraySource | None
    licence: str = ""


def locate(card: Card, spec: Spec, root: str | None) -> Path:
    """Return the file or folder of a card's data; for one with parts the folder that holds them.

    Raises:
        UserError: If nothing is there.
    """
    folder = Path(root).expanduser() if root else data_folder()
    bases = [folder / card.name, folder, folder / "pde" / card.name, folder / "pde"]
    if spec.parts:
        first = spec.parts["train"]
        found = next((base for base in bases if (base / first).is_file()), None)
    else:
        places = [*spec.places, *(file.path for file in card.files)]
        candidates = (base / place for base in bases for place in places)
        found = next((one for one in candidates if one.exists()), None)
        if found is None and not places and (folder / card.name).exists():
            found = folder / card.name
    if found is None:
        how = f"type 'dfm data fetch {card.name}'" if card.files else f"take them from {card.hub}"
        raise UserError(
            f"the data of card '{card.name}' are not in {folder}; {how}, or name the folder that holds them "
            "in data.root or DFM_DATA, or the file in data.path"
        )
    return found


def opened(entry: Entry, data: Fields) -> Opened:
    """Return an entry's sources; no values are read, but our solvers' trajectories are made if need be.

    Raises:
        UserError: If they are not there or cannot be read.
    """
    if entry.family is not None:
        return _open_generated(entry, data)
    card = None if entry.card is None else load_card(entry.card)
    if card is not None and card.domain != "pde":
        raise UserError(f"the card '{card.name}' is of the domain {card.domain}; choose one of pde")
    spec = Spec() if card is None else spec_of(card)
    where = Path(entry.path).expanduser() if entry.path else locate(card, spec, data.root)  # type: ignore
    layout = entry.layout or (spec.layout if entry.path is None else None)
    other = None if data.test_path is None else open_source(data.test_path)
    if spec.parts and where.is_dir():
        return _open_parts(data, card, spec, where, layout, other)
    own = splits_of(where, layout=layout)
    if "train" in own:
        train = open_source(where, layout=layout, split="train")
        val = open_source(where, layout=layout, split="valid") if "valid" in own else None
        test = other or (open_source(where, layout=layout, split="test") if "test" in own else None)
    else:
        train, val, test = open_source(where, layout=layout), None, other
    name = train.name if card is None else card.name
    return Opened(name, spec, train, val, test, train.licence if card is None else card.licence)


def _open_parts(
    data: Fields,
    card: Card | None,
    spec: Spec,
    folder: Path,
    layout: str | None,
    other: ArraySource | None,
) -> Opened:
    assert card is not None
    if data.test_part not in spec.parts:
        raise UserError(
            f"card '{card.name}' has no part '{data.test_part}'{did_you_mean(data.test_part, spec.parts)}; "
            f"it has {', '.join(spec.parts)}"
        )
    files = {
        part: open_source(folder / file, layout=layout)
        for part, file in spec.parts.items()
        if part in ("train", "val") or (part == data.test_part and other is None)
    }
    test = other or files.get(data.test_part)
    return Opened(card.name, spec, files["train"], files.get("val"), test, card.licence)


def _open_generated(entry: Entry, data: Fields) -> Opened:
    from apps.pde.simulation.generate import ensure

    assert entry.family is not None
    known = ("resolution", "seed", "snapshots", "parameters", "folder", "batch", "device", "dtype")
    if unknown := [name for name in entry.options if name not in known]:
        raise UserError(
            f"data.generate_options has '{unknown[0]}'{did_you_mean(unknown[0], known)}; known: "
            f"{', '.join(known)}"
        )
    source = open_source(ensure(entry.family, entry.samples, **entry.options), layout="store")
    if source.trajectories > entry.samples:
        # An earlier run wanted more: the same names of trajectories must mean the same split here.
        source.segments = [dataclasses.replace(source.segments[0], count=entry.samples)]
        source.__post_init__()
    spec = Spec(periodic=source.periodic)
    if source.name in card_names():
        found = spec_of(load_card(source.name))
        fields = {channel.source for channel in (*found.channels, *found.labels)} - {None}
        if fields <= set(source.channels) and found.channels:
            constant = found.time_constant
            if constant is not None and found.snapshots and source.steps > 1:
                # The same time has other numbers of snapshots where frames are kept more or less often.
                constant *= (source.steps - 1) / (found.snapshots - 1)
            same = found.snapshots == source.steps
            spec = dataclasses.replace(
                found,
                time_constant=constant,
                split=None,
                step=found.step if same else 1,
                max_steps=found.max_steps if same else None,
            )
    test = None if data.test_path is None else open_source(data.test_path)
    return Opened(source.name, spec, source, None, test, source.licence)
