"""Folders that are moved, masked, dated, named or damaged as users' folders are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin

from apps.remote_sensing.data.bands import HLS
from apps.remote_sensing.data.module import Scenes
from apps.remote_sensing.data.readers.bigearthnet import BigEarthNet
from apps.remote_sensing.data.readers.burn_scars import BurnScars
from apps.remote_sensing.data.readers.class_folders import ClassFolders
from apps.remote_sensing.data.readers.crops import Crops
from apps.remote_sensing.data.readers.folders import GeoTiffFolder
from apps.remote_sensing.data.readers.gap_chips import GapChips
from apps.remote_sensing.data.readers.landscapes import Landscapes
from apps.remote_sensing.data.readers.source import Scene, Source
from apps.remote_sensing.data.readers.ssl4eo import SSL4EO
from core.errors import UserError

SIDE = 8


def write(path: Path, values: Any, *, names: Sequence[str] = (), stamp: str = "", **profile: Any) -> Path:
    values = np.asarray(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = {"crs": "EPSG:32633", "transform": from_origin(400_000, 5e6, 10, 10), "dtype": values.dtype}
    count, height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, **{**grid, **profile}
    ) as file:
        file.write(values)
        if names:
            file.descriptions = names
        if stamp:
            file.update_tags(TIFFTAG_DATETIME=stamp)
    return path


def numbers(bands: int = 3, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(1, 3000, (bands, SIDE, SIDE)).astype(np.int16)


def whole(height: int, width: int) -> tuple[int, int, int, int]:
    return 0, 0, height, width


def reader(folder: Path, **options: Any) -> GeoTiffFolder:
    options = {"labels": None, "bands": ["blue", "green", "red"], "fractions": (1, 0, 0), **options}
    return GeoTiffFolder(str(folder), **options)


def first(source: Source) -> Scene:
    return source.scenes("train")[0]


def valid(source: Source) -> Any:
    return source.read(first(source), [0, 1, 2], whole).valid[0]


# --- another folder ---


def patches(folder: Path) -> Path:
    for number in range(4):
        name = f"S2A_MSIL2A_20170613T101031_{number}_0"
        (folder / name).mkdir(parents=True)
        (folder / name / f"{name}_labels_metadata.json").write_text('{"labels": ["Pastures"]}')
    names = sorted(one.name for one in folder.iterdir())
    for part, some in {"train": names[:2], "val": names[2:3], "test": names[3:]}.items():
        (folder / f"{part}.csv").write_text("\n".join(some))
    return folder


def test_a_moved_data_set_keeps_to_the_published_lists(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("DFM_DATA", str(tmp_path / "none"))
    folder, source = patches(tmp_path / "patches"), BigEarthNet()

    Scenes(source, path=str(folder))

    lists = {part: [one.name for one in source.scenes(part)] for part in ("train", "val", "test", "predict")}
    assert lists == {part: [one.name for one in BigEarthNet(str(folder)).scenes(part)] for part in lists}
    assert [len(names) for names in lists.values()] == [2, 1, 1, 1]


def test_a_moved_data_set_reads_the_labels_of_the_new_folder(tmp_path: Path) -> None:
    for number, folder in enumerate(("old", "new")):
        write(tmp_path / folder / "s2c" / "0000001" / "20200611" / "all.tif", numbers(13))
        (tmp_path / folder / "labels.json").write_text(json.dumps({"0000001": {"20200611": [str(number)]}}))
    source = SSL4EO(str(tmp_path / "old"), fractions=(1, 0, 0), seasons=1)
    assert first(source).label == (0,)

    source.move(str(tmp_path / "new"))

    assert first(source).label == (1,)
    assert first(source).files[0].is_relative_to(tmp_path / "new")


def test_a_moved_folder_forgets_names_classes_and_reference_systems(tmp_path: Path) -> None:
    for folder, crs, names in (("a", 32633, ("blue", "red")), ("b", 32634, ("vv", "vh"))):
        write(tmp_path / folder / "images" / "x.tif", numbers(2), names=names, crs=f"EPSG:{crs}")
        write(tmp_path / folder / f"class_{folder}" / "x.tif", numbers(2))
    own, classed = reader(tmp_path / "a", bands=None), ClassFolders(str(tmp_path / "a"), bands=("x", "y"))
    assert (own.bands, len(own.scenes("train"))) == (("blue", "red"), 1)
    assert "class_a" in classed.classes

    own.move(str(tmp_path / "b"))
    classed.move(str(tmp_path / "b"))

    assert (own.bands, len(own.scenes("train")), own.name) == (("vv", "vh"), 1, "b")
    assert "class_b" in classed.classes


def test_simulated_landscapes_may_be_kept_elsewhere(tmp_path: Path) -> None:
    source = Landscapes(scenes=2, size=32, frames=1)
    Scenes(source, path=str(tmp_path / "kept"))
    assert source.scenes("predict" if not source.scenes("train") else "train")
    assert (tmp_path / "kept").is_dir()


# --- what was measured ---


def test_a_pixel_without_a_number_is_lost_where_zero_is_no_data(tmp_path: Path) -> None:
    image = numbers().astype(np.float32)
    image[1, 0, 0] = np.nan
    image[:, 1, 1] = 0
    image[0, 2, 2] = 0
    write(tmp_path / "images" / "a.tif", image, nodata=0)

    data = Scenes(reader(tmp_path), statistics_folder=str(tmp_path))
    (batch,) = list(data.train_dataloader())

    assert (~batch.valid[0, 0]).nonzero().tolist() == [[0, 0], [1, 1]]
    assert torch.isfinite(batch.image).all()
    assert all(np.isfinite(data.facts.mean))


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("kept_open", [True, False])
def test_masks_in_and_beside_a_file_say_what_was_measured(
    tmp_path: Path, inside: bool, kept_open: bool
) -> None:
    from contextlib import nullcontext

    from apps.remote_sensing.data.open_rasters import quick

    mask = np.full((SIDE, SIDE), 255, np.uint8)
    mask[:3] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside):
        image = write(tmp_path / "images" / "a.tif", numbers())
        label = write(tmp_path / "labels" / "a.tif", np.zeros((1, SIDE, SIDE), np.uint8))
        for path in (image, label):
            with rasterio.open(path, "r+") as file:
                file.write_mask(mask)
    assert image.with_name("a.tif.msk").is_file() == (not inside)
    source = reader(tmp_path, labels="labels/*.tif", classes=["a"])

    with quick() if kept_open else nullcontext():
        pixels = source.read(first(source), [0, 1, 2], lambda height, width: (1, 0, 4, width))

    assert pixels.valid[0].tolist() == [[row >= 2] * SIDE for row in range(4)]
    assert pixels.label is not None
    assert (pixels.label == 0).tolist() == pixels.valid[0].tolist()


@pytest.mark.parametrize("names", [(), ("blue", "green", "red", "")])
def test_an_alpha_band_is_a_mask_and_not_a_band(tmp_path: Path, names: tuple[str, ...]) -> None:
    image = np.full((4, SIDE, SIDE), 9, np.uint8)
    image[3, 0, :4] = 0
    path = write(tmp_path / "images" / "a.tif", image, names=names)
    with rasterio.open(path) as file:
        assert file.colorinterp[-1] is ColorInterp.alpha
    source = reader(tmp_path)
    assert (~valid(source)).nonzero()[1].tolist() == [0, 1, 2, 3]
    assert source.bands == ("blue", "green", "red")
    four = reader(tmp_path, bands=["blue", "green", "red", "nir_broad"])
    if not names:
        assert len(first(four).layers) == 4
        assert valid(four).all()


# --- names of bands ---


def test_other_known_bands_are_not_read_by_their_order(tmp_path: Path) -> None:
    names = ("coastal_aerosol", "red_edge_1", "vv")
    write(tmp_path / "images" / "a.tif", numbers(), names=names)
    with pytest.raises(UserError, match="has no band 'blue'; it has coastal_aerosol, red_edge_1, vv"):
        first(reader(tmp_path))


@pytest.mark.parametrize("bands", [None, ["blue", "red"]])
def test_two_bands_of_one_name_are_refused(tmp_path: Path, bands: list[str] | None) -> None:
    write(tmp_path / "images" / "a.tif", numbers(), names=("blue", "blue", "red"))
    with pytest.raises(UserError, match=r"calls 2 bands 'blue'|names? .*'?blue'? twice"):
        first(reader(tmp_path, bands=bands))
    with pytest.raises(UserError, match=r"data\.bands is blue, blue; name each band once"):
        Scenes(reader(tmp_path), bands=["blue", "blue"])
    with pytest.raises(UserError, match="name each band once"):
        reader(tmp_path, bands=["blue", "blue", "red"])


# --- dates ---


def test_dates_are_those_of_the_names_or_stamps_of_the_files(tmp_path: Path) -> None:
    write(tmp_path / "images" / "HLS.S30.2018285.a.tif", numbers())
    write(tmp_path / "images" / "HLS.S30.2018287.b.tif", numbers())
    assert [one.dates for one in reader(tmp_path).scenes("train")] == [
        (date(2018, 10, 12),), (date(2018, 10, 14),)
    ]  # fmt: skip
    data = Scenes(reader(tmp_path), normalise="none")
    (batch,) = list(data.train_dataloader())
    assert data.facts.coordinates.time
    assert batch.time.tolist() == [[[2018.0, 285.0]], [[2018.0, 287.0]]] or batch.time.tolist() == [
        [[2018.0, 287.0]], [[2018.0, 285.0]]
    ]  # fmt: skip

    for part, day in (("before", "2020:01:02 10:00:00"), ("after", "2020:02:03 10:00:00")):
        write(tmp_path / part / "x.tif", numbers(), stamp=day)
    later = reader(tmp_path, images="before/*.tif", later=["after/*.tif"])
    assert first(later).dates == (date(2020, 1, 2), date(2020, 2, 3))


# --- names of scenes and what is kept of them ---


def test_scenes_of_two_classes_have_two_names(tmp_path: Path) -> None:
    for kind, value in (("a", 1), ("b", 2)):
        write(tmp_path / kind / "0.tif", np.full((1, SIDE, SIDE), value, np.int16))
    found = ClassFolders(str(tmp_path), bands=("x",), fractions=(1, 0, 0)).scenes("train")
    assert len({scene.name for scene in found}) == 2


def test_statistics_are_counted_anew_when_labels_are_read_differently(tmp_path: Path) -> None:
    label = (np.arange(SIDE * SIDE) % 3).reshape(1, SIDE, SIDE).astype(np.uint8)
    write(tmp_path / "images" / "a.tif", numbers())
    write(tmp_path / "labels" / "a.tif", label)
    counts = []
    for options in ({}, {"label_offset": -1}, {"label_nodata": 2}):
        source = reader(tmp_path, labels="labels/*.tif", classes=["a", "b", "c"], **options)
        counts.append(Scenes(source, statistics_folder=str(tmp_path / "kept")).statistics.classes)
    assert counts == [(22, 21, 21), (21, 21, 0), (22, 21, 0)]


def test_damaged_statistics_are_counted_again(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.tif", numbers())
    kept = tmp_path / "kept"
    first_time = Scenes(reader(tmp_path), statistics_folder=str(kept)).statistics
    (file,) = kept.iterdir()
    for text in ('{"mean": [1.0], "std": [1.0], "pixels": 3}', "[]", "{", '{"mean": 3}'):
        file.write_text(text)
        assert Scenes(reader(tmp_path), statistics_folder=str(kept)).statistics == first_time


# --- files that cannot be used ---


def test_the_reference_system_of_most_scenes_counts_where_odd_ones_are_left_out(tmp_path: Path) -> None:
    for number in range(5):
        crs = "EPSG:32635" if number == 0 else "EPSG:32633"
        write(tmp_path / "images" / f"{number}.tif", numbers(), crs=crs)
    data = Scenes(reader(tmp_path), bad_files="skip", normalise="none")
    data.setup()
    assert (len(data.train_set()), len(data.skipped)) == (4, 1)
    assert "0.tif is in EPSG:32635" in data.skipped[0]


def test_a_damaged_first_file_does_not_stop_bands_from_being_named(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / "images" / f"{number}.tif", numbers(), names=("blue", "green", "red"))
    path = tmp_path / "images" / "0.tif"
    path.write_bytes(path.read_bytes()[:200])
    data = Scenes(reader(tmp_path, bands=None), bad_files="skip", normalise="none")
    data.setup()
    assert (len(data.train_set()), len(data.skipped)) == (3, 1)
    with pytest.raises(UserError, match=r"0\.tif cannot be read"):
        Scenes(reader(tmp_path, bands=None)).setup()


def test_a_limit_counts_the_scenes_that_can_be_used(tmp_path: Path) -> None:
    for number in range(8):
        write(tmp_path / "images" / f"{number}.tif", numbers(seed=number), nodata=-9999)
    for number in (1, 3, 5):
        write(tmp_path / "images" / f"{number}.tif", np.full((3, SIDE, SIDE), -9999, np.int16), nodata=-9999)
    for limit, kept in ((4, 4), (0.4, 2), (100, 5)):
        data = Scenes(reader(tmp_path), bad_files="skip", normalise="none", limit=limit)
        data.setup()
        assert len(data.train_set()) == kept
    all_of_it = Scenes(reader(tmp_path), bad_files="skip", normalise="none", limit=4)
    again = Scenes(reader(tmp_path), bad_files="skip", normalise="none", limit=4)
    assert [s.name for s, _ in all_of_it.train_set().samples] == [
        s.name for s, _ in again.train_set().samples
    ]


@pytest.mark.parametrize("bad_files", ["stop", "skip"])
def test_what_is_wrong_with_the_only_scenes_is_said(tmp_path: Path, bad_files: Any) -> None:
    write(tmp_path / "training" / "subsetted.T10.2018285.v1.4_merged.tif", numbers(6))
    with pytest.raises(UserError, match=r"_merged\.tif has no label"):
        Scenes(BurnScars(str(tmp_path)), bad_files=bad_files).setup()


def test_a_burn_scar_without_label_is_left_out_if_asked(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "training" / f"{name}_merged.tif", numbers(6))
    write(tmp_path / "training" / "a.mask.tif", np.zeros((1, SIDE, SIDE), np.int16))
    data = Scenes(BurnScars(str(tmp_path)), bad_files="skip", normalise="none")
    data.setup()
    assert [scene.name for scene, _ in data.train_set().samples] == ["a"]
    assert "b.mask.tif" in data.skipped[0]


# --- mixed order, catalogues ---


def test_some_bands_of_the_mixed_order_are_normalised_by_the_bands_they_are(tmp_path: Path) -> None:
    image = np.arange(18, dtype=np.int16)[:, None, None] * np.ones((1, SIDE, SIDE), np.int16)
    write(tmp_path / "training_chips" / "c_merged.tif", image)
    write(tmp_path / "training_chips" / "c.mask.tif", np.ones((1, SIDE, SIDE), np.uint8))
    (tmp_path / "training_data.txt").write_text("c\n")
    batches = []
    for bands in (list(HLS), ["blue", "red"]):
        data = Scenes(Crops(str(tmp_path), order="scrambled"), bands=bands)
        batches.append(next(iter(data.train_dataloader())).image)
    assert torch.equal(batches[1], batches[0][:, [0, 2]])
    own = Scenes(
        Crops(str(tmp_path), order="scrambled"), bands=["blue", "red"], normalise="statistics",
        statistics_folder=str(tmp_path),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"data\.bands lacks green"):
        own.setup()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"chip_id,usage,bad_pct_max,na_count\nc1,train,,0\n", "bad_pct_max '' in the row of c1"),
        (b"chip_id,usage,bad_pct_max,na_count\nc1,train,1,none\n", "na_count 'none' in the row of c1"),
        (b"chip_id,usage,bad_pct_max,na_count\nc1,train\n", "bad_pct_max '' in the row of c1"),
        (b"chip_id,usage,bad_pct_max,na_count\nc\xe9,train,1,0\n", "no table in UTF-8"),
    ],
)
def test_a_damaged_catalogue_is_named_with_its_row(tmp_path: Path, text: bytes, words: str) -> None:
    (tmp_path / "chip_catalog.csv").write_bytes(text)
    with pytest.raises(UserError, match=words) as caught:
        GapChips(str(tmp_path)).scenes("train")
    assert "\n" not in str(caught.value)


def test_damaged_tables_of_clouds_and_of_dates_are_named(tmp_path: Path) -> None:
    (tmp_path / "cloud_catalog.csv").write_text("fmask_name,cloud_pct,usage\nm,much,train\n")
    with pytest.raises(UserError, match="cloud_pct 'much' in the row of m"):
        GapChips(str(tmp_path)).masks("train")
    (tmp_path / "training_data.txt").write_text("c\n")
    table = tmp_path / "chips_df.csv"
    for text, words in ((b"chip_id\nc\n", "no column first_img_date"), (b"\xe9", "no table in UTF-8")):
        table.write_bytes(text)
        with pytest.raises(UserError, match=words):
            Crops(str(tmp_path)).scenes("train")
