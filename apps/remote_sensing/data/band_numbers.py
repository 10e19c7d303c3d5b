"""Which of a file's bands are meant: by name, by number, or in their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apps.remote_sensing.data.bands import canonical
from core.errors import UserError, did_you_mean

__all__ = ["band_numbers", "measured"]


def measured(dataset: Any, wanted: int | None) -> int:
    """Return how many bands of an open raster are measured: all but an alpha band at the end.

    GDAL calls the fourth of four bands of bytes alpha, whatever it is: it is none if it has a name of its
    own or as many bands are wanted as there are.

    Args:
        dataset: The raster.
        wanted: Bands that are wanted, of all dates in it; None is all.
    """
    if dataset.count < 2 or dataset.count == wanted or dataset.colorinterp[-1].name != "alpha":
        return dataset.count
    return dataset.count - ((dataset.descriptions[-1] or "alpha").lower() == "alpha")


def band_numbers(
    descriptions: Sequence[str | None],
    *,
    path: str = "the scene",
    bands: Sequence[str | int] | None = None,
    names: Sequence[str] | None = None,
    sensor: str | None = None,
    dates: int = 1,
) -> list[int]:
    """Return the numbers, from 1, of the wanted bands of a file.

    Args:
        descriptions: The file's own names of its bands, None where it has none.
        path: The file, for messages.
        bands: Wanted bands by name or number; None takes all.
        names: The names of the file's bands where its own are missing or wrong.
        sensor: Whose numbers the names are.
        dates: Dates in the file, the bands of one after those of another; `bands` and `names` are of one.

    Raises:
        UserError: If a band is missing, or named where the file's bands have no names.
    """
    if len(descriptions) % dates:
        raise UserError(
            f"{path} has {len(descriptions)} bands, which are not {dates} dates of the same bands"
        )
    count = len(descriptions) // dates
    descriptions = descriptions[:count]
    if names is not None and len(names) != count:
        raise UserError(
            f"{path} has {count} bands and {len(names)} names are given for them; give "
            "--band_names of every band"
        )
    if bands is None:
        return list(range(1, count * dates + 1))
    given = [canonical(name, sensor=sensor) if name else "" for name in (names or descriptions)]
    numbers = []
    for band in bands:
        if isinstance(band, int):
            if not 1 <= band <= count:
                raise UserError(f"{path} has bands 1 to {count}, and band {band} is wanted")
            numbers.append(band)
            continue
        if not any(given):
            raise UserError(
                f"the {count} bands of {path} have no names, and band '{band}' is wanted; give "
                f"--band_names in their order"
            )
        wanted = canonical(band, sensor=sensor)
        if wanted not in given:
            known = [name for name in given if name]
            raise UserError(
                f"{path} has no band '{band}' but {', '.join(known)}{did_you_mean(wanted, known)}"
            )
        if given.count(wanted) > 1:
            raise UserError(
                f"{path} has {given.count(wanted)} bands called '{band}'; give --bands by their numbers"
            )
        numbers.append(given.index(wanted) + 1)
    return [number + date * count for date in range(dates) for number in numbers]
