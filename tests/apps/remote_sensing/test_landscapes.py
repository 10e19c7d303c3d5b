"""Simulated landscapes: real files, the same for ever, labels that fit the images, nothing half-made."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.remote_sensing.data.bands import HLS
from apps.remote_sensing.data.module import Scenes
from apps.remote_sensing.data.readers import GeoTiffFolder, Landscapes
from apps.remote_sensing.simulation.ground import CLASSES
from apps.remote_sensing.simulation.scene import NODATA, UNKNOWN, landscape
from apps.remote_sensing.simulation.sky import sun
from apps.remote_sensing.simulation.spectra import SEASONS
from apps.remote_sensing.simulation.store import Settings, ensure
from core.errors import UserError
from tests.helpers.in_process import dfm

SMALL = Settings(scenes=10, size=40, frames=3)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the scenes of most tests."""
    place = tmp_path_factory.mktemp("cache")
    ensure(SMALL, place / SMALL.name, progress=False)
    return place


@pytest.fixture
def cache(kept: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DFM_DATA", str(kept))
    return kept


def small(**options: Any) -> Landscapes:
    return Landscapes(scenes=10, size=40, **options)


def ratio(image: np.ndarray[Any, Any], one: str, other: str) -> np.ndarray[Any, Any]:
    a, b = (image[..., HLS.index(name), :, :].astype(float) for name in (one, other))
    return (a - b) / (a + b)


def test_files_are_geotiffs_with_names_of_bands_a_utm_grid_and_nodata(cache: Path):
    folder = cache / SMALL.name
    with rasterio.open(folder / "images/date_3/scene_0004.tif") as image:
        assert image.descriptions == HLS and set(image.dtypes) == {"int16"} and image.nodata == NODATA
        assert image.crs.to_epsg() // 100 in (326, 327) and image.res == (30.0, 30.0)
        assert image.tags()["TIFFTAG_DATETIME"].endswith("10:30:00")
        grid = (image.crs, image.transform, image.shape)
    kinds = {"land_cover": "uint8", "water": "uint8", "changed": "uint8", "biomass": "float32"}
    for kind, dtype in kinds.items():
        with rasterio.open(folder / "labels" / kind / "scene_0004.tif") as label:
            assert (label.crs, label.transform, label.shape) == grid and label.dtypes == (dtype,)
    with rasterio.open(folder / "clouds/scene_0004.tif") as clouds:
        assert clouds.count == 3 and set(np.unique(clouds.read())) <= {0, 1, 2, UNKNOWN}


def test_a_scene_lies_where_and_when_its_table_says(cache: Path):
    scene = small().scenes("train")[0]

    by_file = small().header(scene.files[0]).centre()

    assert by_file == pytest.approx(scene.location, abs=0.001)
    with rasterio.open(scene.files[0]) as image:
        assert image.tags()["TIFFTAG_DATETIME"].startswith(f"{scene.dates[0]:%Y:%m:%d}")


def test_a_scene_is_the_same_whatever_the_number_of_scenes(tmp_path: Path):
    few, more = (ensure(Settings(n, 32, 2), tmp_path / str(n), progress=False) for n in (2, 3))

    for file in ("images/date_2/scene_0001.tif", "labels/biomass/scene_0001.tif", "clouds/scene_0001.tif"):
        assert (few / file).read_bytes() == (more / file).read_bytes()


def test_seeds_and_numbers_give_other_scenes():
    first, other, next_one = (landscape(*which, size=32, frames=1) for which in ((0, 0), (1, 0), (0, 1)))

    assert not (first.images == other.images).all() and not (first.images == next_one.images).all()


def test_ground_and_dates_do_not_change_when_clouds_are_left_out():
    cloudy, clear = (landscape(0, 3, size=40, clouds=clouds) for clouds in (True, False))

    known = cloudy.cover != UNKNOWN
    assert cloudy.dates == clear.dates and (cloudy.cover == clear.cover)[known].all()
    assert (clear.images != NODATA).all() and (clear.water != UNKNOWN).all()


def test_labels_agree_with_the_images():
    made = [landscape(0, number, size=64, clouds=False) for number in range(8)]
    images, water = np.stack([one.images[-1] for one in made]), np.stack([one.water for one in made])
    cover = np.stack([one.cover for one in made])
    dark = images[:, HLS.index("swir_1")]

    assert np.median(dark[water == 1]) < 0.35 * np.median(dark[water == 0])
    assert ratio(images, "green", "swir_1")[water == 1].mean() > 0.2
    assert (water[cover == CLASSES.index("water")] == 1).all()
    rows = {one.event: one for one in made}
    flood = rows["flood"]
    permanent = flood.cover == CLASSES.index("water")
    assert ((flood.changed == 1) == ((flood.water == 1) & ~permanent)).all() and flood.changed.any()
    assert not rows["nothing"].changed.any()


def test_forests_are_greener_in_summer_and_hold_the_biomass():
    made = [landscape(2, number, size=48, frames=5, clouds=False) for number in range(4)]
    forests = [one.cover == CLASSES.index("forest") for one in made]
    green = [ratio(one.images, "nir_narrow", "red")[:, wood] for one, wood in zip(made, forests, strict=True)]

    assert np.mean([one[2].mean() - one[0].mean() for one in green if one.size]) > 0.08
    trees, rest = (
        np.concatenate([one.biomass[wood == here] for one, wood in zip(made, forests, strict=True)])
        for here in (True, False)
    )
    assert trees.mean() > 8 * rest.mean() and rest.min() >= 0


@given(st.floats(-60, 60), st.floats(1, 365))
@settings(max_examples=40, deadline=None)
def test_the_sun_is_up_in_the_morning_and_stands_east_of_the_meridian(latitude: float, day: float):
    elevation, azimuth = sun(latitude, day)

    assert -0.2 < elevation <= np.pi / 2 and 0 < azimuth < np.pi


@given(st.sampled_from(sorted(SEASONS)), st.floats(0, 366), st.floats(-30, 30))
@settings(max_examples=40, deadline=None)
def test_green_cover_stays_between_its_lowest_and_highest(kind: str, day: float, late: float):
    season = SEASONS[kind]

    assert season.low - 1e-6 <= float(season.cover(day, shift=late)) <= season.high + 1e-6


@pytest.mark.parametrize(
    ("task", "frames", "label"),
    [
        ("floods", 1, ((4, 40, 40), torch.int64)),
        ("land_cover", 3, ((4, 40, 40), torch.int64)),
        ("change", 2, ((4, 40, 40), torch.int64)),
        ("gaps", 3, None),
        ("scene_labels", 1, ((4, 7), torch.float32)),
        ("biomass", 1, ((4, 40, 40), torch.float32)),
        ("images", 3, None),
    ],
)
def test_every_task_gives_batches(cache: Path, task: Any, frames: int, label: Any):
    module = Scenes(small(task=task), batch_size=4)
    module.setup()

    batch = next(iter(module.train_dataloader()))

    assert batch.image.shape == (4, 6, frames, 40, 40) and batch.image.isfinite().all()
    assert (None if batch.label is None else (tuple(batch.label.shape), batch.label.dtype)) == label
    assert batch.time.shape == (4, frames, 2) and batch.location.shape == (4, 2)
    assert (batch.gaps is None) == (task != "gaps")
    assert module.facts.bands == HLS


def test_gaps_hide_the_middle_date_the_same_way_in_every_evaluation(cache: Path):
    source = small(task="gaps", hidden=[[2], [1, 3]])
    scenes = source.scenes("test")
    drawn = torch.Generator().manual_seed(0)

    first, again = (source.gaps(0, size=(40, 40), generator=None) for _ in range(2))
    both = source.gaps(1, size=(40, 40), generator=None)
    training = [source.gaps(0, size=(40, 40), generator=drawn) for _ in range(6)]

    assert (first == again).all() and first[1].any() and not first[[0, 2]].any()
    assert both[[0, 2]].any((1, 2)).all() and not both[1].any()
    assert any((one != training[0]).any() for one in training)
    assert (source.read(scenes[0], range(6), lambda h, w: (0, 0, h, w))).valid.all()


def test_a_killed_generation_leaves_no_folder_and_the_next_clears_up(tmp_path: Path):
    words = ["data", "generate", "remote_sensing/landscapes", "--size", "32", "--out", str(tmp_path / "made")]
    process = subprocess.Popen([sys.executable, "-m", "core.cli", *words, "--scenes", "5000", "--quiet"])
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("made.*.tmp/images/date_1/*.tif")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "made").exists() and list(tmp_path.glob("made.*.tmp"))

    outcome = dfm(*words, "--scenes", 2, "--quiet")

    assert outcome.code == 0 and outcome.out.strip() == str(tmp_path / "made")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "made.lock"]


