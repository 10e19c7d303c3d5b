"""The data module of weather: windows, regions, crop rule, splits, sums, statistics, mixtures, cards."""

from __future__ import annotations

import hashlib
import http.server
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.weather.batch import Grid
from apps.weather.data import (
    ArchiveMixture,
    ArchiveSource,
    Fields,
    ForecastTest,
    MemberGeneration,
    TimeSplit,
    VariableChoice,
)
from apps.weather.data.readers.stored import arrays_of
from apps.weather.data.regions import rectangle, same_positions
from core.data.cards import fetch, load_card
from core.errors import UserError

HOUR = np.timedelta64(3600, "s")
FIELDS = {
    "2t": "2m_temperature", "tp": "total_precipitation", "z": "geopotential", "q": "specific_humidity"
}  # fmt: skip


@pytest.fixture(autouse=True)
def kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DFM_DATA", str(tmp_path / "data"))


def store(
    path: Path, *, steps: int = 40, step: int = 6, rows: int = 9, columns: int = 12, members: int = 0,
    gaps: tuple[int, ...] = (), levels: tuple[int, ...] = (500, 850), fields: str = "2t z", lsm: bool = True,
) -> str:  # fmt: skip
    """Write a store in WeatherBench 2's layout, whose values tell their member, time and place."""
    times = np.datetime64("2020-01-01", "ns") + np.arange(steps) * step * HOUR
    kept = [number for number in range(steps) if number not in gaps]
    lead = {"number": np.arange(members)} if members else {}
    north, east = np.linspace(80, -80, rows), np.arange(columns) * 360 / columns
    data = {}
    for name in fields.split():
        level = {"level": list(levels)} if name in "zq" else {}
        shape = [len(axis) for axis in (*lead.values(), kept, *level.values())]
        where = np.arange(np.prod(shape), dtype=np.float32).reshape(*shape, 1, 1)
        values = where + 1e-2 * np.arange(rows)[:, None] + 1e-4 * np.arange(columns)
        dims = [*lead, "time", *level, "latitude", "longitude"]
        data[FIELDS[name]] = (
            dims,
            values.astype(np.float32),
            {"units": {"2t": "K", "tp": "m"}.get(name, "1")},
        )
    if lsm:
        data["land_sea_mask"] = (["latitude", "longitude"], (north[:, None] > east / 9).astype(np.float32))
    coordinates = {
        **lead, "time": times[kept], "level": list(levels), "latitude": north, "longitude": east
    }  # fmt: skip
    dataset = xarray.Dataset(data, coordinates)
    dataset["geopotential"].attrs["units"] = "m**2 s**-2"
    chunks = {name: {"chunks": (1,) * len(lead) + (1,) + values[1].shape[len(lead) + 1 :]}
              for name, values in data.items() if name != "land_sea_mask"}  # fmt: skip
    dataset.to_zarr(path, zarr_format=2, encoding=chunks)
    return str(path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Forty times every six hours, of which the seventh is missing."""
    return store(tmp_path_factory.mktemp("plain") / "plain.zarr", gaps=(7,))


def test_a_batch_holds_history_and_targets_of_its_time(plain: str) -> None:
    data = Fields(path=plain, history=3, horizon=2, split=TimeSplit(train=[2020, 2020]))
    windows = data.train_set()

    batch = windows.__getitems__([(0, 0), (0, len(windows) - 1)])

    assert batch.inputs.surface.shape == (2, 3, 1, 9, 12) and batch.inputs.atmospheric.shape == (
        2,
        3,
        1,
        2,
        9,
        12,
    )
    assert batch.targets.surface.shape == (2, 2, 1, 9, 12) and batch.static.shape == (2, 1, 9, 12)
    assert batch.inputs.surface[0, :, 0, 0, 0].tolist() == [0, 1, 2]
    assert batch.targets.surface[0, :, 0, 0, 0].tolist() == [3, 4]
    assert batch.targets.atmospheric[1, -1, 0, :, 0, 0].tolist() == [76, 77]
    assert batch.time[0] == np.datetime64("2020-01-01T12", "s").astype(int)
    assert (batch.step, batch.source, batch.rollout_step) == (6.0, "plain", 0)


@given(
    history=st.integers(1, 4), horizon=st.integers(1, 5), gaps=st.sets(st.integers(1, 38), max_size=6),
    multiple=st.integers(1, 3), stride=st.integers(1, 4),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_windows_are_those_whose_times_are_all_there_and_none_is_in_two_parts(
    plain_source, history: int, horizon: int, gaps: set[int], multiple: int, stride: int
) -> None:
    kept = np.array([number for number in range(40) if number not in gaps])
    times = (np.datetime64("2020-01-01", "s") + kept * 6 * HOUR).astype("datetime64[s]")
    source = plain_source(times, TimeSplit(), multiple * 6.0)
    offsets = np.arange(1 - history, horizon + 1) * multiple
    seen: list[int] = []
    for part in ("train", "val", "test"):
        windows = windows_of(source, part, history=history, horizon=horizon)
        (first, end), _ = source.parts[part]
        inside = [n for n in kept if first <= int(times[0].astype(int)) + n * 21600 < end]
        expected = [n for n in inside if all(n + offset in inside for offset in offsets)]
        starts = (windows.current - int(times[0].astype(int))) // 21600
        assert starts.tolist() == expected
        in_span = [n for n in range(40) if first <= int(times[0].astype(int)) + n * 21600 < end]
        regular = [n for n in in_span if n >= min(inside, default=40)]
        whole = [n for n in regular if n + offsets[0] in regular and n + offsets[-1] in regular]
        assert 0 <= windows.missing <= len(whole) - len(expected)
        reach = [windows.reach(index) for index in range(len(windows))]
        assert all(least >= horizon for least in reach)
        far = windows_of(source, part, history=history, horizon=horizon, stride=stride)
        assert set(far.current) <= set(windows.current) and len(far) >= len(windows) // stride - len(gaps)
        states = {int(n + offset) for n in expected for offset in offsets}
        assert not states & set(seen)
        seen += states


def windows_of(source, part: str, **how: int):
    from apps.weather.data.windows import ForecastWindows

    return ForecastWindows(source, part, **how)


@pytest.fixture(scope="module")
def plain_source(plain: str):
    """A source of the store's fields at other times; nothing is read of it."""
    base = Fields(path=plain).sources[0]

    class Timed:
        def __init__(self, archive, times) -> None:
            self.archive, self.times, self.step, self.members = archive, times, 6.0, 0

    def make(times, split: TimeSplit, step: float):
        timed = Timed(base.archive, times)
        return replace(base, archive=timed, step=step, parts=split.parts(times, 0, "it"))

    return make


def test_windows_with_a_missing_record_are_left_out_and_said(plain: str, capsys) -> None:
    data = Fields(path=plain, split=TimeSplit(train=[2020, 2020]))

    assert len(data.train_set()) == 38 - 3
    assert "data: plain: 3 windows of train with a missing record left out" in capsys.readouterr().err


GRIDS = st.tuples(st.integers(2, 20), st.integers(3, 40), st.booleans())


@given(
    shape=GRIDS, south=st.floats(-90, 60), height=st.floats(0, 120), west=st.floats(-360, 360),
    width=st.floats(0, 359), patch=st.integers(1, 3),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_a_region_has_rising_longitudes_of_neighbours_and_whole_patches(
    shape: tuple[int, int, bool], south: float, height: float, west: float, width: float, patch: int
) -> None:
    rows, columns, poles = shape
    edge = 90 if poles else 90 - 90 / rows
    grid = Grid(np.linspace(edge, -edge, rows), np.arange(columns) * 360 / columns)
    north = min(south + height, 90.0)
    try:
        area = rectangle(grid, [south, north, west, west + width], patch, "it")
    except UserError as error:
        assert "holds no point" in str(error) or "too few for patches" in str(error)
        return

    longitude, latitude = area.grid.longitude, area.grid.latitude
    inside = (grid.latitude >= south - 1e-3) & (grid.latitude <= north + 1e-3)
    east = (grid.longitude - west) % 360
    reached = (east <= width + 1e-3) | (east >= 360 - 1e-3)
    assert area.grid.shape == (inside.sum() // patch * patch, reached.sum() // patch * patch)
    assert np.allclose(np.diff(longitude), 360 / columns) and 0 <= longitude[0] < 360
    assert ((longitude - west + 1e-3) % 360 <= width + 3e-3).all()
    numbers = np.arange(rows * columns).reshape(rows, columns)
    assert np.array_equal(
        grid.latitude[area.of(numbers) // columns], np.tile(latitude[:, None], len(longitude))
    )
    assert np.allclose(
        grid.longitude[area.of(numbers) % columns], np.tile(longitude % 360, (len(latitude), 1))
    )


@given(rows=st.integers(2, 40), columns=st.integers(3, 40), patch=st.integers(2, 6))
@settings(max_examples=100, deadline=None)
def test_a_whole_grid_loses_the_south_pole_or_is_refused(rows: int, columns: int, patch: int) -> None:
    grid = Grid(np.linspace(90, -90, rows), np.arange(columns) * 360 / columns)
    if columns % patch or rows % patch > 1 or rows < patch:
        with pytest.raises(UserError, match=f"{rows} x {columns} points, (which are not|too few for)"):
            rectangle(grid, None, patch, "it")
        return

    area = rectangle(grid, None, patch, "it")

    assert area.grid == grid.cropped(rows - rows % patch)
    assert ("1 southernmost" in area.note) == bool(rows % patch)


def test_an_archive_around_greenwich_begins_at_its_western_edge() -> None:
    grid = Grid([58.0, 57.0, 56.0], [0.0, 1.0, 2.0, 357.0, 358.0, 359.0])

    area = rectangle(grid, None, 1, "it")

    assert area.grid.longitude.tolist() == [357, 358, 359, 360, 361, 362]
    assert area.of(np.arange(6)[None])[0].tolist() == [3, 4, 5, 0, 1, 2]
    assert same_positions(area.grid, grid, "it").columns.tolist() == [3, 4, 5, 0, 1, 2]


def test_a_region_reads_what_lies_there(plain: str) -> None:
    data = Fields(path=plain, region=[-45, 45, -70, 70], patch=2)

    batch = data.train_set()[0, 0]

    assert batch.grid.longitude.tolist() == [300, 330, 360, 390] and batch.grid.latitude.tolist() == [
        40,
        20,
        0,
        -20,
    ]
    assert torch.allclose(batch.inputs.surface[0, 0, 0, 0], torch.tensor([10, 11, 0, 1]) * 1e-4 + 2e-2)
    assert data.facts.longitude == (300, 330, 360, 390)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"patch": 4, "region": [0, 10, 0, 90]}, "1 x 4 points, too few for patches of 4"),
        ({"patch": 5}, "plain has 9 x 12 points, which are not whole patches of 5"),
        ({"region": [10, 0, 0, 90]}, r"data.region is \[10, 0, 0, 90\]; give degrees \[south"),
        ({"region": [1, 2, 3, 4]}, "holds no point of plain"),
        ({"step": 4.0}, "data.step is 4 hours, but plain has a record every 6 hours"),
        ({"variables": VariableChoice(levels=[500, 501])}, "plain lacks 501 hPa of data.variables.levels"),
        ({"variables": VariableChoice(surface=["2d"])}, "plain has no variable '2d'"),
        ({"variables": VariableChoice(static=["lsm", "slt"])}, "plain lacks the static slt; name a file"),
        ({"variables": VariableChoice(surface=[], atmospheric=[])}, "no variable is left"),
        ({"targets": VariableChoice(levels=[1000])}, "lacks 1000 hPa of data.targets.levels"),
        ({"split": TimeSplit(test=[2020, 2020])}, "no training times are there to count statistics"),
        ({"path": None}, "no data are named; give data.path, data.card, data.generate or data.mixture"),
        ({"card": "ett_h1"}, "'ett_h1' is of the domain timeseries"),
        ({"statistics": "auroa"}, "data.statistics is 'auroa'"),
        ({"transforms": {"tp": "log"}}, "data.transforms is 'log'"),
    ],
)
def test_a_mistake_is_one_sentence(plain: str, how: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Fields(**{"path": plain, **how}).setup()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"train": [2020, 2019]}, "the first time must not be after the last"),
        ({"train": ["soon", 2019]}, "data.split.train is .*; give the first and the last year or date"),
        (
            {"train": [2019, 2020], "test": ["2020-06", 2021]},
            "data.split.train and data.split.test share times",
        ),
        ({"members": [3, 1]}, "data.split.members is .*; give three numbers"),
    ],
)
def test_a_split_that_is_none_is_refused(how: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TimeSplit(**how)


def test_a_training_part_without_a_window_is_refused(plain: str) -> None:
    data = Fields(path=plain, split=TimeSplit(train=["2020-01-01", "2020-01-01"]), horizon=8)

    with pytest.raises(UserError, match="plain has no 10 training states 6 hours apart"):
        data.train_set()


def test_dates_split_inclusively_and_tests_have_their_own_steps(plain: str) -> None:
    split = TimeSplit(["2020-01-01", "2020-01-05"], ["2020-01-06", "2020-01-07T06"], ["2020-01-08", 2020])
    data = Fields(path=plain, split=split, test=ForecastTest(steps=3, stride=2))

    val, test = data.val_set(), data.test_set()

    assert len(data.train_set()) == 20 - 2 - 3 and len(val) == 1 and len(test) == 4
    assert test[0, 0].targets.steps == 3
    assert [str(np.datetime64(int(s), "s"))[8:13] for s in test.current] == [
        "08T06",
        "08T18",
        "09T06",
        "09T18",
    ]


def test_members_that_are_tested_are_unseen(tmp_path: Path) -> None:
    path = store(tmp_path / "members.zarr", members=5, steps=6, fields="2t z", lsm=False)
    data = Fields(path=path, split=TimeSplit(members=[3, 1, 1]))

    train, test = data.train_set(), data.test_set()

    assert (len(train), len(data.val_set()), len(test), len(data.predict_set())) == (12, 4, 4, 25)
    assert sorted(set(train.members.tolist())) == [0, 1, 2] and set(test.members.tolist()) == {4}
    mixed = train.__getitems__([(0, 0), (0, 4), (0, 8), (0, 1)]).inputs.surface[:, 0, 0, 0, 0]
    assert mixed.tolist() == [0, 6, 12, 1]
    assert {part: len(getattr(Fields(path=path), f"{part}_set")()) for part in ("train", "val", "test")} == {
        "train": 12, "val": 4, "test": 4
    }  # fmt: skip


def test_members_of_our_own_world_are_made_once_and_split(tmp_path: Path, capsys) -> None:
    world = MemberGeneration(members=3, days=2, step=6, grid=(8, 16), seed=1)
    data = Fields(generate=world, step=12.0)

    train, test = data.train_set(), data.test_set()
    again = Fields(generate=world, split=TimeSplit(members=[1, 1, 1])).val_set()

    assert set(train.members) == {0} and set(test.members) == {2} and set(again.members) == {1}
    assert {"z", "lsm"} <= set(data.facts.variables.static)
    assert "tp is summed over the 12 hours" in capsys.readouterr().err
    assert len(list((tmp_path / "data").rglob("three_levels*.zarr"))) == 1


def test_sums_are_taken_over_the_step(tmp_path: Path, capsys) -> None:
    path = store(tmp_path / "hourly.zarr", steps=40, step=1, fields="2t tp z")
    data = Fields(path=path, step=6.0, split=TimeSplit(train=[2020, 2020]))

    windows = data.train_set()
    batch = windows[0, 0]

    rain = [values.surface[0, :, 1, 0, 0].tolist() for values in (batch.inputs, batch.targets)]
    assert rain == [[sum(range(6)), sum(range(6, 12))], [sum(range(12, 18))]]
    assert batch.inputs.surface[0, :, 0, 0, 0].tolist() == [5, 11]
    assert len(windows) == 40 - 5 - 12
    assert "tp is summed over the 6 hours before each state" in capsys.readouterr().err
    assert data.facts.bounds["tp"] == (0.0, None)


def test_statistics_are_those_of_the_training_times_and_kept(plain: str, capsys) -> None:
    data = Fields(path=plain, split=TimeSplit(train=["2020-01-01", "2020-01-05"], test=["2020-01-06", 2020]))
    values = xarray.open_zarr(plain, chunks=None).sel(time=slice("2020-01-01", "2020-01-05"))

    facts = data.facts

    for name, field in {"2t": values["2m_temperature"], "z_850": values.geopotential.sel(level=850)}.items():
        assert facts.statistics[name] == pytest.approx((float(field.mean()), float(field.std())), rel=1e-5)
    assert set(facts.statistics) == {"2t", "z_500", "z_850", "static_lsm"}
    assert "statistics of plain" in capsys.readouterr().err
    again = Fields(path=plain, split=data.named[0].split)
    assert again.facts.statistics == facts.statistics
    assert "statistics of" not in capsys.readouterr().err


def test_published_and_given_statistics_need_no_reading(plain: str, capsys) -> None:
    published = Fields(path=plain, statistics="aurora").facts.statistics
    given = Fields(path=plain, statistics={"2t": (1, 2), "z_500": (3, 4), "z_850": (5, 6)}).facts.statistics

    assert published["z_500"] == (54115.37, 3353.187) and published["static_lsm"] == (0, 1)
    assert given["2t"] == (1, 2) and given["static_lsm"][1] > 0
    assert "statistics of" not in capsys.readouterr().err


def test_a_checkpoints_scales_and_static_fields_are_taken(plain: str, tmp_path: Path) -> None:
    trained = Fields(path=plain).facts
    bare = store(tmp_path / "bare.zarr", lsm=False)
    data = Fields(path=bare, variables=VariableChoice(static=["lsm"]), region=[-45, 45, -70, 70])

    data.use_statistics(trained)

    assert data.facts.statistics == {name: trained.statistics[name] for name in trained.statistics}
    assert torch.equal(data.facts.static, trained.static[:, 2:7, [10, 11, 0, 1, 2]])


def test_static_fields_may_come_from_a_file_of_their_own(plain: str, tmp_path: Path) -> None:
    bare = store(tmp_path / "bare.zarr", lsm=False)

    own = Fields(path=bare, variables=VariableChoice(static_path=plain)).facts

    assert own.variables.static == ("lsm",) and torch.equal(own.static, Fields(path=plain).facts.static)


def test_targets_may_be_other_variables_and_unknown_at_places(tmp_path: Path) -> None:
    path = store(tmp_path / "rain.zarr", fields="2t tp z q", step=1)
    dataset = xarray.open_zarr(path, chunks=None).load()
    dataset["total_precipitation"][..., :2] = np.nan
    dataset.to_zarr(tmp_path / "gaps.zarr", zarr_format=2)
    data = Fields(
        path=str(tmp_path / "gaps.zarr"),
        variables=VariableChoice(surface=["2t"], atmospheric=["z"]),
        targets=VariableChoice(surface=["tp"], atmospheric=["q"], levels=[850]),
        transforms={"tp": "log_amount"},
    )

    batch, facts = data.train_set()[0, 0], data.facts

    assert batch.variables.names == ("2t", "z_500", "z_850") and batch.target_variables.names == (
        "tp",
        "q_850",
    )
    assert torch.isnan(batch.targets.surface).sum() == 2 * 9
    assert {"tp", "q_850"} <= set(facts.statistics) and "q_500" not in facts.statistics
    assert facts.statistics["tp"][0] == pytest.approx(
        np.nanmean(np.log1p(dataset.total_precipitation[:32] / 1e-5)), rel=1e-4
    )
    with pytest.raises(UserError, match="missing values"):
        Fields(path=str(tmp_path / "gaps.zarr"), statistics="aurora").train_set()[0, 0]


def test_every_batch_of_a_mixture_is_of_one_source_and_none_is_seen_twice(plain: str, tmp_path: Path) -> None:
    other = store(tmp_path / "other.zarr", levels=(300, 500, 700), fields="z q", rows=6)
    mixture = ArchiveMixture([ArchiveSource(plain), ArchiveSource(other)])
    data = Fields(mixture=mixture, batch_size=4, seed=3)
    train = data.train_set()

    batches = [list(data.train_dataloader()) for _ in range(2)]

    assert data.facts.variables.names[:2] == ("2t", "z_500") and data.facts.variables.levels == (
        500,
        850,
        300,
        700,
    )
    sources = [batch.source for batch in batches[0]]
    assert sorted(set(sources)) == ["other", "plain"] and sources != sorted(sources)
    times = [(batch.source, int(time)) for batch in batches[0] for time in batch.time]
    assert len(times) == len(set(times)) == len(train)
    assert {batch.variables.names for batch in batches[0]} == {one.variables.names for one in data.sources}
    assert [batch.source for batch in train_batches(train, 1)] != sources
    with pytest.raises(UserError, match="roll-out training follows one archive"):
        train.reach(0)


def train_batches(train, epoch: int) -> list:
    return [train.__getitems__([(epoch, first + n) for n in range(4)]) for first in range(0, len(train), 4)]


def test_workers_give_the_same_samples(plain: str) -> None:
    plain_batches, worked = (
        list(Fields(path=plain, batch_size=8, num_workers=workers).train_dataloader()) for workers in (0, 2)
    )

    assert len(plain_batches) == len(worked) > 2
    for one, other in zip(plain_batches, worked, strict=True):
        assert torch.equal(one.time, other.time) and torch.equal(
            one.targets.atmospheric, other.targets.atmospheric
        )
        assert torch.equal(one.static, other.static)


def test_later_states_are_those_of_later_windows(plain: str) -> None:
    windows = Fields(path=plain).train_set()

    later, other = windows.later([10, 11], 3), windows.__getitems__([(0, 13), (0, 14)])

    assert torch.equal(later.targets.surface, other.targets.surface) and torch.equal(later.time, other.time)
    assert later.inputs.steps == 0 and later.rollout_step == 3


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def test_cards_name_the_files_that_are_fetched(shared: Path, tmp_path: Path) -> None:
    grib = shared / "data" / "weather" / "grib"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=grib))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for name in ("era5_uk_t2m", "ifs_10deg"):
            card = load_card(name)
            (file,) = card.files
            there = replace(file, urls=[f"http://127.0.0.1:{server.server_port}/{file.path}"])
            (path,) = fetch(replace(card, files=[there]), tmp_path, progress=False)
            assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256
    finally:
        server.shutdown()
        server.server_close()


