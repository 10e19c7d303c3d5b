"""Scenes in, features out: `dfm remote-sensing embed` into Parquet and GeoTIFF."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from in_process import Outcome, dfm
from rasterio.transform import from_origin

from apps.remote_sensing.batch import Coordinates
from apps.remote_sensing.data import Tiles
from apps.remote_sensing.data.bands import HLS
from apps.remote_sensing.data.dates_and_locations import centre
from apps.remote_sensing.data.module import Scenes
from apps.remote_sensing.data.readers.folders import GeoTiffFolder
from apps.remote_sensing.predict.embedding import Embedder, WeightsModel
from apps.remote_sensing.predict.model import SceneModel
from apps.remote_sensing.tasks import Pretraining
from core.checkpoints.files import write_checkpoint
from core.checkpoints.networks import instantiate

parquet = pytest.importorskip("pyarrow.parquet")

GRID = from_origin(398_655.0, 4_500_015.0, 30.0, 30.0)
NETWORK = {
    "class_path": "apps.remote_sensing.models.prithvi.PrithviMAE",
    "init_args": {
        "resolution": 32, "frames": 1, "patch": [1, 8, 8], "width": 16, "depth": 1, "heads": 2,
        "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "coordinates": ["time", "location"],
    },
}  # fmt: skip


def write_scene(path: Path, values: np.ndarray, **profile: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    grid = {"crs": "EPSG:32633", "transform": GRID, "dtype": values.dtype} | profile
    with rasterio.open(path, "w", driver="GTiff", count=count, height=height, width=width, **grid) as made:
        made.write(values)
        made.descriptions = HLS
    return path


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 3000, size=shape).astype(np.int16)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene with an empty corner, and the checkpoint of a masked autoencoder."""
    folder = tmp_path_factory.mktemp("embed")
    values = numbers(6, 70, 45)
    values[:, :32, :32] = -9999
    values[:, 32:40, :8] = -9999
    write_scene(folder / "images" / "HLS.S30.2018245.tif", values, nodata=-9999)
    facts = Scenes(GeoTiffFolder(str(folder), labels=None, target="none"), tiles=Tiles(32)).facts
    torch.manual_seed(0)
    task = Pretraining(instantiate(NETWORK, where="test"))
    task.normaliser.facts = replace(facts, kind="pretraining", coordinates=Coordinates())
    task.record = {"config": {"model": {"init_args": {"network": NETWORK}}}}
    content: dict[str, Any] = {"state_dict": task.state_dict(), "global_step": 1}
    task.on_save_checkpoint(content)
    write_checkpoint(content, folder / "mae.ckpt")
    return folder


def embed(home: Path, *words: object) -> Outcome:
    return dfm("remote-sensing", "embed", "--ckpt_path", home / "mae.ckpt", *words)


def refused(outcome: Outcome) -> str:
    assert outcome.code == 2 and not outcome.out, outcome
    assert "Traceback" not in outcome.err and len(outcome.err.strip().splitlines()) == 1, outcome.err
    return outcome.err


def told_and_tile(home: Path) -> tuple[SceneModel, torch.Tensor]:
    """The model told of the scene, and the tile at row 32 and column 0 as it is read."""
    with rasterio.open(home / "images" / "HLS.S30.2018245.tif") as scene:
        values = scene.read(masked=True).astype(np.float32).filled(np.nan)[:, 32:64, :32]
        place = centre(scene)
    model = SceneModel.from_checkpoint(home / "mae.ckpt").at(dates=[date(2018, 9, 2)], location=place)
    return model, torch.from_numpy(values.copy())[None]


@pytest.mark.parametrize("pool", ["mean", "class"])
def test_every_tile_with_data_has_a_row_and_the_encoders_vector(
    home: Path, tmp_path: Path, pool: str
) -> None:
    out = tmp_path / "features.parquet"
    outcome = embed(home, "--data.path", home / "images", "--out", out, "--pool", pool)
    assert outcome.code == 0 and outcome.out.split() == [str(out)], outcome
    table = parquet.read_table(out)
    assert str(table.schema.field("vector").type) == "list<element: float>"
    rows = table.to_pylist()
    assert [(row["row"], row["column"], row["height"], row["width"]) for row in rows] == [
        (0, 32, 32, 13), (32, 0, 32, 32), (32, 32, 32, 13), (64, 0, 6, 32), (64, 32, 6, 13),
    ]  # fmt: skip
    assert {row["scene"] for row in rows} == {"HLS.S30.2018245.tif"} and rows[0]["date"] == "2018-09-02"
    assert rows[1]["valid"] == pytest.approx(1 - 64 / 1024)
    x, y = GRID @ (16, 48)
    longitude, latitude = rasterio.warp.transform("EPSG:32633", "EPSG:4326", [x], [y])
    assert (rows[1]["longitude"], rows[1]["latitude"]) == pytest.approx((longitude[0], latitude[0]))
    model, tile = told_and_tile(home)
    with torch.no_grad():
        tokens = model.network.encoder(model.normalised(tile), **model.told(1))
    expected = tokens[0, 0] if pool == "class" else tokens[0, 1:].mean(0)
    np.testing.assert_allclose(rows[1]["vector"], expected.numpy(), rtol=1e-5, atol=1e-6)


