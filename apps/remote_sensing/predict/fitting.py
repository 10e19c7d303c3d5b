"""What of a scene a network is given: its bands by name or in order, its dates and its location."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from apps.remote_sensing.data.bands import canonical, names_that_serve
from apps.remote_sensing.data.dates_and_locations import dates_of, parsed, stamped
from apps.remote_sensing.predict.scene import scene_header
from core.errors import UserError

__all__ = ["Found", "Wanted", "found"]


@dataclass(frozen=True)
class Wanted:
    """What a network takes, and what the user says of the files.

    Args:
        bands: Of one date, in the network's order.
        frames: Dates.
        chosen: Bands of the files that are given for these, by name or number; None: those of the same names.
        names: Names of the files' bands, of one date, where their own are missing or wrong.
        sensor: Whose numbers the names are.
        dates: As the user wrote them; None takes them from the files' names.
        timed: Whether dates matter to it, so that their lack is told.
        located: The same of the location.
    """

    bands: tuple[str, ...]
    frames: int = 1
    chosen: tuple[str | int, ...] | None = None
    names: tuple[str, ...] | None = None
    sensor: str | None = None
    dates: tuple[str, ...] | None = None
    timed: bool = False
    located: bool = False

    def __post_init__(self) -> None:
        if self.chosen is not None and len(self.chosen) != len(self.bands):
            raise UserError(
                f"--bands names {len(self.chosen)} bands and the network takes {len(self.bands)} "
                f"({', '.join(self.bands)}); give one for each, in this order"
            )


@dataclass(frozen=True)
class Found:
    """What a scene has of it.

    Args:
        bands: To be read, of one date.
        names: Of the files' bands, of one date; None takes the files' own.
        dates: Of the frames, or None.
        location: Latitude and longitude of the centre in degrees, or None.
        dtype: Of the file's numbers.
        nodata: Of the file, or None.
        notes: What the user should know.
    """

    bands: tuple[str | int, ...]
    names: tuple[str, ...] | None
    dates: tuple[date, ...] | None
    location: tuple[float, float] | None
    dtype: str
    nodata: float | None
    notes: tuple[str, ...] = ()

    def tell(self, path: Path, said: set[str]) -> None:
        """Print the notes to stderr, those that were said of another scene before left out.

        Args:
            path: The scene.
            said: Notes so far; the new ones are added.
        """
        for note in self.notes:
            if note not in said:
                print(f"{path}: {note}", file=sys.stderr, flush=True)
            said.add(note)


def found(paths: Sequence[Path], wanted: Wanted) -> Found:
    """Look at the files of a scene for what a network takes.

    Args:
        paths: One file for each date, or one of all dates.
        wanted: What that is.

    Raises:
        UserError: If a file is missing or damaged, or the number of bands or dates does not fit.
    """
    path, frames = paths[0], wanted.frames
    inside = frames // len(paths)
    if len(paths) not in (1, frames):
        raise UserError(
            f"{len(paths)} files are stacked and the network takes {frames} date{'s' * (frames > 1)}; give "
            "one for each"
        )
    headers = [scene_header(file) for file in paths]
    described = [header.names[: header.measured(inside * len(wanted.bands))] for header in headers]
    names, first = described[0], headers[0]
    if len(names) % inside or (inside > 1 and len(names) // inside < len(wanted.bands)):
        raise UserError(
            f"{path} has {len(names)} bands and the network takes {frames} dates of {len(wanted.bands)}, one "
            f"date's after another's; give such a file, or {frames} files with --stack"
        )
    own = [one[: len(one) // inside] for one in described]
    given, notes = _agreed(paths, own, wanted, stacked=inside > 1)
    dates = parsed(wanted.dates, frames) if wanted.dates else dates_of(paths, frames)
    if (
        dates is None
        and (dates := stamped([header.stamp for header in headers], frames)) is not None
        and wanted.timed
    ):
        notes.append("its dates are those that its files are stamped with")
    if wanted.timed and dates is None:
        notes.append("its dates are not known, which the network was told in training; give --dates")
    if dates is not None and list(dates) != sorted(dates):
        notes.append(f"its dates fall ({', '.join(map(str, dates))}); give the earliest first")
    location = first.centre()
    if wanted.located and location is None:
        notes.append("it has no coordinates on the Earth, and the network was told places in training")
    return Found(
        bands=wanted.chosen or wanted.bands,
        names=given,
        dates=dates,
        location=location,
        dtype=first.dtypes[0],
        nodata=first.nodata[0],
        notes=tuple(notes),
    )


def _agreed(
    paths: Sequence[Path], own: Sequence[Sequence[str | None]], wanted: Wanted, *, stacked: bool
) -> tuple[tuple[str, ...] | None, list[str]]:
    """Return what `_names` does for the files of all dates, which are read with one set of names."""
    each = [_names(path, names, wanted, stacked=stacked) for path, names in zip(paths, own, strict=True)]
    given = next((names for names, _ in each if names is not None), None)
    if given is not None and wanted.names is None:
        for path, names, (other, _) in zip(paths, own, each, strict=True):
            if (
                other is None
                and all(names)
                and [canonical(str(name), sensor=wanted.sensor) for name in names] != list(given)
            ):
                nameless = next(file for file, (known, _) in zip(paths, each, strict=True) if known)
                raise UserError(
                    f"the bands of {path} are {', '.join(map(str, names))} and those of {nameless} are not "
                    "named so; give --band_names if all files have one order, or name their bands"
                )
    return given, list(dict.fromkeys(note for _, notes in each for note in notes))


def _names(
    path: Path, own: Sequence[str | None], wanted: Wanted, *, stacked: bool
) -> tuple[tuple[str, ...] | None, list[str]]:
    """Return names for the bands of a file whose own do not serve, as the readers of training data do."""
    if wanted.names is not None or wanted.chosen is not None:
        return wanted.names, []
    fits, bands = len(own) == len(wanted.bands), [canonical(band) for band in wanted.bands]

    def other_order(sensor: str, read: Sequence[str]) -> UserError:
        return UserError(
            f"{path} calls its bands {', '.join(map(str, own))}, on {sensor} {', '.join(read)}, and the "
            f"network takes {', '.join(bands)}; give --sensor {sensor}, or --band_names"
        )

    if names_that_serve(own, bands, sensor=wanted.sensor, other_order=other_order) or not fits:
        if not any(own) and stacked:
            raise UserError(
                f"{path} has {len(own)} bands a date without names and the network takes "
                f"{len(wanted.bands)}; give --band_names in their order"
            )
        return None, []
    said = "have no names" if not any(own) else f"are called {', '.join(str(name) for name in own)}"
    return wanted.bands, [f"its bands {said}; they are taken for {', '.join(wanted.bands)}"]
