"""Scenes as prediction reads them: tiles of files of any size, bands by name, pixels without data marked."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apps.remote_sensing.data.bands import band_numbers
from apps.remote_sensing.data.dates_and_locations import degrees
from apps.remote_sensing.data.open_rasters import as_path, as_text, is_address, memory, open_raster, quick
from apps.remote_sensing.data.raster import (
    Header,
    Nodata,
    Stack,
    Window,
    check_grid,
    check_image,
    read_header,
    read_stack,
)
from apps.remote_sensing.predict.settings import MapSettings
from core.data.counting import counted
from core.errors import UserError
from core.inference.tiles import Tile, padded

__all__ = ["SceneTiles", "TileBatch", "file_version", "open_scene", "scene_header", "tile_batches"]


class SceneTiles:
    """A scene, one file or one for each date, read tile by tile; made by `open_scene`.

    Args:
        files: Its files.
        settings: Which bands are read, and how.
        dataset: The first file, open, for what results take over of it.

    Attributes:
        shape: Rows and columns.
        numbers: Of the bands that are read of each file, in their order.
        tags: Scale and offset of each of them, None where no file names any.
    """

    def __init__(self, files: Sequence[Path], settings: MapSettings, dataset: Any) -> None:
        self.path, self.dataset, self._files = as_text(files[0]), dataset, list(files)
        self._headers = {file: scene_header(file) for file in files}
        first, frames = self._headers[files[0]], settings.dates
        self._nodata = Nodata(settings.missing)
        for file in files:
            check_image(file, self._headers[file])
        if frames % len(files):
            raise UserError(f"{len(files)} files are given for {frames} dates; give one for each")
        for file in files[1:]:
            check_grid(files[0], first, file, self._headers[file], same_size=True, slack=0.01)
        self._layers, self._alpha = [], []
        inside = frames // len(files)
        for number, file in enumerate(files):
            header = self._headers[file]
            count = header.measured(None if settings.bands is None else len(settings.bands) * inside)
            if count < header.count:
                self._alpha.append(number)
            bands = band_numbers(
                header.names[:count], path=as_text(file), bands=settings.bands, names=settings.band_names,
                sensor=settings.sensor, dates=inside,
            )  # fmt: skip
            self._layers += [(number, band) for band in bands]
        tags, kinds = self._stored_as(settings)
        self.tags = tags if any(tag != (1.0, 0.0) for tag in tags) else None
        if settings.keep and len(kinds) > 1:
            raise UserError(
                f"{self.path} and its other dates hold numbers that one filled scene cannot hold: "
                f"{' and '.join(sorted(kinds))}; write them alike"
            )
        self._stored = settings.stored
        self.shape, self.numbers = (first.height, first.width), [band for _, band in self._layers]
        fill = settings.fill
        values = (fill,) * len(self.numbers) if isinstance(fill, int | float) else tuple(fill)
        if len(values) != len(self.numbers):
            raise UserError(
                f"{len(values)} fill values are given for the {len(self.numbers)} bands of {self.path}"
            )
        self._fill = np.asarray(values, dtype=np.float32).reshape(frames, -1, 1, 1)
        self._size, self._frames, self._any = settings.tile_size, frames, settings.needs == "any"
        self._gaps: Path | None = as_path(settings.gaps) if settings.gaps else None
        bands_of_gaps = 0 if self._gaps is None else self._checked_gaps(self._gaps)
        _check_room(settings, len(self.numbers) + bands_of_gaps)

    def facts(self) -> dict[str, Any]:
        """Return what tells this scene from another or from a later version of itself."""
        first, *later = [self._file_facts(number) for number in range(len(self._files))]
        facts: dict[str, Any] = {"scene": first.pop("scene"), "shape": list(self.shape), **first}
        if later:
            facts["later"] = later
        if self._gaps is not None:
            facts["gaps"] = {"scene": self._gaps.name, **file_version(self._gaps)}
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
        stack = self._stack(_window(tile))
        image, gone = stack.image.astype(np.float32), stack.gone
        np.copyto(image, self._fill, where=gone)
        pixels, dates = image.reshape(-1, *tile.shape), ~gone.any(axis=1)
        if self._gaps is not None:
            pixels = np.concatenate([pixels, self._hidden(_window(tile)).astype(np.float32)])
        return padded(pixels, self._size), dates.any(axis=0) if self._any else dates.all(axis=0)

    def restore(self, values: NDArray, top: int) -> None:
        """Put the files' own numbers, in all their digits, where they have data and the mask hides nothing.

        Args:
            values: `(C, rows, W)`, of the bands in the order they are read.
            top: First row.
        """
        window = (top, 0, *values.shape[1:])
        stack = self._stack(window, stored=True)
        seen = ~stack.gone.any(axis=1)
        if self._gaps is not None:
            seen &= ~self._hidden(window)
        split = values.reshape(stack.image.shape)
        np.copyto(split, stack.image, where=seen[:, None], casting="unsafe")

    def overview(self, size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the whole scene with few pixels, `(T, C, h, w)`, and which a date shows, `(T, h, w)`.

        Args:
            size: Rows and columns wanted; nearest pixels are taken.
        """
        window = (0, 0, *self.shape)
        stack = self._stack(window, shape=size)
        seen = ~stack.gone.any(axis=1)
        if self._gaps is not None:
            seen &= ~self._hidden(window, shape=size)
        return stack.image.astype(np.float32), seen

    def _stored_as(self, settings: MapSettings) -> tuple[tuple[tuple[float, float], ...], set[str]]:
        """Return scale and offset of each band that is read, and their kinds of number."""
        owners = [(self._headers[self._files[number]], band) for number, band in self._layers]
        kinds = {
            header.dtypes[band - 1]
            + ("" if settings.gaps else f" with {self._nodata.of(header, band)} for no data")
            for header, band in owners
        }
        return tuple(header.tags[band - 1] for header, band in owners), kinds

    def _stack(self, window: Window, *, stored: bool = False, shape: tuple[int, int] | None = None) -> Stack:
        return read_stack(
            self._files, self._layers, self._frames, window, header=self._headers.__getitem__,
            nodata=self._nodata, size=self.shape, alpha=self._alpha, resampling="nearest", shape=shape,
            stored=stored or self._stored,
        )  # fmt: skip

    def _checked_gaps(self, gaps: Path) -> int:
        """Return how many bands the mask of gaps has, once it is known to fit."""
        header = self._headers[gaps] = scene_header(gaps)
        check_grid(self._files[0], self._headers[self._files[0]], gaps, header, same_size=True, slack=0.01)
        if header.count not in (1, self._frames):
            raise UserError(
                f"{as_text(gaps)} has {header.count} bands; a mask of gaps has one, or one for each of the "
                f"{self._frames} dates"
            )
        return header.count

    def _hidden(self, window: Window, shape: tuple[int, int] | None = None) -> NDArray[np.bool_]:
        """Return what the mask of gaps hides, `(1 or T, rows, columns)`."""
        assert self._gaps is not None
        bands = range(1, self._headers[self._gaps].count + 1)
        mask = read_stack(
            [self._gaps], [(0, band) for band in bands], 1, window, header=self._headers.__getitem__,
            nodata=Nodata(), size=self.shape, shape=shape, resampling="nearest",
        )  # fmt: skip
        hidden = mask.image[0] != 0
        return hidden if mask.missing is None else hidden & ~mask.missing[0]

    def _file_facts(self, number: int) -> dict[str, Any]:
        file, header = self._files[number], self._headers[self._files[number]]
        facts: dict[str, Any] = {"scene": file.name}
        facts["numbers"] = [band for owner, band in self._layers if owner == number]
        facts |= {"scene_dtypes": list(header.dtypes), "scene_nodata": [str(one) for one in header.nodata]}
        if any(tag != (1.0, 0.0) for tag in header.tags):
            facts["scene_tags"] = [list(tag) for tag in header.tags]
        return facts | file_version(file)


