"""What rasters say of themselves is read or refused, in training and in prediction alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import xarray as xr
from raster_files import PAIR, both_ways, folder, write, write_bands
from rasterio.transform import from_origin

from apps.remote_sensing.data.dates_and_locations import degrees
from apps.remote_sensing.data.module import Scenes
from apps.remote_sensing.data.normalisation import Normalisation
from apps.remote_sensing.data.open_rasters import as_path, is_address
from apps.remote_sensing.data.raster import check_grid, read_header, read_window
from apps.remote_sensing.data.readers.folders import GeoTiffFolder
from apps.remote_sensing.data.readers.source import whole
from apps.remote_sensing.models.mapper import Mapper
from apps.remote_sensing.models.prithvi import Prithvi, PrithviMAE
from apps.remote_sensing.predict.fitting import Wanted, found
from apps.remote_sensing.predict.mapping import map_scene
from apps.remote_sensing.predict.scene import open_scene
from apps.remote_sensing.predict.settings import MapSettings
from apps.remote_sensing.tasks import Pretraining, Segmentation
from core.errors import UserError
from core.inference.tiles import Tile

SMALL: dict[str, Any] = {"resolution": 16, "patch": (1, 8, 8), "width": 16, "depth": 1, "heads": 2}


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
    image = write_bands(tmp_path, drawn, nodata=numbers)
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


def palette(path: Path) -> None:
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {0: (0, 0, 0), 1: (255, 0, 0)})


@pytest.mark.parametrize(
    ("bands", "more", "sentence"),
    [
        (2, {}, "has 2 bands, such as colours or one a class"),
        (3, {"photometric": "RGB"}, "has 3 bands"),
        (1, {"compress": "JPEG"}, "compressed as JPEG, which changes numbers"),
    ],
)
def test_labels_of_several_bands_or_of_changed_numbers_are_refused(
    tmp_path: Path, bands: int, more: dict[str, Any], sentence: str
) -> None:
    write(tmp_path / "images" / "a.tif", np.ones((2, 16, 16), np.int16))
    write(tmp_path / "labels" / "a.tif", np.ones((bands, 16, 16), np.uint8), **more)
    reader = folder(tmp_path)
    with pytest.raises(UserError, match=sentence):
        reader.read(reader.scenes("train")[0], [0, 1], whole)


def test_labels_with_a_palette_or_alpha_are_class_numbers(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.tif", np.ones((2, 16, 16), np.int16))
    palette(write(tmp_path / "labels" / "a.tif", np.ones((1, 16, 16), np.uint8)))
    reader = folder(tmp_path)
    assert (reader.read(reader.scenes("train")[0], [0, 1], whole).label == 1).all()
    shown = np.ones((2, 16, 16), np.uint8)
    shown[1, 0] = 0
    write(tmp_path / "labels" / "a.tif", shown, alpha="yes")
    label = folder(tmp_path).read(reader.scenes("train")[0], [0, 1], whole).label
    assert label is not None and (label[0] == -1).all() and (label[1:] == 1).all()


def test_labels_without_any_place_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "images" / "a.tif", np.ones((2, 16, 16), np.int16))
    write(tmp_path / "labels" / "a.tif", np.ones((1, 16, 16), np.uint8), crs=None, transform=None)
    Scenes(folder(tmp_path), normalise="none").setup()
    assert "a.tif does not say where it lies; labels are taken to cover" in capsys.readouterr().err


def test_images_of_palettes_are_refused(tmp_path: Path) -> None:
    image = write(tmp_path / "images" / "a.tif", np.ones((1, 16, 16), np.uint8))
    palette(image)
    reader = GeoTiffFolder(str(tmp_path), bands=["red"], labels=None, fractions=(1, 0, 0))
    with pytest.raises(UserError, match="numbers of a palette's colours and no measurements"):
        reader.read(reader.scenes("train")[0], [0], whole)


def test_numbers_without_data_hold_to_six_digits_and_in_float32(tmp_path: Path) -> None:
    numbers = np.ones((2, 8, 8), np.float32)
    numbers[0, 0], numbers[1, 0], numbers[0, 1] = -999.9, -3.4028235e38, np.nan
    image = write_bands(tmp_path, numbers, nodata=("-999.9", "-3.40282e+38"))
    for seen in both_ways(tmp_path, image):
        assert np.isnan(seen[:, :2]).all() and (seen[:, 2:] == 1).all()


def test_several_numbers_without_data_of_all_bands_together_are_read(tmp_path: Path) -> None:
    numbers = np.ones((2, 8, 8), np.int16)
    numbers[0, :2], numbers[1, 0] = 7, 9
    image = write(tmp_path / "images" / "a.tif", numbers)
    with rasterio.open(image, "r+") as file:
        file.update_tags(NODATA_VALUES="7 9")
    for seen in both_ways(tmp_path, image):
        assert np.isnan(seen[:, 0]).all() and np.isfinite(seen[:, 1:]).all()


@pytest.mark.parametrize("ending", ["nc", "h5"])
def test_variables_of_a_file_are_bands_of_their_names(tmp_path: Path, ending: str) -> None:
    (tmp_path / "images").mkdir()
    image = tmp_path / "images" / f"a.{ending}"
    axes = {"y": np.arange(8)[::-1] * 30.0, "x": np.arange(8) * 30.0}
    parts = {"nir_narrow": (["y", "x"], np.full((8, 8), 5, np.int16))}
    parts |= {"red": (["y", "x"], np.full((8, 8), 3, np.int16)), "edges": ("e", np.zeros(3))}
    written = xr.Dataset(parts, axes)
    if ending == "h5":
        written = written.drop_vars("edges")
    written.to_netcdf(image, engine="h5netcdf")
    trained, predicted = both_ways(tmp_path, image)
    assert (trained[0] == 3).all() and (trained[1] == 5).all()
    assert (predicted == trained[[1, 0]]).all()  # in the order of the file, as no bands are named
    part = as_path(f'NETCDF:"{image}":red')
    assert is_address(part) and read_header(part).names == ("red",)
    assert (read_window(part, [1], (0, 0, 2, 2)) == 3).all()


def test_dates_of_a_stack_hold_their_bands_by_name(tmp_path: Path) -> None:
    image = write(
        tmp_path / "images" / "a.tif", np.arange(4, dtype=np.int16)[:, None, None].repeat(8, 1).repeat(8, 2)
    )
    with rasterio.open(image, "r+") as file:
        file.descriptions = ("nir_narrow", "red", "nir_narrow", "red")
    reader = folder(tmp_path, labels=None, frames=2)
    assert reader.read(reader.scenes("train")[0], [0, 1], whole).image[..., 0, 0].tolist() == [[1, 0], [3, 2]]


def test_published_means_are_of_stored_numbers(tmp_path: Path) -> None:
    image = write(tmp_path / "images" / "a.tif", np.full((2, 8, 8), 500, np.int16))
    with rasterio.open(image, "r+") as file:
        file.scales = (1e-4, 1e-4)
    reader = folder(tmp_path, labels=None)
    reader.mean = reader.std = dict.fromkeys(PAIR, 500.0)
    assert (reader.read(reader.scenes("train")[0], [0, 1], whole).image == 500).all()
    assert Scenes(reader).facts.stored
    how = MapSettings(names=("a",), tile=8, overlap=0, stored=True)
    with open_scene(image, how) as scene:
        assert (scene.read(Tile((0, 0), (8, 8), (np.ones(8), np.ones(8))))[0] == 500).all()


def test_filled_scenes_are_stored_as_their_file_stores_them(tmp_path: Path) -> None:
    files = []
    for name, rows in (("a", 8), ("b", 0)):
        stored = np.full((1, 16, 16), 500, np.int16)
        stored[:, :rows] = -1
        files.append(write(tmp_path / f"{name}.tif", stored, nodata=-1))
        with rasterio.open(files[-1], "r+") as file:
            file.scales, file.offsets = (1e-3,), (-0.1,)
    how = MapSettings(
        names=PAIR, kind="scores", keep=True, dates=2, needs="any", tile=16, overlap=0, dtype="int16",
        nodata=-1, fill=np.nan,
    )  # fmt: skip
    made = map_scene(files, tmp_path / "map.tif", lambda tiles: torch.nan_to_num(tiles, nan=0.25), how)
    with rasterio.open(made.path) as file:
        assert file.scales == (1e-3, 1e-3) and file.offsets == (-0.1, -0.1)
        filled = file.read()
    assert (filled[0, :8] == 350).all() and (filled[0, 8:] == 500).all() and (filled[1] == 500).all()


def test_dates_of_other_kinds_of_numbers_are_not_filled_together(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{kind}.tif", np.ones((1, 16, 16), kind)) for kind in ("int16", "float32")]
    how = MapSettings(names=PAIR, kind="scores", keep=True, dates=2, needs="any", tile=16, overlap=0)
    with pytest.raises(UserError, match="one filled scene cannot hold: float32 with None"):
        map_scene(files, tmp_path / "map.tif", lambda tiles: tiles, how)


@pytest.mark.parametrize(("usual", "seen", "word"), [(-12.0, 0.05, "linear"), (0.05, -12.0, "in decibels")])
def test_backscatter_in_the_other_unit_is_refused(usual: float, seen: float, word: str) -> None:
    ours = Normalisation(torch.full((2, 1), usual), torch.ones(2, 1), scale=1, fill=0, fill_before=False)
    images = torch.full((1, 2, 1, 16, 16), usual)
    assert ours.check(images, ["vv", "vh"], what="scenes", advice="")
    with pytest.raises(UserError, match=f"hold radar backscatter that is {word}"):
        ours.check(torch.full_like(images, seen), ["vv", "vh"], what="scenes", advice="")


@pytest.mark.parametrize(
    ("task", "network", "option"),
    [
        (Pretraining, PrithviMAE(**SMALL), "--model.network.bands"),
        (Segmentation, Mapper(Prithvi(**SMALL)), "--model.network.encoder.bands"),
    ],
)
def test_bands_that_do_not_fit_name_the_option_that_helps(
    tmp_path: Path, task: Any, network: Any, option: str
) -> None:
    write(tmp_path / "images" / "a.tif", np.random.default_rng(0).integers(1, 9, (2, 8, 8)).astype(np.int16))
    facts = Scenes(folder(tmp_path, labels=None), statistics_folder=str(tmp_path)).facts
    with pytest.raises(UserError, match=rf"give {option} '\[red, nir_narrow\]'"):
        task(network).check_facts(facts)
    with pytest.raises(UserError, match=r"give --data.bands '\[blue, green"):
        task(network).check_facts(replace(facts, bands=tuple(reversed(network.bands))))
    assert facts.licences == (f"{tmp_path.name}: not stated",)


def test_dates_that_fall_are_told(tmp_path: Path) -> None:
    stack = [write(tmp_path / f"x_2020{month}01.tif", np.ones((2, 8, 8), np.int16)) for month in ("07", "03")]
    notes = found(stack, Wanted(PAIR, frames=2)).notes
    assert any("its dates fall (2020-07-01, 2020-03-01)" in note for note in notes)
    assert not any("its dates fall" in note for note in found(stack[::-1], Wanted(PAIR, frames=2)).notes)
