"""Maps a scene of any size: rows of overlapping tiles, blended, written as soon as they are final.

Memory is bounded by one row of tiles: `channels x tile height x scene width` sums in float64, beside the
tiles of one batch and GDAL's cache.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apps.remote_sensing.predict.growing_map import MapPair
from apps.remote_sensing.predict.scene import SceneTiles, open_scene
from apps.remote_sensing.predict.settings import MapSettings
from core.data.counting import counted
from core.errors import UserError
from core.files import locked
from core.inference.tiles import Tile, TileSums, ramps, starts

__all__ = ["Model", "SceneMap", "map_scene"]

Model = Callable[[Tensor], Tensor]
"""Maps `(B, C, h, w)` float32 in the file's units to scores `(B, K, h, w)`.

It normalises, moves what it is given to its device, and gives probabilities where classes are blended.
"""

_ROWS = 64  # rows that are turned into the map's dtype at once


@dataclass(frozen=True)
class SceneMap:
    """A finished map.

    Args:
        path: The cloud-optimised GeoTIFF.
        shape: Rows and columns.
        valid: Pixels with data; None where the map was there already.
        resumed: Rows of tiles that an earlier process had written.
        existed: Whether the very map was there already.
        beside: Files that go with it.
    """

    path: Path
    shape: tuple[int, int]
    valid: int | None = None
    resumed: int = 0
    existed: bool = False
    beside: tuple[Path, ...] = ()


def map_scene(
    scene: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    model: Model,
    settings: MapSettings,
    *,
    overwrite: bool = False,
    restart: bool = False,
    progress: bool = True,
    uncertainty: str | os.PathLike[str] | None = None,
) -> SceneMap:
    """Map a scene into a cloud-optimised GeoTIFF on the same grid.

    A map left by a process that was killed is continued, with the same bits as one made in one go. A pixel
    without data in any band has none in the map. A second process that is given the same map waits for the
    first.

    Args:
        scene: The file, or one for each date.
        out: The map.
        model: Gives scores for tiles.
        settings: Bands, tiles and what is written.
        overwrite: Replace a map of ours that was made otherwise; any other file is never replaced.
        restart: Drop what a process that was killed left.
        progress: Show how far it is.
        uncertainty: A second map, of how undecided the probabilities are: their entropy from 0 to 1.

    Raises:
        UserError: If the scene cannot be read or holds no data, lacks a band, or the map cannot be written.
    """
    with open_scene(scene, settings) as source:
        settings = replace(settings, tags=source.tags if settings.keep else None)
        facts = settings.facts() | source.facts()
        target = MapPair(out, uncertainty, like=source.dataset, settings=settings, facts=facts)
        if target.finished(overwrite=overwrite):
            return SceneMap(target.path, source.shape, existed=True, beside=target.beside)
        with locked(target.lock):
            if target.finished(overwrite=overwrite):  # by the process that held the lock
                target.discard()
                return SceneMap(target.path, source.shape, existed=True, beside=target.beside)
            left = target.begin(restart=restart)
            try:
                valid = _map_rows(source, target, model, settings, left, progress=progress)
            except UserError:
                if not target.rows:  # nothing to go on from, and it would be in a mended scene's way
                    target.discard()
                raise
            if not valid:
                target.discard()
                raise UserError(
                    f"{source.path} has no pixel with data in every band; check --nodata and --bands"
                )
            target.finish()
        return SceneMap(target.path, source.shape, valid=valid, resumed=left["rows"], beside=target.beside)


def _map_rows(
    source: SceneTiles,
    target: MapPair,
    model: Model,
    settings: MapSettings,
    left: dict[str, int],
    *,
    progress: bool,
) -> int:
    (height, width), (rows, columns) = source.shape, settings.tile_size
    shared = settings.overlap_size
    tops, lefts = starts(height, rows, shared[0]), starts(width, columns, shared[1])
    down, across = ramps(height, rows, shared[0]), ramps(width, columns, shared[1])
    done, valid = left["rows"], left["valid"]
    if done == len(tops):
        return valid
    sums = TileSums(len(settings.names), (min(rows, height), width), top=tops[done])
    # tiles above that reach into the first unwritten row are mapped again
    again = next(n for n, top in enumerate(tops) if top + rows > sums.top)
    label, total = f"map {target.path.name}", len(tops) * len(lefts)
    with counted(label, total, done=done * len(lefts), unit="tiles", shown=progress) as advance:
        for number in range(again, len(tops)):
            line = [
                Tile((tops[number], x), (tops[number] + len(down[number]), x + len(w)), (down[number], w))
                for x, w in zip(lefts, across, strict=True)
            ]
            for first in range(0, len(line), settings.batch_size):
                batch = line[first : first + settings.batch_size]
                _map_tiles(batch, source, model, settings, sums)
                if number >= done:
                    advance(len(batch))
            if number < done:
                continue
            end = tops[number + 1] if number + 1 < len(tops) else height
            top = sums.top
            values, entropy, filled = _finished(sums, end - top, settings, entropy=bool(target.beside))
            if settings.keep:
                source.restore(values, top)
            target.write(top, values, entropy)
            valid += filled
            target.note(rows=number + 1, valid=valid)
    return valid


def _map_tiles(
    batch: list[Tile], source: SceneTiles, model: Model, settings: MapSettings, sums: TileSums
) -> None:
    kept: list[tuple[Tile, NDArray[np.bool_]]] = []
    images = []
    for tile in batch:
        pixels, valid = source.read(tile)
        if valid.any():
            kept.append((tile, valid))
            images.append(torch.from_numpy(pixels))
    if not kept:
        return
    given = torch.stack(images)
    try:
        with torch.inference_mode():
            scores = model(given).to("cpu", torch.float32)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UserError(
            f"the device has no room for {len(kept)} tiles of {settings.tile_size}; lower --batch_size "
            "or --tile"
        ) from error
    if scores.shape[1] == 1 and settings.kind == "classes" and len(settings.names) == 2:
        scores = torch.cat([1 - scores, scores], dim=1)
    wanted = (len(kept), len(settings.names), *settings.tile_size)
    if tuple(scores.shape) != wanted:
        raise UserError(
            f"the model gives {tuple(scores.shape)} for images {tuple(given.shape)}, and "
            f"{len(settings.names)} names are given, which needs {wanted}; name its channels in order"
        )
    for (tile, valid), score in zip(kept, scores, strict=True):
        sums.add(tile, score, torch.from_numpy(valid))


def _finished(
    sums: TileSums, count: int, settings: MapSettings, *, entropy: bool
) -> tuple[NDArray, NDArray[np.float32] | None, int]:
    """Take the first rows as the map's values, their entropy if wanted, and how many pixels have data."""
    rows, valid = (part.numpy() for part in sums.rows(count))
    width, filled = valid.shape[1], 0
    values = np.empty((settings.count, count, width), dtype=settings.map_dtype)
    unsure = np.empty((1, count, width), dtype=np.float32) if entropy else None
    apart = settings.kind == "scores" and settings.needs == "any"
    for first in range(0, count, _ROWS):
        part = slice(first, min(first + _ROWS, count))
        scores = rows[:, part]
        if settings.tags and not settings.stored:  # as the scene's files store such numbers
            scale, offset = np.array(settings.tags).T[:, :, None, None]
            scores = (scores - offset) / scale
        finite = np.isfinite(scores)
        good = valid[part] & (finite.any(axis=0) if apart else finite.all(axis=0))
        values[:, part] = _encoded(scores, settings)
        if apart:
            values[:, part][~finite] = settings.map_nodata
        values[:, part][:, ~good] = settings.map_nodata
        if unsure is not None:
            unsure[:, part] = np.where(good, _undecided(scores), np.nan)
        filled += int(good.sum())
    sums.drop(count)
    return values, unsure, filled


def _encoded(scores: NDArray[np.float64], settings: MapSettings) -> NDArray:
    dtype = settings.map_dtype
    if settings.kind == "classes":
        return scores.argmax(axis=0)[None].astype(dtype)
    if dtype.kind == "f":
        return scores.astype(dtype)
    limits, nodata = np.iinfo(dtype), settings.map_nodata
    low, high = limits.min + (nodata == limits.min), limits.max - (nodata == limits.max)
    return np.nan_to_num(scores).round().clip(low, high).astype(dtype)


def _undecided(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the entropy of probabilities `(K, ...)` over that of even ones: 0 is sure, 1 knows nothing."""
    with np.errstate(invalid="ignore"):
        shares = np.clip(scores, np.finfo(np.float64).tiny, 1.0)
        return -(shares * np.log(shares)).sum(axis=0) / np.log(max(len(scores), 2))
