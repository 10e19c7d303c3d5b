"""When and where a scene was taken: dates in names of files, locations from their coordinates."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from core.errors import UserError

__all__ = ["centre", "dates_in", "dates_of", "degrees", "parsed", "stamped"]

_DAY = re.compile(
    r"(?<!\d)((?:19|20)\d{2})(?:([-_.]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])|([0-3]\d{2}))(?!\d)"
)


def dates_in(name: str) -> list[date]:
    """Return the dates that a file's name holds, each once, in their order.

    `YYYYMMDD`, `YYYY-MM-DD`, `YYYY_MM_DD` and year with day of year (`YYYYDDD`, as in names of HLS) are
    known, so that products of Sentinel-2 and Landsat give the day of their acquisition first.
    """
    found: dict[date, None] = {}
    for year, _, month, day, number in _DAY.findall(Path(name).name):
        try:
            if month:
                found[date(int(year), int(month), int(day))] = None
            elif 1 <= int(number) <= 366:
                day_of_year = date(int(year), 1, 1) + timedelta(days=int(number) - 1)
                if day_of_year.year == int(year):  # only leap years have a day 366
                    found[day_of_year] = None
        except ValueError:  # the 31st of a short month: no date
            continue
    return list(found)


def dates_of(paths: Sequence[str | os.PathLike[str]], frames: int) -> tuple[date, ...] | None:
    """Return the date of each frame by the names of the files of a scene, or None if they do not tell.

    Args:
        paths: One file for each date, or one of all dates.
        frames: Dates.
    """
    known = [dates_in(os.fspath(path)) for path in paths]
    if len(paths) == frames:
        return tuple(one[0] for one in known) if all(known) else None
    return tuple(known[0]) if len(paths) == 1 and len(known[0]) == frames else None


def stamped(stamps: Sequence[str], frames: int) -> tuple[date, ...] | None:
    """Return the dates of the files' time stamps, `2023:07:31 10:20:30`, if there is one for each frame."""
    if len(stamps) != frames:
        return None
    try:
        return tuple(date.fromisoformat(stamp[:10].replace(":", "-")) for stamp in stamps)
    except ValueError:
        return None


def parsed(words: Sequence[str], frames: int) -> tuple[date, ...]:
    """Return dates that the user gave.

    Raises:
        UserError: If one is no date, or they are not one for each frame.
    """
    try:
        found = tuple(date.fromisoformat(word) for word in words)
    except ValueError as error:
        raise UserError(f"--dates {' '.join(words)}: {error}; write them as 2023-07-31") from error
    if len(found) != frames:
        raise UserError(f"--dates gives {len(found)} dates and the network takes {frames}; give one for each")
    return found


def centre(dataset: Any) -> tuple[float, float] | None:
    """Return latitude and longitude of the centre of a raster in degrees, None where it has none.

    Args:
        dataset: Open, or its header.
    """
    if not dataset.crs:
        return None
    a, b, c, d, e, f = tuple(dataset.transform)[:6]
    west, north = c, f
    east, south = c + a * dataset.width + b * dataset.height, f + d * dataset.width + e * dataset.height
    return degrees(dataset.crs, [(west + east) / 2], [(north + south) / 2])[0]


def degrees(crs: Any, x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float] | None]:
    """Return latitudes and longitudes in degrees of points in a coordinate reference system.

    None stands for a point that has none: its system is that of an engineer's plan, which nothing ties to
    the Earth, or the point lies outside of the system's projection.
    """
    from rasterio._err import CPLE_BaseError  # of GDAL; rasterio lets it through beside errors of its own
    from rasterio.errors import CRSError, RasterioError
    from rasterio.warp import transform

    try:
        longitudes, latitudes = transform(crs, "EPSG:4326", list(x), list(y))
    except (RasterioError, CRSError, CPLE_BaseError):
        if len(x) == 1:
            return [None]
        return [degrees(crs, [one], [other])[0] for one, other in zip(x, y, strict=True)]
    found = zip(latitudes, longitudes, strict=True)
    return [
        (float(a), _wrapped(float(b))) if math.isfinite(a) and math.isfinite(b) else None for a, b in found
    ]


def _wrapped(longitude: float) -> float:
    """Return a longitude between -180 and 180: some grids count from 0 to 360."""
    return longitude if abs(longitude) <= 180 else (longitude + 180) % 360 - 180
