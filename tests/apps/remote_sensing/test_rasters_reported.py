"""Rasters of kinds that other tools were reported to misread: training and prediction see the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from raster_files import both_ways, folder, write
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.transform import Affine

from apps.remote_sensing.data.raster import read_header
from core.errors import UserError

WHOLE = np.arange(2 * 32 * 32).reshape(2, 32, 32) % 199 + 1


def holed(values: np.ndarray, *marks: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return values with a mark in a pixel each, and what is meant: NaN there."""
    stored, meant = values.copy(), values.astype(np.float32)
    for place, mark in enumerate(marks):
        stored[:, place, place] = mark
        meant[:, place, place] = np.nan
    return stored, meant


def compressed(dtype: str, **how: Any) -> Callable[[Path], np.ndarray]:
    def make(path: Path) -> np.ndarray:
        write(path, WHOLE.astype(dtype), tiled=True, blockxsize=16, blockysize=16, **how)
        return WHOLE.astype(np.float32)

    return make


def marked(dtype: str, nodata: float, *marks: float) -> Callable[[Path], np.ndarray]:
    def make(path: Path) -> np.ndarray:
        stored, meant = holed(WHOLE.astype(dtype), *marks)
        write(path, stored, nodata=nodata)
        return meant

    return make


def zeros_without_nodata(path: Path) -> np.ndarray:
    values = WHOLE.astype(np.float32)
    values[:, 5, 5] = 0
    write(path, values)
    return values


def alpha_of_sixteen_bits(path: Path) -> np.ndarray:
    stored, meant = holed(WHOLE.astype(np.uint16), 7)
    alpha = np.where(np.isnan(meant[:1]), 0, 65535).astype(np.uint16)
    write(path, np.concatenate([stored, alpha]))
    with rasterio.open(path, "r+") as file:
        file.colorinterp = (ColorInterp.gray, ColorInterp.undefined, ColorInterp.alpha)
    return meant


def mask_inside(path: Path) -> np.ndarray:
    stored, meant = holed(WHOLE.astype(np.uint8), 7)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        write(path, stored)
        with rasterio.open(path, "r+") as file:
            file.write_mask(~np.isnan(meant[0]))
    with rasterio.open(path) as file:
        assert MaskFlags.per_dataset in file.mask_flag_enums[0]
    return meant


def by_band(path: Path) -> np.ndarray:
    write(path, WHOLE.astype(np.int16), interleave="pixel", bigtiff="yes")
    return WHOLE.astype(np.float32)


KINDS = {
    "whitebox_next_gen 32: differences of integers": compressed("int16", compress="deflate", predictor=2),
    "whitebox_next_gen 32: differences of floats": compressed("float32", compress="lzw", predictor=3),
    "torchgeo 2466: a compression of its own": compressed("float32", compress="lerc_zstd"),
    "rasterio 1927: eight bits with a sign": marked("int8", -1, -1),
    "asf-tools 273: NaN stands for no data": marked("float32", float("nan"), float("nan")),
    "terracotta 181: NaN beside a number": marked("float32", -9999.0, -9999.0, float("nan")),
    "rasterio 3245: zeros, and no number without data": zeros_without_nodata,
    "rio-cogeo 112: alpha of sixteen bits": alpha_of_sixteen_bits,
    "salem 171: a mask inside the file": mask_inside,
    "whitebox-tools 53: BigTIFF of mixed bands": by_band,
}


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_and_gaps_are_the_files(tmp_path: Path, kind: str) -> None:
    image = tmp_path / "images" / "a.tif"
    image.parent.mkdir()
    meant = KINDS[kind](image)
    for seen in both_ways(tmp_path, image):
        np.testing.assert_array_equal(seen, meant)


def test_rows_from_south_to_north_keep_their_place(tmp_path: Path) -> None:
    image = write(tmp_path / "a.tif", WHOLE.astype(np.int16), transform=Affine(30, 0, 5e5, 0, 30, 5e6))

    header = read_header(image)

    assert header.bounds == (5e5, 5e6, 5e5 + 32 * 30, 5e6 + 32 * 30)
    latitude, _ = header.centre() or (0.0, 0.0)
    assert latitude == pytest.approx(45.158, abs=0.01)


def test_labels_are_paired_by_name_and_a_missing_one_is_told(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):  # pathml 56, torchgeo 231: lists of a folder have no order
        write(tmp_path / "images" / f"{name}.tif", WHOLE.astype(np.int16))
    for name in ("c", "a"):
        write(tmp_path / "labels" / f"{name}.tif", np.zeros((1, 32, 32), np.uint8))
    with pytest.raises(UserError, match="b"):
        folder(tmp_path, images="images/*.tif", labels="labels/*.tif").scenes("train")

    write(tmp_path / "labels" / "b.tif", np.ones((1, 32, 32), np.uint8))
    scenes = folder(tmp_path, images="images/*.tif", labels="labels/*.tif").scenes("train")
    assert [(scene.name, Path(str(scene.label)).stem) for scene in scenes] == [(n, n) for n in "abc"]
