"""The data cards that time-series recipes can name: where each lies in the data folder and how it is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from apps.timeseries.data.readers.columns import Roles
from core.data.cards import Card, load_card
from core.errors import UserError, did_you_mean
from core.files import data_folder

__all__ = ["CARDS", "Reading", "borders", "check_leaks", "data_root", "leaks", "locate"]


@dataclass(frozen=True)
class Reading:
    """What its data card does not say of how a set is read.

    Attributes:
        stamps: Whether the rows lie on the grid of their stamps (ETT) or are only counted.
        roles: Roles of the columns; empty makes every numeric column a target.
        station: Name of what was measured; two cards with one station are views of the same data.
    """

    stamps: bool = True
    roles: Roles = field(default_factory=Roles)
    station: str = ""


CARDS: dict[str, Reading] = {
    "ett_h1": Reading(station="ett_1"),
    "ett_h2": Reading(station="ett_2"),
    "ett_m1": Reading(station="ett_1"),
    "ett_m2": Reading(station="ett_2"),
    "weather": Reading(stamps=False),
    "exchange_rate": Reading(stamps=False),
    "illness": Reading(stamps=False),
    "m4_hourly": Reading(stamps=False, roles=Roles(ids=("id",), targets=("value",))),
    "beijing_pm25": Reading(
        roles=Roles(
            time=("year", "month", "day", "hour"),
            targets=("pm2.5",),
            observable=("DEWP", "TEMP", "PRES", "Iws", "Is", "Ir"),
            categorical=("cbwd",),
        )
    ),
}
GENERATED = ("embedded", "synthetic")


def data_root(root: str | None) -> Path:
    """Return the data folder: the one given, else `DFM_DATA`, else the cache that `dfm data fetch` fills."""
    return Path(root).expanduser() if root else data_folder()


def borders(card: Card) -> str | list[int]:
    """Return where the parts end as `apps.timeseries.data.settings.split_rows` takes it."""
    splits = card.splits
    if splits.kind != "rows":
        return splits.kind
    return [part[1] for part in (splits.train, splits.val, splits.test) if isinstance(part, list)]


def locate(name: str, root: str | None) -> tuple[Card, list[Path]]:
    """Return a card and its files; `CARDS` says how they are read.

    Raises:
        UserError: If no card has this name, or its files are not there.
    """
    if name not in CARDS:
        names = (*CARDS, *GENERATED)
        raise UserError(
            f"there is no time-series card '{name}'; known are {', '.join(names)}{did_you_mean(name, names)}"
        )
    folder, card = data_root(root), load_card(name)
    paths = []
    for file in (one.path for one in card.files):
        # a fetched card lies in a folder of its own name; a data folder shared by all cards works too
        places = [folder / name / file, folder / file, folder / name / Path(file).name]
        there = [p for place in places for p in (place, place.with_name(place.name + ".gz")) if p.is_file()]
        if not there:
            raise UserError(
                f"the data of card '{name}' ({file}) is not in '{folder}'; type 'dfm data fetch {name}', "
                "or name the folder that holds it in data.root or DFM_DATA"
            )
        paths.append(there[0])
    return card, paths


def leaks(training: Iterable[str], held_out: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs of a training source and a held-out one that show the same measurements.

    Names are those of `Series.sources`: cards, `embedded:name` or paths. ett_h2 and ett_m2 are one station.
    """
    return [(a, b) for a in training for b in held_out if _same(a, b)]


def check_leaks(training: Sequence[str], held_out: Sequence[str]) -> None:
    """Refuse a training source that a held-out one also shows.

    Raises:
        UserError: Naming the first pair.
    """
    found = leaks(training, held_out)
    if found:
        first, second = found[0]
        what = f"'{first}'" if first == second else f"'{first}' (the same measurements as '{second}')"
        raise UserError(
            f"{what} is among the training sources although '{second}' is held out; leave one of them out"
        )


def _same(first: str, second: str) -> bool:
    (card, _, names), (other, _, others) = first.partition(":"), second.partition(":")
    if card == other == "embedded":
        from apps.timeseries.data.readers.embedded import resolve

        return bool(set(resolve(names)) & set(resolve(others)))
    if card == "synthetic" or other == "synthetic":
        return False
    if card in CARDS and other in CARDS:
        return card == other or (bool(CARDS[card].station) and CARDS[card].station == CARDS[other].station)
    if card not in CARDS and other not in CARDS:
        return Path(first).resolve() == Path(second).resolve()
    return False
