"""Folders of GeoTIFFs: pairs by name, bands by name, no data, and one sentence for everything wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from apps.remote_sensing.data.module import Scenes
from apps.remote_sensing.data.raster import read_window
from apps.remote_sensing.data.readers.folders import GeoTiffFolder
from apps.remote_sensing.data.readers.source import Scene
from core.errors import UserError


def write(
    path: Path,
    values: Any,
    *,
    crs: str = "EPSG:32633",
    nodata: float | None = None,
    names: Sequence[str] = (),
    pixel: float = 10.0,
    west: float = 400_000.0,
) -> Path:
    values = np.asarray(values)
    values = values[None] if values.ndim == 2 else values
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[1], width=values.shape[2], count=len(values),
        dtype=values.dtype, crs=crs, nodata=nodata, transform=from_origin(west, 5e6, pixel, pixel),
    ) as file:  # fmt: skip
        file.write(values)
        for number, name in enumerate(names, start=1):
            file.set_band_description(number, name)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DFM_DATA", str(tmp_path / "dfm"))
    drawn = np.random.default_rng(0)
    for number in range(6):
        image = drawn.integers(1, 3000, (3, 16, 20)).astype(np.int16)
        write(tmp_path / "images" / f"s{number}.tif", image, names=("B02", "B03", "B04"))
        write(tmp_path / "labels" / f"s{number}.tif", drawn.integers(0, 2, (16, 20)).astype(np.uint8))
    return tmp_path


def reader(folder: Path, **options: Any) -> GeoTiffFolder:
    options = {"classes": ("a", "b"), "sensor": "sentinel2", "fractions": (1, 0, 0), **options}
    return GeoTiffFolder(str(folder), **options)


def whole(height: int, width: int) -> tuple[int, int, int, int]:
    return 0, 0, height, width


def first(source: GeoTiffFolder) -> Scene:
    return source.scenes("train")[0]


def test_images_and_labels_are_paired_by_what_the_star_stands_for(folder: Path) -> None:
    for path in sorted((folder / "images").iterdir()):
        path.rename(path.with_name(f"x_{path.stem}_image.tif"))
    scene = first(reader(folder, images="images/x_*_image.tif"))
    assert (scene.name, scene.label) == ("s0", folder / "labels" / "s0.tif")


def test_bands_are_found_by_the_files_own_names(folder: Path) -> None:
    image = read_window(folder / "images" / "s1.tif", [1, 2, 3], (0, 0, 16, 20))
    write(folder / "images" / "s1.tif", image[::-1].copy(), names=("B04", "B03", "B02"))
    source = reader(folder)
    assert source.bands == ("blue", "green", "red")
    pixels = source.read(source.scenes("train")[1], source.positions(["red", "blue"]), whole)
    assert np.array_equal(pixels.image[0], image[[2, 0]])


def test_only_the_window_is_returned_with_its_label(folder: Path) -> None:
    source = reader(folder)
    pixels = source.read(first(source), [0, 1, 2], lambda height, width: (4, 5, 8, 9))
    assert np.array_equal(
        pixels.image[0], read_window(folder / "images" / "s0.tif", [1, 2, 3], (0, 0, 16, 20))[:, 4:12, 5:14]
    )
    assert np.array_equal(
        pixels.label, read_window(folder / "labels" / "s0.tif", [1], (0, 0, 16, 20))[0, 4:12, 5:14]
    )


def test_split_files_name_the_scenes_in_their_order(folder: Path) -> None:
    (folder / "train.txt").write_text("s3\ns1.tif\n")
    source = reader(folder, splits={"train": "train.txt"})
    assert [scene.name for scene in source.scenes("train")] == ["s3", "s1"]
    assert source.scenes("val") == []


def test_shares_split_all_scenes_without_overlap(folder: Path) -> None:
    source = reader(folder, fractions=(0.5, 0.25, 0.25))
    parts = [[scene.name for scene in source.scenes(split)] for split in ("train", "val", "test")]
    assert sorted(name for part in parts for name in part) == [f"s{number}" for number in range(6)]
    assert len(parts[0]) == 3


def test_a_pixel_is_lost_where_any_band_holds_the_no_data_number(folder: Path) -> None:
    image = np.full((3, 16, 20), 5, np.int16)
    image[1, 2, 3] = -9999
    write(folder / "images" / "s0.tif", image, nodata=-9999, names=("B02", "B03", "B04"))
    source = reader(folder)
    valid = source.read(first(source), [0, 1, 2], whole).valid
    assert not valid[0, 2, 3]
    assert valid.sum() == 16 * 20 - 1
    assert source.read(first(source), [0, 2], whole).valid.all()


def test_zero_means_no_data_only_where_all_bands_are_zero(folder: Path) -> None:
    image = np.full((3, 16, 20), 5, np.int16)
    image[0, 1, 1] = 0
    image[:, 2, 2] = 0
    write(folder / "images" / "s0.tif", image, nodata=0, names=("B02", "B03", "B04"))
    source = reader(folder)
    valid = source.read(first(source), [0, 1, 2], whole).valid[0]
    assert valid[1, 1]
    assert not valid[2, 2]


def test_regression_labels_are_nan_where_unknown(folder: Path) -> None:
    heights = np.full((16, 20), 2.5, np.float32)
    heights[0, 0] = -1
    write(folder / "labels" / "s0.tif", heights)
    source = reader(folder, target="regression", label_nodata=-1)
    label = source.read(first(source), [0], whole).label
    assert np.isnan(label[0, 0])
    assert label.dtype == np.float32
    assert label[1, 1] == 2.5


def test_stacked_dates_are_read_date_by_date(tmp_path: Path) -> None:
    stack = np.arange(6, dtype=np.int16)[:, None, None] * np.ones((1, 4, 4), np.int16)
    write(tmp_path / "images" / "a.tif", stack)
    source = GeoTiffFolder(
        str(tmp_path), labels=None, bands=["red", "nir_narrow"], frames=3, fractions=(1, 0, 0)
    )
    image = source.read(first(source), [1, 0], whole).image
    assert image[:, :, 0, 0].tolist() == [[1, 0], [3, 2], [5, 4]]


def test_classes_that_begin_at_one_are_moved_and_zero_becomes_unknown(folder: Path) -> None:
    label = np.repeat(np.array([0, 1, 2, 255], np.uint8), 5)[None] * np.ones((16, 1), np.uint8)
    write(folder / "labels" / "s0.tif", label, nodata=255)
    source = reader(folder, label_offset=-1)
    assert source.read(first(source), [0], whole).label[0, ::5].tolist() == [-1, 0, 1, -1]


def test_names_of_an_unnamed_sensor_give_way_to_the_users_unless_they_say_another_order(folder: Path) -> None:
    assert first(reader(folder, sensor=None, bands=["a", "b", "c"])).layers == ((0, 1), (0, 2), (0, 3))
    assert first(reader(folder, sensor=None, bands=["blue", "green", "red"])).layers[2] == (0, 3)
    with pytest.raises(UserError, match=r"B02, B03, B04, on sentinel2 .*data\.source\.sensor=sentinel2"):
        first(reader(folder, sensor=None, bands=["red", "green", "blue"]))


def test_dates_may_be_files_of_their_own(folder: Path) -> None:
    for number in range(6):
        write(folder / "after" / f"s{number}.tif", np.full((3, 16, 20), 9, np.int16))
    source = reader(folder, bands=["blue", "green", "red"], later=["after/*.tif"])
    image = source.read(first(source), [2, 0], whole).image
    assert image.shape == (2, 2, 16, 20)
    assert (image[1] == 9).all()
    (folder / "after" / "s4.tif").unlink()
    with pytest.raises(UserError, match=r"s4\.tif has no later date"):
        source.scenes("train")


def _missing_band(folder: Path) -> Scenes:
    return Scenes(reader(folder), bands=["blue", "swir_1"])


def _mixed_crs(folder: Path) -> Scenes:
    write(folder / "images" / "s2.tif", np.ones((3, 16, 20), np.int16), crs="EPSG:32634")
    return Scenes(reader(folder, bands=["blue", "green", "red"]))


def _label_elsewhere(folder: Path) -> Scenes:
    write(folder / "labels" / "s2.tif", np.zeros((16, 20), np.uint8), crs="EPSG:32634")
    return Scenes(reader(folder))


def _label_shifted(folder: Path) -> Scenes:
    write(folder / "labels" / "s2.tif", np.zeros((16, 20), np.uint8), west=400_500.0)
    return Scenes(reader(folder))


def _label_smaller(folder: Path) -> Scenes:
    write(folder / "labels" / "s2.tif", np.zeros((8, 20), np.uint8))
    return Scenes(reader(folder))


def _no_data(folder: Path) -> Scenes:
    names = ("B02", "B03", "B04")
    write(folder / "images" / "s2.tif", np.full((3, 16, 20), -9999, np.int16), nodata=-9999, names=names)
    return Scenes(reader(folder), crop=8)


def _label_range(folder: Path) -> Scenes:
    write(folder / "labels" / "s2.tif", np.full((16, 20), 7, np.uint8))
    return Scenes(reader(folder))


def _corrupt(folder: Path) -> Scenes:
    path = folder / "images" / "s2.tif"
    path.write_bytes(path.read_bytes()[:200])
    return Scenes(reader(folder))


def _cut_off(folder: Path) -> Scenes:
    path = folder / "labels" / "s2.tif"
    path.write_bytes(path.read_bytes()[:-100])
    return Scenes(reader(folder))


def _no_raster(folder: Path) -> Scenes:
    (folder / "images" / "s2.tif").write_text("a poem")
    return Scenes(reader(folder))


def _one_pixel(folder: Path) -> Scenes:
    write(folder / "images" / "s2.tif", np.ones((3, 1, 1), np.int16), names=("B02", "B03", "B04"))
    return Scenes(reader(folder))


def _no_label(folder: Path) -> Scenes:
    (folder / "labels" / "s2.tif").unlink()
    return Scenes(reader(folder))


def _other_size(folder: Path) -> Scenes:
    for kind, values in (("images", np.ones((3, 9, 9), np.int16)), ("labels", np.zeros((9, 9), np.uint8))):
        write(folder / kind / "s2.tif", values, names=("B02", "B03", "B04") if kind == "images" else ())
    return Scenes(reader(folder))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (_missing_band, "no band 'swir_1'; it has blue, green, red"),
        (_mixed_crs, "EPSG:32634 and .*EPSG:32633"),
        (_label_elsewhere, "EPSG:32634 and .*EPSG:32633"),
        (_label_shifted, "500 units"),
        (_label_smaller, "8 x 20 pixels"),
        (_no_data, "s2.tif has no data in any pixel"),
        (_label_range, "class 7, but classes are 0 to 1"),
        (_corrupt, "s2.tif cannot be read"),
        (_cut_off, "s2.tif cannot be read"),
        (_no_raster, "s2.tif cannot be read"),
        (_one_pixel, "1 x 1 pixels"),
        (_no_label, "s2.tif has no label"),
        (_other_size, "must agree, so give data.crop"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(folder: Path, broken: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        list(broken(folder).train_dataloader())
    assert "\n" not in str(caught.value)


def test_scenes_that_cannot_be_used_are_skipped_and_named_when_asked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _corrupt(folder)
    data = Scenes(reader(folder), bad_files="skip", batch_size=5, normalise="none")
    (batch,) = list(data.train_dataloader())
    assert sorted(batch.names) == ["s0", "s1", "s3", "s4", "s5"]
    assert len(data.skipped) == 1
    assert "s2.tif" in capsys.readouterr().err


@pytest.mark.parametrize(
    "listed",
    [
        "a.b",
        "a.b_S2.tif",
        "a.b_S2",
        "images/a.b_S2.tif",
        "images\\a.b_S2.tif",
        "a.b_label.tif",
        "a.b_label,1",
    ],
)
def test_a_list_names_scenes_or_their_files(tmp_path: Path, listed: str) -> None:
    for name in ("a.b", "c.d"):
        for folder, ending in (("images", "S2"), ("labels", "label")):
            path = tmp_path / folder / f"{name}_{ending}.tif"
            path.parent.mkdir(exist_ok=True)
            with rasterio.open(path, "w", driver="GTiff", count=1, height=4, width=4, dtype="uint8") as file:
                file.write(np.ones((1, 4, 4), np.uint8))
    (tmp_path / "train.txt").write_text(f"{listed}\nc.d\n")
    options: dict[str, Any] = {"bands": ["red"], "classes": ["x", "y"], "splits": {"train": "train.txt"}}
    reader = GeoTiffFolder(str(tmp_path), images="images/*_S2.tif", labels="labels/*_label.tif", **options)
    assert [scene.name for scene in reader.scenes("train")] == ["a.b", "c.d"]


def test_a_list_of_whole_names_takes_stems(tmp_path: Path) -> None:
    for ending in ("tif", "vrt"):
        (tmp_path / f"b.{ending}").touch()
    (tmp_path / "a.tif").touch()
    (tmp_path / "train.txt").write_text("a\nb\n")
    reader = GeoTiffFolder(
        str(tmp_path), images="?.*", labels=None, bands=["red"], splits={"train": "train.txt"}
    )  # fmt: skip
    with pytest.raises(UserError, match=r"names 'b', which may be b_tif or b_vrt"):
        reader.scenes("train")
