"""Scenes in, maps out: `dfm remote-sensing predict` on real GeoTIFFs and small networks of the real tasks."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from in_process import Outcome, dfm
from rasterio.transform import from_origin

from apps.remote_sensing.batch import SceneFacts
from apps.remote_sensing.data import Normalise
from apps.remote_sensing.data.bands import HLS
from apps.remote_sensing.data.dates_and_locations import dates_in
from apps.remote_sensing.data.module import Scenes
from apps.remote_sensing.data.readers.burn_scars import BurnScars
from apps.remote_sensing.data.readers.crops import Crops
from apps.remote_sensing.data.readers.floods import Sen1Floods11
from apps.remote_sensing.data.readers.folders import GeoTiffFolder
from apps.remote_sensing.predict.growing_map import GrowingMap
from apps.remote_sensing.predict.model import SceneModel
from apps.remote_sensing.tasks import Classification, GapFilling, Pretraining, Regression, Segmentation
from core.checkpoints.files import write_checkpoint
from core.checkpoints.networks import instantiate
from core.task import Task

GRID = from_origin(398_655.0, 4_500_015.0, 30.0, 30.0)
CLASSES = ["land", "water", "cloud"]
SIZE = {"resolution": 32, "patch": [1, 8, 8], "width": 16, "depth": 1, "heads": 2}


def encoder(frames: int = 1, **more: Any) -> dict[str, Any]:
    path = "apps.remote_sensing.models.prithvi.Prithvi"
    return {"class_path": path, "init_args": {**SIZE, "frames": frames, **more}}


def mapper(outputs: int = 3, frames: int = 1, **more: Any) -> dict[str, Any]:
    decoder = {"class_path": "apps.remote_sensing.models.decoders.Linear", "init_args": {}}
    arguments = {"encoder": encoder(frames, **more), "outputs": outputs, "decoder": decoder}
    return {"class_path": "apps.remote_sensing.models.mapper.Mapper", "init_args": arguments}


def labeller(outputs: int = 3) -> dict[str, Any]:
    arguments = {"encoder": encoder(), "outputs": outputs}
    return {"class_path": "apps.remote_sensing.models.labeller.Labeller", "init_args": arguments}


def autoencoder(frames: int) -> dict[str, Any]:
    small = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
    path = "apps.remote_sensing.models.prithvi.PrithviMAE"
    return {"class_path": path, "init_args": {**SIZE, "frames": frames, **small}}


def write_scene(path: Path, values: np.ndarray, *, names: Any = HLS, **profile: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    grid = {"crs": "EPSG:32633", "transform": GRID, "dtype": values.dtype} | profile
    with rasterio.open(path, "w", driver="GTiff", count=count, height=height, width=width, **grid) as made:
        made.write(values)
        if names:
            made.descriptions = list(names)
    return path


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 3000, size=shape).astype(np.int16)


def trained(kind: type[Task], network: dict[str, Any], facts: SceneFacts, path: Path) -> Task:
    """A task with drawn weights, and the checkpoint that it writes."""
    torch.manual_seed(0)
    task = kind(instantiate(network, where="test")).eval()
    task.normaliser.facts = facts if facts.kind != "features" else replace(facts, kind=kind.kind)
    task.record = {"config": {"model": {"init_args": {"network": network}}}}
    content: dict[str, Any] = {"state_dict": task.state_dict(), "global_step": 1}
    task.on_save_checkpoint(content)
    write_checkpoint(content, path)
    return task


def facts_of(folder: Path, frames: int = 1, **more: Any) -> SceneFacts:
    source = GeoTiffFolder(str(folder), labels=None, target="none", frames=frames, bands=HLS)
    return replace(Scenes(source).facts, classes=tuple(CLASSES), **more)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of one and of three dates, and a checkpoint of each task."""
    folder = tmp_path_factory.mktemp("predict")
    values = numbers(18, 32, 32)
    values[2, :5, :5] = -9999
    write_scene(folder / "one" / "images" / "one.tif", values[:6], nodata=-9999)
    write_scene(folder / "three" / "images" / "three.tif", values, names=None, nodata=-9999)
    one, three = facts_of(folder / "one"), facts_of(folder / "three", frames=3)
    trained(Segmentation, mapper(), one, folder / "map.ckpt")
    trained(Segmentation, mapper(frames=3), three, folder / "dates.ckpt")
    trained(Classification, labeller(), replace(one, kind="classification"), folder / "label.ckpt")
    trained(GapFilling, autoencoder(3), three, folder / "gaps.ckpt")
    trained(Pretraining, autoencoder(1), one, folder / "mae.ckpt")
    numeric = replace(one, label_mean=40.0, label_std=5.0, quantity="height (m)")
    trained(Regression, mapper(outputs=1), numeric, folder / "height.ckpt")
    return folder


