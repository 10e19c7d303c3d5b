"""What networks of whole images say of a scene's tiles: a table, or a GeoTIFF with a pixel for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from apps.remote_sensing.predict.mapping import SceneMap
from apps.remote_sensing.predict.scene import SceneTiles, TileBatch, open_scene, tile_batches

if TYPE_CHECKING:
    from apps.remote_sensing.predict.fitting import Found
    from apps.remote_sensing.predict.grid_tiff import GridTiff
    from apps.remote_sensing.predict.model import SceneModel
    from apps.remote_sensing.predict.settings import MapSettings
    from apps.remote_sensing.predict.tables import CsvTable

__all__ = ["label_image", "label_rows", "tile_rows"]


def tile_rows(batch: TileBatch, name: str, scene: Found) -> list[list[Any]]:
    """Return the values of `scenes.tables.COLUMNS` for the tiles of a batch."""
    dates = ";".join(str(day) for day in scene.dates) if scene.dates else None
    rows = []
    for number, (tile, valid) in enumerate(zip(batch.tiles, batch.valid, strict=True)):
        latitude, longitude = batch.centres[number] or (None, None)
        where = [name, *tile.start, *tile.shape, longitude, latitude, dates]
        rows.append([*where, float(valid.mean())])
    return rows


def label_rows(
    paths: Sequence[Path], table: CsvTable, model: SceneModel, settings: MapSettings, scene: Found
) -> SceneMap:
    """Add the tiles of a scene to a table.

    Args:
        paths: Its files.
        table: Open; its columns are `model.columns()`.
        model: Told of the scene.
        settings: With the scene's bands.
        scene: What was found of it.

    Raises:
        UserError: If the scene cannot be read or holds no data; none of its rows is kept then.
    """
    with open_scene(paths, settings) as source, table.scene():
        for batch, scores in _scored(source, model, settings, paths[0]):
            table.add(
                [
                    [*row, *model.row(score)]
                    for row, score in zip(tile_rows(batch, paths[0].name, scene), scores, strict=True)
                ]
            )
        return SceneMap(table.path, source.shape)


def label_image(paths: Sequence[Path], image: GridTiff, model: SceneModel, settings: MapSettings) -> SceneMap:
    """Write a GeoTIFF with a pixel for each tile: the class, or the scores.

    Args:
        paths: The scene's files.
        image: With one band for a class, or as many as the network has numbers.
        model: Told of the scene.
        settings: With the scene's bands.

    Raises:
        UserError: If the scene cannot be read or holds no data, or the file cannot be written.
    """
    rows, columns = settings.tile_size
    with open_scene(paths, settings) as source, image.written(source.dataset, settings.tile_size) as grid:
        for batch, scores in _scored(source, model, settings, paths[0]):
            for tile, score in zip(batch.tiles, scores, strict=True):
                values = score if settings.kind == "scores" else np.array([score.argmax()])
                grid.put(tile.start[0] // rows, tile.start[1] // columns, values[:, None, None])
        return SceneMap(image.path, source.shape)


def _scored(
    source: SceneTiles, model: SceneModel, settings: MapSettings, path: Path
) -> Iterator[tuple[TileBatch, NDArray[np.float32]]]:
    for batch in tile_batches(source, settings, label=f"tiles of {path.name}", progress=True):
        with torch.inference_mode():
            yield batch, model(batch.pixels).cpu().numpy()