def test_features_of_patches_are_an_image_on_the_scenes_place(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = embed(
        home, "--data.path", home / "images", "--out", out, "--format", "geotiff", "--batch_size", 2
    )
    assert outcome.code == 0, outcome.err
    with rasterio.open(out / "HLS.S30.2018245.tif") as made:
        assert made.count == 16 and made.shape == (9, 6) and made.crs == rasterio.CRS.from_epsg(32633)
        assert made.transform == GRID @ rasterio.Affine.scale(8, 8)
        values = made.read()
    empty = np.zeros((9, 6), bool)
    empty[:4, :4] = empty[4, 0] = True
    np.testing.assert_array_equal(np.isnan(values).all(0), empty)
    model, tile = told_and_tile(home)
    expected = Embedder(model.network).maps(model, tile)[0]
    np.testing.assert_allclose(values[:, 5:8, :4], expected[:, 1:], rtol=1e-5, atol=1e-6)
    again = embed(
        home, "--data.path", home / "images", "--out", out, "--format", "geotiff", "--batch_size", 2
    )
    assert again.code == 0 and "1 of them before" in again.err


def test_a_scene_that_fails_leaves_no_rows_and_is_reported(home: Path, tmp_path: Path) -> None:
    write_scene(tmp_path / "in" / "a.tif", numbers(6, 32, 32))
    whole = write_scene(tmp_path / "in" / "b.tif", numbers(6, 600, 64), compress="deflate", blockysize=8)
    with rasterio.open(
        tmp_path / "in" / "c.tif", "w", driver="GTiff", count=6, height=1, width=1, dtype="int16"
    ) as made:
        made.write(numbers(6, 1, 1))
    content = bytearray(whole.read_bytes())
    content[len(content) * 3 // 4 :] = bytes(len(content) - len(content) * 3 // 4)
    whole.write_bytes(content)
    outcome = embed(home, "--data.path", tmp_path / "in", "--out", tmp_path / "out.parquet")
    assert outcome.code == 2 and "2 of 3 scenes are mapped" in outcome.err and "b.tif" in outcome.err, outcome
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["scene"] for row in rows] == ["a.tif", "c.tif"]
    assert (rows[1]["height"], rows[1]["width"], rows[1]["longitude"]) == (1, 1, None)
    assert list(tmp_path.glob("*.tmp")) == []


def test_published_weights_are_prepared_as_they_were_trained(home: Path, tmp_path: Path) -> None:
    arguments = {**NETWORK["init_args"]}
    task = instantiate({"class_path": NETWORK["class_path"], "init_args": arguments}, where="test")
    model = WeightsModel(task, reflectance=5000.0)
    values = torch.from_numpy(numbers(1, 6, 32, 32).astype(np.float32))
    values[0, 2, :4, :4] = torch.nan
    mean, std = (torch.tensor(row).view(6, 1, 1) for row in (task.encoder.mean, task.encoder.std))
    expected = (values[0] * 2 - mean) / std
    expected[:, :4, :4] = task.encoder.fill
    torch.testing.assert_close(model.normalised(values)[0, :, 0], expected)
    assert model.facts.window == 32
    scene = write_scene(tmp_path / "scene.tif", numbers(6, 32, 32))
    words = ("--weights", home / "mae.ckpt", "--reflectance", 5000, "--out", tmp_path / "x.parquet")
    outcome = dfm("remote-sensing", "embed", *words, "--data.path", scene, "--dates", "2020-01-31")
    assert outcome.code == 0, outcome.err
    (row,) = parquet.read_table(tmp_path / "x.parquet").to_pylist()
    own = WeightsModel.from_weights(home / "mae.ckpt", None, reflectance=5000.0)
    with rasterio.open(scene) as opened:
        own = own.at(dates=[date(2020, 1, 31)], location=centre(opened))
        tile = torch.from_numpy(opened.read().astype(np.float32))[None]
    np.testing.assert_allclose(row["vector"], Embedder(own.network).vectors(own, tile)[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--out", "x.parquet", "--weights", "y"], "give either --ckpt_path RUN.ckpt or --weights"),
        (["--out", "x.parquet", "--pool", "men"], "did you mean 'mean'?"),
        (["--out", "x.parquet", "--format", "geotif"], "did you mean 'geotiff'?"),
        (["--out", "x.parquet", "--format", "geotiff"], "is the name of another format"),
        (["--out", "x.parquet", "--network", "prithvi_tiny"], "belong to --weights"),
        (["--out", "x.tif", "--tile", "20"], "no whole patches of 8 x 8"),
        (["--out", "mine.parquet"], "is no table made here"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.parquet").write_text("mine")
    scene = home / "images" / "HLS.S30.2018245.tif"
    assert sentence in refused(embed(home, *words, "--data.path", scene))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.parquet"]


def test_an_unknown_size_is_refused_with_the_nearest(home: Path, tmp_path: Path) -> None:
    words = (
        "--weights",
        home / "mae.ckpt",
        "--network",
        "prithvi_v2_100_tl",
        "--out",
        tmp_path / "x.parquet",
    )
    outcome = dfm("remote-sensing", "embed", *words, "--data.path", home / "images")
    assert "did you mean 'prithvi_v2_100m_tl'?" in refused(outcome)
