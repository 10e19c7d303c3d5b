"""Whole scenes: the grid, nodata, bands, kinds of maps and memory of the mapping."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import from_origin
from torch import Tensor

from apps.remote_sensing.predict.growing_map import GrowingMap
from apps.remote_sensing.predict.mapping import map_scene
from apps.remote_sensing.predict.settings import MapSettings
from core.errors import UserError

GRID = from_origin(398_655.0, 4_500_015.0, 30.0, 30.0)


def write_scene(path: Path, values: np.ndarray, *, crs: str | None = "EPSG:32633", **profile: object) -> Path:
    names = profile.pop("names", None)
    count, height, width = values.shape
    shape = {"count": count, "height": height, "width": width, "dtype": str(values.dtype)}
    with rasterio.open(
        path, "w", driver="GTiff", crs=crs, **({"transform": GRID} | profile), **shape
    ) as made:
        made.write(values)
        if names:
            made.descriptions = names
    return path


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def same(x: Tensor) -> Tensor:
    return x


def constant(x: Tensor) -> Tensor:
    return torch.tensor([0.1, 1 / 3, 0.2]).view(1, 3, 1, 1).expand(len(x), 3, *x.shape[2:])


def mean_of_tile(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3), keepdim=True).expand(x.shape)


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_map_of_a_constant_model_is_constant_whatever_tile_and_overlap(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("scene")
    tile = data.draw(st.tuples(st.integers(1, 48), st.integers(1, 48)))
    overlap = tuple(data.draw(st.integers(0, min(size - 1, size * 3 // 4))) for size in tile)
    shape = data.draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    scene = write_scene(folder / "scene.tif", np.ones((1, *shape), dtype=np.int16))
    how = MapSettings(names=("a", "b", "c"), kind="scores", tile=tile, overlap=overlap, batch_size=64)
    map_scene(scene, folder / "map.tif", constant, how, progress=False)
    with rasterio.open(folder / "map.tif") as made:
        values = made.read()
    assert values.shape == (3, *shape)
    assert (values == np.array([0.1, 1 / 3, 0.2], dtype=np.float32)[:, None, None]).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (33, 47), (64, 64), (150, 90)])
def test_map_of_the_same_values_has_the_same_grid_and_bits(tmp_path: Path, shape: tuple[int, int]) -> None:
    values = noise(2, *shape)
    scene = write_scene(tmp_path / "scene.tif", values)
    how = MapSettings(names=("one", "two"), kind="scores", tile=32, overlap=8)
    map_scene(scene, tmp_path / "map.tif", same, how, progress=False)
    with rasterio.open(tmp_path / "map.tif") as made:
        assert (made.crs, made.transform) == (rasterio.CRS.from_epsg(32633), GRID)
        assert made.descriptions == ("one", "two") and np.isnan(made.nodata)
        assert made.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        np.testing.assert_array_equal(made.read(), values)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.tif", "scene.tif"]


def test_pixels_without_data_in_any_band_have_none_in_the_map(tmp_path: Path) -> None:
    values = noise(2, 90, 90)
    values[0, :40, :40], values[1, 80, 85] = -9999, np.nan
    scene = write_scene(tmp_path / "scene.tif", values, nodata=-9999)
    seen: list[float] = []

    def model(x: Tensor) -> Tensor:
        seen.append(float(x.min()))
        return x

    how = MapSettings(names=("a", "b"), tile=32, overlap=4, fill=(0.5, -0.5))
    result = map_scene(scene, tmp_path / "map.tif", model, how, progress=False)
    empty = np.zeros((90, 90), dtype=bool)
    empty[:40, :40] = empty[80, 85] = True
    with rasterio.open(tmp_path / "map.tif") as made:
        classes = made.read(1)
        assert made.nodata == 255 and made.dtypes == ("uint8",)
    np.testing.assert_array_equal(classes == 255, empty)
    np.testing.assert_array_equal(classes[~empty], values.argmax(axis=0)[~empty])
    assert result.valid == (~empty).sum() and min(seen) > -100


def test_tiles_without_data_are_not_shown_to_the_model(tmp_path: Path) -> None:
    values = np.zeros((1, 64, 64), dtype=np.uint8)
    values[:, :10, :10] = 1
    scene = write_scene(tmp_path / "scene.tif", values, nodata=0)
    shown: list[int] = []

    def model(x: Tensor) -> Tensor:
        shown.append(len(x))
        return x

    map_scene(
        scene, tmp_path / "map.tif", model, MapSettings(names=("a",), kind="scores", tile=16, overlap=0)
    )
    assert sum(shown) == 1


def test_bands_are_taken_by_name_in_the_wanted_order(tmp_path: Path) -> None:
    values = noise(3, 20, 20)
    scene = write_scene(tmp_path / "scene.tif", values, names=("B02", "B03", "B8A"))
    how = MapSettings(
        names=("x", "y"), kind="scores", bands=("nir_narrow", "blue"), sensor="sentinel2", tile=16, overlap=4
    )
    map_scene(scene, tmp_path / "map.tif", same, how, progress=False)
    with rasterio.open(tmp_path / "map.tif") as made:
        np.testing.assert_array_equal(made.read(), values[[2, 0]])


def test_neighbouring_tiles_meet_without_a_step(tmp_path: Path) -> None:
    values = np.broadcast_to(np.arange(128, dtype=np.float32), (1, 8, 128)).copy()
    scene = write_scene(tmp_path / "scene.tif", values)
    how = MapSettings(names=("mean",), kind="scores", tile=(8, 64), overlap=(0, 32))
    map_scene(scene, tmp_path / "map.tif", mean_of_tile, how, progress=False)
    with rasterio.open(tmp_path / "map.tif") as made:
        steps = np.diff(made.read(1)[0])
    assert steps.min() >= 0 and steps.max() < 2


def test_one_channel_is_the_probability_of_the_second_of_two_classes(tmp_path: Path) -> None:
    values = np.array([[[0.2, 0.6, 0.9]]], dtype=np.float32)
    scene = write_scene(tmp_path / "scene.tif", values)
    colours = ((0, 0, 0), (0, 90, 200))
    how = MapSettings(names=("land", "water"), tile=4, overlap=0, colours=colours)
    map_scene(scene, tmp_path / "map.tif", same, how, progress=False)
    with rasterio.open(tmp_path / "map.tif") as made:
        assert made.read(1).tolist() == [[0, 1, 1]]
        assert made.tags(1)["class_1"] == "water" and made.colormap(1)[1] == (0, 90, 200, 255)


def test_scores_are_rounded_into_an_integer_map(tmp_path: Path) -> None:
    values = np.array([[[-7.0, 41.6, 300.0, np.nan, np.inf]]], dtype=np.float32)
    scene = write_scene(tmp_path / "scene.tif", values)
    how = MapSettings(names=("percent",), kind="scores", dtype="uint8", tile=8, overlap=0)
    map_scene(scene, tmp_path / "map.tif", same, how, progress=False)
    with rasterio.open(tmp_path / "map.tif") as made:
        assert made.read(1).tolist() == [[0, 42, 254, 255, 255]]


def test_scores_that_are_not_finite_leave_the_pixel_without_data(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", np.array([[[1.0, 0.0]]], dtype=np.float32))
    how = MapSettings(names=("a",), kind="scores", tile=2, overlap=0)
    map_scene(scene, tmp_path / "map.tif", lambda x: 1 / x, how, progress=False)
    with rasterio.open(tmp_path / "map.tif") as made:
        np.testing.assert_array_equal(made.read(1), [[1, np.nan]])


def test_scene_without_coordinates_gives_a_map_without(tmp_path: Path) -> None:
    values = noise(1, 5, 5)
    scene = write_scene(tmp_path / "scene.tif", values, crs=None, transform=None)
    map_scene(scene, tmp_path / "map.tif", same, MapSettings(names=("a",), kind="scores", tile=8, overlap=0))
    with rasterio.open(tmp_path / "map.tif") as made:
        assert made.crs is None and made.transform == rasterio.Affine.identity()
        np.testing.assert_array_equal(made.read(), values)


def test_grid_of_points_and_coordinates_without_a_code_are_kept(tmp_path: Path) -> None:
    crs = "+proj=aea +lat_0=23 +lon_0=-96 +lat_1=29.5 +lat_2=45.5 +x_0=7 +datum=NAD83 +units=m"
    turned = rasterio.Affine(30.0, 2.0, 4e5, 1.5, -30.0, 45e5)
    scene = write_scene(tmp_path / "scene.tif", noise(1, 9, 9), crs=crs, transform=turned)
    with rasterio.open(scene, "r+") as given:
        given.update_tags(AREA_OR_POINT="Point")
    how = MapSettings(names=("a",), kind="scores", tile=8, overlap=0)
    map_scene(scene, tmp_path / "map.tif", same, how, progress=False)
    with rasterio.open(scene) as given, rasterio.open(tmp_path / "map.tif") as made:
        assert (given.crs, given.transform) == (made.crs, made.transform)
        assert made.tags()["AREA_OR_POINT"] == "Point"


def test_ground_control_points_are_kept(tmp_path: Path) -> None:
    from rasterio.control import GroundControlPoint

    points = [GroundControlPoint(row=r, col=c, x=10 + c, y=50 - r) for r in (0, 5) for c in (0, 5)]
    scene = write_scene(tmp_path / "scene.tif", noise(1, 5, 5), crs="EPSG:4326", transform=None, gcps=points)
    map_scene(scene, tmp_path / "map.tif", same, MapSettings(names=("a",), kind="scores", tile=8, overlap=0))
    with rasterio.open(tmp_path / "map.tif") as made:
        kept, crs = made.gcps
    assert [(p.row, p.col, p.x, p.y) for p in kept] == [(p.row, p.col, p.x, p.y) for p in points]
    assert crs == rasterio.CRS.from_epsg(4326)


def test_the_map_has_its_full_size_from_the_start(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", noise(1, 700, 300))
    how = MapSettings(names=("a", "b"))
    with rasterio.open(scene) as like:
        target = GrowingMap(tmp_path / "map.tif", like=like, settings=how, facts=how.facts())
        target.begin()
        size = target.part.stat().st_size
        assert size >= 700 * 300 and target.part.stat().st_blocks * 512 >= size
        target.write(300, np.ones((1, 200, 300), dtype=np.uint8))
        assert target.part.stat().st_size == size


def test_real_chip_keeps_its_grid(shared: Path, tmp_path: Path) -> None:
    scene = shared / "data/remote_sensing/hls_regression/chip_0_merged.tif"
    how = MapSettings(names=("a", "b"), bands=(1, 4), kind="scores", tile=96, overlap=16)
    map_scene(scene, tmp_path / "map.tif", same, how, progress=False)
    with rasterio.open(scene) as given, rasterio.open(tmp_path / "map.tif") as made:
        assert (given.crs, given.transform, given.shape) == (made.crs, made.transform, made.shape)
        valid = given.dataset_mask() > 0
        np.testing.assert_array_equal(made.read()[:, valid], given.read([1, 4])[:, valid])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "labels"}, "not of 'labels'"),
        ({"names": ()}, "needs the names"),
        ({"batch_size": 0}, "at least 1 tile"),
        ({"tile": 8, "overlap": 8}, "cannot overlap by 8"),
        ({"tile": (8, 8, 8)}, "3 sizes for 2 axes"),
        ({"dtype": "complex64"}, "cannot be of dtype"),
        ({"nodata": 1}, "number of a class too"),
        ({"nodata": -1}, "does not fit dtype uint8"),
        ({"colours": ((0, 0, 0),)}, "one colour for each class"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        MapSettings(**({"names": ("a", "b")} | wrong))