def predict(checkpoint: Path, scene: object, out: object, *words: object) -> Outcome:
    given = scene if isinstance(scene, tuple) else (scene,)
    return dfm(
        "remote-sensing", "predict", "--ckpt_path", checkpoint, "--out", out, *words, "--data.path", *given
    )


def refused(outcome: Outcome) -> str:
    assert outcome.code == 2 and not outcome.out, outcome
    assert "Traceback" not in outcome.err and len(outcome.err.strip().splitlines()) == 1, outcome.err
    return outcome.err


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as made:
        return made.read()


def as_read(path: Path) -> torch.Tensor:
    with rasterio.open(path) as scene:
        return torch.from_numpy(scene.read(masked=True).astype(np.float32).filled(np.nan))[None]


def test_a_map_is_what_the_task_itself_predicts_for_the_file(tmp_path: Path) -> None:
    values = np.random.default_rng(1).uniform(0.01, 0.4, (6, 32, 32)).astype(np.float32)
    values[:, 3:9, 5:7] = -9999
    name = "subsetted_HLS.S30.T10SEH.2018190.v1.4"
    image = write_scene(tmp_path / "validation" / f"{name}_merged.tif", values)
    write_scene(tmp_path / "validation" / f"{name}.mask.tif", np.ones((1, 32, 32), np.int16), names=None)
    data = Scenes(BurnScars(str(tmp_path)), normalise=Normalise(fill=0.0001))
    network = mapper(outputs=2, coordinates=["time", "location"])
    task = trained(Segmentation, network, replace(data.facts, temperature=1.3), tmp_path / "burnt.ckpt")
    batch = data.predict_set().__getitems__([(0, 0)])
    with torch.no_grad():
        expected = task.predict_step(batch, 0)[0].numpy()
    assert batch.time is not None and batch.location is not None and not bool(batch.valid.all())
    outcome = predict(tmp_path / "burnt.ckpt", image, tmp_path / "out", "--kind", "scores")
    assert outcome.code == 0 and "not known" not in outcome.err, outcome
    made = read(tmp_path / "out" / f"{name}_merged.tif")
    valid = batch.valid[0, 0].numpy()
    np.testing.assert_allclose(made[:, valid], expected[:, valid], rtol=0, atol=1e-6)
    assert np.isnan(made[:, ~valid]).all()
    with torch.no_grad():
        undated = task.network(batch.image).softmax(1)[0].numpy()
    assert np.abs(undated - expected).max() > 1e-4


