"""Whole scenes: a killed map goes on to the same bits, bad input is one sentence, batches say what failed."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin
from torch import Tensor

from apps.remote_sensing.predict.command import scene_files
from apps.remote_sensing.predict.growing_map import GrowingMap
from apps.remote_sensing.predict.mapping import map_scene
from apps.remote_sensing.predict.scene import open_scene
from apps.remote_sensing.predict.settings import MapSettings
from core.errors import UserError
from core.files import locked
from core.inference.jobs import JobReport, each_input, outputs_for

SLOW = """
import sys, time, torch
from apps.remote_sensing.predict.mapping import map_scene
from apps.remote_sensing.predict.settings import MapSettings

torch.manual_seed(0)
network = torch.nn.Conv2d(2, 3, 5, padding="same")

def model(x):
    time.sleep(0.03)
    return network(x).softmax(dim=1)

how = MapSettings(names=("a", "b", "c"), kind="scores", tile=48, overlap=30, batch_size=3)
map_scene(sys.argv[1], sys.argv[2], model, how)
"""
HOW = MapSettings(names=("a", "b"), kind="scores", tile=32, overlap=8)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    values = np.random.default_rng(1).normal(size=(2, 300, 120)).astype(np.float32)
    values[:, 40:90, :70] = -1
    return write_scene(tmp_path / "scene.tif", values, nodata=-1)


def write_scene(path: Path, values: np.ndarray, **profile: object) -> Path:
    shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2]}
    grid = {"crs": "EPSG:32633", "transform": from_origin(4e5, 45e5, 30.0, 30.0)}
    with rasterio.open(
        path, "w", driver="GTiff", dtype=str(values.dtype), **grid, **shape, **profile
    ) as made:
        made.write(values)
    return path


def wait_for_rows(progress: Path, rows: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while not (progress.exists() and f'"rows": {rows}' in progress.read_text()):
        assert process.poll() is None and time.monotonic() < until, f"no {rows} rows were reached"
        time.sleep(0.005)


def map_scenes(scenes: list[Path], folder: Path, **more: str) -> JobReport:
    outs = outputs_for(scenes, folder)
    how = {"what": ("scene", "mapped"), **more}
    return each_input(outs, lambda scene, out: map_scene(scene, out, same, HOW, progress=False), **how)


def same(x: Tensor) -> Tensor:
    return x


def stopping(after: int) -> object:
    """Return a model that is interrupted after so many batches."""
    calls = iter(range(10**6))

    def model(x: Tensor) -> Tensor:
        if next(calls) == after:
            raise KeyboardInterrupt
        return x.cumsum(dim=2) * 0.1

    return model


def test_map_of_a_killed_process_goes_on_to_the_same_bits(
    repository: Path, scene: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole" / "map.tif", tmp_path / "killed" / "map.tif"
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(scene), str(killed)], cwd=repository)
    wait_for_rows(killed.with_name("map.tif.part.json"), 4, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert sorted(killed.parent.glob("*.tif")) == []

    torch.manual_seed(0)
    network = torch.nn.Conv2d(2, 3, 5, padding="same")
    how = MapSettings(names=("a", "b", "c"), kind="scores", tile=48, overlap=30, batch_size=3)
    resumed = map_scene(scene, killed, lambda x: network(x).softmax(dim=1), how, progress=False)
    map_scene(scene, whole, lambda x: network(x).softmax(dim=1), how, progress=False)
    assert resumed.resumed >= 4
    assert killed.read_bytes() == whole.read_bytes()
    assert [path.name for path in killed.parent.iterdir()] == ["map.tif"]


@pytest.mark.parametrize("after", [0, 1, 5, 8])
@pytest.mark.parametrize("overlap", [0, 8, 20])
def test_interrupted_map_equals_an_unbroken_one(
    scene: Path, tmp_path: Path, after: int, overlap: int
) -> None:
    how = MapSettings(names=("a", "b"), kind="scores", tile=32, overlap=overlap, batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        map_scene(scene, tmp_path / "broken.tif", stopping(after), how, progress=False)
    map_scene(scene, tmp_path / "broken.tif", stopping(-1), how, progress=False)
    map_scene(scene, tmp_path / "whole.tif", stopping(-1), how, progress=False)
    assert (tmp_path / "broken.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_map_killed_while_it_is_copied_is_only_copied_again(scene: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(2).normal(size=(2, 300, 120)).astype(np.float32)
    with open_scene(scene, HOW) as source:
        facts = HOW.facts() | source.facts()
        target = GrowingMap(tmp_path / "map.tif", like=source.dataset, settings=HOW, facts=facts)
        target.begin()
        target.write(0, values)
        target.note(rows=13, valid=9)
    (tmp_path / "map.tif.4242.tmp").write_bytes(b"half a copy")
    done = map_scene(scene, tmp_path / "map.tif", stopping(0), HOW)
    assert (done.resumed, done.valid) == (13, 9)
    with rasterio.open(done.path) as made:
        np.testing.assert_array_equal(made.read(), values)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.tif", "scene.tif"]


def test_two_processes_with_one_map_do_not_write_it_at_once(
    scene: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "map.tif"
    with ThreadPoolExecutor(1) as pool:
        with locked(tmp_path / "map.tif.part.lock"):
            waiting = pool.submit(map_scene, scene, out, same, HOW, progress=False)
            until = time.monotonic() + 20
            while "waiting" not in capfd.readouterr().err:
                assert time.monotonic() < until, "the second did not say that it waits"
                time.sleep(0.01)
            assert not (tmp_path / "map.tif.part").exists()
        assert waiting.result(timeout=20).valid
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.tif", "scene.tif"]


def test_a_third_process_does_not_overtake_one_that_waited(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lock, begun, done = tmp_path / "map.tif.part.lock", Event(), Event()

    def second() -> None:
        with locked(lock):
            begun.set()
            done.wait(20)

    with ThreadPoolExecutor(1) as pool:
        with locked(lock):
            pool.submit(second)
            while "waiting" not in capfd.readouterr().err:
                time.sleep(0.01)
            lock.unlink()  # as a finished map does
        assert begun.wait(20)
        with open(lock) as third, pytest.raises(BlockingIOError):
            fcntl.flock(third, fcntl.LOCK_EX | fcntl.LOCK_NB)
        done.set()


def test_half_written_rows_and_a_torn_progress_file_do_no_harm(scene: Path, tmp_path: Path) -> None:
    map_scene(scene, tmp_path / "whole.tif", same, HOW, progress=False)
    with pytest.raises(KeyboardInterrupt):
        map_scene(scene, tmp_path / "map.tif", stopping(12), HOW, progress=False)
    (tmp_path / "map.tif.part.json").write_text('{"facts": {"na')
    (tmp_path / "map.tif.4242.tmp.ovr.tmp").write_bytes(b"left by a copy")
    assert map_scene(scene, tmp_path / "map.tif", same, HOW, progress=False).resumed == 0
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert not list(tmp_path.glob("*.tmp*")) and not list(tmp_path.glob("*.part*"))


def test_finished_map_is_not_made_again_and_other_weights_do_not_replace_it(
    scene: Path, tmp_path: Path
) -> None:
    out = tmp_path / "map.tif"
    map_scene(scene, out, same, HOW, progress=False)
    assert map_scene(scene, out, stopping(0), HOW, progress=False).existed
    other = MapSettings(names=("a", "b"), kind="scores", tile=32, overlap=8, model="sha256:1")
    with pytest.raises(UserError, match="made with other model"):
        map_scene(scene, out, same, other, progress=False)
    assert not map_scene(scene, out, same, other, overwrite=True, progress=False).existed


def test_a_map_is_continued_with_fewer_tiles_at_once(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        map_scene(scene, tmp_path / "map.tif", stopping(12), HOW, progress=False)
    fewer = replace(HOW, batch_size=1)
    assert map_scene(scene, tmp_path / "map.tif", same, fewer, progress=False).resumed


def test_other_colours_make_another_map(scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.tif"
    red, blue = (
        MapSettings(names=("a", "b"), tile=64, overlap=0, colours=((0, 0, 0), colour))
        for colour in ((255, 0, 0), (0, 0, 255))
    )
    map_scene(scene, out, same, red, progress=False)
    with pytest.raises(UserError, match="made with other colours; choose another name, or give --overwrite"):
        map_scene(scene, out, same, blue, progress=False)
    map_scene(scene, out, same, blue, overwrite=True, progress=False)
    with rasterio.open(out) as made:
        assert made.colormap(1)[1][:3] == (0, 0, 255)


def test_a_map_without_room_on_the_disk_leaves_nothing(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 5000))
    with pytest.raises(UserError, match=r"needs 2\.4 MiB while it is made, and 0\.0 MiB are free"):
        map_scene(scene, tmp_path / "map.tif", same, HOW, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]


def test_map_begun_with_other_weights_is_not_continued_unless_restarted(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        map_scene(scene, tmp_path / "map.tif", stopping(12), HOW, progress=False)
    other = MapSettings(names=("a", "b"), kind="scores", tile=32, overlap=8, model="sha256:1")
    with pytest.raises(UserError, match="begun with other model"):
        map_scene(scene, tmp_path / "map.tif", same, other, progress=False)
    assert map_scene(scene, tmp_path / "map.tif", same, other, restart=True, progress=False).resumed == 0


def test_a_file_that_is_no_map_of_ours_is_never_replaced(scene: Path, tmp_path: Path) -> None:
    before = scene.read_bytes()
    with pytest.raises(UserError, match="is no map made here"):
        map_scene(scene, scene, same, HOW, overwrite=True, restart=True, progress=False)
    (tmp_path / "notes.tif").write_text("mine")
    with pytest.raises(UserError, match="is no map made here"):
        map_scene(scene, tmp_path / "notes.tif", same, HOW, overwrite=True, progress=False)
    assert scene.read_bytes() == before and (tmp_path / "notes.tif").read_text() == "mine"


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"bands": ("blue",)}, "have no names, and band 'blue' is wanted"),
        ({"bands": (3,)}, "bands 1 to 2, and band 3"),
        (
            {"bands": ("blu",), "band_names": ("red", "blue")},
            "no band 'blu' but red, blue; did you mean 'blue'",
        ),
        ({"band_names": ("red",)}, "2 bands and 1 names"),
        ({"fill": (0.0, 0.0, 0.0)}, "3 fill values are given for the 2 bands"),
        ({"names": ("a", "b", "c")}, "3 names are given"),
    ],
)
def test_what_does_not_fit_the_scene_is_one_sentence(
    scene: Path, tmp_path: Path, wanted: dict[str, object], said: str
) -> None:
    how = MapSettings(**({"names": ("a", "b"), "kind": "scores", "tile": 32, "overlap": 8} | wanted))
    with pytest.raises(UserError, match=said):
        map_scene(scene, tmp_path / "map.tif", same, how, progress=False)
    assert not (tmp_path / "map.tif").exists()


def test_scene_without_any_data_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "empty.tif", np.full((2, 40, 40), -1, dtype=np.int16), nodata=-1)
    with pytest.raises(UserError, match="no pixel with data"):
        map_scene(scene, tmp_path / "map.tif", same, HOW, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["empty.tif"]


def test_a_scene_that_is_refused_at_once_leaves_nothing_in_the_way(scene: Path, tmp_path: Path) -> None:
    def refuse(x: Tensor) -> Tensor:
        raise UserError("other units")

    with pytest.raises(UserError, match="other units"):
        map_scene(scene, tmp_path / "map.tif", refuse, HOW, uncertainty=tmp_path / "unsure.tif")
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")) == [
        "scene.tif"
    ]


def test_full_disk_is_one_sentence_before_the_work_begins(scene: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match=r"map\.tif\.part cannot be written .*; make room"):
            map_scene(scene, tmp_path / "map.tif", stopping(0), HOW, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]


def test_batch_skips_what_it_cannot_map_and_says_which(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "scenes"
    folder.mkdir()
    os.link(scene, folder / "a.tif")
    (folder / "b.tif").write_bytes(b"II*\0 not a TIFF")
    whole = scene.read_bytes()
    (folder / "c.tif").write_bytes(whole[: len(whole) // 2])
    os.link(scene, folder / "d.tif")
    report = map_scenes(scene_files(folder), tmp_path / "maps")
    assert [one.path.name for one in report.done] == ["a.tif", "d.tif"]
    assert [path.name for path, _ in report.failed] == ["b.tif", "c.tif"]
    assert "2 of 4 scenes are mapped" in report.summary() and "damaged" in report.summary()
    assert capsys.readouterr().err.count("skipped") == 2
    again = map_scenes(scene_files(folder), tmp_path / "maps")
    assert all(one.existed for one in again.done)
    with pytest.raises(UserError, match=r"scene 2 of 4, .*b\.tif"):
        map_scenes(scene_files(folder), tmp_path / "others", on_error="stop")
    assert [path.name for path in (tmp_path / "others").glob("*.tif")] == ["a.tif"]


def test_batches_that_cannot_be_named_are_refused(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="would both be mapped"):
        map_scenes([scene, tmp_path / "other" / "scene.tif"], tmp_path / "maps")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no scene"):
        scene_files(tmp_path / "empty")
    with pytest.raises(UserError, match="no scene or folder"):
        scene_files(tmp_path / "missing")


def test_progress_is_told_while_a_scene_is_mapped(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    map_scene(scene, tmp_path / "map.tif", same, HOW)
    assert "map map.tif  65/65 tiles" in capsys.readouterr().err


def test_the_device_without_memory_is_one_sentence(scene: Path, tmp_path: Path) -> None:
    def model(x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError

    with pytest.raises(UserError, match="lower --batch_size or --tile"):
        map_scene(scene, tmp_path / "map.tif", model, HOW, progress=False)
