"""Small rasters that tests write, and the pixels of them that training and prediction see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin

from apps.remote_sensing.data.readers.folders import GeoTiffFolder
from apps.remote_sensing.data.readers.source import Source, whole
from apps.remote_sensing.predict.scene import open_scene
from apps.remote_sensing.predict.settings import MapSettings
from core.inference.tiles import Tile

GRID = from_origin(5e5, 5e6, 30, 30)
PAIR = ("red", "nir_narrow")


def write(path: Path, values: np.ndarray, *, driver: str = "GTiff", **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    place = {"crs": "EPSG:32633", "transform": GRID} | more
    with rasterio.open(
        path, "w", driver=driver, count=count, height=height, width=width, dtype=values.dtype, **place
    ) as file:
        file.write(values)
    return path


def write_bands(root: Path, values: np.ndarray, *, nodata: Sequence[object]) -> Path:
    """Write a virtual raster whose bands are files of their own, each with its own number without data."""
    kind, bands = values.dtype.name.replace("uint", "UInt").replace("float", "Float"), ""
    for number, mark in enumerate(nodata):
        write(root / f"band_{number}.tif", values[number : number + 1])
        bands += (
            f'<VRTRasterBand dataType="{kind}" band="{number + 1}"><NoDataValue>{mark}</NoDataValue>'
            f'<SimpleSource><SourceFilename relativeToVRT="1">../band_{number}.tif</SourceFilename>'
            "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        )
    image = root / "images" / "a.vrt"
    image.parent.mkdir()
    image.write_text(f'<VRTDataset rasterXSize="8" rasterYSize="8"><SRS>EPSG:32633</SRS>{bands}</VRTDataset>')
    return image


def folder(root: Path, **options: Any) -> Source:
    return GeoTiffFolder(str(root), bands=PAIR, **({"classes": ("a", "b"), "fractions": (1, 0, 0)} | options))


def both_ways(root: Path, image: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels, NaN without data, as training and as prediction read them."""
    reader = folder(root, labels=None, images=f"images/{image.name}")
    pixels = reader.read(reader.scenes("train")[0], [0, 1], whole)
    trained = np.where(pixels.valid[:, None], pixels.image.astype(np.float32), np.nan)[0]
    size = pixels.image.shape[-1]
    how = MapSettings(names=("a",), tile=size, overlap=0, fill=np.nan)
    with open_scene(image, how) as scene:
        tile = Tile((0, 0), (size, size), (np.ones(size), np.ones(size)))
        predicted, valid = scene.read(tile)
    return trained, np.where(valid, predicted, np.nan)
