"""Probing as a task: features in order, tables, the preparation bound to the weights, mistakes."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from lightning.pytorch import Trainer
from torch import nn

from apps.remote_sensing.batch import Coordinates, SceneFacts
from apps.remote_sensing.data import Normalise
from apps.remote_sensing.data.module import Scenes
from apps.remote_sensing.data.readers.bigearthnet import BigEarthNet
from apps.remote_sensing.data.readers.class_folders import ClassFolders
from apps.remote_sensing.models.frozen.inputs import OfStudy, OfWeights, prepared_for
from apps.remote_sensing.models.frozen.resize_study import DATA_SETS
from apps.remote_sensing.models.frozen.resizing import Preparation, preparation_for, resize
from apps.remote_sensing.models.frozen.untrained import ImageStatistics, Mosaiks, image_statistics
from apps.remote_sensing.models.labeller import Labeller
from apps.remote_sensing.models.prithvi import prithvi_tiny
from apps.remote_sensing.models.softcon import Siamese, SoftConViT
from apps.remote_sensing.tasks.probing import Probing
from core.checkpoints.files import write_checkpoint
from core.errors import UserError
from core.metrics.probe_table import LabelledFeatures, probe

BANDS = ("red", "green", "nir_narrow")
COLOURS = {"field": (400, 900, 2500), "town": (1500, 1400, 1800), "water": (300, 400, 100)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("classes")
    drawn = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for number in range(12):
            image = np.array(colour)[:, None, None] + drawn.normal(0, 300, (3, 16, 16))
            with rasterio.open(
                root / name / f"{name}_{number}.tif", "w", driver="GTiff", count=3, height=16, width=16,
                dtype="uint16",
            ) as file:  # fmt: skip
                file.write(image.clip(0).astype(np.uint16))
    return root


def scenes(folder: Path, **options: Any) -> Scenes:
    source = ClassFolders(str(folder), bands=BANDS, fractions=(0.5, 0.25, 0.25))
    given = {"normalise": "none", "batch_size": 4, "eval_batch_size": 5, **options}
    given["coordinates"] = Coordinates(location=False)
    return Scenes(source, **given)


def scored(task: Probing, data: Any, folder: Path | None = None) -> dict[str, float]:
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    task.run_folder = folder
    (scores,) = trainer.test(task, datamodule=data, verbose=False)
    return dict(scores)


def vit(**options: Any) -> SoftConViT:
    torch.manual_seed(0)
    return SoftConViT(BANDS, width=24, depth=2, heads=2, patch=4, image=16, layer_scale=1.0, **options)


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def test_the_scores_are_the_protocols_of_all_scenes_in_their_order(folder, tmp_path):
    data = scenes(folder)
    splits = {}
    for name in ("train", "test"):
        pairs = [(0, row) for row in range(len(data.source.scenes(name)))]
        batch = data._evaluated(name).__getitems__(pairs)
        splits[name] = LabelledFeatures(image_statistics(batch.image[:, :, 0]), batch.label)

    scores = scored(Probing(ImageStatistics()), data, tmp_path)

    expected = [result.scores(splits["test"].labels) for result in probe(splits["train"], splits["test"])]
    rows = rows_of(tmp_path / "results.csv")
    assert [float(row["accuracy"]) for row in rows] == [row["accuracy"] for row in expected]
    assert [float(row["f1_macro"]) for row in rows] == [row["f1_macro"] for row in expected]
    assert scores["test_accuracy"] == pytest.approx(expected[0]["accuracy"])
    assert scores["test_accuracy_linear_scaled"] == pytest.approx(expected[3]["accuracy"])


def test_tables_and_figures_say_what_each_class_and_share_reached(folder, tmp_path):
    task = Probing(vit(), methods=["linear"], scaled=[True], shares=[0.5, 1.0], seeds=[0, 1])

    scored(task, scenes(folder), tmp_path)

    rows, classes = rows_of(tmp_path / "results.csv"), rows_of(tmp_path / "per_class.csv")
    assert [(row["share"], row["samples"], row["seeds"]) for row in rows] == [
        ("0.5", "9", "2"),
        ("1.0", "18", "1"),
    ]
    assert [row["class"] for row in classes] == ["field", "town", "water"]
    assert sum(int(row["samples"]) for row in classes) == 9
    drawn = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert drawn == ["confusion-0.png", "labels-0.png"]


@pytest.mark.parametrize(
    ("network", "width"),
    [
        (lambda: vit(), 24),
        (lambda: Siamese(vit(), projection=8, hidden=8), 24),
        (lambda: Labeller(vit(), outputs=2), 24),
        (
            lambda: prithvi_tiny(bands=BANDS, resolution=32, width=32, depth=2, heads=2),
            32,
        ),
        (lambda: Mosaiks(3, features=8, patches="training"), 8),
        (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten()), 48),
    ],
)  # fmt: skip
def test_any_network_gives_one_row_a_scene(network, width, folder):
    task = Probing(
        network(),
        methods=["knn"],
        scaled=[False],
        k=3,
        preparation=Preparation("divide", size=32, divisor=10000.0),
    )
    seen = []
    taken = task._taken
    task._taken = lambda what: seen.append(taken(what)) or seen[-1]

    scores = scored(task, scenes(folder))

    assert [split.features.shape for split in seen] == [(18, width), (9, width)]
    assert 0 <= scores["test_accuracy"] <= 1


def test_layers_and_pooling_are_chosen(folder):
    widths = []
    for options in ({}, {"layers": 2}, {"pool": "mean"}, {"pool": "class"}):
        task = Probing(vit(), **options)
        task.prepared = prepared_for(task.network, scenes(folder).facts, choice=None, run=None)
        batch = next(iter(scenes(folder).in_order("test")))
        widths.append(task.features(batch).shape[1])
    assert widths == [24, 72, 24, 24]


def test_several_dates_give_the_mean_of_their_features(folder):
    batch = next(iter(scenes(folder).in_order("test")))
    task = Probing(vit())
    task.prepared = prepared_for(task.network, scenes(folder).facts, choice=None, run=None)
    other = replace(batch, image=batch.image.flip(0))
    both = replace(
        batch,
        image=torch.cat([batch.image, other.image], 2),
        valid=torch.cat([batch.valid, other.valid], 1),
    )
    torch.testing.assert_close(task.features(both), (task.features(batch) + task.features(other)) / 2)


def test_images_that_the_data_module_normalised_are_refused_unless_nothing_more_is_done(folder):
    data = scenes(folder, normalise="statistics", statistics_folder=str(folder.parent / "kept"))

    with pytest.raises(UserError, match="data module normalises the images"):
        scored(Probing(vit()), data)

    assert scored(Probing(vit(), preparation=Preparation()), data)["test_accuracy"] > 0.5


def test_the_preparation_of_a_run_of_ours_is_that_of_its_data(folder, tmp_path):
    kept = str(folder.parent / "kept")
    trained = scenes(folder, normalise=Normalise("statistics", scale=1e-4), statistics_folder=kept)
    path = tmp_path / "last.ckpt"
    state = {f"network.{name}": value for name, value in vit().state_dict().items()}
    write_checkpoint({"state_dict": {**state, "normaliser._extra_state": trained.facts.plain()}}, path)
    task = Probing(vit(), weights=str(path))
    given = next(iter(scenes(folder).in_order("test")))

    scored(task, scenes(folder))

    expected = next(iter(trained.in_order("test"))).image
    torch.testing.assert_close(task.prepared(given.image, given.valid), expected, atol=1e-4, rtol=1e-4)


def test_bands_are_brought_into_the_networks_order_and_absent_ones_are_zeros(folder, capsys):
    network = SoftConViT(("nir_narrow", "red", "cirrus"), width=16, depth=1, heads=2, patch=4, image=16)
    task = Probing(network, methods=["knn"], k=1)
    batch = next(iter(scenes(folder).in_order("test")))

    scored(task, scenes(folder))
    seen = task.prepared(batch.image, batch.valid)[:, :, 0]

    raw = torch.stack([batch.image[:, 2, 0], batch.image[:, 0, 0], torch.zeros_like(batch.image[:, 0, 0])], 1)
    assert torch.equal(seen, preparation_for(network)(raw))
    assert "the data lack are zeros: cirrus" in capsys.readouterr().out


def test_the_study_resizes_first_and_takes_its_own_statistics_by_name():
    facts = SceneFacts(bands=("green", "red"), mean=(0.0, 0.0), std=(1.0, 1.0))
    data = DATA_SETS["eurosat"]
    mean, std = (
        torch.tensor([dict(zip(data.bands, row, strict=True))[band] for band in ("green", "red")])
        for row in (data.mean, data.std)
    )
    images = torch.randint(0, 5000, (2, 2, 1, 8, 8)).float()

    standard = prepared_for(nn.Identity(), facts, choice=OfStudy(size=12), run=None)
    divided = prepared_for(nn.Identity(), facts, choice=OfStudy(normalisation="divide"), run=None)

    by_hand = (resize(images, 12) - mean.view(2, 1, 1, 1)) / std.view(2, 1, 1, 1)
    torch.testing.assert_close(standard(images), by_hand)
    torch.testing.assert_close(divided(images), resize(images, 224) / 10000)


def test_pixels_without_data_are_the_networks_fill(folder):
    task = Probing(
        prithvi_tiny(bands=("red", "green", "nir_narrow"), resolution=16, width=32, depth=1, heads=2)
    )
    task.prepared = prepared_for(task.network, scenes(folder).facts, choice=None, run=None)
    batch = next(iter(scenes(folder).in_order("test")))
    valid = batch.valid.clone()
    valid[:, :, :4] = False

    seen = task.prepared(batch.image, valid)

    assert seen[..., :4, :].unique().tolist() == [pytest.approx(0.0001)]
    assert not bool((seen[..., 4:, :] == 0.0001).any())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"methods": ["knnn"]}, "did you mean 'knn'"),
        ({"methods": []}, "model.methods is empty"),
        ({"shares": [0.0]}, "above 0 and at most at 1"),
        ({"k": 0}, "at least 1"),
        ({"strength": 0.0}, "above 0, or null"),
    ],
)
def test_what_makes_no_probe_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        Probing(ImageStatistics(), **options)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Probing(ImageStatistics(), k=19), "model.k is 19 and there are 18 training scenes"),
        (lambda: Probing(ImageStatistics(), shares=[0.1]), "share of 0.1"),
        (lambda: Probing(ImageStatistics(), layers=2), "leave model.layers out"),
        (
            lambda: Probing(nn.Bilinear(1, 1, 1), preparation=Preparation()),
            "no features of images alone",
        ),
        (lambda: Probing(nn.Conv2d(3, 2, 1), preparation=Preparation()), "a row of features for each"),
        (lambda: Probing(nn.Conv2d(3, 2, 1)), "does not say what its weights were trained on"),
        (
            lambda: Probing(vit(), preparation=OfWeights(reflectance=1.0)),
            "their units are not the preparation",
        ),
        (lambda: Probing(vit(), preparation=OfStudy(data="eurosatt")), "did you mean 'eurosat'"),
    ],
)
def test_mistakes_are_one_sentence(make, said, folder):
    with pytest.raises(UserError, match=said):
        scored(make(), scenes(folder))


def test_labels_that_a_probe_cannot_use_are_refused(folder):
    one = ClassFolders(str(folder), bands=BANDS, classes=["field"], fractions=(0.5, 0.25, 0.25))
    data = Scenes(one, normalise="none", coordinates=Coordinates(location=False))

    with pytest.raises(UserError, match="hold 1 class; a probe needs at least two"):
        scored(Probing(ImageStatistics()), data)
    with pytest.raises(UserError, match=r"labels of .* are of the kind 'segmentation'"):
        facts = SceneFacts(bands=(), mean=(), std=(), target="segmentation", sources=("maps",))
        Probing(ImageStatistics()).check_facts(facts)
    with pytest.raises(UserError, match="nothing to fit; score the network's features with `dfm"):
        Probing(ImageStatistics()).setup("fit")


def test_a_damaged_file_stops_the_probe_or_is_left_out(folder, tmp_path, capsys):
    root = tmp_path / "classes"
    shutil.copytree(folder, root)
    (root / "town" / "town_3.tif").write_bytes(b"II*\0 no image")

    with pytest.raises(UserError, match=r"town_3\.tif"):
        scored(Probing(ImageStatistics(), methods=["knn"]), scenes(root))
    scored(Probing(ImageStatistics(), methods=["knn"]), scenes(root, bad_files="skip"))

    assert "left out" in capsys.readouterr().err


def test_the_real_patches_are_probed_by_their_labels(shared, tmp_path):
    path = shared / "data" / "remote_sensing" / "bigearthnet"
    names = sorted(one.name for one in (path / "BigEarthNet-S2-Example").iterdir() if one.is_dir())
    for split, chosen in {"train": names[:4], "test": names[4:]}.items():
        (tmp_path / f"{split}.csv").write_text("\n".join(chosen))
    splits = {split: str(tmp_path / f"{split}.csv") for split in ("train", "test")}
    data = Scenes(
        BigEarthNet(str(path), splits=splits),
        normalise="none",
        coordinates=Coordinates(location=False),
        batch_size=4,
    )
    network = SoftConViT(width=24, depth=2, heads=2, image=56)

    scores = scored(Probing(network, k=1, preparation=OfWeights(size=56)), data, tmp_path)

    assert len(rows_of(tmp_path / "results.csv")) == 4
    assert 0 < scores["test_map_micro"] <= 1
    assert (tmp_path / "figures" / "labels-precision-0.png").is_file()
