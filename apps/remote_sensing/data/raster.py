"""The one reading of rasters: what a file says of itself, windows of its bands, what was measured there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.remote_sensing.data.dates_and_locations import centre
from apps.remote_sensing.data.open_rasters import as_text, opened
from core.errors import UserError

__all__ = [
    "Header", "Nodata", "Stack", "Window", "check_grid", "check_image", "read_header", "read_label",
    "read_stack", "read_window",
]  # fmt: skip

Window = tuple[int, int, int, int]
"""First row, first column, rows and columns."""


@dataclass(frozen=True)
class Header:
    """What a raster says of itself.

    Args:
        height: Rows.
        width: Columns.
        count: Bands.
        nodata: The number of each band that stands for no measurement, or None.
        crs: The coordinate reference system as text, empty if there is none.
        transform: The affine transform's six numbers (a, b, c, d, e, f).
        names: Descriptions of the bands, empty where there is none.
        dtypes: Of the bands.
        tags: Scale and offset of each band: what its numbers stand for is number times scale plus offset.
        mask: Whether it says which pixels were measured, inside it or in a file beside it: for all bands `at
            once`, for `each`, or not at all.
        alpha: Whether GDAL calls the last band alpha and nobody gave it another name.
        stamp: Its TIFFTAG_DATETIME, empty if there is none.
        palette: Whether its numbers are those of a palette's colours.
        lossy: Whether it is compressed so that numbers change.
    """

    height: int
    width: int
    count: int
    nodata: tuple[float | None, ...]
    crs: str
    transform: tuple[float, ...]
    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    tags: tuple[tuple[float, float], ...]
    mask: str = ""
    alpha: bool = False
    stamp: str = ""
    palette: bool = False
    lossy: bool = False

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, north, east and south edge, in the units of `crs`."""
        a, b, c, d, e, f = self.transform
        return c, f, c + a * self.width + b * self.height, f + d * self.width + e * self.height

    @property
    def located(self) -> bool:
        """Whether it says anything of where it lies."""
        return bool(self.crs) or self.transform != (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

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
        UserError: If there is no such file, it is no raster, has no bands of its own, or complex numbers.
    """
    with opened(path) as raster:
        if not raster.count:
            raise UserError(
                f"{as_text(path)} holds several rasters and no bands of its own; give one of them"
                + (f", such as {raster.subdatasets[0]}" if raster.subdatasets else "")
            )
        if any("complex" in str(dtype) for dtype in raster.dtypes):
            raise UserError(
                f"{as_text(path)} holds complex numbers, of which a network sees half; give their modulus"
            )
        flags = {flag.name for flag in raster.mask_flag_enums[0]}
        at_once = "per_dataset" in flags and "alpha" not in flags
        return Header(
            height=raster.height,
            width=raster.width,
            count=raster.count,
            nodata=tuple(raster.nodatavals),
            crs=raster.crs.to_string() if raster.crs else "",
            transform=tuple(raster.transform)[:6],
            names=tuple(
                name or raster.tags(number).get("NETCDF_VARNAME", "")
                for number, name in enumerate(raster.descriptions, 1)
            ),
            dtypes=tuple(str(dtype) for dtype in raster.dtypes),
            tags=tuple(zip(raster.scales, raster.offsets, strict=True)),
            mask="at once" if at_once else "" if flags else "each",
            alpha=raster.colorinterp[-1].name == "alpha"
            and (raster.descriptions[-1] or "alpha").lower() == "alpha",
            stamp=raster.tags().get("TIFFTAG_DATETIME", ""),
            palette=raster.colorinterp[0].name == "palette",
            lossy="jpeg" in (raster.driver.lower(), str(raster.profile.get("compress")).lower()),
        )


def read_window(
    path: Path,
    bands: Sequence[int],
    window: tuple[float, float, float, float],
    *,
    shape: tuple[int, int] | None = None,
    resampling: str = "bilinear",
    masks: bool = False,
) -> NDArray[Any]:
    """Return `(len(bands), rows, columns)` of a raster in its own type of number; only the window is read.

    Args:
        path: The file.
        bands: Their numbers in it, from 1.
        window: First row, first column, rows and columns in the file's pixels; not whole where a coarse band
            is read for a window of a finer one.
        shape: Rows and columns of the result, where they are others than the window's.
        resampling: As rasterio names it, where they are.
        masks: Whether the bands' masks are read in place of their numbers.

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
        area = Area(left, top, columns, rows)
        out = None if shape is None else (len(bands), *shape)
        if masks:
            return raster.read_masks(list(bands), window=area, out_shape=out)
        return raster.read(list(bands), window=area, out_shape=out, resampling=Resampling[resampling])


@dataclass(frozen=True)
class Nodata:
    """The number that stands for no measurement.

    Args:
        given: In place of what the files say.
        default: Of files that do not say it.
    """

    given: float | None = None
    default: float | None = None

    def of(self, header: Header, band: int) -> float | None:
        """Return that of a file's band."""
        if self.given is not None:
            return self.given
        own = header.nodata[band - 1]
        return self.default if own is None else own


@dataclass(frozen=True)
class Stack:
    """Bands of dates, and what of them was measured.

    Args:
        image: `(T, C, H, W)`.
        missing: Where a band has no number, or one that stands for no measurement, of the image's shape; None
            is nowhere.
        dark: Where a band is 0 and 0 stands for no measurement in all bands of its file: nothing was measured
            where all bands of a date are, for one alone may be dark. None is nowhere.
    """

    image: NDArray[Any]
    missing: NDArray[np.bool_] | None
    dark: NDArray[np.bool_] | None

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Where a date was measured in all bands, `(T, H, W)`."""
        valid: NDArray[np.bool_] = np.ones((len(self.image), *self.image.shape[2:]), bool)
        if self.missing is not None:
            valid &= ~self.missing.any(1)
        if self.dark is not None:
            valid &= ~self.dark.all(1)
        return valid

    @property
    def gone(self) -> NDArray[np.bool_]:
        """Where a band was not measured, of the image's shape."""
        gone = np.zeros(self.image.shape, bool) if self.missing is None else self.missing
        return gone if self.dark is None else gone | self.dark.all(1, keepdims=True)


def read_stack(
    files: Sequence[Path],
    layers: Sequence[tuple[int, int]],
    frames: int,
    window: Window,
    *,
    header: Callable[[Path], Header],
    nodata: Nodata,
    size: tuple[int, int],
    alpha: Collection[int] = (),
    shape: tuple[int, int] | None = None,
    resampling: str = "bilinear",
    stored: bool = False,
) -> Stack:
    """Read a window of bands that stand in several files.

    Args:
        files: On one place of the Earth.
        layers: File number and band in it, from 1, of each band of each date; the band varies fastest.
        frames: Dates.
        window: In pixels of the finest file.
        header: Of a file.
        nodata: What stands for no measurement.
        size: Rows and columns of the finest file.
        alpha: Numbers of the files whose last band says which pixels are shown.
        shape: Rows and columns of the result, where they are others than the window's.
        resampling: How other resolutions are brought to that shape, as rasterio names it.
        stored: Whether numbers are left as they are stored, whatever scale and offset the files name.

    Raises:
        UserError: If a file cannot be read.
    """
    image: NDArray[Any] | None = None
    missing: NDArray[np.bool_] | None = None
    dark: NDArray[np.bool_] | None = None
    for number in dict.fromkeys(file for file, _ in layers):
        rows = [row for row, (file, _) in enumerate(layers) if file == number]
        path, bands = files[number], [layers[row][1] for row in rows]
        about = header(path)
        area, out = _area(window, about, size, shape)
        part = read_window(path, bands, area, shape=out, resampling=resampling)
        gone, black = _unmeasured(part, [nodata.of(about, band) for band in bands])
        seen = _seen(path, about, bands, area, out, alpha=number in alpha)
        if seen is not None:
            gone = np.broadcast_to(~seen, part.shape) if gone is None else gone | ~seen
        if not stored:
            part = _meant(part, [about.tags[band - 1] for band in bands])
        if len(rows) == len(layers):
            image, missing, dark = part, gone, black
            break
        if image is None or missing is None or dark is None:
            image = np.empty((len(layers), *part.shape[1:]), part.dtype)
            missing, dark = np.zeros(image.shape, bool), np.zeros(image.shape, bool)
        if image.dtype != part.dtype:
            image = image.astype(np.result_type(image, part))
        image[rows] = part
        if gone is not None:
            missing[rows] = gone
        if black is not None:
            dark[rows] = black
    assert image is not None

    def split(values: NDArray[Any] | None) -> Any:
        return None if values is None else values.reshape(frames, -1, *values.shape[1:])

    return Stack(split(image), split(missing), split(dark))


def read_label(path: Path, header: Header, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return a window of a label raster, `(rows, columns)`, and what its mask or alpha band calls measured.

    Raises:
        UserError: If the file cannot be read, has several bands, or numbers that its compression changed.
    """
    alpha = header.alpha and header.count == 2
    if header.count > 1 + alpha:
        raise UserError(
            f"{path} has {header.count} bands, such as colours or one a class, and a label has one; write "
            "the numbers of the classes, or those to be learnt, into a single band"
        )
    if header.lossy:
        raise UserError(
            f"{path} is compressed as JPEG, which changes numbers; write labels anew without loss "
            "(COMPRESS=DEFLATE)"
        )
    values = read_window(path, [1], window)[0]
    seen = _seen(path, header, [1], window, None, alpha=alpha)
    return _meant(values[None], header.tags[:1])[0], None if seen is None else seen[0]


def _area(
    window: Window, header: Header, size: tuple[int, int], shape: tuple[int, int] | None
) -> tuple[tuple[float, float, float, float], tuple[int, int] | None]:
    """Return a window of the finest raster in the pixels of another, and the shape that it is read in."""
    if (header.height, header.width) == size:
        return window, shape
    down, across = header.height / size[0], header.width / size[1]
    top, left, rows, columns = window
    return (top * down, left * across, rows * down, columns * across), shape or (rows, columns)


def _unmeasured(
    part: NDArray[Any], nodata: Sequence[float | None]
) -> tuple[NDArray[np.bool_] | None, NDArray[np.bool_] | None]:
    """Return where bands hold no number or the one of no measurement, and where they hold 0 for it."""
    gone = None if np.issubdtype(part.dtype, np.integer) else ~np.isfinite(part)
    dark = all(one == 0 for one in nodata)  # one band alone may then be 0
    if not dark and any(one is not None for one in nodata):
        same: Any
        if len(set(nodata)) == 1:
            same = _alike(part, nodata[0])
        else:
            same = np.stack([_alike(band, mark) for band, mark in zip(part, nodata, strict=True)])
        gone = same if gone is None else gone | same
    return gone if gone is not None and gone.any() else None, part == 0 if dark else None


def _alike(part: NDArray[Any], mark: float | None) -> Any:
    """Return where numbers are a mark; in floats to six digits, as many as tags are often written with."""
    if mark is None or np.issubdtype(part.dtype, np.integer) or not np.isfinite(mark):
        return part == mark  # nowhere for None and NaN
    return np.isclose(part, np.float64(mark), rtol=2e-6, atol=0)


def _seen(
    path: Path,
    header: Header,
    bands: Sequence[int],
    area: tuple[float, float, float, float],
    shape: tuple[int, int] | None,
    *,
    alpha: bool,
) -> NDArray[np.bool_] | None:
    """Return what a raster's own masks call measured, `(1 or bands, rows, columns)`; None without a mask."""
    seen = None
    if header.mask:
        seen = read_window(path, bands if header.mask == "each" else [1], area, shape=shape, masks=True) > 0
    if alpha:
        shown = read_window(path, [header.count], area, shape=shape, resampling="nearest") > 0
        seen = shown if seen is None else seen & shown
    return seen


def _meant(part: NDArray[Any], tags: Sequence[tuple[float, float]]) -> NDArray[Any]:
    """Return what stored numbers stand for by the scale and offset of their bands."""
    if all(tag == (1.0, 0.0) for tag in tags):
        return part
    scale, offset = (np.array(column)[:, None, None] for column in zip(*tags, strict=True))
    return (part * scale + offset).astype(np.float32)


def check_image(path: Path, header: Header) -> None:
    """Refuse an image whose numbers are no measurements.

    Raises:
        UserError: With what to do.
    """
    if header.palette:
        raise UserError(
            f"{as_text(path)} holds numbers of a palette's colours and no measurements; write the colours "
            "as bands (gdal_translate -expand rgb)"
        )


def check_grid(
    path: Path, header: Header, other_path: Path, other: Header, *, same_size: bool, slack: float = 1.0
) -> None:
    """Refuse two rasters of one scene that do not lie on one another.

    Args:
        path: The first.
        header: Its header.
        other_path: The second; without any place of its own it is taken for the same pixels.
        other: Its header.
        same_size: Whether they must have as many pixels.
        slack: Pixels that they may lie apart.

    Raises:
        UserError: If they differ in reference system, place or, with `same_size`, in size.
    """
    if same_size and (header.height, header.width) != (other.height, other.width):
        raise UserError(
            f"{other_path} is {other.height} x {other.width} pixels and {path} {header.height} x "
            f"{header.width}; they must cover the same pixels"
        )
    if same_size and not other.located:
        return
    if header.crs != other.crs and not _same_crs(header.crs, other.crs):
        raise UserError(
            f"{other_path} is in {_short(other.crs)} and {path} in {_short(header.crs)}; warp the files of a "
            "scene to one coordinate reference system (gdalwarp -t_srs)"
        )
    if not (header.located and other.located):
        return
    pixel = max(abs(one.transform[n]) for one in (header, other) for n in (0, 1, 3, 4))
    gap = max(abs(a - b) for a, b in zip(header.bounds, other.bounds, strict=True))
    if gap > slack * pixel:
        raise UserError(
            f"{other_path} and {path} lie {gap:g} units of their reference system apart; the files of a "
            "scene must cover the same place"
        )


def _same_crs(one: str, other: str) -> bool:
    from rasterio.crs import CRS

    return bool(one and other) and CRS.from_string(one) == CRS.from_string(other)


def _short(crs: str) -> str:
    return (crs if len(crs) < 40 else crs[:37] + "...") or "no reference system"
