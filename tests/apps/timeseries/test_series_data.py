"""The data module: splits, counts, scaling, covariates, short series, mixtures, leaks, resume of order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from apps.timeseries.batch import SeriesFacts
from apps.timeseries.data.module import Series
from apps.timeseries.data.scaling import ChannelScaler
from apps.timeseries.data.settings import SeriesSettings, SourceMix, SplitSettings
from core.errors import UserError


@pytest.fixture(scope="module")
def root(shared: Path) -> str:
    return str(shared / "data" / "timeseries")


def table(rows: int = 200, **more: object) -> pd.DataFrame:
    steps = np.arange(rows)
    return pd.DataFrame(
        {
            "date": pd.date_range("2021-01-01", periods=rows, freq="h"),
            "y": np.sin(steps / 4) * 3 + 10,
            "x": steps * 1.0,
        }
    ).assign(**more)


def saved(folder: Path, frame: pd.DataFrame, name: str = "my.csv") -> str:
    frame.to_csv(folder / name, index=False)
    return str(folder / name)


@pytest.mark.parametrize(
    ("card", "context", "horizon", "counts"),
    [
        ("ett_h1", 512, 96, (8033, 2785, 2785)),
        ("ett_h1", 336, 720, (7585, 2161, 2161)),
        ("ett_h2", 336, 192, (8113, 2689, 2689)),
        ("ett_m1", 512, 96, (33953, 11425, 11425)),
        ("ett_m2", 512, 336, (33713, 11185, 11185)),
        ("weather", 512, 96, (36280, 5175, 10444)),
        ("weather", 336, 720, (35832, 4551, 9820)),
        ("exchange_rate", 336, 96, (4880, 665, 1422)),
        ("exchange_rate", 336, 720, (4256, 41, 798)),
    ],
)
def test_window_counts_are_the_benchmarks(
    root: str, card: str, context: int, horizon: int, counts: tuple[int, int, int]
) -> None:
    data = Series(card=card, root=root, context=context, horizon=horizon)
    assert (len(data.train_set()), len(data.val_set()), len(data.test_set())) == counts


def test_m4_is_tested_on_the_competitions_last_two_days(root: str) -> None:
    data = Series(card="m4_hourly", root=root, context=96, horizon=48)
    batch = data.test_set().__getitems__([(0, i) for i in range(414)])
    assert (len(data.test_set()), len(data.tracks), data.facts.season) == (414, 414, 24)
    assert set((batch.start + 96 + 48).tolist()) == {748, 1008}


def test_beijing_is_read_with_its_covariates_and_gaps(root: str) -> None:
    data = Series(card="beijing_pm25", root=root, context=96, horizon=24)
    assert data.facts.channels == ("pm2.5", "DEWP", "TEMP", "PRES", "Iws", "Is", "Ir", "cbwd")
    assert data.facts.exogenous == (1, 2, 3, 4, 5, 6)
    assert not data.train_set()[0, 0].past_observed[0, :24, 0].any()


def test_the_first_test_item_of_etth1_has_the_recorded_values(root: str) -> None:
    data = Series(card="ett_h1", root=root)
    batch = data.test_set()[0, 0]
    past = [-0.2479, -1.1913, -0.2507, -0.5348, -0.1287, -1.9762, -0.7243]
    future = [0.3513, 0.6995, 0.4639, 0.5533, -0.3964, 0.2468, -0.8623]
    torch.testing.assert_close(batch.past_values[0, 0], torch.tensor(past), atol=6e-5, rtol=0)
    torch.testing.assert_close(batch.future_values[0, 0], torch.tensor(future), atol=6e-5, rtol=0)
    last = data.tracks[0].stamps(int(batch.start[0]) + 511, 1)[0]
    assert last == pd.Timestamp("2017-10-23 23:00")
    assert batch.freq_token.tolist() == [7]
    facts = data.facts
    assert (len(facts.targets), facts.exogenous, facts.frequency, facts.season) == (7, (), "h", 24)
    assert facts.series["ett_h1"]["HUFL"].mean == pytest.approx(7.937742, abs=1e-6)
    assert facts.series["ett_h1"]["OT"].scale == pytest.approx(9.176491, abs=1e-6)
    assert facts.licences == ("CC BY-ND 4.0",)


def test_the_error_value_of_weather_is_kept_as_the_benchmark_does(root: str) -> None:
    data = Series(card="weather", root=root, context=96)
    raw = data.tracks[0].invert(data.store.series(0).double().numpy())
    assert int((np.abs(raw + 9999) < 1).sum()) == 81


def test_few_shot_takes_the_first_the_last_or_any_windows(root: str) -> None:
    first, last, some = (
        Series(card="ett_h1", root=root, split=SplitSettings(few_shot=0.05, few_shot_where=where)).train_set()
        for where in ("first", "last", "uniform")
    )
    assert (len(first), len(last), len(some)) == (311, 311, 401)
    assert int(first[0, 310].start) + 608 == 918
    assert int(last[0, 310].start) + 608 == 8640
    starts = [int(some[0, i].start) for i in range(401)]
    assert starts == sorted(set(starts))
    with pytest.raises(UserError, match="no training window"):
        Series(card="ett_h1", root=root, split=SplitSettings(few_shot=0.05), horizon=720).train_set()


def test_only_training_rows_decide_the_scale(tmp_path: Path) -> None:
    frame = table()
    frame.loc[140:, "y"] += 1000
    data = Series(path=saved(tmp_path, frame), context=16, horizon=4, split=SplitSettings([140, 160]))
    scaler = data.facts.series["my"]["y"]
    assert scaler.mean == pytest.approx(frame["y"][:140].mean())
    assert scaler.scale == pytest.approx(frame["y"][:140].std(ddof=0))


def test_borders_may_be_dates(tmp_path: Path) -> None:
    split = SplitSettings(["2021-01-05", "2021-01-06 12:00"])
    data = Series(path=saved(tmp_path, table()), context=16, horizon=4, split=split)
    assert data.tracks[0].split.train == (0, 96)
    assert data.tracks[0].split.test == (132, 200)


def test_covariates_are_known_in_the_future_and_conditional_ones_are_not(tmp_path: Path) -> None:
    frame = table(z=2.0, kind=["a", "b"] * 100, hot=np.arange(200) % 3)
    roles = {"targets": "y", "observable": "x", "control": "hot", "conditional": "z", "categorical": "kind"}
    data = Series(path=saved(tmp_path, frame), context=16, horizon=4, **roles)
    batch = data.train_set().__getitems__([(0, 0), (0, 9)])
    assert data.facts.channels == ("y", "x", "hot", "z", "kind")
    assert data.facts.exogenous == (1, 2)
    assert data.facts.categories["kind"] == ("a", "b")
    assert batch.future_observed.all(dim=(0, 1)).tolist() == [True, True, True, False, False]
    assert batch.future_values[..., 3:].abs().sum() == 0
    assert batch.past_values[0, :, 4].tolist() == [0.0, 1.0] * 8
    assert any("'z'" in note and "constant" in note for note in data.built.report.notes)


def test_many_series_with_static_categories_share_one_batch(tmp_path: Path) -> None:
    frame = pd.concat([table(60, shop=s, size="big" if s == "N" else "small") for s in "NS"])
    data = Series(path=saved(tmp_path, frame), context=16, horizon=4, ids="shop", static_categorical="size")
    windows = data.train_set()
    batch = windows.__getitems__([(0, 0), (0, len(windows) - 1)])
    assert batch.series.tolist() == [0, 1]
    assert batch.static_categories.tolist() == [[0], [1]]
    assert set(data.facts.series) == {"N", "S"}


def test_a_frame_is_read_like_its_file(tmp_path: Path) -> None:
    frame = table()
    made = Series.from_frame(frame, context=16, horizon=4)
    read = Series(path=saved(tmp_path, frame), context=16, horizon=4)
    assert torch.equal(made.store.values, read.store.values)
    assert made.tracks[0].id == "series"


def test_a_missing_file_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="there is no file 'nowhere'"):
        Series(path="nowhere").setup()


def test_short_series_are_listed_or_padded(tmp_path: Path) -> None:
    saved(tmp_path, table(100), "long.csv")
    saved(tmp_path, table(15), "short.csv")
    left_out = Series(path=str(tmp_path), context=16, horizon=4)
    assert (len(left_out.tracks), [one.id for one in left_out.built.report.unreadable]) == (1, ["short"])
    padded = Series(path=str(tmp_path), context=16, horizon=4, windows=SeriesSettings(pad_short=True))
    windows = padded.train_set()
    batch = windows[0, len(windows) - 1]
    assert [track.id for track in padded.tracks] == ["long", "short"]
    assert batch.series.tolist() == [1]
    assert batch.past_observed[0, :, 0].tolist() == [False] * 10 + [True] * 6
    assert batch.past_values[0, 0, 0] == 0
    assert padded.test_set()[0, len(padded.test_set()) - 1].future_observed.any()


def test_series_that_are_all_too_short_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, table(15))
    with pytest.raises(UserError, match="15 rows, fewer than context"):
        Series(path=path, context=16, horizon=4).setup()


def test_gaps_in_a_file_are_masked(tmp_path: Path) -> None:
    frame = table()
    frame.loc[3, "y"] = np.nan
    data = Series(path=saved(tmp_path, frame.drop(index=[7])), context=16, horizon=4)
    batch = data.train_set()[0, 0]
    assert batch.past_observed[0, :, 0].logical_not().nonzero().flatten().tolist() == [3, 7]
    line = SeriesSettings(missing="linear")
    filled = Series(path=saved(tmp_path, frame), context=16, horizon=4, windows=line).train_set()[0, 0]
    assert filled.past_observed.all()
    halfway = (filled.past_values[0, 2, 0] + filled.past_values[0, 4, 0]) / 2
    torch.testing.assert_close(filled.past_values[0, 3, 0], halfway)


def test_coarser_copies_are_further_training_series(tmp_path: Path) -> None:
    frame = table(400)
    data = Series(
        path=saved(tmp_path, frame), context=16, horizon=4, windows=SeriesSettings(resolutions=[2, 4])
    )
    assert [(t.id, t.frequency, t.factor) for t in data.tracks] == [
        ("my", "h", 1), ("my@2h", "2h", 2), ("my@4h", "4h", 4)]  # fmt: skip
    assert len(data.train_set()) == (280 - 19) + (140 - 19) + (70 - 19)
    assert len(data.test_set()) == 80 - 4 + 1
    scaler = data.facts.series["my@2h"]["x"]
    coarse = data.store.series(1).double().numpy()[:, 1] * scaler.scale
    expected = frame["x"].to_numpy()[:280].reshape(-1, 2).mean(1)
    np.testing.assert_allclose(coarse + scaler.mean, expected, atol=1e-4)


def test_prediction_takes_the_last_context_of_every_series(tmp_path: Path) -> None:
    frame = table()
    data = Series(path=saved(tmp_path, frame), context=16, horizon=4)
    batch = data.predict_set()[0, 0]
    assert (len(data.predict_set()), int(batch.start)) == (1, 184)
    assert not batch.future_observed.any()
    scaler = data.facts.series["my"]["y"]
    np.testing.assert_allclose(scaler.invert(batch.past_values[0, :, 0]), frame["y"][184:], rtol=1e-5)


def test_a_checkpoints_statistics_are_used_for_known_series(tmp_path: Path) -> None:
    data = Series(path=saved(tmp_path, table()), context=16, horizon=4)
    known = {"y": ChannelScaler(1.0, 3.0), "x": ChannelScaler(60.0, 30.0)}
    data.use_statistics(SeriesFacts(context=16, horizon=4, series={"my": known}))
    assert data.facts.series["my"] == known
    assert data.store.series(0)[5, 1] == pytest.approx((5.0 - 60.0) / 30.0)


def test_univariate_windows_are_single_channels(root: str) -> None:
    mix, windows = SourceMix(["ett_h1", "exchange_rate"]), SeriesSettings(univariate=True)
    data = Series(mix=mix, root=root, windows=windows, context=64, horizon=16)
    assert len(data.tracks) == 7 + 8
    batch = data.train_set()[0, 0]
    assert batch.past_values.shape == (1, 64, 1)
    assert len(data.train_set()) == 7 * (8640 - 79) + 8 * (5311 - 79)
    whole = Series(card="ett_h1", root=root, context=64, horizon=16)
    assert torch.equal(data.store.series(6)[:, 0], whole.store.series(0)[:, 6])
    assert data.facts.frequency == ""


def test_sources_are_mixed_with_their_weights(root: str) -> None:
    mix = SourceMix(["ett_h1", "illness"], weights=[3.0, 1.0], samples=400)
    data = Series(mix=mix, root=root, windows=SeriesSettings(univariate=True), context=64, horizon=16)
    mixed = data.train_set()
    assert len(mixed) == 400
    batch = mixed.__getitems__([(0, i) for i in range(400)])
    origin = np.array([track.source for track in data.tracks])[batch.series.numpy()]
    assert (np.bincount(origin) == [300, 100]).all()
    assert torch.equal(batch.past_values[7], mixed[0, 7].past_values[0])


def test_channels_that_differ_need_univariate(root: str) -> None:
    with pytest.raises(UserError, match=r"set --data\.windows\.univariate true"):
        Series(mix=SourceMix(["ett_h1", "exchange_rate"]), root=root).setup()


@pytest.mark.parametrize(
    ("sources", "held_out"),
    [(["ett_h1", "ett_h2"], ["ett_h2"]), (["ett_m2"], ["ett_h2"]), (["ett_h1"], ["ett_m1"]),
     (["embedded"], ["embedded:nile"]), (["embedded:co2+elnino"], ["embedded:unseen"])],
)  # fmt: skip
def test_a_leak_between_training_and_held_out_is_refused(sources: list[str], held_out: list[str]) -> None:
    with pytest.raises(UserError, match="held out"):
        Series(mix=SourceMix(sources, held_out=held_out))


def test_sources_that_share_nothing_with_the_held_out_pass() -> None:
    held_out = ["ett_h2", "ett_m2", "embedded:unseen"]
    Series(mix=SourceMix(["ett_h1", "embedded:train", "synthetic"], held_out=held_out))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no data is named"),
        ({"card": "ett_h1", "path": "x.csv"}, "only one of path, card and mix"),
        ({"card": "ett_h1", "context": 0}, "data.context is 0"),
    ],
)
def test_arguments_that_cannot_be_are_refused_at_once(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Series(**arguments)


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        (SeriesSettings, {"missing": "zero"}, "data.windows.missing is 'zero'"),
        (SplitSettings, {"few_shot_where": "frist"}, "did you mean 'first'"),
        (SourceMix, {"sources": ["ett_h1"], "weights": [1.0, 2.0]}, "2 numbers for 1 sources"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(settings: type, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings(**arguments)


def test_a_card_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dfm data fetch ett_h1"):
        Series(card="ett_h1", root=str(tmp_path)).setup()
    with pytest.raises(UserError, match="did you mean 'ett_h"):
        Series(card="ett_h", root=str(tmp_path)).setup()


def test_the_folder_of_the_environment_is_used(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DFM_DATA", root)
    assert len(Series(card="illness", context=36, horizon=24).test_set()) == 170


def test_the_loader_gives_whole_batches_in_a_reproducible_order(root: str) -> None:
    def starts() -> list[int]:
        loader = Series(card="illness", root=root, context=36, horizon=24, seed=3).train_dataloader()
        assert isinstance(loader, DataLoader)
        return torch.cat([batch.start for batch in loader]).tolist()

    first = starts()
    assert first == starts()
    assert sorted(first) == list(range(676 - 59))


def test_test_sources_are_seen_by_the_test_alone(tmp_path: Path) -> None:
    trained, tested = saved(tmp_path, table(200), "a.csv"), saved(tmp_path, table(60), "b.csv")
    data = Series(mix=SourceMix([trained], test_sources=[tested]), context=16, horizon=4)
    assert set(data.train_set().locate(np.arange(len(data.train_set())))[0]) == {0}
    assert set(data.test_set().locate(np.arange(len(data.test_set())))[0]) == {1}
    assert len(data.test_set()) == 60 - 20 + 1
    with pytest.raises(UserError, match="held out"):
        Series(mix=SourceMix([trained], test_sources=[trained]))


def test_a_users_file_says_that_its_licence_is_not_stated(tmp_path: Path) -> None:
    pd.DataFrame({"y": np.arange(60.0)}).to_csv(tmp_path / "my.csv", index=False)
    data = Series(path=str(tmp_path / "my.csv"), context=8, horizon=2)
    assert data.facts.licences == ("my.csv: not stated",)
