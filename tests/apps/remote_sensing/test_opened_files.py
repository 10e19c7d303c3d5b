"""Rasters that stay open between windows: the same pixels, within bounds, never across processes."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from apps.remote_sensing.data import open_rasters as module
from apps.remote_sensing.data.open_rasters import opened, quick, share_of_memory
from apps.remote_sensing.data.raster import read_window
from core.errors import UserError

WINDOW = (3, 5, 16, 16)


def write(path: Path, value: int, *, bands: int = 2) -> Path:
    place = {"crs": "EPSG:32633", "transform": from_origin(4e5, 45e5, 10, 10)}
    rng = np.random.default_rng(value)
    with rasterio.open(
        path, "w", driver="GTiff", width=64, height=64, count=bands, dtype="int16", compress="deflate",
        tiled=True, blockxsize=32, blockysize=32, interleave="pixel", **place,
    ) as made:  # fmt: skip
        made.write(rng.integers(0, 1000, (bands, 64, 64), dtype=np.int16) + value)
    return path


@pytest.fixture(autouse=True)
def _none_open():
    yield
    for path in list(module._kept.files):
        module._kept.drop(path)


def test_a_kept_raster_gives_the_pixels_of_one_opened_anew(tmp_path):
    path = write(tmp_path / "a.tif", 1)
    fresh = read_window(path, [2, 1], WINDOW)
    with quick():
        first = read_window(path, [2, 1], WINDOW)
        with opened(path) as raster:
            assert not raster.closed
        again = read_window(path, [2, 1], WINDOW)
    assert str(path) in module._kept.files
    np.testing.assert_array_equal(fresh, first)
    np.testing.assert_array_equal(fresh, again)


def test_a_file_written_anew_is_opened_anew_and_a_lost_one_is_told_of(tmp_path):
    path = write(tmp_path / "a.tif", 1)
    with quick():
        before = read_window(path, [1], WINDOW)
        os.replace(write(tmp_path / "b.tif", 5000), path)
        assert read_window(path, [1], WINDOW).min() >= 5000 > before.max()
        path.unlink()
        with pytest.raises(UserError, match="there is no file"):
            read_window(path, [1], WINDOW)
    assert str(path) not in module._kept.files


def test_no_more_files_and_no_more_memory_are_held_than_allowed(tmp_path, monkeypatch):
    paths = [write(tmp_path / f"{number}.tif", number) for number in range(6)]
    one = 2**17 + 32 * 32 * 2 * 2
    with quick(4 * 3 * one):
        for path in paths:
            read_window(path, [1], WINDOW)
            assert module._kept.held <= 3 * one
    assert list(module._kept.files) == [str(path) for path in paths[-3:]]
    monkeypatch.setattr(module, "_FILES", 2)
    with quick():
        read_window(paths[0], [1], WINDOW)
    assert len(module._kept.files) == 2
    assert module._kept.held == 2 * one


def test_a_forked_process_opens_its_own_files(tmp_path):
    path = write(tmp_path / "a.tif", 1)
    with quick():
        expected = read_window(path, [1], WINDOW)
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)

    def child() -> None:
        with quick():
            inherited = module._kept.files.get(str(path))
            theirs.send((inherited is None, read_window(path, [1], WINDOW)))

    process = context.Process(target=child)
    process.start()
    alone, found = mine.recv()
    process.join()
    assert alone
    np.testing.assert_array_equal(found, expected)
    with quick():
        np.testing.assert_array_equal(read_window(path, [1], WINDOW), expected)


def test_processes_share_a_tenth_of_the_memory():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert share_of_memory(1) == share_of_memory(2) <= max(total // 20, 2**26)
    assert share_of_memory(10_000_000) == 2**26