def test_a_card_gives_its_split_and_the_known_error_of_persistence(shared: Path, monkeypatch) -> None:
    monkeypatch.setenv("DFM_DATA", str(shared / "data" / "weather" / "grib"))
    data = Fields(
        card="era5_uk_t2m", history=12, horizon=12, region=[50.25, 58, -10, 1.75], statistics={"2t": (281, 2)}
    )

    test = data.test_set()
    batch = test.__getitems__([(0, index) for index in range(len(test))])

    assert (len(data.train_set()), len(data.val_set()), len(test)) == (497, 15, 163)
    assert batch.grid.shape == (32, 48) and data.facts.licences == ("Copernicus licence",)
    error = ((batch.targets.surface - batch.inputs.surface[:, -1:]) ** 2).mean()
    assert float(error) == pytest.approx(7.5543, abs=1e-4)


def test_a_card_whose_data_are_not_there_says_how_to_get_them() -> None:
    with pytest.raises(UserError, match="type 'dfm data fetch ifs_10deg', or name them"):
        Fields(card="ifs_10deg").setup()
    with pytest.raises(UserError, match="take them from the Climate Data Store"):
        Fields(card="era5_cds").setup()
    with pytest.raises(UserError, match="reading gs:// needs gcsfs; run `pip install gcsfs`"):
        Fields(card="weatherbench2").setup()


@pytest.mark.parametrize(
    ("form", "dtype", "chunks", "shards"),
    [
        (2, "f4", (1, 6, 7), None),
        (2, ">f4", (2, 3, 4), None),
        (3, "i2", (2, 3, 4), (4, 6, 8)),
        (3, "f8", (9, 9, 9), None),
    ],
)
def test_any_part_of_a_store_is_read_as_zarr_reads_it(
    tmp_path: Path, form: int, dtype: str, chunks: tuple, shards: tuple | None
) -> None:
    rng = np.random.default_rng(0)
    values = (100 * rng.standard_normal((9, 6, 13))).astype(dtype)
    values[4:6] = 7  # chunks of nothing but the fill value are not stored
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=form)
    how = {"chunks": chunks, "dtype": dtype, "fill_value": 7, **({"shards": shards} if shards else {})}
    group.create_array("x", shape=values.shape, **how)[:] = values
    array = arrays_of(str(tmp_path / "a.zarr"))["x"]

    for _ in range(30):
        ends = [sorted(rng.integers(0, size, 2).tolist()) for size in values.shape]
        where = tuple(slice(first, last + 1) if rng.integers(3) else last for first, last in ends)
        assert np.array_equal(array[where], values[where])
