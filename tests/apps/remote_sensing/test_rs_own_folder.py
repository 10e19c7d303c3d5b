"""What a user of an own folder of GeoTIFFs gets wrong is said in a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from in_process import dfm

from apps.remote_sensing.data.readers.folders import GeoTiffFolder
from apps.remote_sensing.models.decoders import UNet
from core.errors import UserError

FOLDER = "apps.remote_sensing.data.readers.folders.GeoTiffFolder"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of one image of six unnamed bands and its label."""
    for part, count in (("images", 6), ("labels", 1)):
        (tmp_path / part).mkdir()
        with rasterio.open(
            tmp_path / part / "a.tif", "w", driver="GTiff", height=8, width=8, count=count, dtype="uint8",
            crs="EPSG:32632", transform=rasterio.Affine(30, 0, 500000, 0, -30, 5000000),
        ) as file:  # fmt: skip
            file.write(np.ones((count, 8, 8), np.uint8))
    return tmp_path


def test_null_on_the_command_line_leaves_labels_out(tmp_path: Path) -> None:
    words = [
        "--runs",
        tmp_path,
        "--data.source",
        FOLDER,
        "--data.source.path",
        "nowhere",
        "--data.source.labels",
        "null",
    ]
    outcome = dfm("remote-sensing", "fit", "--config", "prithvi/pretrain", *words)
    assert outcome.code == 2
    assert "there is no folder nowhere" in outcome.err, "labels were not left out, so classes were asked for"


def test_a_misspelt_adaptation_is_corrected(tmp_path: Path) -> None:
    words = ["--runs", tmp_path, "--model.weights", "a.ckpt", "--model.adaptation", "Lora"]
    outcome = dfm("remote-sensing", "fit", "--config", "prithvi/demo", *words)
    assert outcome.code == 2
    assert "did you mean 'LoRA'?" in outcome.err


def test_a_number_of_bands_names_bands_and_dates(folder: Path) -> None:
    source = GeoTiffFolder(str(folder), bands=["blue", "green"], classes=["a", "b"], frames=2)
    with pytest.raises(UserError, match=r"has 6 bands, and 2 bands .* each of 2 dates.*data\.source\.frames"):
        source.scenes("predict")


def test_classes_do_not_count_for_numbers(folder: Path) -> None:
    assert GeoTiffFolder(str(folder), classes=["a"], target="regression").classes == ()


def test_a_missing_list_of_a_split_is_named(folder: Path) -> None:
    bands = ["blue", "green", "red", "nir_narrow", "swir_1", "swir_2"]
    source = GeoTiffFolder(str(folder), bands=bands, classes=["a"], splits={"train": "train.txt"})
    with pytest.raises(UserError, match=r"there is no split file .*train\.txt"):
        source.scenes("train")


def test_unet_asks_for_one_number_a_step() -> None:
    with pytest.raises(UserError, match=r"channels are \[48\]; give 4"):
        UNet(channels=48)  # type: ignore[arg-type]
