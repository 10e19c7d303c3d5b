"""Odd scenes: one that cannot be placed or written is told in a sentence and never ends a folder of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from apps.remote_sensing.readers.raster import read_header
from apps.remote_sensing.scenes.fitting import Wanted, found
from apps.remote_sensing.scenes.grid import tile_batches
from apps.remote_sensing.scenes.places import degrees
from apps.remote_sensing.scenes.settings import MapSettings
from apps.remote_sensing.scenes.source import opened

GRID = from_origin(398_655.0, 4_500_015.0, 30.0, 30.0)
PLAN = 'LOCAL_CS["plan",UNIT["metre",1]]'


def write_scene(path: Path, values: np.ndarray, *, names: tuple[str, ...] = (), **profile: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    shape = {"count": count, "height": height, "width": width, "dtype": str(values.dtype)}
    grid = {"crs": "EPSG:32633", "transform": GRID} | profile
    with rasterio.open(path, "w", driver="GTiff", **grid, **shape) as made:
        made.write(values)
        if names:
            made.descriptions = names
    return path


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, dtype=np.int16)


@pytest.mark.parametrize(
    "profile", [{"crs": PLAN}, {"transform": from_origin(1e9, 1e9, 30, 30)}], ids=["plan", "far"]
)
def test_a_scene_without_a_place_on_the_earth_is_read_without_one(
    tmp_path: Path, profile: dict[str, object]
) -> None:
    scene = write_scene(tmp_path / "scene.tif", ones(1, 40, 20), **profile)
    known = found([scene], Wanted(bands=("red",), placed=True))
    assert known.place is None and any("no coordinates on the Earth" in note for note in known.notes)
    assert read_header(scene).centre() is None
    how = MapSettings(names=("a",), tile=16, overlap=0)
    with opened(scene, how) as source:
        (batch, *_) = tile_batches(source, how, label="tiles", progress=False)
    assert batch.places == [None] * 4


def test_places_that_exist_are_told_beside_others_that_do_not() -> None:
    none, there = degrees("EPSG:32633", [1e9, 5e5], [1e9, 4.5e6])
    assert none is None and there == pytest.approx((40.65, 15.0), abs=0.01)