def test_a_real_chip_is_mapped_as_the_task_predicts_it(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "remote_sensing" / "sen1floods11"
    data = Scenes(Sen1Floods11(str(folder), present_only=True), bands=list(HLS))
    network = mapper(outputs=2, coordinates=["time", "location"])
    task = trained(Segmentation, network, data.facts, tmp_path / "flood.ckpt")
    (scene,) = data.source.scenes("test")
    with torch.no_grad():
        expected = task.predict_step(data.test_set().__getitems__([(0, 0)]), 0)[0].numpy()
    words = ("--kind", "scores", "--no_figure", "--dates", str(scene.dates[0]))
    outcome = predict(tmp_path / "flood.ckpt", scene.files[0], tmp_path / "map.tif", *words)
    assert outcome.code == 0 and "1/1 tiles" in outcome.err, outcome
    np.testing.assert_allclose(read(tmp_path / "map.tif"), expected, rtol=0, atol=1e-6)


def test_a_map_of_classes_has_the_scenes_grid_a_palette_and_its_doubt_beside_it(
    home: Path, tmp_path: Path
) -> None:
    values = numbers(6, 70, 45, seed=3)
    values[:, 10:20, 30:40] = -9999
    scene, out = write_scene(tmp_path / "scene.tif", values, nodata=-9999), tmp_path / "map.tif"
    words = ("--uncertainty", "--colours", "#ff0000", "#00ff00", "#0000ff")
    outcome = predict(home / "map.ckpt", scene, out, *words)
    doubt = tmp_path / "map_uncertainty.tif"
    assert outcome.code == 0 and outcome.out.split() == [str(out), str(doubt), str(out.with_suffix(".png"))]
    predict(home / "map.ckpt", scene, tmp_path / "shares.tif", "--kind", "scores", "--no_figure")
    shares = read(tmp_path / "shares.tif").astype(np.float64)
    empty = (values == -9999).any(0)
    with rasterio.open(out) as made, rasterio.open(doubt) as unsure:
        for one in (made, unsure):
            assert (one.crs, one.transform, one.shape) == (rasterio.CRS.from_epsg(32633), GRID, (70, 45))
        assert (
            made.nodata == 255
            and made.tags(1)["class_1"] == "water"
            and made.colormap(1)[2][:3] == (0, 0, 255)
        )
        np.testing.assert_array_equal(made.read(1), np.where(empty, 255, shares.argmax(0)))
        entropy = -(shares * np.log(shares)).sum(0) / np.log(3)
        np.testing.assert_allclose(unsure.read(1)[~empty], entropy[~empty], atol=1e-5)
        assert np.isnan(unsure.read(1)[empty]).all()
    again = predict(home / "map.ckpt", scene, out, *words, "--no_figure")
    assert again.code == 0 and "tiles" not in again.err, again.err
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "map.png", "map.tif", "map_uncertainty.tif", "scene.tif", "shares.tif",
    ]  # fmt: skip


def test_files_of_several_dates_are_mapped_as_the_file_that_holds_them_all(
    home: Path, tmp_path: Path
) -> None:
    whole = home / "three" / "images" / "three.tif"
    values = read(whole)
    dates = tuple(
        write_scene(tmp_path / f"day{n}.tif", values[6 * n : 6 * n + 6], nodata=-9999) for n in range(3)
    )
    assert predict(home / "dates.ckpt", dates, tmp_path / "a.tif", "--stack", "--no_figure").code == 0
    outcome = predict(home / "dates.ckpt", whole, tmp_path / "b.tif", "--no_figure")
    assert outcome.code == 0 and "have no names; they are taken for blue" in outcome.err
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), read(tmp_path / "b.tif"))
    assert (read(tmp_path / "a.tif") == 255).sum() == 25
    folders = tuple(tmp_path / f"date_{n}" for n in range(3))
    for folder, file in zip(folders, dates, strict=True):
        write_scene(folder / "scene.tif", read(file), nodata=-9999)
    outcome = predict(home / "dates.ckpt", folders, tmp_path / "out", "--stack", "--no_figure")
    assert outcome.code == 0 and "1 of 1 scenes" in outcome.err, outcome.err
    np.testing.assert_array_equal(read(tmp_path / "out" / "scene.tif"), read(tmp_path / "a.tif"))
    write_scene(folders[2] / "more.tif", numbers(6, 8, 8))
    assert "has no more.tif" in refused(predict(home / "dates.ckpt", folders, tmp_path / "out", "--stack"))
    outcome = predict(home / "dates.ckpt", whole, tmp_path / "c.tif", "--any_date", "--no_figure")
    assert not (read(tmp_path / "c.tif") == 255).any(), outcome


