"""Windows are the series' own slices, and scaling can be undone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from apps.timeseries.data import scaling
from apps.timeseries.data.build import downsample
from apps.timeseries.data.readers.columns import Roles
from apps.timeseries.data.scaling import ChannelScaler, fit_recent, fit_scaler
from apps.timeseries.data.settings import Split, few_shot_rows, split_rows
from apps.timeseries.data.store import SeriesStore, SeriesWindows, Track, gather, impute
from core.errors import UserError


def store(*lengths: int, channels: int = 2, gaps: bool = False) -> SeriesStore:
    values = torch.arange(sum(lengths) * channels, dtype=torch.float32).reshape(-1, channels)
    if gaps:
        values[3::7, 0] = torch.nan
    return SeriesStore(
        values=values,
        offsets=np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64),
        lengths=np.array(lengths),
        pads=np.zeros(len(lengths), dtype=np.int64),
        tokens=np.arange(len(lengths)),
        categories=None,
        known=torch.ones(channels, dtype=torch.bool),
        missing=gaps,
    )


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 60), channels=st.integers(1, 4), length=st.integers(1, 60), seed=st.integers(0, 99)
)
def test_gathering_equals_slicing(rows: int, channels: int, length: int, seed: int) -> None:
    length = min(length, rows)
    values = torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed))
    starts = torch.randint(0, rows - length + 1, (5,), generator=torch.Generator().manual_seed(seed))
    expected = torch.stack([values[s : s + length] for s in starts.tolist()])
    assert torch.equal(gather(values, starts, length), expected)


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    context=st.integers(1, 8),
    horizon=st.integers(1, 5),
    stride=st.integers(1, 4),
)
def test_every_window_lies_in_one_series_and_none_is_lost(
    lengths: list[int], context: int, horizon: int, stride: int
) -> None:
    held = store(*lengths)
    parts = np.array([(0, n) for n in lengths])
    windows = SeriesWindows(held, parts, context=context, horizon=horizon, stride=stride)
    expected = [
        (number, start)
        for number, rows in enumerate(lengths)
        for start in range(0, rows - context - horizon + 1, stride)
    ]
    assert len(windows) == len(expected)
    found = [tuple(map(int, pair)) for pair in zip(*windows.locate(np.arange(len(windows))), strict=True)]
    assert found == expected
    for index, (number, start) in enumerate(expected[:3]):
        batch = windows[0, index]
        own = held.series(number)
        assert torch.equal(batch.past_values[0], own[start : start + context])
        assert torch.equal(batch.future_values[0], own[start + context : start + context + horizon])


def test_a_gap_is_zero_and_masked() -> None:
    windows = SeriesWindows(store(40, gaps=True), np.array([(0, 40)]), context=8, horizon=4)
    batch = windows.__getitems__([(0, 0), (0, 5)])
    assert not batch.past_observed[0, 3, 0]
    assert batch.past_values[0, 3, 0] == 0
    assert batch.past_observed[..., 1].all()
    assert not torch.isnan(batch.past_values).any()


def test_filling_forward_repeats_and_a_line_joins_neighbours() -> None:
    nan = torch.nan
    values = torch.tensor([nan, 1.0, nan, nan, 4.0, nan])[None, :, None]
    forward, line = impute(values, "forward_fill")[0, :, 0], impute(values, "linear")[0, :, 0]
    torch.testing.assert_close(forward, torch.tensor([nan, 1, 1, 1, 4, 4.0]), equal_nan=True)
    torch.testing.assert_close(line, torch.tensor([nan, 1, 2, 3, 4, 4.0]), equal_nan=True)


def test_gathering_copies_no_more_than_the_batch() -> None:
    held = store(1000)
    windows = SeriesWindows(held, np.array([(0, 1000)]), context=16, horizon=4)
    before = held.values.clone()
    batch = windows.__getitems__([(0, i) for i in range(8)])
    batch.past_values.zero_()
    assert torch.equal(held.values, before)
    assert batch.past_values.is_contiguous()
    assert batch.past_values.untyped_storage().nbytes() == 8 * 16 * 2 * 4


@pytest.mark.parametrize("kind", ["standard", "minmax", "power", "none"])
@settings(deadline=None, max_examples=15)
@example(values=[2444.0, 2618.0, 2878.0])
@example(values=[0.0, -257.0])
@given(
    values=st.lists(
        st.floats(-1e4, 1e4, allow_subnormal=False).map(lambda x: round(x, 3)), min_size=2, max_size=40
    )
)
def test_scaling_can_be_undone(kind: str, values: list[float]) -> None:
    raw = np.array(values)
    scaler = fit_scaler(raw, kind)
    share = 1e-5 if kind == "power" else 1e-6  # a steep power loses digits
    back = scaler.invert(scaler.apply(raw))
    np.testing.assert_allclose(back, raw, atol=share * max(1.0, np.abs(raw).max()), rtol=share)
    assert all(number is None or isinstance(number, float) for number in vars(scaler).values())


def test_standard_scaling_uses_the_population_deviation_and_leaves_gaps_out() -> None:
    assert fit_scaler(np.array([1.0, np.nan, 3.0])) == ChannelScaler(2.0, 1.0)
    assert fit_scaler(np.full(5, 0.1)) == ChannelScaler(0.1, 1.0)
    assert fit_scaler(np.full(5, np.nan)) == ChannelScaler(0.0, 1.0)


@pytest.mark.parametrize("kind", ["standard", "minmax", "power"])
@pytest.mark.parametrize("size", [1e-310, 1e-200, 1e160, 1e308])
def test_sizes_whose_squares_are_no_numbers_are_scaled_all_the_same(kind: str, size: float) -> None:
    raw = size * np.array([-1.0, 1.0, 0.5, -0.5, 1.5])
    scaler = fit_scaler(raw, kind)
    scaled = scaler.apply(raw)
    assert abs(scaled.mean()) < 1e-3
    assert scaled.std() == pytest.approx(1.0, rel=1e-3)
    assert scaler.invert(scaled) / size == pytest.approx(raw / size, rel=1e-3)


def test_the_end_of_a_history_alone_decides_its_recent_scale() -> None:
    waves = np.sin(np.arange(400.0))
    assert fit_recent(np.concatenate([[1e200], waves]), 400) == fit_scaler(waves)
    assert fit_recent(np.concatenate([waves, np.full(50, 7.0)]), 50).mean == 7.0
    assert 0.5 < fit_recent(np.concatenate([waves, [1e9], np.full(50, 7.0)]), 50).scale < 5
    assert fit_recent(np.full(9, 3e6), 5) == ChannelScaler(3e6, 3.0)
    assert fit_recent(np.zeros(9), 5) == ChannelScaler(0.0, 1e-6)
    assert fit_recent(np.full(9, np.nan), 5) == ChannelScaler()


@pytest.mark.parametrize(("unit", "fits"), [(1.0, True), (1.8, True), (100.0, False), (0.001, False)])
def test_a_scaler_tells_other_units_from_its_own(unit: float, fits: bool) -> None:
    raw = 3 + np.sin(np.arange(400.0))
    assert fit_scaler(raw).fits(unit * raw) is fits


def test_power_scaling_agrees_with_scikit_learn() -> None:
    from sklearn.preprocessing import PowerTransformer

    raw = np.random.default_rng(0).gamma(2.0, size=200) - 0.5
    reference = PowerTransformer().fit_transform(raw[:, None])[:, 0]
    np.testing.assert_allclose(fit_scaler(raw, "power").apply(raw), reference, atol=1e-9)


def test_channels_are_inverted_together_with_their_exponents() -> None:
    rows = Split((0, 0), (0, 0), (0, 0))
    track = Track("a", None, 0, "", rows, (ChannelScaler(1.0, 2.0), ChannelScaler(2.0, 4.0, 0.5)), Roles())
    raw = track.invert(np.array([[0.0, 0.0]]))
    assert raw[0, 0] == 1.0
    assert raw[0, 1] == pytest.approx(scaling._unpower(np.array(2.0), 0.5))


@pytest.mark.parametrize("how", ["average", "decimate"])
def test_down_sampling_keeps_the_newest_rows(how: str) -> None:
    made = downsample(np.array([9.0, 1, 3, np.nan, 5, np.nan, np.nan]), 2, how)
    expected = {"average": [2, 5, np.nan], "decimate": [3, 5, np.nan]}[how]
    np.testing.assert_allclose(made, expected)


@pytest.mark.parametrize(
    ("kind", "rows", "expected"),
    [("ett_h", 17420, Split((0, 8640), (8640, 11520), (11520, 14400))),
     ("ett_m", 69680, Split((0, 34560), (34560, 46080), (46080, 57600))),
     ("fractions", 52696, Split((0, 36887), (36887, 42157), (42157, 52696))),
     ("fractions", 7588, Split((0, 5311), (5311, 6071), (6071, 7588))),
     ("tail", 100, Split((0, 80), (80, 90), (90, 100))),
     ("test", 100, Split((0, 0), (0, 0), (0, 100))),
     ([60, 80], 100, Split((0, 60), (60, 80), (80, 100))),
     (["60", 80, 90], 100, Split((0, 60), (60, 80), (80, 90)))],
)  # fmt: skip
def test_borders_are_the_benchmarks(kind: str | list, rows: int, expected: Split) -> None:
    assert split_rows(kind, rows, horizon=10) == expected


@pytest.mark.parametrize(
    ("kind", "message"),
    [("ett_h", "need 14400"), ("fraction", "did you mean 'fractions'"), ([80, 60], "must rise"),
     (["2020-01-01", 60], "has no time stamps"), ([1, 2, 3, 4], "two or three ends"),
     (["x1", 60], "has no time")],
)  # fmt: skip
def test_borders_that_do_not_fit_are_refused(kind: str | list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_rows(kind, 100)


def test_few_shot_keeps_the_stated_rows() -> None:
    assert few_shot_rows((0, 8640), share=0.05, context=512) == (0, 918)
    assert few_shot_rows((0, 8640), share=0.05, context=512, where="last") == (8640 - 918, 8640)
    with pytest.raises(UserError, match="above 0"):
        few_shot_rows((0, 10), share=0.0, context=2)
