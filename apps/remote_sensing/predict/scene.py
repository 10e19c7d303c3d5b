"""Reading a scene window by window, bands by name, pixels without data marked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.remote_sensing.data.addresses import as_path, as_text, is_address
from apps.remote_sensing.data.band_numbers import band_numbers, measured
from apps.remote_sensing.data.opened import memory
from apps.remote_sensing.predict.settings import MapSettings
from core.errors import UserError
from core.inference.tiles import Tile, padded

__all__ = ["Scene", "opened", "version"]


class Scene:
    """An open scene, one file or one for each date; made by `opened`."""

    def __init__(
        self, paths: Sequence[str], datasets: Sequence[Any], settings: MapSettings, gaps: Any = None
    ) -> None:
        self.path, self.dataset = paths[0], datasets[0]
        if settings.dates % len(datasets):
            raise UserError(f"{len(datasets)} files are given for {settings.dates} dates; give one for each")
        for path, dataset in zip(paths[1:], datasets[1:], strict=True):
            _check_grid(self.path, self.dataset, path, dataset)
        self._parts = [
            _Part(path, dataset, settings, settings.dates // len(datasets))
            for path, dataset in zip(paths, datasets, strict=True)
        ]
        self.numbers = [number for part in self._parts for number in part.numbers]
        fill = settings.fill
        values = (fill,) * len(self.numbers) if isinstance(fill, int | float) else tuple(fill)
        if len(values) != len(self.numbers):
            raise UserError(
                f"{len(values)} fill values are given for the {len(self.numbers)} bands of {self.path}"
            )
        _check_room(settings, len(self.numbers) + (0 if gaps is None else gaps.count))
        self._fill = np.asarray(values, dtype=np.float32)[:, None, None]
        self._size, self._dates, self._any = settings.tile_size, settings.dates, settings.needs == "any"
        self._gaps = gaps
        if gaps is not None:
            _check_grid(self.path, self.dataset, gaps.name, gaps)
            if gaps.count not in (1, settings.dates):
                raise UserError(
                    f"{gaps.name} has {gaps.count} bands; a mask of gaps has one, or one for each of the "
                    f"{settings.dates} dates"
                )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.dataset.height, self.dataset.width

    def facts(self) -> dict[str, Any]:
        """Return what tells this scene from another or from a later version of itself."""
        first, *later = [part.facts() for part in self._parts]
        facts: dict[str, Any] = {"scene": first.pop("scene"), "shape": list(self.shape), **first}
        if later:
            facts["later"] = later
        if self._gaps is not None:
            facts["gaps"] = {"scene": Path(self._gaps.name).name, **version(self._gaps.name)}
        return facts

    def read(self, tile: Tile) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return a tile's pixels and which of them have data in every band of all, or of any, dates.

        Returns:
            pixels: `(C, h, w)` of the tile's full size, mirrored beyond the scene, filled without data; the
                bands of a date after those of the one before, and at last the mask of gaps if there is one.
            valid: Of the tile's pixels inside the scene.

        Raises:
            UserError: If the file cannot be read there.
        """
        read = [part.read(tile) for part in self._parts]
        pixels = read[0][0] if len(read) == 1 else np.concatenate([one for one, _ in read])
        valid = read[0][1] if len(read) == 1 else np.concatenate([one for _, one in read])
        dates = valid.reshape(self._dates, -1, *valid.shape[1:]).all(axis=1)
        np.copyto(pixels, self._fill, where=~valid)
        if self._gaps is not None:
            pixels = np.concatenate([pixels, self._hidden(tile).astype(np.float32)])
        return padded(pixels, self._size), dates.any(axis=0) if self._any else dates.all(axis=0)

    def restore(self, values: NDArray, top: int) -> None:
        """Put the files' own numbers, in all their digits, where they have data and the mask hides nothing.

        Args:
            values: `(C, rows, W)`, of the bands in the order they are read.
            top: First row.
        """
        rows, width = values.shape[1:]
        tile = Tile((top, 0), (top + rows, width), (np.empty(rows), np.empty(width)))
        seen = np.concatenate([part.read(tile)[1] for part in self._parts])
        seen = seen.reshape(self._dates, -1, *seen.shape[1:]).all(axis=1)
        if self._gaps is not None:
            seen &= ~self._hidden(tile)
        first = 0
        for part in self._parts:
            own = part.own(tile)
            for number, band in enumerate(own, start=first):
                date = number * self._dates // len(values)
                np.copyto(values[number], band, where=seen[date], casting="unsafe")
            first += len(own)

    def _hidden(self, tile: Tile) -> NDArray[np.bool_]:
        """Return what the mask of gaps hides of a tile, `(1 or T, h, w)`."""
        numbers = list(self._gaps.indexes)
        values = _read(self._gaps.name, self._gaps, numbers, tile)
        return (values != 0) & _mask(self._gaps.name, self._gaps, numbers, tile)

    def overview(self, size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the whole scene with few pixels, `(C, h, w)`, and which have data at each date, `(T, h, w)`.

        Args:
            size: Rows and columns wanted; nearest pixels are taken.
        """
        whole = Tile((0, 0), self.shape, (np.empty(self.shape[0]), np.empty(self.shape[1])))
        read = [part.read(whole, size) for part in self._parts]
        pixels = np.concatenate([one for one, _ in read])
        valid = np.concatenate([one for _, one in read]).reshape(self._dates, -1, *size)
        hidden = np.zeros((self._dates, *size), dtype=bool)
        if self._gaps is not None:
            hidden |= _read(self._gaps.name, self._gaps, list(self._gaps.indexes), whole, size) != 0
        return pixels, valid.all(axis=1) & ~hidden


class _Part:
    """One file of a scene."""

    def __init__(self, path: str, dataset: Any, settings: MapSettings, dates: int) -> None:
        self.path, self.dataset = path, dataset
        count = measured(dataset, None if settings.bands is None else len(settings.bands) * dates)
        self._alpha = count + 1 if count < dataset.count else None
        self.numbers = band_numbers(
            dataset.descriptions[:count],
            path=path,
            bands=settings.bands,
            names=settings.band_names,
            sensor=settings.sensor,
            dates=dates,
        )
        self._dates = dates
        self._masked = [n for n in self.numbers if "all_valid" not in _flags(dataset, n)]
        self._missing = settings.missing
        given = [settings.missing if settings.missing is not None else value for value in dataset.nodatavals]
        self._dark = all(given[number - 1] == 0 for number in self.numbers)

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"scene": Path(self.path).name, "numbers": list(self.numbers)}
        facts |= {"scene_dtypes": list(self.dataset.dtypes)}
        facts |= {"scene_nodata": [str(value) for value in self.dataset.nodatavals]}
        return facts | version(self.path)

    def read(
        self, tile: Tile, size: tuple[int, int] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return pixels `(C, h, w)` of what lies inside the scene, and which have data."""
        pixels = _read(self.path, self.dataset, self.numbers, tile, size)
        valid = np.isfinite(pixels)
        if self._missing is not None:
            valid &= pixels != np.float32(self._missing)
        for place, number in enumerate(self.numbers):
            if number in self._masked:
                valid[place] &= _mask(self.path, self.dataset, number, tile, size)
        if self._dark and len(self.numbers) > self._dates:
            # one band alone may be dark: where 0 is no data, all bands of a date are 0, as in training
            split = valid.reshape(self._dates, -1, *valid.shape[1:])
            split[:] = split.any(axis=1, keepdims=True)
        if self._alpha is not None:
            shown = _read(self.path, self.dataset, [self._alpha], tile, size)
            valid &= shown > 0
        return pixels, valid

    def own(self, tile: Tile) -> NDArray:
        """Return the numbers `(C, h, w)` as the file has them."""
        with _reading(self.path, tile):
            return self.dataset.read(self.numbers, window=_window(tile))


@contextmanager
def opened(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], settings: MapSettings
) -> Iterator[Scene]:
    """Open a scene: a GeoTIFF or whatever GDAL reads, a VRT of several files or an address included.

    Args:
        path: The file, or one for each date, on one grid.
        settings: Which bands are read.

    Raises:
        UserError: If a file is missing or damaged, lacks a band, or lies on another grid.
    """
    import rasterio
    from rasterio.errors import RasterioError

    names = [as_text(one) for one in ([path] if isinstance(path, str | os.PathLike) else path)]
    with ExitStack() as stack:
        datasets = []
        for name in [*names, *([as_text(as_path(settings.gaps))] if settings.gaps else [])]:
            if not is_address(name) and not os.path.exists(name):
                raise UserError(f"there is no scene {name}; check the path")
            try:
                datasets.append(stack.enter_context(rasterio.open(name)))
            except RasterioError as error:
                raise UserError(
                    f"{name} is no raster that can be read: it is damaged or of another format"
                ) from error
            if not datasets[-1].count:
                raise UserError(f"{name} holds several rasters and no bands of its own; give one of them")
        yield Scene(names, datasets[: len(names)], settings, datasets[-1] if settings.gaps else None)