def test_a_scene_is_not_mapped_to_where_anothers_uncertainty_goes(home: Path, tmp_path: Path) -> None:
    for name in ("a", "a_uncertainty"):
        write_scene(tmp_path / "in" / f"{name}.tif", numbers(6, 8, 8))
    outcome = predict(home / "map.ckpt", tmp_path / "in", tmp_path / "out", "--uncertainty", "--no_figure")
    assert "a.tif and the map of" in refused(outcome) and not (tmp_path / "out").exists()


def test_a_folder_is_mapped_and_what_fails_is_reported(home: Path, tmp_path: Path) -> None:
    for number, side in enumerate((40, 1)):
        write_scene(tmp_path / "in" / f"s{number}.tif", numbers(6, side, side))
    (tmp_path / "in" / "broken.tif").write_bytes(b"II*\0 no picture at all")
    write_scene(tmp_path / "in" / "empty.tif", np.zeros((6, 9, 9), np.int16), nodata=0)
    write_scene(tmp_path / "in" / "three.tif", numbers(3, 9, 9), names=HLS[:3])
    outcome = predict(home / "map.ckpt", tmp_path / "in", tmp_path / "out", "--no_figure")
    assert outcome.code == 2 and "2 of 5 scenes are mapped" in outcome.err, outcome.err
    assert "broken.tif cannot be read" in outcome.err and "damaged or no raster" in outcome.err
    assert "empty.tif has no pixel with data" in outcome.err
    assert "three.tif has no band 'nir_narrow' but blue, green, red" in outcome.err
    assert [read(tmp_path / "out" / f"s{number}.tif").shape for number in (0, 1)] == [(1, 40, 40), (1, 1, 1)]
    again = predict(home / "map.ckpt", tmp_path / "in", tmp_path / "out", "--no_figure")
    assert "2 of them before" in again.err
    stopped = predict(home / "map.ckpt", tmp_path / "in", tmp_path / "out", "--on_error", "stop")
    assert stopped.code == 2 and "(scene 1 of 5" in stopped.err


def test_bands_are_found_by_name_in_any_order_or_as_the_user_says(home: Path, tmp_path: Path) -> None:
    values = numbers(6, 20, 20, seed=4)
    plain = write_scene(tmp_path / "plain.tif", values)
    turned = write_scene(tmp_path / "turned.tif", values[::-1].copy(), names=HLS[::-1])
    nameless = write_scene(tmp_path / "nameless.tif", np.concatenate([values[:1], values]), names=None)
    shown = {}
    for name, scene, *words in (
        ("plain", plain),
        ("turned", turned),
        ("numbers", nameless, "--bands", "2", "3", "4", "5", "6", "7"),
        ("names", nameless, "--band_names", "coastal_aerosol", *HLS),
    ):
        outcome = predict(home / "map.ckpt", scene, tmp_path / f"{name}_map.tif", "--no_figure", *words)
        assert outcome.code == 0, outcome.err
        shown[name] = read(tmp_path / f"{name}_map.tif")
    for name in ("turned", "numbers", "names"):
        np.testing.assert_array_equal(shown[name], shown["plain"], err_msg=name)


def test_numbers_are_mapped_in_the_labels_own_units(home: Path, tmp_path: Path) -> None:
    scene = home / "one" / "images" / "one.tif"
    assert predict(home / "height.ckpt", scene, tmp_path / "height.tif").code == 0
    model = SceneModel.from_checkpoint(home / "height.ckpt")
    with torch.no_grad():
        expected = model.network(model.normalised(as_read(scene)))[0].numpy() * 5 + 40
    with rasterio.open(tmp_path / "height.tif") as made:
        assert made.descriptions == ("height (m)",) and made.dtypes == ("float32",)
        values = made.read()
    np.testing.assert_allclose(values[:, 5:], expected[:, 5:], rtol=1e-6)
    assert np.isnan(values[0, :5, :5]).all()


