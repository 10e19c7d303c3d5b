"""What rasters say of themselves is read or refused, in training and in prediction alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from apps.remote_sensing.data.dates_and_locations import degrees
from apps.remote_sensing.data.raster import check_grid, read_header
from apps.remote_sensing.data.readers.folders import GeoTiffFolder
from apps.remote_sensing.data.readers.source import Source, whole
from apps.remote_sensing.predict.scene import open_scene
from apps.remote_sensing.predict.settings import MapSettings
from core.errors import UserError
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


def test_scale_and_offset_are_what_numbers_stand_for(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(1000, 4000, (2, 8, 8)).astype(np.uint16)
    image = write(tmp_path / "images" / "a.tif", stored, nodata=1234)
    stored[:, 0, 0] = 1234
    with rasterio.open(image, "r+") as file:
        file.write(stored)
        file.scales, file.offsets = (2.0, 1.0), (-1000.0, -500.0)
    meant = stored * np.array([2.0, 1.0])[:, None, None] + np.array([-1000.0, -500.0])[:, None, None]
    meant[:, (stored == 1234).any(0)] = np.nan
    for seen in both_ways(tmp_path, image):
        np.testing.assert_array_equal(seen, meant)


@pytest.mark.parametrize("first", [65535, 0])
def test_each_bands_own_number_without_data_counts(tmp_path: Path, first: int) -> None:
    drawn = np.random.default_rng(0).integers(100, 200, (2, 8, 8)).astype(np.uint16)
    numbers = (first, 65535 - first)
    drawn[0, 0], drawn[1, 1] = numbers
    drawn[0, 2], drawn[1, 3] = numbers[::-1]  # measured: it is the other band's number
    bands = ""
    for number, nodata in enumerate(numbers):
        write(tmp_path / f"band_{number}.tif", drawn[number : number + 1])
        bands += (
            f'<VRTRasterBand dataType="UInt16" band="{number + 1}"><NoDataValue>{nodata}</NoDataValue>'
            f'<SimpleSource><SourceFilename relativeToVRT="1">../band_{number}.tif</SourceFilename>'
            "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        )
    image = tmp_path / "images" / "a.vrt"
    image.parent.mkdir()
    image.write_text(f'<VRTDataset rasterXSize="8" rasterYSize="8"><SRS>EPSG:32633</SRS>{bands}</VRTDataset>')
    for seen in both_ways(tmp_path, image):
        assert np.isnan(seen[:, :2]).all() and np.isfinite(seen[:, 2:]).all()


def test_complex_numbers_and_files_of_another_format_are_refused(tmp_path: Path) -> None:
    radar = write(tmp_path / "radar.tif", np.full((2, 8, 8), 1 + 1j, np.complex64))
    with pytest.raises(UserError, match="holds complex numbers"):
        read_header(radar)
    secret = write(tmp_path / "secret.tif", np.ones((1, 8, 8), np.uint8))
    false = tmp_path / "false.tif"
    false.write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>{secret}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(UserError, match="it is damaged or no raster"):
        read_header(false)


def test_side_files_say_where_a_raster_lies(tmp_path: Path) -> None:
    image = write(tmp_path / "images" / "a.dat", np.ones((2, 8, 8), np.int16), driver="ENVI")
    trained, predicted = both_ways(tmp_path, image)
    assert (trained == 1).all() and (predicted == 1).all()
    assert read_header(image).crs == "EPSG:32633"


def test_labels_lie_on_their_image_or_say_nothing_of_where(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.tif", np.ones((2, 8, 8), np.int16))
    label = write(tmp_path / "labels" / "a.tif", np.ones((1, 8, 8), np.uint8), crs=None, transform=None)
    reader = folder(tmp_path)
    assert (reader.read(reader.scenes("train")[0], [0, 1], whole).label == 1).all()
    image = tmp_path / "images" / "a.tif"
    for shift, fits in ((15, True), (30, False)):
        write(label, np.ones((1, 8, 8), np.uint8), transform=from_origin(5e5 + shift, 5e6, 30, 30))
        headers = read_header(image), read_header(label)
        if fits:
            check_grid(image, headers[0], label, headers[1], same_size=True, slack=0.6)
            continue
        with pytest.raises(UserError, match="30 units of their reference system apart"):
            folder(tmp_path).read(reader.scenes("train")[0], [0, 1], whole)


@pytest.mark.parametrize(
    ("values", "nodata", "sentence"),
    [(0.75, None, "holds fractions such as 0.75"), (1.0, 0, "calls 0 no data, which is the class 'a'")],
)
def test_labels_that_are_no_class_numbers_are_refused(
    tmp_path: Path, values: float, nodata: float | None, sentence: str
) -> None:
    write(tmp_path / "images" / "a.tif", np.ones((2, 8, 8), np.int16))
    write(tmp_path / "labels" / "a.tif", np.full((1, 8, 8), values, np.float32), nodata=nodata)
    reader = folder(tmp_path)
    with pytest.raises(UserError, match=sentence):
        reader.read(reader.scenes("train")[0], [0, 1], whole)


def test_longitudes_are_between_minus_and_plus_180() -> None:
    ((latitude, longitude),) = degrees("EPSG:4326", [350.0], [10.0])  # type: ignore[misc]
    assert (latitude, longitude) == pytest.approx((10, -10))