def _flags(dataset: Any, number: int) -> list[str]:
    return [flag.name for flag in dataset.mask_flag_enums[number - 1]]


def _mask(
    path: str, dataset: Any, numbers: int | list[int], tile: Tile, size: tuple[int, int] | None = None
) -> NDArray[np.bool_]:
    """Return where bands of a tile have data by the file's masks."""
    with _reading(path, tile):
        shape = size if size is None or isinstance(numbers, int) else (len(numbers), *size)
        return dataset.read_masks(numbers, window=_window(tile), out_shape=shape) > 0


def _window(tile: Tile) -> Any:
    from rasterio.windows import Window

    return Window(tile.start[1], tile.start[0], tile.shape[1], tile.shape[0])


def _read(
    path: str, dataset: Any, numbers: list[int], tile: Tile, size: tuple[int, int] | None = None
) -> NDArray[np.float32]:
    """Return the bands of a tile, of what lies inside the scene, with another number of pixels if wanted."""
    with _reading(path, tile):
        shape = None if size is None else (len(numbers), *size)
        return dataset.read(numbers, window=_window(tile), out_dtype="float32", out_shape=shape)


@contextmanager
def _reading(path: str, tile: Tile) -> Iterator[None]:
    from rasterio.errors import RasterioError

    (top, left), (rows, columns) = tile.start, tile.shape
    try:
        yield
    except (RasterioError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read at rows {top} to {top + rows}, columns {left} to {left + columns}, so it "
            "is damaged or incomplete; fetch it again"
        ) from error


