"""Odd scenes: one that cannot be placed or written is told in a sentence and never ends a folder of them."""

from __future__ import annotations

import resource
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin

from apps.remote_sensing.data.dates_and_locations import dates_in, degrees
from apps.remote_sensing.data.open_rasters import as_path, as_text, is_address
from apps.remote_sensing.data.raster import check_grid, read_header
from apps.remote_sensing.predict.command import scene_files
from apps.remote_sensing.predict.fitting import Wanted, found
from apps.remote_sensing.predict.geotiff import GridTiff
from apps.remote_sensing.predict.mapping import SceneMap, map_scene
from apps.remote_sensing.predict.scene import open_scene, tile_batches
from apps.remote_sensing.predict.settings import MapSettings
from apps.remote_sensing.predict.tables import CsvTable, ParquetTable
from core.errors import UserError
from core.inference.jobs import each_input

GRID = from_origin(398_655.0, 4_500_015.0, 30.0, 30.0)
PLAN = 'LOCAL_CS["plan",UNIT["metre",1]]'


def write_scene(
    path: Path, values: np.ndarray, *, names: tuple[str, ...] = (), kinds: object = None, **profile: object
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    shape = {"count": count, "height": height, "width": width, "dtype": str(values.dtype)}
    grid = {"crs": "EPSG:32633", "transform": GRID} | profile
    with rasterio.open(path, "w", driver="GTiff", **grid, **shape) as made:
        if kinds:
            made.colorinterp = kinds
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
    known = found([scene], Wanted(bands=("red",), located=True))
    assert known.location is None and any("no coordinates on the Earth" in note for note in known.notes)
    assert read_header(scene).centre() is None
    how = MapSettings(names=("a",), tile=16, overlap=0)
    with open_scene(scene, how) as source:
        (batch, *_) = tile_batches(source, how, label="tiles", progress=False)
    assert batch.centres == [None] * 4


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
    report = each_input(outs, work)
    assert [one.path.name for one in report.done] == ["a.tif", "d.tif"]
    assert "No space left" in report.failed[0][1]
    assert report.failed[1][1] == "ZeroDivisionError: float division by zero"
    assert capsys.readouterr().err.count("skipped") == 2
    with pytest.raises(OSError, match="No space left"):
        each_input(outs, work, on_error="stop")


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


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 200, size=shape).astype(np.int16)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (
            ("coastal_aerosol", "vv", "vh"),
            "has no band 'blue' but coastal_aerosol, vv, vh",
        ),
        (
            ("B04", "B03", "B02"),
            r"on sentinel2 red, green, blue, and .*; give --sensor sentinel2, or --band_names",
        ),
        (("red", "green", "VV"), "has no band 'blue' but red, green, vv"),
        (("blue", "green", "red", "blue"), "has 2 bands called 'blue'; give --bands by their numbers"),
    ],
)
def test_bands_whose_names_say_others_are_not_taken_in_their_order(
    tmp_path: Path, names: tuple[str, ...], sentence: str
) -> None:
    scene = write_scene(tmp_path / "scene.tif", drawn(len(names), 8, 8), names=names)
    bands = ("blue", "green", "red")
    with pytest.raises(UserError, match=sentence):
        known = found([scene], Wanted(bands=bands))
        with open_scene(scene, MapSettings(names=("a",), bands=known.bands, band_names=known.names)):
            pass
    assert found([scene], Wanted(bands=bands, chosen=(1, 2, 3))).bands == (1, 2, 3)
    right = write_scene(tmp_path / "right.tif", drawn(3, 8, 8), names=("B02", "B03", "B04"))
    assert found([right], Wanted(bands=bands)).names == bands


def test_names_of_a_later_dates_bands_count_where_the_first_has_none(tmp_path: Path) -> None:
    wanted = Wanted(bands=("blue", "green"), frames=2)
    plain = write_scene(tmp_path / "a.tif", drawn(2, 8, 8))
    turned = write_scene(tmp_path / "b.tif", drawn(2, 8, 8), names=("green", "blue"))
    straight = write_scene(tmp_path / "c.tif", drawn(2, 8, 8), names=("blue", "green"))
    with pytest.raises(UserError, match=r"bands of .*b\.tif are green, blue and those of .*a\.tif are not"):
        found([plain, turned], wanted)
    assert found([straight, plain], wanted).names == ("blue", "green")
    assert found([straight, turned], wanted).names is None


