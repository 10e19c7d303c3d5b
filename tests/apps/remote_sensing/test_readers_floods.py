"""Sen1Floods11: the real chip gives the numbers that were measured on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from apps.remote_sensing.data import Normalise
from apps.remote_sensing.data.module import Scenes
from apps.remote_sensing.data.readers.floods import Sen1Floods11

MEANS = (
    1483.0188, 1270.4233, 1269.7889, 1259.7178, 1436.0003, 1777.4681, 2057.2437, 1886.5433, 2129.6909,
    344.2462, 10.9508, 1467.5540, 903.2579,
)  # fmt: skip
SIX = ["blue", "green", "red", "nir_narrow", "swir_1", "swir_2"]


@pytest.fixture
def folder(shared: Path) -> str:
    return str(shared / "data" / "remote_sensing" / "sen1floods11")


def _whole(height: int, width: int) -> tuple[int, int, int, int]:
    return 0, 0, height, width


def test_the_chip_has_the_measured_band_means_and_label_counts(folder: str) -> None:
    source = Sen1Floods11(folder, present_only=True)
    (scene,) = source.scenes("test")
    pixels = source.read(scene, range(13), _whole)
    assert np.allclose(pixels.image[0].mean((1, 2), dtype=np.float64), MEANS, atol=5e-5)
    values, counts = np.unique(pixels.label, return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {-1: 99, 0: 192_010, 1: 70_035}


def test_radar_of_the_chip_has_the_measured_means_without_holes(folder: str) -> None:
    source = Sen1Floods11(folder, images="s1", present_only=True)
    (scene,) = source.scenes("test")
    image = source.read(scene, [0, 1], _whole).image[0]
    assert np.allclose(np.nanmean(image, (1, 2), dtype=np.float64), (-11.3628, -19.1090), atol=5e-5)


def test_published_lists_have_their_lengths(folder: str) -> None:
    source = Sen1Floods11(folder)
    assert [len(source.scenes(split)) for split in ("train", "val", "test")] == [252, 89, 90]
    assert len(Sen1Floods11(folder, test="bolivia").scenes("test")) == 15


def test_a_batch_is_normalised_dated_and_placed(folder: str) -> None:
    data = Scenes(Sen1Floods11(folder, present_only=True), bands=SIX, eval_crop=64, batch_size=1)
    (batch,) = list(data.test_dataloader())
    assert batch.image.shape == (1, 6, 1, 64, 64)
    assert batch.time.tolist() == [[[2019.0, 261.0]]]
    assert torch.allclose(batch.location, torch.tensor([[38.1058, -0.7589]]), atol=1e-3)
    source = data.source
    scene = source.scenes("test")[0]
    raw = source.read(scene, [1], lambda height, width: (224, 224, 64, 64)).image[0, 0]
    expected = (raw * 1e-4 - 0.1412956) / 0.07406382
    assert np.allclose(batch.image[0, 0, 0].numpy(), expected, atol=1e-5)


def test_radar_and_optical_bands_come_together(folder: str) -> None:
    source = Sen1Floods11(folder, images="both", present_only=True)
    data = Scenes(
        source, bands=["blue", "vv"], normalise=Normalise(mean=[0, 0], std=[1, 1]), eval_crop=32, batch_size=1
    )
    (batch,) = list(data.test_dataloader())
    assert batch.image[0, 0].mean() > 1000
    assert batch.image[0, 1].mean() < 0