def test_dates_and_bands_are_mixed_as_in_training(tmp_path: Path) -> None:
    values = numbers(18, 32, 32)
    image = write_scene(tmp_path / "validation_chips" / "a_merged.tif", values, names=None)
    write_scene(tmp_path / "validation_chips" / "a.mask.tif", np.ones((1, 32, 32), np.int16), names=None)
    (tmp_path / "validation_data.txt").write_text("a\n")
    for order in ("right", "scrambled"):
        data = Scenes(Crops(str(tmp_path), order=order))
        batch = data.val_set().__getitems__([(0, 0)])
        model = SceneModel(torch.nn.Identity(), data.facts)
        torch.testing.assert_close(model.normalised(as_read(image)), batch.image, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["int16", "float64"])
def test_gaps_are_filled_and_visible_pixels_stay_bit_for_bit(home: Path, tmp_path: Path, kind: str) -> None:
    values = numbers(18, 40, 52, seed=5).astype(kind)
    values += values.dtype.type(1 / 3)
    values[6:12, 8:14, 20:30] = -9999
    scene = write_scene(tmp_path / "scene.tif", values, names=None, nodata=-9999)
    mask = np.zeros((3, 40, 52), np.uint8)
    mask[0, :4, :4] = 1
    cover = write_scene(tmp_path / "mask.tif", mask, names=None)
    outcome = predict(home / "gaps.ckpt", scene, tmp_path / "filled.tif", "--gaps", cover, "--tile", 32)
    assert outcome.code == 0, outcome.err
    hidden = np.repeat(mask.astype(bool), 6, axis=0) | (values == -9999)
    with rasterio.open(tmp_path / "filled.tif") as made:
        assert made.dtypes[0] == kind and made.nodata == -9999 and made.descriptions[7] == "green_2"
        assert (made.crs, made.transform) == (rasterio.CRS.from_epsg(32633), GRID)
        filled = made.read()
    np.testing.assert_array_equal(filled[~hidden], values[~hidden])
    assert (filled[hidden] != -9999).all() and (filled[:6, :4, :4] != values[:6, :4, :4]).any()


def test_labels_of_tiles_are_a_table_or_a_coarse_image(home: Path, tmp_path: Path) -> None:
    values = numbers(6, 70, 40, seed=6)
    values[:, 64:] = -9999
    write_scene(tmp_path / "in" / "S2A_20230731T101031.tif", values, nodata=-9999)
    write_scene(tmp_path / "in" / "b.tif", values[:, :32, :32], nodata=-9999)
    (tmp_path / "in" / "broken.tif").write_bytes(b"nothing")
    outcome = predict(home / "label.ckpt", tmp_path / "in", tmp_path / "labels.csv")
    assert outcome.code == 2 and outcome.out.split() == [str(tmp_path / "labels.csv")], outcome
    with open(tmp_path / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["scene"][:1], row["row"], row["column"]) for row in rows] == [
        ("S", "0", "0"), ("S", "0", "32"), ("S", "32", "0"), ("S", "32", "32"), ("b", "0", "0"),
    ]  # fmt: skip
    assert rows[0]["date"] == "2023-07-31" and rows[0]["class"] in CLASSES and rows[4]["date"] == ""
    assert abs(float(rows[0]["latitude"]) - 40.64) < 0.01 and abs(float(rows[0]["longitude"]) - 13.8) < 0.01
    model = SceneModel.from_checkpoint(home / "label.ckpt")
    with torch.no_grad():
        shares = model(as_read(tmp_path / "in" / "b.tif"))[0]
    assert float(rows[4]["probability"]) == pytest.approx(float(shares.max()), abs=1e-5)
    outcome = predict(
        home / "label.ckpt", tmp_path / "in" / "S2A_20230731T101031.tif", tmp_path / "labels.tif"
    )
    with rasterio.open(tmp_path / "labels.tif") as made:
        assert made.shape == (3, 2) and made.transform == GRID @ rasterio.Affine.scale(32, 32)
        assert made.tags(1)["class_1"] == "water" and made.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert made.read(1)[2].tolist() == [255, 255] and CLASSES[made.read(1)[0, 0]] == rows[0]["class"]
    assert "exists already" in refused(predict(home / "label.ckpt", tmp_path / "in", tmp_path / "labels.csv"))


