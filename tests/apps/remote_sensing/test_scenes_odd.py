"""Odd scenes: one that cannot be placed or written is told in a sentence and never ends a folder of them."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from apps.remote_sensing.readers.raster import read_header
from apps.remote_sensing.scenes.batch import each_scene
from apps.remote_sensing.scenes.fitting import Wanted, found
from apps.remote_sensing.scenes.grid import tile_batches
from apps.remote_sensing.scenes.grid_tiff import GridTiff
from apps.remote_sensing.scenes.mapping import SceneMap
from apps.remote_sensing.scenes.places import degrees
from apps.remote_sensing.scenes.settings import MapSettings
from apps.remote_sensing.scenes.source import opened
from apps.remote_sensing.scenes.tables import CsvTable, ParquetTable
from core.errors import UserError

GRID = from_origin(398_655.0, 4_500_015.0, 30.0, 30.0)
PLAN = 'LOCAL_CS["plan",UNIT["metre",1]]'


def write_scene(path: Path, values: np.ndarray, *, names: tuple[str, ...] = (), **profile: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    shape = {"count": count, "height": height, "width": width, "dtype": str(values.dtype)}
    grid = {"crs": "EPSG:32633", "transform": GRID} | profile
    with rasterio.open(path, "w", driver="GTiff", **grid, **shape) as made:
        made.write(values)
        if names:
            made.descriptions = names
    return path


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, dtype=np.int16)


@pytest.mark.parametrize(
    "profile", [{"crs": PLAN}, {"transform": from_origin(1e9, 1e9, 30, 30)}], ids=["plan", "far"]
)
def test_a_scene_without_a_place_on_the_earth_is_read_without_one(
    tmp_path: Path, profile: dict[str, object]
) -> None:
    scene = write_scene(tmp_path / "scene.tif", ones(1, 40, 20), **profile)
    known = found([scene], Wanted(bands=("red",), placed=True))
    assert known.place is None and any("no coordinates on the Earth" in note for note in known.notes)
    assert read_header(scene).centre() is None
    how = MapSettings(names=("a",), tile=16, overlap=0)
    with opened(scene, how) as source:
        (batch, *_) = tile_batches(source, how, label="tiles", progress=False)
    assert batch.places == [None] * 4


def test_places_that_exist_are_told_beside_others_that_do_not() -> None:
    none, there = degrees("EPSG:32633", [1e9, 5e5], [1e9, 4.5e6])
    assert none is None and there == pytest.approx((40.65, 15.0), abs=0.01)


def into_csv(out: Path, rows: int) -> None:
    with CsvTable(out, ["class"]).written() as table, table.scene():
        for _ in range(rows):
            table.add([["a.tif", 0, 0, 8, 8, None, None, None, 1.0, "land"]] * 100)


def into_parquet(out: Path, rows: int) -> None:
    drawn = np.random.default_rng(0).normal(size=(100, 64)).astype(np.float32)
    with ParquetTable(out, {}).written() as table, table.scene():
        for _ in range(rows):
            table.add([["a.tif", 0, 0, 8, 8, None, None, None, 1.0]] * 100, drawn)


def into_tiff(out: Path, rows: int) -> None:
    drawn = np.random.default_rng(0).normal(size=(1, 64, 128)).astype(np.float32)
    with rasterio.open(out.parent.parent / "like.tif") as scene:
        image = GridTiff(out, [f"feature_{n}" for n in range(16)], {})
        with image.written(scene, (1, 1), rows=64) as grid:
            grid.put(0, 0, np.broadcast_to(drawn, (16, 64, 128)))


@contextmanager
def room_of(size: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


WRITERS = pytest.mark.parametrize("write", [into_csv, into_parquet, into_tiff])


@WRITERS
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, write: Callable[[Path, int], None]
) -> None:
    (tmp_path / "out").mkdir()
    write_scene(tmp_path / "like.tif", ones(1, 64, 128))
    with room_of(40_000), pytest.raises(UserError, match=r"result cannot be written .*; make room"):
        write(tmp_path / "out" / "result", 200)
    assert not list((tmp_path / "out").iterdir())


@WRITERS
def test_a_place_that_cannot_be_written_to_is_one_sentence(
    tmp_path: Path, write: Callable[[Path, int], None]
) -> None:
    (tmp_path / "file").write_text("mine")
    write_scene(tmp_path / "like.tif", ones(1, 64, 128))
    with pytest.raises(UserError, match=r"result cannot be written \(.*; make room or choose another folder"):
        write(tmp_path / "file" / "result", 1)


def test_whatever_fails_for_one_scene_the_others_are_worked_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(scene: Path, out: Path) -> SceneMap:
        if scene.name == "b.tif":
            raise OSError(28, "No space left on device")
        if scene.name == "c.tif":
            raise ZeroDivisionError("float division by zero")
        return SceneMap(out, (1, 1))

    outs = {tmp_path / name: Path(name) for name in ("a.tif", "b.tif", "c.tif", "d.tif")}
    report = each_scene(outs, work)
    assert [one.path.name for one in report.done] == ["a.tif", "d.tif"]
    assert "No space left" in report.failed[0][1]
    assert report.failed[1][1] == "ZeroDivisionError: float division by zero"
    assert capsys.readouterr().err.count("skipped") == 2
    with pytest.raises(OSError, match="No space left"):
        each_scene(outs, work, on_error="stop")


def test_a_scene_for_whose_rows_there_is_no_room_leaves_none(tmp_path: Path) -> None:
    table = CsvTable(tmp_path / "a.csv", ["class"])
    rows = [["a.tif", 0, 0, 8, 8, None, None, None, 1.0, "land"]] * 2000
    with room_of(10_000), table.written():
        with table.scene():
            table.add(rows[:1])
        with pytest.raises(UserError, match="cannot be written"), table.scene():
            table.add(rows)
        with table.scene():
            table.add(rows[:2])
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 4
