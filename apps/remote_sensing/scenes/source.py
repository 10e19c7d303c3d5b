"""Reading a scene window by window, bands by name, pixels without data marked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.remote_sensing.bands import canonical
from apps.remote_sensing.scenes.settings import MapSettings
from core.data.tiles import Tile, padded
from core.errors import UserError, did_you_mean

__all__ = ["Scene", "band_numbers", "opened"]


class Scene:
    """An open scene; made by `opened`."""

    def __init__(self, path: str, dataset: Any, settings: MapSettings) -> None:
        self.path = path
        self.dataset = dataset
        self.numbers = band_numbers(
            dataset.descriptions,
            path=path,
            bands=settings.bands,
            names=settings.band_names,
            sensor=settings.sensor,
        )
        fill = settings.fill
        values = (fill,) * len(self.numbers) if isinstance(fill, int | float) else tuple(fill)
        if len(values) != len(self.numbers):
            raise UserError(
                f"{len(values)} fill values are given for the {len(self.numbers)} bands of {path}"
            )
        self._fill = np.asarray(values, dtype=np.float32)[:, None, None]
        self._size = settings.tile_size
        self._masked = [n for n in self.numbers if "all_valid" not in _flags(dataset, n)]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.dataset.height, self.dataset.width

    def facts(self) -> dict[str, Any]:
        """Return what tells this scene from another or from a later version of itself."""
        facts: dict[str, Any] = {"scene": Path(self.path).name, "shape": list(self.shape)}
        facts |= {"numbers": list(self.numbers), "scene_dtypes": list(self.dataset.dtypes)}
        facts |= {"scene_nodata": [str(value) for value in self.dataset.nodatavals]}
        if os.path.isfile(self.path):
            status = os.stat(self.path)
            facts |= {"bytes": status.st_size, "modified": status.st_mtime_ns}
        return facts

    def read(self, tile: Tile) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return a tile's pixels and which of them have data in every band.

        Returns:
            pixels: `(C, h, w)` of the tile's full size, mirrored beyond the scene, filled without data.
            valid: Of the tile's pixels inside the scene.

        Raises:
            UserError: If the file cannot be read there.
        """
        from rasterio.errors import RasterioError
        from rasterio.windows import Window

        (top, left), (rows, columns) = tile.start, tile.shape
        window = Window(left, top, columns, rows)
        try:
            pixels = self.dataset.read(self.numbers, window=window, out_dtype="float32")
            valid = np.isfinite(pixels)
            for number in self._masked:
                valid[self.numbers.index(number)] &= self.dataset.read_masks(number, window=window) > 0
        except (RasterioError, ValueError) as error:
            raise UserError(
                f"{self.path} cannot be read at rows {top} to {top + rows}, columns {left} to "
                f"{left + columns}, so it is damaged or incomplete; fetch it again"
            ) from error
        every = valid.all(axis=0)
        np.copyto(pixels, self._fill, where=~valid)
        return padded(pixels, self._size), every


@contextmanager
def opened(path: str | os.PathLike[str], settings: MapSettings) -> Iterator[Scene]:
    """Open a scene: a GeoTIFF or whatever GDAL reads, a VRT of several files or an address included.

    Raises:
        UserError: If the file is missing or damaged, or lacks a band.
    """
    import rasterio
    from rasterio.errors import RasterioError

    name = os.fspath(path)
    if not name.startswith("/vsi") and "://" not in name and not os.path.exists(name):
        raise UserError(f"there is no scene {name}; check the path")
    try:
        dataset = rasterio.open(name)
    except RasterioError as error:
        raise UserError(
            f"{name} is no raster that can be read: it is damaged or of another format"
        ) from error
    with dataset:
        if not dataset.count:
            raise UserError(f"{name} holds several rasters and no bands of its own; give one of them")
        yield Scene(name, dataset, settings)


def band_numbers(
    descriptions: Sequence[str | None],
    *,
    path: str = "the scene",
    bands: Sequence[str | int] | None = None,
    names: Sequence[str] | None = None,
    sensor: str | None = None,
) -> list[int]:
    """Return the numbers, from 1, of the wanted bands of a file.

    Args:
        descriptions: The file's own names of its bands, None where it has none.
        path: The file, for messages.
        bands: Wanted bands by name or number; None takes all.
        names: The names of the file's bands where its own are missing or wrong.
        sensor: Whose numbers the names are.

    Raises:
        UserError: If a band is missing, or named where the file's bands have no names.
    """
    count = len(descriptions)
    if names is not None and len(names) != count:
        raise UserError(
            f"{path} has {count} bands and {len(names)} names are given for them; name every band"
        )
    if bands is None:
        return list(range(1, count + 1))
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
                f"the {count} bands of {path} have no names, and band '{band}' is wanted; give band_names in "
                f"their order"
            )
        wanted = canonical(band, sensor=sensor)
        if wanted not in given:
            known = [name for name in given if name]
            raise UserError(
                f"{path} has no band '{band}' but {', '.join(known)}{did_you_mean(wanted, known)}"
            )
        numbers.append(given.index(wanted) + 1)
    return numbers


def _flags(dataset: Any, number: int) -> list[str]:
    return [flag.name for flag in dataset.mask_flag_enums[number - 1]]
