"""Published layouts: patches, stacked dates, cloud masks, folders of classes; real files where there are."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

from apps.remote_sensing.data.bands import HLS
from apps.remote_sensing.data.module import Scenes
from apps.remote_sensing.data.raster import read_window
from apps.remote_sensing.data.readers import BigEarthNet, BurnScars, ClassFolders, Crops, EuroSAT, GapChips
from apps.remote_sensing.data.readers.torchgeo_sets import TorchGeoSet
from core.errors import UserError

PATCH = "S2A_MSIL2A_20170613T101031_87_48"
PATCH_MEANS = (
    535.3400, 619.5567, 1015.8731, 990.9288, 1531.3783, 2929.3394, 3499.8381, 3623.9642, 3738.7794, 3742.0475,
    2322.8617, 1603.9256,
)  # fmt: skip
PATCH_SIDES = [20, 120, 120, 120, 60, 60, 60, 120, 60, 20, 60, 60]


def write(path: Path, values: Any, **more: Any) -> Path:
    values = np.asarray(values)
    values = values[None] if values.ndim == 2 else values
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    more = {"crs": "EPSG:5070", "transform": from_origin(0, 0, 30, 30), **more}
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=values.dtype, **more
    ) as file:
        file.write(values)
    return path


def whole(height: int, width: int) -> tuple[int, int, int, int]:
    return 0, 0, height, width


@pytest.fixture
def patches(shared: Path) -> str:
    return str(shared / "data" / "remote_sensing" / "bigearthnet")


def test_the_patch_has_the_measured_means_on_each_bands_own_grid(patches: str) -> None:
    source = BigEarthNet(patches)
    scene = next(scene for scene in source.scenes("predict") if scene.name == PATCH)
    headers = [source.header(file) for file in scene.files]
    native = [
        read_window(file, [1], (0, 0, header.height, header.width))[0]
        for file, header in zip(scene.files, headers, strict=True)
    ]
    assert [band.shape[0] for band in native] == PATCH_SIDES
    assert np.allclose([band.mean(dtype=np.float64) for band in native], PATCH_MEANS, atol=5e-5)
    assert scene.dates == (date(2017, 6, 13),)


def test_the_patch_is_brought_to_the_finest_grid_with_its_labels(patches: str) -> None:
    source = BigEarthNet(patches)
    scene = next(scene for scene in source.scenes("predict") if scene.name == PATCH)
    pixels = source.read(scene, range(12), whole)
    assert pixels.image.shape == (1, 12, 120, 120)
    assert np.allclose(pixels.image[0].mean((1, 2)), PATCH_MEANS, rtol=0.01)
    named = [name for name, mark in zip(source.classes, pixels.label, strict=True) if mark]
    assert named == [
        "Arable land",
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
    ]
    original = BigEarthNet(patches, labels=43)
    marks = original.read(scene, [1], whole).label
    assert [original.classes[number] for number in np.flatnonzero(marks)][1] == "Non-irrigated arable land"


def test_radar_of_the_pair_has_the_measured_means(patches: str) -> None:
    source = BigEarthNet(patches, images="both")
    scene = next(scene for scene in source.scenes("predict") if scene.name == PATCH)
    image = source.read(scene, source.positions(["vv", "vh"]), whole).image[0]
    assert np.allclose(image.mean((1, 2), dtype=np.float64), (-11.9612, -18.2521), atol=5e-5)


def test_a_label_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    for number in ("VV", "VH"):
        write(tmp_path / "S1_x" / f"S1_x_{number}.tif", np.zeros((4, 4), np.float32))
    (tmp_path / "S1_x" / "S1_x_labels_metadata.json").write_text(json.dumps({"labels": ["Moon"]}))
    source = BigEarthNet(str(tmp_path), images="s1")
    with pytest.raises(UserError, match="label 'Moon'"):
        source.read(source.scenes("predict")[0], [0, 1], whole)


def test_a_real_stack_has_the_dates_bands_in_their_places(shared: Path) -> None:
    folder = shared / "data" / "remote_sensing" / "eopatch_slovenia"
    source = Crops(str(folder / "chip_layout"))
    (scene,) = source.scenes("train")
    image = source.read(scene, range(6), whole).image
    with rasterio.open(folder / "s2_l1c" / "S2L1C_T33_20150830T100547.tif") as file:
        second = file.read([2, 3, 4, 9, 12, 13])
    assert np.array_equal(image[1], second)
    assert scene.dates == (date(2015, 7, 11), date(2015, 8, 30), date(2015, 9, 9))


def test_the_scrambled_order_is_that_of_a_reshape_by_band(shared: Path) -> None:
    folder = str(shared / "data" / "remote_sensing" / "eopatch_slovenia" / "chip_layout")
    right, scrambled = (
        next(iter(Scenes(Crops(folder, order=order), batch_size=1).train_dataloader())).image
        for order in ("right", "scrambled")
    )
    stack = (
        right[0].transpose(0, 1).reshape(18, *right.shape[-2:])
    )  # as in the file, each z-scored by its band
    assert torch.equal(scrambled[0], stack.reshape(6, 3, *right.shape[-2:]))
    facts = [Scenes(Crops(folder, order=order)).facts.mean for order in ("right", "scrambled")]
    assert facts[0] == facts[1]


def test_crop_classes_begin_at_zero_and_the_files_zero_is_unknown(tmp_path: Path) -> None:
    write(tmp_path / "training_chips" / "c_merged.tif", np.ones((18, 4, 4), np.int16))
    write(
        tmp_path / "training_chips" / "c.mask.tif",
        np.array([[0, 1], [13, 2]], np.int16).repeat(2, 0).repeat(2, 1),
    )
    (tmp_path / "training_data.txt").write_text("c\n")
    (batch,) = list(Scenes(Crops(str(tmp_path)), batch_size=1).train_dataloader())
    assert batch.label[0, ::2, ::2].tolist() == [[-1, 0], [12, 1]]
    assert batch.time is None


def test_burn_scars_are_paired_dated_and_placed(shared: Path, tmp_path: Path) -> None:
    name = "subsetted_512x512_HLS.S30.T10TGS.2018285.v1.4"
    mask = shared / "data" / "remote_sensing" / "hls_burn_scars" / f"{name}.mask.tif"
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / f"{name}.mask.tif").symlink_to(mask)
    with rasterio.open(mask) as file:
        like = {"crs": file.crs, "transform": file.transform}
    write(tmp_path / "training" / f"{name}_merged.tif", np.full((6, 512, 512), 0.1, np.float32), **like)
    (batch,) = list(Scenes(BurnScars(str(tmp_path)), batch_size=1).train_dataloader())
    assert batch.time.tolist() == [[[2018.0, 285.0]]]
    assert set(batch.label.unique().tolist()) <= {-1, 0, 1}
    assert (batch.label == 1).float().mean() == pytest.approx(0.19, abs=0.01)
    assert batch.image[0, 0].mean() == pytest.approx((0.1 - 0.0333497) / 0.0226914, abs=1e-3)


@pytest.fixture
def chips(tmp_path: Path) -> str:
    rows = ["chip_id,usage,bad_pct_max,na_count"]
    for number in range(4):
        write(tmp_path / "chips_filtered" / f"chip_{number}_merged.tif", np.ones((18, 8, 8), np.int16))
        rows.append(f"chip_{number},{'validate' if number == 3 else 'train'},{6 if number == 2 else 0},0")
    (tmp_path / "chip_catalog.csv").write_text("\n".join(rows))
    clouds = ["fmask_name,cloud_pct,usage"]
    for number in range(5):
        mask = np.zeros((8, 8), np.uint8)
        mask[number] = 1
        write(tmp_path / "cloud_mask" / f"m{number}_cmask.tif", mask)
        clouds.append(
            f"m{number}_cmask.tif,{0.001 if number == 4 else 0.1},{'train' if number < 2 else 'validate'}"
        )
    (tmp_path / "cloud_catalog.csv").write_text("\n".join(clouds))
    return str(tmp_path)


def test_clouds_hide_the_wanted_date_and_stay_the_same_in_evaluation(chips: str) -> None:
    data = Scenes(GapChips(chips), batch_size=1)
    (batch,) = list(data.val_dataloader())
    hidden = batch.gaps[0].nonzero().tolist()
    assert hidden == [[1, 3, column] for column in range(8)]  # (0 + 2 - 1) mod 2 is the second mask, m3
    assert batch.label is None
    assert batch.image.shape == (1, 6, 3, 8, 8)


def test_training_draws_clouds_of_its_own_masks_and_leaves_bad_chips_out(chips: str) -> None:
    dataset = Scenes(GapChips(chips, positions=[[1], [2, 3]])).train_set()
    assert [scene.name for scene, _ in dataset.samples] == ["chip_0", "chip_1"]
    drawn = {
        tuple(dataset[(epoch, 1)].gaps.nonzero()[:, :2].unique(dim=0).flatten().tolist())
        for epoch in range(12)
    }
    assert len(drawn) == 4
    assert all(set(rows[1::2]) <= {0, 1} and rows[::2] == (1, 2) for rows in drawn)


def test_clouds_of_a_date_that_is_not_there_are_refused() -> None:
    with pytest.raises(UserError, match="dates 1 to 3"):
        GapChips("x", positions=[[4]])


def test_eurosat_reads_the_published_lists_and_knows_that_b8a_is_last(tmp_path: Path) -> None:
    image = np.arange(13, dtype=np.uint16)[:, None, None] * np.ones((1, 4, 4), np.uint16)
    write(tmp_path / "EuroSAT_MS" / "River" / "River_7.tif", image)
    (tmp_path / "EuroSAT_MS" / "AnnualCrop").mkdir()
    (tmp_path / "eurosat-train.txt").write_text("River_7.jpg\n")
    data = Scenes(EuroSAT(str(tmp_path)), bands=["nir_narrow", "swir_1"], normalise="none", batch_size=1)
    (batch,) = list(data.train_dataloader())
    assert batch.image[0, :, 0, 0, 0].tolist() == [12.0, 10.0]
    assert batch.label.tolist() == [8]


def test_folders_of_classes_are_numbered_in_alphabetical_order(tmp_path: Path) -> None:
    for name in ("wood", "field"):
        write(tmp_path / name / "a.tif", np.ones((3, 4, 4), np.uint8))
    source = ClassFolders(str(tmp_path), bands=["red", "green", "blue"], fractions=(1, 0, 0))
    assert source.classes == ("field", "wood")
    assert [scene.label for scene in source.scenes("train")] == [(0,), (1,)]


class Samples:
    """Samples as TorchGeo's data sets give them."""

    all_bands = ("B02", "B03", "B04")
    classes = ("a", "b")

    def __init__(self, highest: int = 1) -> None:
        self.highest = highest

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        image = torch.arange(3.0)[:, None, None] + 10 * index + torch.zeros(3, 8, 8)
        return {"image": image, "mask": torch.full((8, 8), self.highest)}


def test_torchgeo_samples_become_batches_of_ours() -> None:
    source = TorchGeoSet(datasets={"train": Samples(), "val": Samples()})
    data = Scenes(source, bands=["red", "blue"], normalise="none", batch_size=3, eval_crop=4)
    (batch,) = list(data.val_dataloader())
    assert batch.image[:, :, 0, 0, 0].tolist() == [[2, 0], [12, 10], [22, 20]]
    assert batch.label.shape == (3, 4, 4)
    assert batch.location is None
    assert Scenes(source, normalise="statistics").facts.mean == pytest.approx([10, 11, 12])


def test_torchgeo_classes_out_of_range_are_refused() -> None:
    data = Scenes(TorchGeoSet(datasets={"train": Samples(highest=5)}), normalise="none")
    with pytest.raises(UserError, match="of Samples has the class 5"):
        list(data.train_dataloader())


def test_a_missing_torchgeo_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchgeo", None)
    with pytest.raises(UserError, match="needs TorchGeo, which is not installed"):
        TorchGeoSet("EuroSAT").scenes("train")


def test_published_statistics_are_taken_for_published_bands() -> None:
    assert tuple(Crops.mean) == tuple(BurnScars.mean) == HLS