def test_two_that_ask_for_one_folder_get_the_same(tmp_path: Path):
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ensure, Settings(3, 32, 1), tmp_path / "one", progress=False) for _ in range(2)]
        folders = {one.result() for one in asked}

    assert folders == {tmp_path / "one"} and len(list((tmp_path / "one/images/date_1").iterdir())) == 3


def test_a_generated_folder_is_read_like_the_users_own(cache: Path):
    own = GeoTiffFolder(
        str(cache / SMALL.name), images="images/date_3/*.tif", labels="labels/water/*.tif",
        classes=("dry", "water"), splits={split: f"splits/{split}.txt" for split in ("train", "val", "test")},
        mixed_crs=True,
    )  # fmt: skip
    ours = small()

    for split in ("train", "val", "test"):
        assert [one.name for one in own.scenes(split)] == [one.name for one in ours.scenes(split)]
    assert own.bands == HLS
    assert len(own.scenes("train")) == 6


def test_generate_refuses_a_folder_of_something_else(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("x")
    words = ("data", "generate", "remote-sensing/landscapes", "--scenes", 1, "--size", 32, "--quiet", "--out")

    outcome = dfm(*words, tmp_path / "mine")
    assert outcome.code == 2 and "holds no landscapes" in outcome.err and outcome.err.count("\n") == 1
    assert dfm(*words, tmp_path / "own").code == dfm(*words, tmp_path / "own").code == 0
    outcome = dfm(*words, tmp_path / "own", "--seed", 4)
    assert outcome.code == 2 and "seed=0, and seed=4 is asked for" in outcome.err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"scenes": 0}, "scenes of the landscapes is 0; it must be a whole number from 1"),
        ({"size": 8}, "size of the landscapes is 8"),
        ({"frames": 0}, "frames of the landscapes is 0"),
        ({"task": "flood"}, "did you mean 'floods'"),
        ({"task": "change", "frames": 1}, "the task change needs at least 2 dates"),
        ({"dates": [4]}, "give dates from 1 to 3"),
        ({"dates": [1, 1]}, "give each date once"),
        ({"fractions": [0.5, 0.5]}, "give three shares that sum to 1"),
        ({"task": "gaps", "hidden": [[4]]}, "give lists of the dates 1 to 3"),
    ],
)
def test_bad_arguments_give_one_sentence(options: dict[str, Any], told: str):
    with pytest.raises(UserError, match=None) as caught:
        Landscapes(**options)

    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_the_command_names_what_it_can_make():
    assert "remote_sensing/landscapes" in dfm("data", "generate", "remote_sensing", "--list").out
    outcome = dfm("data", "generate", "remote_sensing/landscape")
    assert outcome.code == 2 and "did you mean 'landscapes'" in outcome.err
