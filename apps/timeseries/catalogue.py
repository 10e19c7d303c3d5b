"""The data cards that time-series recipes can name: where each lies in the data folder and how it is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from apps.timeseries.roles import Roles
from core.errors import UserError, did_you_mean
from core.files import data_folder

__all__ = ["CARDS", "Card", "check_leaks", "data_root", "leaks", "locate"]


@dataclass(frozen=True)
class Card:
    """How one published set is read.

    Attributes:
        files: Paths within the data folder, each without or with `.gz`.
        borders: How the benchmark splits it.
        frequency: Sampling rate; benchmarks count rows, so it is stated and not inferred.
        licence: Short name, carried on into checkpoints.
        stamps: Whether the rows lie on the grid of their stamps (ETT) or are only counted.
        roles: Roles of the columns; empty makes every numeric column a target.
        layout: `"columns"`, or `"rows"` for one series a row.
        station: Name of what was measured; two cards with one station are views of the same data.
    """

    files: tuple[str, ...]
    borders: str
    frequency: str
    licence: str
    stamps: bool = True
    roles: Roles = field(default_factory=Roles)
    layout: str = "columns"
    station: str = ""


_ETT = "CC BY-ND 4.0"
CARDS: dict[str, Card] = {
    "ett_h1": Card(("ETT-small/ETTh1.csv",), "ett_h", "h", _ETT, station="ett_1"),
    "ett_h2": Card(("ETT-small/ETTh2.csv",), "ett_h", "h", _ETT, station="ett_2"),
    "ett_m1": Card(("ETT-small/ETTm1.csv",), "ett_m", "15min", _ETT, station="ett_1"),
    "ett_m2": Card(("ETT-small/ETTm2.csv",), "ett_m", "15min", _ETT, station="ett_2"),
    "weather": Card(("weather/weather.csv",), "fractions", "10min", "none stated", stamps=False),
    "exchange_rate": Card(
        ("exchange_rate/exchange_rate.csv",), "fractions", "D", "none stated", stamps=False
    ),
    "illness": Card(("illness/national_illness.csv",), "fractions", "W", "none stated", stamps=False),
    "m4_hourly": Card(
        ("m4/Hourly-train.csv", "m4/Hourly-test.csv"), "tail", "h", "none stated", stamps=False, layout="rows"
    ),
    "beijing_pm25": Card(
        ("beijing_pm25/PRSA_data.csv",),
        "fractions",
        "h",
        "CC BY 4.0",
        roles=Roles(
            time=("year", "month", "day", "hour"),
            targets=("pm2.5",),
            observable=("DEWP", "TEMP", "PRES", "Iws", "Is", "Ir"),
            categorical=("cbwd",),
        ),
    ),
}
GENERATED = ("embedded", "synthetic")


def data_root(root: str | None) -> Path:
    """Return the data folder: the one given, else `DFM_DATA`, else the cache that `dfm data fetch` fills."""
    return Path(root).expanduser() if root else data_folder()


def locate(name: str, root: str | None) -> tuple[Card, list[Path]]:
    """Return a card and its files.

    Raises:
        UserError: If no card has this name, or its files are not there.
    """
    if name not in CARDS:
        known = (*CARDS, *GENERATED)
        raise UserError(
            f"there is no time-series card '{name}'; known are {', '.join(known)}{did_you_mean(name, known)}"
        )
    folder = data_root(root)
    paths = []
    for file in CARDS[name].files:
        # a fetched card lies in a folder of its own name; a data folder shared by all cards works too
        places = [folder / name / file, folder / file, folder / name / Path(file).name]
        found = [p for place in places for p in (place, place.with_name(place.name + ".gz")) if p.is_file()]
        if not found:
            raise UserError(
                f"the data of card '{name}' ({file}) is not in '{folder}'; type 'dfm data fetch {name}', "
                "or name the folder that holds it in data.root or DFM_DATA"
            )
        paths.append(found[0])
    return CARDS[name], paths


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
        from apps.timeseries.embedded import resolve

        return bool(set(resolve(names)) & set(resolve(others)))
    if card == "synthetic" or other == "synthetic":
        return False
    if card in CARDS and other in CARDS:
        return card == other or (bool(CARDS[card].station) and CARDS[card].station == CARDS[other].station)
    if card not in CARDS and other not in CARDS:
        return Path(first).resolve() == Path(second).resolve()
    return False
