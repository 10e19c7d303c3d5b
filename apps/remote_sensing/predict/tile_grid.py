"""A scene cut into tiles that share nothing, a batch in memory at a time: one row for each tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apps.remote_sensing.data.dates_and_places import degrees
from apps.remote_sensing.predict.scene import Scene
from apps.remote_sensing.predict.settings import MapSettings
from core.data.counting import counted
from core.errors import UserError
from core.inference.tiles import Tile

__all__ = ["TileBatch", "grid_shape", "tile_batches"]


@dataclass(frozen=True)
class TileBatch:
    """Some tiles of a scene.

    Args:
        tiles: Their windows; the last ones of a row or column are cut off at the scene's end.
        pixels: `(B, C, h, w)` of the tiles' full size, mirrored beyond the scene.
        valid: Where each has data, inside the scene.
        places: Latitude and longitude of each one's centre in degrees, or None where it has none.
    """

    tiles: list[Tile]
    pixels: Tensor
    valid: list[NDArray[np.bool_]]
    places: list[tuple[float, float] | None]


def grid_shape(source: Scene, settings: MapSettings) -> tuple[int, int]:
    """Return how many tiles stand below and beside each other."""
    (height, width), (rows, columns) = source.shape, settings.tile_size
    return -(-height // rows), -(-width // columns)


def tile_batches(source: Scene, settings: MapSettings, *, label: str, progress: bool) -> Iterator[TileBatch]:
    """Yield the tiles of a scene that have data, row by row; never more than a batch is in memory.

    Args:
        source: The open scene.
        settings: Sides of a tile and the size of a batch; the overlap does not count.
        label: What the progress is of.
        progress: Whether it is shown.

    Raises:
        UserError: If the scene cannot be read, or has no data at all.
    """
    (height, width), (rows, columns) = source.shape, settings.tile_size
    down, across = grid_shape(source, settings)
    places = [(row * rows, column * columns) for row in range(down) for column in range(across)]
    found = False
    with counted(label, len(places), unit="tiles", shown=progress) as advance:
        for first in range(0, len(places), settings.batch_size):
            chosen = places[first : first + settings.batch_size]
            kept, images, valid = [], [], []
            for top, left in chosen:
                stop = (min(top + rows, height), min(left + columns, width))
                tile = Tile((top, left), stop, (np.ones(stop[0] - top), np.ones(stop[1] - left)))
                pixels, known = source.read(tile)
                if known.any():
                    kept.append(tile)
                    images.append(torch.from_numpy(pixels))
                    valid.append(known)
            if kept:
                found = True
                yield TileBatch(kept, torch.stack(images), valid, _places(source.dataset, kept))
            advance(len(chosen))
    if not found:
        raise UserError(f"{source.path} has no pixel with data in every band; check --nodata and --bands")


def centre_of(dataset: Any, tile: Tile) -> tuple[float, float]:
    """Return x and y of a tile's centre in the raster's reference system."""
    a, b, c, d, e, f = tuple(dataset.transform)[:6]
    row, column = ((tile.start[axis] + tile.stop[axis]) / 2 for axis in (0, 1))
    return c + a * column + b * row, f + d * column + e * row


def _places(dataset: Any, tiles: list[Tile]) -> list[tuple[float, float] | None]:
    if not dataset.crs:
        return [None] * len(tiles)
    centres = [centre_of(dataset, tile) for tile in tiles]
    return degrees(dataset.crs, [x for x, _ in centres], [y for _, y in centres])
