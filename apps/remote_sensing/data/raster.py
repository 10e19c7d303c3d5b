"""Rasters on disk: their headers and windows of their bands, with one sentence for all that is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.remote_sensing.data.dates_and_places import centre
from apps.remote_sensing.data.opened import opened
from core.errors import UserError

__all__ = ["Header", "Window", "check_grid", "read_header", "read_seen", "read_window"]

Window = tuple[int, int, int, int]
"""First row, first column, rows and columns."""


@dataclass(frozen=True)
class Header:
    """What a raster says of itself.

    Args:
        height: Rows.
        width: Columns.
        count: Bands.
        nodata: The number that stands for no measurement, or None.
        crs: The coordinate reference system as text, empty if there is none.
        transform: The affine transform's six numbers (a, b, c, d, e, f).
        names: Descriptions of the bands, empty where there is none.
        whole: Whether the values are whole numbers.
        mask: Where it says which pixels were measured: `inside` it, `beside` it (a file `.msk`), or nowhere.
        alpha: Whether GDAL calls the last band alpha and nobody gave it another name.
        stamp: Its TIFFTAG_DATETIME, empty if there is none.
    """

    height: int
    width: int
    count: int
    nodata: float | None
    crs: str
    transform: tuple[float, ...]
    names: tuple[str, ...]
    whole: bool
    mask: str = ""
    alpha: bool = False
    stamp: str = ""

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, north, east and south edge, in the units of `crs`."""
        a, b, c, d, e, f = self.transform
        return c, f, c + a * self.width + b * self.height, f + d * self.width + e * self.height

    def measured(self, wanted: int | None) -> int:
        """Return how many bands are measured: all but an alpha band at the end.

        GDAL calls the fourth of four bands of bytes alpha, whatever it is.

        Args:
            wanted: Bands that are wanted; as many as there are, and none is alpha. None is all.
        """
        return self.count - 1 if self.alpha and self.count not in (1, wanted) else self.count

    def centre(self) -> tuple[float, float] | None:
        """Return latitude and longitude of the centre in degrees, None where it has none on the Earth."""
        return centre(self)


def read_header(path: Path) -> Header:
    """Return the header of a raster.

    Raises:
        UserError: If there is no such file, it is no raster, or it is smaller than 2 x 2 pixels.
    """
    beside = path.with_name(f"{path.name}.msk").is_file()
    with opened(path) as raster:
        flags = [flag.name for flag in raster.mask_flag_enums[0]]
        header = Header(
            height=raster.height,
            width=raster.width,
            count=raster.count,
            nodata=raster.nodata,
            crs=raster.crs.to_string() if raster.crs else "",
            transform=tuple(raster.transform)[:6],
            names=tuple(name or "" for name in raster.descriptions),
            whole=np.issubdtype(np.dtype(raster.dtypes[0]), np.integer),
            mask="beside" if beside else "inside" if flags == ["per_dataset"] else "",
            alpha=raster.colorinterp[-1].name == "alpha"
            and (raster.descriptions[-1] or "alpha").lower() == "alpha",
            stamp=raster.tags().get("TIFFTAG_DATETIME", ""),
        )
    if min(header.height, header.width) < 2:
        raise UserError(
            f"{path} is {header.height} x {header.width} pixels; an image needs at least 2 x 2, "
            "so leave it out"
        )
    return header


def read_window(
    path: Path,
    bands: Sequence[int],
    window: tuple[float, float, float, float],
    *,
    shape: tuple[int, int] | None = None,
    resampling: str = "bilinear",
) -> NDArray[Any]:
    """Return `(len(bands), rows, columns)` of a raster in its own type of number; only the window is read.

    Args:
        path: The file.
        bands: Their numbers in it, from 1.
        window: First row, first column, rows and columns in the file's pixels; not whole where a coarse band
            is read for a window of a finer one.
        shape: Rows and columns of the result, where they are others than the window's.
        resampling: As rasterio names it, where they are.

    Raises:
        UserError: If the file cannot be read there.
    """
    from rasterio.enums import Resampling
    from rasterio.windows import Window as Area

    top, left, rows, columns = window
    with opened(path) as raster:
        if max(bands) > raster.count:
            raise UserError(
                f"{path} has {raster.count} bands, and band {max(bands)} is asked for; name the bands it has"
            )
        return raster.read(
            list(bands),
            window=Area(left, top, columns, rows),
            out_shape=None if shape is None else (len(bands), *shape),
            resampling=Resampling[resampling],
        )


def read_seen(
    path: Path,
    header: Header,
    window: tuple[float, float, float, float],
    *,
    shape: tuple[int, int] | None = None,
    alpha: bool = False,
) -> NDArray[np.bool_] | None:
    """Return which pixels `(rows, columns)` a raster's own mask calls measured, None without a mask.

    Args:
        path: The file.
        header: Its header.
        window: As of `read_window`.
        shape: As of `read_window`.
        alpha: Whether its last band is a mask.

    Raises:
        UserError: If the mask cannot be read.
    """
    seen = None
    if header.mask == "beside":  # which GDAL does not look for while `quick` holds
        beside = path.with_name(f"{path.name}.msk")
        seen = read_window(beside, [1], window, shape=shape, resampling="nearest")[0] > 0
    elif header.mask == "inside":
        from rasterio.windows import Window as Area

        top, left, rows, columns = window
        with opened(path) as raster:
            seen = raster.read_masks(1, window=Area(left, top, columns, rows), out_shape=shape) > 0
    if alpha:
        shown = read_window(path, [header.count], window, shape=shape, resampling="nearest")[0] > 0
        seen = shown if seen is None else seen & shown
    return seen


def check_grid(path: Path, header: Header, other_path: Path, other: Header, *, same_size: bool) -> None:
    """Refuse two rasters of one scene that do not lie on one another.

    Raises:
        UserError: If they differ in reference system, place or, with `same_size`, in size.
    """
    if header.crs != other.crs and not _same_crs(header.crs, other.crs):
        raise UserError(
            f"{other_path} is in {_short(other.crs)} and {path} in {_short(header.crs)}; bring "
            "the files of a scene "
            "to one coordinate reference system (gdalwarp -t_srs)"
        )
    if same_size and (header.height, header.width) != (other.height, other.width):
        raise UserError(
            f"{other_path} is {other.height} x {other.width} pixels and {path} {header.height} x "
            f"{header.width}; "
            "they must cover the same pixels"
        )
    if header.crs and other.crs:
        pixel = max(abs(one.transform[n]) for one in (header, other) for n in (0, 1, 3, 4))
        gap = max(abs(a - b) for a, b in zip(header.bounds, other.bounds, strict=True))
        if gap > pixel:
            raise UserError(
                f"{other_path} and {path} lie {gap:g} units of their reference system apart; the files of a "
                "scene must cover the same place"
            )


def _same_crs(one: str, other: str) -> bool:
    from rasterio.crs import CRS

    return bool(one and other) and CRS.from_string(one) == CRS.from_string(other)


def _short(crs: str) -> str:
    return (crs if len(crs) < 40 else crs[:37] + "...") or "no reference system"