def test_several_labels_and_numbers_of_whole_tiles_have_their_own_columns(home: Path, tmp_path: Path) -> None:
    scene, facts = home / "one" / "images" / "one.tif", facts_of(home / "one")
    trained(Classification, labeller(), replace(facts, kind="multilabel"), tmp_path / "labels.ckpt")
    numeric = replace(facts, label_mean=40.0, label_std=5.0, quantity="height")
    trained(Regression, labeller(outputs=1), numeric, tmp_path / "height.ckpt")
    rows = {}
    for name in ("labels", "height"):
        assert predict(tmp_path / f"{name}.ckpt", scene, tmp_path / f"{name}.csv").code == 0
        assert predict(tmp_path / f"{name}.ckpt", scene, tmp_path / f"{name}.tif").code == 0
        with open(tmp_path / f"{name}.csv", newline="") as file:
            (rows[name],) = csv.DictReader(file)
    shares = [float(rows["labels"][name]) for name in CLASSES]
    named = ";".join(name for name, share in zip(CLASSES, shares, strict=True) if share > 0.5)
    assert rows["labels"]["labels"] == named
    np.testing.assert_allclose(read(tmp_path / "labels.tif").ravel(), shares, rtol=1e-5)
    assert read(tmp_path / "height.tif").item() == pytest.approx(float(rows["height"]["height"]), rel=1e-5)


