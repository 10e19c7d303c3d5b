"""Scenes in, maps out: `dfm remote-sensing predict` on real GeoTIFFs and a small network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from in_process import Outcome, dfm
from rasterio.transform import from_origin

from apps.remote_sensing.bands import HLS
from apps.remote_sensing.data import Scenes
from apps.remote_sensing.mapping_model import SceneModel
from apps.remote_sensing.readers.folders import GeoTiffFolder
from core.checkpoints.files import write_checkpoint
from core.checkpoints.networks import instantiate

GRID = from_origin(398_655.0, 4_500_015.0, 30.0, 30.0)
CLASSES = ["land", "water", "cloud"]
SEGMENTER = {
    "class_path": "apps.remote_sensing.models.prithvi.PrithviSegmenter",
    "init_args": {"classes": 3, "resolution": 32, "width": 16, "depth": 1, "heads": 2, "channels": 8},
}


def write_scene(path: Path, values: np.ndarray, *, names: Any = HLS, **profile: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    grid = {"crs": "EPSG:32633", "transform": GRID} | profile
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=values.dtype, **grid
    ) as made:
        made.write(values)
        if names:
            made.descriptions = list(names)
    return path


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 3000, size=shape).astype(np.int16)


def written(path: Path, network: dict[str, Any], facts: dict[str, Any]) -> Path:
    """A checkpoint of a network as it is drawn, with what the data module says of its data."""
    torch.manual_seed(0)
    state = {
        f"network.{name}": value for name, value in instantiate(network, where="test").state_dict().items()
    }
    record = {"config": {"model": {"init_args": {"network": network}}}}
    content = {
        "state_dict": {**state, "normaliser._extra_state": facts},
        "domainfm": record,
        "global_step": 1,
    }
    return write_checkpoint(content, path)


def facts_of(folder: Path, kind: str, **options: Any) -> dict[str, Any]:
    data = Scenes(GeoTiffFolder(str(folder), classes=CLASSES, target="none", labels=None), **options)
    return {**data.facts, "kind": kind, "classes": CLASSES}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images to train on, and a checkpoint of a segmentation."""
    folder = tmp_path_factory.mktemp("predict")
    values = numbers(6, 32, 32)
    values[2, :5, :5] = -9999
    write_scene(folder / "images" / "one.tif", values, nodata=-9999)
    written(folder / "water.ckpt", SEGMENTER, facts_of(folder, "segmentation", fill=0.0001))
    return folder


def predict(checkpoint: Path, *words: object) -> Outcome:
    return dfm("remote-sensing", "predict", "--ckpt_path", checkpoint, *words)


def refused(outcome: Outcome) -> str:
    assert outcome.code == 2 and not outcome.out, outcome
    assert "Traceback" not in outcome.err and len(outcome.err.strip().splitlines()) == 1, outcome.err
    return outcome.err


def test_a_tile_is_normalised_as_the_data_module_does_it(home: Path) -> None:
    model = SceneModel.from_checkpoint(home / "water.ckpt")
    data = Scenes(GeoTiffFolder(str(home), labels=None, fractions=(0, 0, 1)), fill=0.0001)
    data.use_statistics(model.facts)
    batch = data.predict_set().__getitems__([(0, 0)])
    with rasterio.open(home / "images" / "one.tif") as scene:
        values = scene.read().astype(np.float32)
    values[values == -9999] = np.nan
    torch.testing.assert_close(model.normalised(torch.from_numpy(values)[None]), batch.image, rtol=0, atol=0)
    with torch.no_grad():
        expected = model.network(batch.image).softmax(1)
        torch.testing.assert_close(model(torch.from_numpy(values)[None]), expected, rtol=0, atol=0)


def test_a_map_has_the_scenes_grid_and_the_classes_of_the_network(home: Path, tmp_path: Path) -> None:
    scene, out = home / "images" / "one.tif", tmp_path / "map.tif"
    outcome = predict(home / "water.ckpt", "--data.path", scene, "--out", out)
    assert outcome.code == 0 and outcome.out.splitlines()[0] == str(out), outcome
    model = SceneModel.from_checkpoint(home / "water.ckpt")
    with rasterio.open(scene) as given, rasterio.open(out) as made:
        assert (made.crs, made.transform, made.shape) == (given.crs, given.transform, given.shape)
        assert made.nodata == 255 and made.tags(1)["class_1"] == "water"
        values, classes = given.read().astype(np.float32), made.read(1)
    empty = (values == -9999).any(0)
    values[values == -9999] = np.nan
    with torch.no_grad():
        expected = model(torch.from_numpy(values)[None]).argmax(1)[0].numpy()
    np.testing.assert_array_equal(classes, np.where(empty, 255, expected))