@pytest.mark.parametrize("names", [("blue", "green", "red", "nir_narrow", "alpha"), ()])
def test_pixels_that_an_alpha_band_hides_have_no_data(tmp_path: Path, names: tuple[str, ...]) -> None:
    values = drawn(5, 8, 8)
    values[4] = 255
    values[4, :3] = 0
    kinds = [ColorInterp.gray, *[ColorInterp.undefined] * 3, ColorInterp.alpha]
    scene = write_scene(tmp_path / "scene.tif", values, names=names, kinds=kinds)
    wanted = Wanted(bands=("blue", "green", "red", "nir_narrow"))
    known = found([scene], wanted)
    how = MapSettings(names=("a",), bands=known.bands, band_names=known.names, tile=8, overlap=0)
    with open_scene(scene, how) as source:
        (batch,) = tile_batches(source, how, label="tiles", progress=False)
    np.testing.assert_array_equal(batch.valid[0].all(1), np.arange(8) >= 3)
    np.testing.assert_array_equal(batch.pixels[0, :, 3:], values[:4, 3:])


def test_a_fourth_band_of_bytes_is_a_band_though_gdal_calls_it_alpha(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", drawn(4, 8, 8).astype(np.uint8))
    with rasterio.open(scene) as given:
        assert given.colorinterp[-1].name == "alpha"
    known = found([scene], Wanted(bands=("blue", "green", "red", "nir_narrow")))
    with open_scene(scene, MapSettings(names=("a",), bands=known.bands, band_names=known.names)) as source:
        assert source.numbers == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["uint8", "uint32", "int32", "float32", "float64"])
def test_numbers_that_are_kept_keep_all_their_digits(tmp_path: Path, kind: str) -> None:
    values = np.random.default_rng(0).integers(1, 250, (2, 2, 30, 20)).astype(kind)
    if values.dtype.itemsize > 1:
        values = values * values.dtype.type(2**22) + values.dtype.type(1)
    if kind == "float64":
        values += 1 / 3
    values[1, 0, 4:9, 5:9] = 0  # a band of the second date
    values[1, 1, 4:9, 5:9] = 0
    cover = np.zeros((1, 30, 20), np.uint8)
    cover[:, 20:25] = 1
    dates = [write_scene(tmp_path / f"{n}.tif", values[n], nodata=0) for n in (0, 1)]
    mask = write_scene(tmp_path / "mask.tif", cover)
    names = ("a", "b", "c", "d")
    how = MapSettings(
        names=names, kind="scores", dates=2, needs="any", gaps=str(mask), tile=16, overlap=4, dtype=kind,
        nodata=0, keep=True,
    )  # fmt: skip
    map_scene(dates, tmp_path / "map.tif", lambda x: x[:, :4] * 0 + 7, how, progress=False)
    expected = values.reshape(4, 30, 20).copy()
    expected[2:, 4:9, 5:9] = expected[:, 20:25] = 7
    with rasterio.open(tmp_path / "map.tif") as made:
        np.testing.assert_array_equal(made.read(), expected)