def test_a_map_begun_by_another_process_is_continued(home: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", numbers(6, 150, 40, seed=7))
    # the same batches in both: products of other sizes may differ in the last bits
    words = ("--uncertainty", "--no_figure", "--kind", "scores", "--batch_size", "1")
    assert predict(home / "map.ckpt", scene, tmp_path / "whole.tif", *words).code == 0

    with pytest.MonkeyPatch.context() as patch:
        calls = iter(range(10))

        def killed(self: SceneModel, tiles: torch.Tensor) -> torch.Tensor:
            if next(calls) == 4:
                raise KeyboardInterrupt
            return usual(self, tiles)

        usual = SceneModel.__call__
        patch.setattr(SceneModel, "__call__", killed)
        assert predict(home / "map.ckpt", scene, tmp_path / "map.tif", *words).code == 130
    left = sorted(path.name for path in tmp_path.glob("map*.part"))
    assert left == ["map.tif.part", "map_uncertainty.tif.part"]
    outcome = predict(home / "map.ckpt", scene, tmp_path / "map.tif", *words)
    assert outcome.code == 0, outcome.err
    for name in ("", "_uncertainty"):
        np.testing.assert_array_equal(read(tmp_path / f"map{name}.tif"), read(tmp_path / f"whole{name}.tif"))


@pytest.mark.parametrize("lost", ["nothing", "the doubt"])
def test_a_map_killed_between_its_two_files_is_completed(home: Path, tmp_path: Path, lost: str) -> None:
    scene = write_scene(tmp_path / "scene.tif", numbers(6, 60, 40, seed=8))
    words = ("--uncertainty", "--no_figure")
    assert predict(home / "map.ckpt", scene, tmp_path / "whole.tif", *words).code == 0
    usual = GrowingMap.finish

    def killed(self: GrowingMap) -> None:
        if self.path.name == "map.tif":
            raise KeyboardInterrupt
        usual(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GrowingMap, "finish", killed)
        assert predict(home / "map.ckpt", scene, tmp_path / "map.tif", *words).code == 130
    assert (tmp_path / "map_uncertainty.tif").exists() and not (tmp_path / "map.tif").exists()
    if lost == "the doubt":
        (tmp_path / "map_uncertainty.tif").unlink()
    assert predict(home / "map.ckpt", scene, tmp_path / "map.tif", *words).code == 0
    for name in ("", "_uncertainty"):
        np.testing.assert_array_equal(read(tmp_path / f"map{name}.tif"), read(tmp_path / f"whole{name}.tif"))
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere.tif"], "there is no scene or folder nowhere.tif"),
        (["{scene}", "--device", "quantum"], "--device quantum cannot be used here"),
        (["{scene}", "--dates", "2023-13-01"], "write them as 2023-07-31"),
        (["{scene}", "--dates", "2023-01-01", "2023-02-01"], "--dates gives 2 dates and the network takes 1"),
        (["{scene}", "--bands", "red"], "--bands names 1 bands and the network takes 6"),
        (["{scene}", "--kind", "class"], "did you mean 'classes'?"),
        (["{scene}", "--gaps", "{scene}"], "--gaps is for networks that fill gaps"),
        (["{scene}", "--colours", "#12"], "--colours gives 1 colours and there are 3 classes"),
        (["{scene}", "--tile", "8", "--overlap", "8"], "tiles of 8 cannot overlap by 8"),
        (["{scene}", "{scene}"], "twice"),
        (["{scene}", "{other}", "--stack"], "2 files are stacked and the network takes 1 date;"),
        (["{scene}", "--on_error", "skp"], "must be skip or stop; did you mean 'skip'?"),
        (["{scene}", "--bands", "²", "2", "3", "4", "5", "6"], "has no band '²' but blue"),
        (["{scene}", "--no_figures"], "did you mean '--no_figure'?"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    home: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    scene, other = home / "one" / "images" / "one.tif", home / "three" / "images" / "three.tif"
    given = [word.format(scene=scene, other=other) for word in words]
    assert sentence in refused(predict(home / "map.ckpt", tuple(given), tmp_path / "map.tif"))
    assert not list(tmp_path.iterdir())


def test_scenes_and_checkpoints_that_do_not_fit_are_refused(home: Path, tmp_path: Path) -> None:
    scene, out = home / "one" / "images" / "one.tif", tmp_path / "map.tif"
    other = write_scene(tmp_path / "other.tif", numbers(6, 32, 32), crs="EPSG:32634")
    shifted = write_scene(tmp_path / "shifted.tif", numbers(6, 32, 32), transform=from_origin(0, 0, 30, 30))
    small = write_scene(tmp_path / "small.tif", numbers(6, 30, 32))
    stack = (home / "dates.ckpt", "--stack")
    for third, sentence in ((other, "warp the files"), (shifted, "same place"), (small, "the same pixels")):
        copy = write_scene(tmp_path / "copy.tif", numbers(6, 32, 32))
        assert sentence in refused(predict(stack[0], (scene, copy, third), out, "--stack"))
    assert "has 6 bands and the network takes 3 dates of 6" in predict(stack[0], scene, out).err
    assert "use `dfm remote-sensing embed`" in refused(predict(home / "mae.ckpt", scene, out))
    assert "does not exist" in refused(predict(home / "no.ckpt", scene, out))
    write_checkpoint({"state_dict": {"normaliser._extra_state": {"datasets": []}}}, tmp_path / "pde.ckpt")
    assert "none of remote sensing" in refused(predict(tmp_path / "pde.ckpt", scene, out))
    assert "is a scene itself" in refused(predict(home / "map.ckpt", scene, scene))
    out.write_text("mine")
    assert "is no map made here" in refused(predict(home / "map.ckpt", scene, out))
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "days"),
    [
        ("HLS.S30.T10SEH.2018245T185321.v1.4.tif", ["2018-09-02"]),
        ("S2A_MSIL2A_20230731T101031_N0509_R022_T33UVP_20230801T010203.tif", ["2023-07-31", "2023-08-01"]),
        ("LC08_L2SP_044034_20200131_20200213_02_T1.tif", ["2020-01-31", "2020-02-13"]),
        ("farm_2021-02-29_b.tif", []),
        ("chip_003_014.tif", []),
    ],
)
def test_dates_stand_in_names_of_files(name: str, days: list[str]) -> None:
    assert [str(day) for day in dates_in(name)] == days
