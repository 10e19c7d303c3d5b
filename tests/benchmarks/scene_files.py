"""GeoTIFFs that shrink as satellite images do, in the layouts that `scene_loading.py` reads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

SIX = ("blue", "green", "red", "nir_narrow", "swir_1", "swir_2")
CHIP = 512
CRS, PIXEL, WEST, NORTH = "EPSG:32633", 10.0, 400_000.0, 4_500_000.0
COARSE = (6, 1, 1, 1, 2, 2, 2, 1, 2, 6, 6, 2, 2)
"""Pixels of 10 m in one of each band of Sentinel-2."""


class RasterFiles:
    """Where a layout has its images and labels, and the bands of its images."""

    def __init__(self, kind: str) -> None:
        from apps.remote_sensing.data.bands import SENSORS

        self.kind = kind
        self.bands = tuple(SENSORS["sentinel2"].values()) if kind == "chips" else SIX

    def folders(self, root: Path) -> tuple[Path, Path]:
        """Return the folders of images and labels."""
        if self.kind == "scenes":
            return root / "images", root / "labels"
        hand = root / "v1.1" / "data" / "flood_events" / "HandLabeled"
        return hand / "S2Hand", hand / "LabelHand"


def write_chips(root: Path, options: argparse.Namespace) -> None:
    """Write chips with labels and the lists of the splits, as published."""
    top = root / "v1.1"
    images, labels = RasterFiles("chips").folders(root)
    lists = top / "splits" / "flood_handlabeled"
    for folder in (images, labels, lists):
        folder.mkdir(parents=True)
    names = [f"Place_{number:04d}" for number in range(options.chips)]
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        corner = (WEST + 10_000 * (number % 16), NORTH - 10_000 * (number // 16))
        image, water = scenery(rng, 13, CHIP)
        write(images / f"{name}_S2Hand.tif", image, corner, options.compress, "pixel", tile=256, nodata=0)
        write(labels / f"{name}_LabelHand.tif", water[None], corner, options.compress, "pixel", tile=256)
    for split in ("train", "valid", "test"):
        listed = names if split == "train" else names[:1]
        (lists / f"flood_{split}_data.txt").write_text("\n".join(listed) + "\n")


def write_scenes(root: Path, options: argparse.Namespace) -> None:
    """Write large scenes with labels."""
    images, labels = RasterFiles("scenes").folders(root)
    images.mkdir(parents=True)
    labels.mkdir()
    for number in range(options.scenes):
        rng = np.random.default_rng(1000 + number)
        corner = (WEST, NORTH - number * PIXEL * (options.side + 100))
        image, water = scenery(rng, len(SIX), options.side)
        write(images / f"{number}.tif", image, corner, options.compress, options.interleave, tile=512)
        write(labels / f"{number}.tif", water[None], corner, options.compress, "band", tile=512)


def scenery(rng: np.random.Generator, bands: int, side: int) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Return reflectances times 10,000 `(bands, side, side)`, and where there is water."""
    land = field(rng, side)
    water = land < -0.8
    image = np.empty((bands, side, side), np.int16)
    for band in range(bands):
        coarse = COARSE[band % len(COARSE)]  # bands of 20 and 60 m are repeated at 10 m
        few = -(-side // coarse)
        own = 0.8 * land[::coarse, ::coarse] + 0.3 * field(rng, few)
        level = 1500 + 500 * own + 15 * rng.standard_normal((few, few))  # noise of a sensor
        level = np.where(water[::coarse, ::coarse], 0.4 * level, level)
        fine = np.clip(level, 1, 10_000).astype(np.int16).repeat(coarse, 0).repeat(coarse, 1)
        image[band] = fine[:side, :side]
    return image, water.astype(np.int16)


def field(rng: np.random.Generator, side: int) -> NDArray[np.float32]:
    """Return a field of unit deviation whose amplitude falls with the frequency, as that of landscapes."""
    made = np.zeros((side, side), np.float32)
    cells = 4
    while cells <= side:
        coarse = torch.from_numpy(rng.standard_normal((1, 1, cells, cells)).astype(np.float32))
        fine = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")[0, 0].numpy()
        made += fine / cells**0.5
        cells *= 4
    return made / made.std()


def write(
    path: Path,
    values: NDArray[Any],
    corner: tuple[float, float],
    compress: str,
    interleave: str,
    *,
    tile: int,
    nodata: float | None = None,
) -> None:
    """Write a tiled GeoTIFF."""
    import rasterio
    from rasterio.transform import from_origin

    count, height, width = values.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=count,
        dtype=values.dtype,
        crs=CRS,
        transform=from_origin(*corner, PIXEL, PIXEL),
        tiled=True,
        blockxsize=tile,
        blockysize=tile,
        interleave=interleave,
        nodata=nodata,
        **({} if compress == "none" else {"compress": compress}),
    ) as made:
        made.write(values)