def test_tiles_that_no_memory_holds_are_refused(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", drawn(3, 8, 8))
    how = MapSettings(names=("a",), tile=400_000, overlap=0)
    with pytest.raises(UserError, match=r"GiB of memory and there are .* lower --tile or --batch_size"):
        map_scene(scene, tmp_path / "map.tif", lambda x: x, how, progress=False)


def test_only_a_leap_year_has_a_day_366() -> None:
    assert dates_in("HLS.S30.T10TGS.2019366.v1.tif") == []
    assert dates_in("HLS.S30.T10TGS.2020366.v1.tif") == [date(2020, 12, 31)]


def test_a_turned_grid_of_another_resolution_covers_the_same_place(tmp_path: Path) -> None:
    fine = write_scene(tmp_path / "a.tif", ones(1, 40, 40), transform=rasterio.Affine(0, 10, 5e5, 10, 0, 4e6))
    coarse = write_scene(
        tmp_path / "b.tif", ones(1, 20, 20), transform=rasterio.Affine(0, 20, 5e5, 20, 0, 4e6 - 1e-6)
    )
    check_grid(fine, read_header(fine), coarse, read_header(coarse), same_size=False)


@pytest.mark.parametrize("cloud", [False, True])
def test_a_coarser_image_keeps_points_and_what_a_pixel_stands_for(tmp_path: Path, cloud: bool) -> None:
    points = [GroundControlPoint(row=r, col=c, x=10 + c, y=50 - r) for r in (0, 40) for c in (0, 60)]
    scene = write_scene(tmp_path / "scene.tif", ones(1, 40, 60), crs="EPSG:4326", transform=None, gcps=points)
    image = GridTiff(tmp_path / "coarse.tif", ["a"], {"made": 1}, cloud=cloud)
    with rasterio.open(scene) as like, image.written(like, (8, 20), rows=5) as grid:
        grid.put(0, 0, np.arange(15, dtype=np.float32).reshape(1, 5, 3))
    with rasterio.open(tmp_path / "coarse.tif") as made:
        kept, crs = made.gcps
        assert made.transform == rasterio.Affine.identity() and crs == rasterio.CRS.from_epsg(4326)
        assert [(p.row, p.col, p.x, p.y) for p in kept] == [(p.row / 8, p.col / 20, p.x, p.y) for p in points]
        assert made.read(1)[4, 2] == 14 and image.finished()
    stamped = write_scene(tmp_path / "point.tif", ones(1, 40, 60))
    with rasterio.open(stamped, "r+") as given:
        given.update_tags(AREA_OR_POINT="Point")
    image = GridTiff(tmp_path / "stands.tif", ["a"], {"made": 1}, cloud=cloud)
    with rasterio.open(stamped) as like, image.written(like, (8, 20), rows=5) as grid:
        grid.put(0, 0, np.ones((1, 5, 3), np.float32))
    with rasterio.open(tmp_path / "stands.tif") as made:
        assert made.tags()["AREA_OR_POINT"] == "Point" and made.transform == GRID @ rasterio.Affine.scale(
            20, 8
        )
    assert not list(tmp_path.glob("*.tmp*"))


def test_scenes_in_archives_and_at_addresses_are_read(tmp_path: Path) -> None:
    scene, archive = write_scene(tmp_path / "in.tif", drawn(2, 9, 7)), tmp_path / "z.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(scene, "folder/in.tif")
    for word in (f"zip://{archive}!folder/in.tif", f"/vsizip/{archive}/folder/in.tif"):
        (path,) = scene_files(as_path(word))
        assert path.stem == "in" and len(found([path], Wanted(bands=("a", "b"))).bands) == 2
        with open_scene(path, MapSettings(names=("a",))) as source:
            assert source.shape == (9, 7)
    for word in ("https://example.org/a.tif", "/vsicurl/https://example.org/a.tif", "s3://bucket/a.tif"):
        assert as_text(as_path(word)) == word and is_address(as_path(word))
    with pytest.raises(UserError, match=r"cannot be read .* it is damaged or no raster"):
        found([as_path(f"zip://{archive}!no.tif")], Wanted(bands=("a", "b")))
    assert not is_address(scene) and as_path("C.tif") == Path("C.tif")


def test_a_link_to_nothing_in_a_folder_is_told(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "a.tif", drawn(2, 9, 7))
    (tmp_path / "b.tif").symlink_to(tmp_path / "gone.tif")
    assert scene_files(tmp_path) == [scene, tmp_path / "b.tif"]
    with pytest.raises(UserError, match=r"there is no scene .*b\.tif"):
        found([tmp_path / "b.tif"], Wanted(bands=("a", "b")))
