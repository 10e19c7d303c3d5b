"""The data module of scenes: the same samples for any number of workers, windows, statistics, coordinates."""

from __future__ import annotations

import pickle
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

from apps.remote_sensing.batch import Coordinates, SceneBatch, SceneFacts
from apps.remote_sensing.data import Augment, Normalise, Tiles
from apps.remote_sensing.data.module import Scenes
from apps.remote_sensing.data.readers.folders import GeoTiffFolder
from apps.remote_sensing.data.samples import tile_windows
from core.data.statistics import Moments
from core.errors import UserError

SIDE = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    drawn = np.random.default_rng(1)
    where = {"crs": "EPSG:32633", "transform": from_origin(500_000, 5e6, 10, 10), "driver": "GTiff"}
    for number in range(10):
        image = drawn.integers(0, 3000, (2, SIDE, SIDE)).astype(np.int16)
        image[:, number, :5] = -9999
        label = (image[0] % 2).astype(np.int16)
        for kind, values in (("images", image), ("labels", label[None])):
            (root / kind).mkdir(exist_ok=True)
            with rasterio.open(
                root / kind / f"s{number}.tif", "w", count=len(values), height=SIDE, width=SIDE,
                dtype="int16", nodata=-9999, **where,
            ) as file:  # fmt: skip
                file.write(values)
    return root


def scenes(folder: Path, **options: Any) -> Scenes:
    source = GeoTiffFolder(
        str(folder), bands=["red", "nir_narrow"], classes=("even", "odd"), fractions=(0.6, 0.2, 0.2)
    )
    return Scenes(source, **{"batch_size": 2, "statistics_folder": str(folder / "kept"), **options})


def images(data: Scenes) -> torch.Tensor:
    return torch.cat([batch.image for batch in data.train_dataloader()])


def test_samples_are_the_same_with_two_workers(folder: Path) -> None:
    options = {"crop": 8, "augment": Augment(flips=True, turns=True)}
    assert torch.equal(images(scenes(folder, **options)), images(scenes(folder, num_workers=2, **options)))


def test_another_epoch_and_another_seed_draw_other_windows(folder: Path) -> None:
    first, second = (scenes(folder, crop=8, seed=seed).train_set() for seed in (0, 1))
    assert torch.equal(first[(0, 1)].image, first[(0, 1)].image)
    assert not torch.equal(first[(0, 1)].image, first[(1, 1)].image)
    assert not torch.equal(first[(0, 1)].image, second[(0, 1)].image)


def test_a_resumed_run_goes_on_with_the_samples_that_were_left(folder: Path) -> None:
    unbroken = images(scenes(folder, crop=8))
    resumed = scenes(folder, crop=8)
    resumed.load_state_dict({"epoch": 0, "samples": 4, "length": 6, "global_batch": 2, "seed": 0})
    assert torch.equal(images(resumed), unbroken[4:])


def test_a_batch_is_its_samples_stacked(folder: Path) -> None:
    dataset = scenes(folder, crop=8, augment=Augment(flips=True)).train_set()
    batch = dataset.__getitems__([(0, 2), (0, 4)])
    stacked = SceneBatch.stack([dataset[(0, 2)], dataset[(0, 4)]])
    assert torch.equal(batch.image, stacked.image)
    assert torch.equal(batch.label, stacked.label)
    assert torch.equal(batch.valid, stacked.valid)
    assert batch.names == stacked.names
    assert len(batch) == 2


def test_image_label_and_mask_are_turned_together(folder: Path) -> None:
    data = scenes(folder, crop=SIDE, augment=Augment(flips=True, turns=True), normalise="none")
    dataset = data.train_set()
    positions = set()
    for epoch in range(20):
        sample = dataset[(epoch, 0)]
        image, valid = sample.image[0, 0], sample.valid[0]
        assert torch.equal(image[valid].long() % 2, sample.label[valid])
        assert (~valid).sum() == 5
        positions.add(image[3, 7].item())
    assert len(positions) > 4


def test_pixels_without_data_hold_the_fill_and_do_not_count_in_the_statistics(folder: Path) -> None:
    data = scenes(folder, normalise=Normalise(fill=0.0001), batch_size=6)
    (batch,) = list(data.train_dataloader())
    lost = ~batch.valid[:, None].expand_as(batch.image)
    assert lost.sum() == 6 * 2 * 5
    assert torch.all(batch.image[lost] == 0.0001)
    seen = batch.image[~lost]
    assert seen.mean().item() == pytest.approx(0, abs=1e-5)
    assert data.statistics.pixels == 6 * (SIDE * SIDE - 5)
    assert sum(data.statistics.classes) == 6 * SIDE * SIDE