@contextmanager
def open_scene(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], settings: MapSettings
) -> Iterator[SceneTiles]:
    """Open a scene: a GeoTIFF or whatever GDAL reads, a VRT of several files or an address included.

    Args:
        path: The file, or one for each date, on one grid.
        settings: Which bands are read.

    Raises:
        UserError: If a file is missing or damaged, lacks a band, or lies on another grid.
    """
    from rasterio.errors import NotGeoreferencedWarning

    files = [Path(one) for one in ([path] if isinstance(path, str | os.PathLike) else path)]
    for file in files:
        scene_header(file)
    with open_raster(as_text(files[0])) as dataset, warnings.catch_warnings(), quick(settings.cache):
        # a scene without coordinates gives a map without: nothing to warn of
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield SceneTiles(files, settings, dataset)


def scene_header(path: Path) -> Header:
    """Return the header of a file of a scene.

    Raises:
        UserError: If it is missing or cannot be read.
    """
    if not is_address(path) and not path.exists():
        raise UserError(f"there is no scene {path}; check the path")
    return read_header(path)


def file_version(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what tells a file from a later one of its name; nothing where it is none of this disk's."""
    if not os.path.isfile(path):
        return {}
    status = os.stat(path)
    return {"bytes": status.st_size, "modified": status.st_mtime_ns}


@dataclass(frozen=True)
class TileBatch:
    """Some tiles of a scene.

    Args:
        tiles: Their windows; the last ones of a row or column are cut off at the scene's end.
        pixels: `(B, C, h, w)` of the tiles' full size, mirrored beyond the scene.
        valid: Where each has data, inside the scene.
        centres: Latitude and longitude of each one's centre in degrees, or None where it has none.
    """

    tiles: list[Tile]
    pixels: Tensor
    valid: list[NDArray[np.bool_]]
    centres: list[tuple[float, float] | None]


def tile_batches(
    scene: SceneTiles, settings: MapSettings, *, label: str, progress: bool
) -> Iterator[TileBatch]:
    """Yield tiles that share nothing and have data, row by row; never more than a batch is in memory.

    Args:
        scene: The open scene.
        settings: Sides of a tile and the size of a batch; the overlap does not count.
        label: What the progress is of.
        progress: Whether it is shown.

    Raises:
        UserError: If the scene cannot be read, or has no data at all.
    """
    (height, width), (rows, columns) = scene.shape, settings.tile_size
    corners = [(top, left) for top in range(0, height, rows) for left in range(0, width, columns)]
    any_data = False
    with counted(label, len(corners), unit="tiles", shown=progress) as advance:
        for first in range(0, len(corners), settings.batch_size):
            chosen = corners[first : first + settings.batch_size]
            kept, images, valid = [], [], []
            for top, left in chosen:
                stop = (min(top + rows, height), min(left + columns, width))
                tile = Tile((top, left), stop, (np.ones(stop[0] - top), np.ones(stop[1] - left)))
                pixels, measured = scene.read(tile)
                if measured.any():
                    kept.append(tile)
                    images.append(torch.from_numpy(pixels))
                    valid.append(measured)
            if kept:
                any_data = True
                yield TileBatch(kept, torch.stack(images), valid, _centres(scene.dataset, kept))
            advance(len(chosen))
    if not any_data:
        raise UserError(f"{scene.path} has no pixel with data in every band; check --nodata and --bands")


def _centres(dataset: Any, tiles: list[Tile]) -> list[tuple[float, float] | None]:
    if not dataset.crs:
        return [None] * len(tiles)
    a, b, c, d, e, f = tuple(dataset.transform)[:6]
    middles = [((tile.start[0] + tile.stop[0]) / 2, (tile.start[1] + tile.stop[1]) / 2) for tile in tiles]
    x = [c + a * column + b * row for row, column in middles]
    return degrees(dataset.crs, x, [f + d * column + e * row for row, column in middles])


def _window(tile: Tile) -> Window:
    return (*tile.start, *tile.shape)  # type: ignore[return-value]


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
