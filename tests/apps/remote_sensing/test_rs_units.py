"""Images in other units than a network's or a normalisation's are refused before anything comes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given
from hypothesis import strategies as st
from rasterio.transform import from_origin

from apps.remote_sensing.batch import SceneFacts
from apps.remote_sensing.data import Normalise
from apps.remote_sensing.data.bands import HLS
from apps.remote_sensing.data.module import Scenes
from apps.remote_sensing.data.normalisation import check_units
from apps.remote_sensing.data.readers.folders import GeoTiffFolder
from apps.remote_sensing.models.frozen.inputs import OfWeights
from apps.remote_sensing.models.prithvi import Prithvi
from apps.remote_sensing.predict.embedding import WeightsModel
from apps.remote_sensing.predict.model import SceneModel
from core.errors import UserError

FACTS = SceneFacts(bands=HLS, mean=(800.0,) * 6, std=(500.0,) * 6)


def tiles(times: float = 1.0, seed: int = 0) -> torch.Tensor:
    drawn = np.random.default_rng(seed).gamma(2.0, 400.0, (2, 6, 64, 64))
    return torch.from_numpy(drawn).float() * times


def encoder() -> Prithvi:
    return Prithvi(resolution=16, frames=1, patch=(1, 8, 8), width=16, depth=1, heads=2)


@given(st.integers(0, 10), st.floats(0.05, 20))
def test_bright_and_dark_ground_in_the_right_units_passes(seed: int, times: float) -> None:
    level = torch.full((6, 1, 1, 1), 1300.0)
    assert check_units(tiles(times, seed)[:, :, None], level, HLS, what="they", advice="")


@given(st.integers(0, 10), st.sampled_from([1e-4, 1e-3 / 2, 1e3, 1e4]))
def test_numbers_thousands_of_times_off_are_refused(seed: int, times: float) -> None:
    level = torch.full((6, 1, 1, 1), 1300.0)
    with pytest.raises(UserError, match=r"their units are others.*do this"):
        check_units(tiles(times, seed)[:, :, None], level, HLS, what="they", advice="do this")


def test_nothing_is_said_of_zeros_few_pixels_heights_and_radar() -> None:
    level = torch.full((6, 1, 1, 1), 1300.0)
    nothing = torch.full((1, 6, 1, 64, 64), torch.nan)
    others = ("vv", "vh", "height", "slope", "x", "y")
    assert not check_units(nothing * 0 + torch.nan, level, HLS, what="they", advice="")
    assert not check_units(torch.zeros(1, 6, 1, 64, 64), level, HLS, what="they", advice="")
    assert check_units(tiles(1e-4)[:, :, None], level, others, what="they", advice="")


@pytest.mark.parametrize("times", [1e-4, 1e4])
def test_a_scene_in_other_units_is_refused_by_a_trained_network(times: float) -> None:
    model = SceneModel(encoder(), FACTS, names=["run.ckpt"])
    with pytest.raises(UserError, match=r"the scene's images .* give run\.ckpt scenes in the units"):
        model.images(tiles(times))
    here = model.at(dates=None, location=None)
    here.images(tiles())
    here.images(tiles(times))  # one tile of a scene may be anything
    with pytest.raises(UserError, match="the scene's images"):
        model.at(dates=None, location=None).images(tiles(times))


def test_a_scene_in_other_units_is_refused_by_published_weights_unless_they_are_said() -> None:
    with pytest.raises(UserError, match=r"units are others .* give --reflectance"):
        WeightsModel(encoder()).images(tiles(1e-4))
    said = WeightsModel(encoder(), reflectance=1.0).images(tiles(1e-4))
    assert torch.allclose(said, WeightsModel(encoder()).images(tiles()), atol=1e-4)
    for wrong in (-1.0, 0.0, float("nan")):
        with pytest.raises(UserError, match=r"reflectance is .*; it must be above 0"):
            OfWeights(reflectance=wrong)


def test_training_images_in_other_units_than_the_statistics_are_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    grid = {"crs": "EPSG:32633", "transform": from_origin(400_000, 5e6, 10, 10)}
    with rasterio.open(
        tmp_path / "images" / "a.tif",
        "w",
        driver="GTiff",
        count=6,
        height=64,
        width=64,
        dtype="float32",
        **grid,
    ) as file:
        file.write(tiles(1e-4)[0].numpy())

    def batch(**options: Any) -> Any:
        source = GeoTiffFolder(str(tmp_path), labels=None, bands=HLS, fractions=(1, 0, 0))
        data = Scenes(source, statistics_folder=str(tmp_path), **options)
        return next(iter(data.train_dataloader()))

    own = Normalise(mean=[800.0] * 6, std=[500.0] * 6)
    with pytest.raises(UserError, match=r"first images of .* give data\.normalise\.scale"):
        batch(normalise=own)
    assert torch.isfinite(batch(normalise=replace(own, scale=10_000)).image).all()
    assert torch.isfinite(batch().image).all()
    assert torch.isfinite(batch(normalise="none").image).all()