def test_statistics_are_kept_and_computed_anew_for_other_bands(folder: Path, tmp_path: Path) -> None:
    first = scenes(folder, statistics_folder=str(tmp_path)).facts
    (kept,) = tmp_path.iterdir()
    written = kept.stat().st_mtime_ns
    assert scenes(folder, statistics_folder=str(tmp_path)).facts.mean == first.mean
    assert kept.stat().st_mtime_ns == written
    other = scenes(folder, statistics_folder=str(tmp_path), bands=["nir_narrow"]).facts
    assert other.mean == first.mean[1:]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_checkpoints_facts_take_the_place_of_the_datas_own(folder: Path) -> None:
    facts = replace(scenes(folder).facts, bands=("nir_narrow",), mean=(5.0,), std=(2.0,), scale=0.1)
    data = scenes(folder)
    data.use_statistics(facts)
    assert (data.facts.bands, data.facts.mean, data.facts.scale) == (("nir_narrow",), (5.0,), 0.1)


def test_facts_are_plain_and_the_data_set_can_be_sent_to_a_worker(folder: Path) -> None:
    data = scenes(folder)
    assert data.facts.plain()["classes"] == ["even", "odd"]
    assert SceneFacts.from_plain(data.facts.plain()) == data.facts
    again = pickle.loads(pickle.dumps(data.val_set()))
    assert torch.equal(again[(0, 0)].image, data.val_set()[(0, 0)].image)


def test_small_scenes_are_padded_as_unknown(folder: Path) -> None:
    sample = scenes(folder, crop=32, normalise="none").train_set()[(0, 0)]
    assert sample.image.shape == (2, 1, 32, 32)
    assert not sample.valid[:, SIDE:].any()
    assert torch.all(sample.label[SIDE:] == -1)


def test_windows_are_resized_with_labels_that_stay_classes(folder: Path) -> None:
    batch = next(iter(scenes(folder, resize=12).train_dataloader()))
    assert batch.image.shape == (2, 2, 1, 12, 12)
    assert batch.label.dtype == torch.int64
    assert set(batch.label.unique().tolist()) <= {-1, 0, 1}


def test_tiles_are_samples_with_names_of_their_own(folder: Path) -> None:
    data = scenes(folder, tiles=Tiles(16), normalise="none")
    names = [name for batch in data.val_dataloader() for name in batch.names]
    assert len(names) == 2 * 4
    assert names[1].endswith("@0,8")


def test_locations_and_days_follow_the_wanted_convention(folder: Path) -> None:
    latitude, longitude = scenes(folder).train_set()[(0, 0)].location.tolist()
    assert latitude == pytest.approx(45.15, abs=0.05)
    assert longitude == pytest.approx(15.0, abs=0.05)
    swapped = (
        scenes(folder, coordinates=Coordinates(longitude_first=True)).train_set()[(0, 0)].location.tolist()
    )
    assert swapped == [longitude, latitude]
    assert scenes(folder, coordinates=Coordinates(location=False)).train_set()[(0, 0)].location is None


def test_few_training_scenes_are_the_same_for_a_seed(folder: Path) -> None:
    first, again = ([one.name for one, _ in scenes(folder, limit=0.5).train_set().samples] for _ in range(2))
    assert first == again
    assert len(first) == 3


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(UserError, match="it must be"):
        SceneBatch(torch.zeros(2, 6, 3, 8, 8), None, torch.ones(2, 8, 8, dtype=torch.bool))


def test_options_that_contradict_each_other_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"only one of data\.normalise\.mean"):
        Normalise(mean=[1.0])
    with pytest.raises(UserError, match=r"without data\.tiles\.side"):
        Tiles(stride=4)
    for options, words in (
        ({"normalise": Normalise(mean=[1.0], std=[1.0])}, "1 and 1 numbers for 2 bands"),
        ({"normalise": "standard"}, "must be one of auto"),
        ({"normalise": "published"}, "publishes no mean of red"),
    ):
        with pytest.raises(UserError, match=words):
            scenes(folder, **options).train_set()


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 40))
def test_tiles_cover_every_pixel_and_stay_inside(height: int, width: int, tile: int, stride: int) -> None:
    seen = np.zeros((height, width), bool)
    for top, left, rows, columns in tile_windows(height, width, tile=tile, stride=min(stride, tile)):
        assert top + rows <= height
        assert left + columns <= width
        seen[top : top + rows, left : left + columns] = True
    assert seen.all()


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(0, 100))
def test_moments_of_parts_are_those_of_the_whole(sizes: list[int], seed: int) -> None:
    drawn = np.random.default_rng(seed)
    parts = [drawn.normal(1e4, 2, (3, size)) for size in sizes]
    moments = Moments.none(3)
    for part in parts:
        moments += Moments.of(part)
    joined = np.concatenate(parts, axis=1)
    assert np.allclose(moments.mean, joined.mean(1))
    assert np.allclose(moments.squares, ((joined - joined.mean(1, keepdims=True)) ** 2).sum(1), atol=1e-6)