def version(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what tells a file from a later one of its name; nothing where it is none of this disk's."""
    if not os.path.isfile(path):
        return {}
    status = os.stat(path)
    return {"bytes": status.st_size, "modified": status.st_mtime_ns}


def _check_room(settings: MapSettings, channels: int) -> None:
    """Refuse a batch of tiles that cannot be held in memory, read and stacked."""
    (rows, columns), has = settings.tile_size, memory()
    needed = 2 * settings.batch_size * channels * rows * columns * 4
    if needed > has:
        raise UserError(
            f"{settings.batch_size} tiles of {rows} x {columns} pixels and {channels} bands need "
            f"{needed / 2**30:.0f} GiB of memory and there are {has / 2**30:.0f}; lower "
            "--tile or --batch_size"
        )


def _check_grid(path: str, first: Any, other_path: str, other: Any) -> None:
    """Refuse two files of a scene whose pixels are not at the same places."""
    if first.crs != other.crs:
        names = [one.crs.to_string() if one.crs else "no reference system" for one in (other, first)]
        names = [name if len(name) < 40 else f"{name[:37]}..." for name in names]
        raise UserError(
            f"{other_path} is in {names[0]} and {path} in {names[1]}; warp the files of a scene to one grid"
        )
    if first.shape != other.shape:
        raise UserError(
            f"{other_path} is {other.height} x {other.width} pixels and {path} {first.height} x "
            f"{first.width}; the files of a scene must cover the same pixels"
        )
    steps = [abs(value) for value in first.transform[:2]]
    if not all(
        abs(a - b) <= 0.01 * max(steps) for a, b in zip(_corners(first), _corners(other), strict=True)
    ):
        raise UserError(
            f"{other_path} and {path} do not cover the same place; warp the files of a scene to one grid"
        )


def _corners(dataset: Any) -> list[float]:
    a, b, c, d, e, f = tuple(dataset.transform)[:6]
    columns, rows = dataset.width, dataset.height
    return [c, f, c + a * columns + b * rows, f + d * columns + e * rows]
