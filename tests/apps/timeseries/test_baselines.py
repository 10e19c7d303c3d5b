"""Baselines against figures measured on the public benchmark sets, and on series whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.timeseries.metrics.baselines import (
    ETS,
    Drift,
    RepeatLast,
    SeasonalNaive,
    WindowMean,
    fill_missing,
)
from apps.timeseries.metrics.opponents import DLinear, Ridge, default_baselines, sliding_windows

FILES = {
    "ETTh1": ("ETT-small/ETTh1.csv", (8640, 11520, 14400), 24),
    "ETTh2": ("ETT-small/ETTh2.csv", (8640, 11520, 14400), 24),
    "ETTm1": ("ETT-small/ETTm1.csv.gz", (34560, 46080, 57600), 96),
    "ETTm2": ("ETT-small/ETTm2.csv.gz", (34560, 46080, 57600), 96),
    "weather": ("weather/weather.csv.gz", (36887, 42157, 52696), 144),
    "exchange": ("exchange_rate/exchange_rate.csv", (5311, 6071, 7588), 1),
}


def benchmark(shared: Path, name: str, context: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the scaled train, validation and test rows of a benchmark set."""
    path, (train, validation, test), _ = FILES[name]
    values = pd.read_csv(shared / "data" / "timeseries" / path).iloc[:, 1:].to_numpy("float64")
    values = (values - values[:train].mean(0)) / values[:train].std(0)
    table = torch.from_numpy(values).float()
    return table[:train], table[train - context : validation], table[validation - context : test]


def errors(baseline, table: torch.Tensor, context: int) -> tuple[float, float]:
    """Return MSE and MAE over all windows of a table."""
    square, absolute, count = 0.0, 0.0, 0
    for part in sliding_windows(table, context + baseline.horizon).split(512):
        window = part.transpose(1, 2)
        error = (baseline.predict(window[:, :context]) - window[:, context:]).double()
        square, absolute = square + error.square().sum().item(), absolute + error.abs().sum().item()
        count += error.numel()
    return round(square / count, 4), round(absolute / count, 4)


CELLS = [
    ("ETTh1", 96, (1.2944, 0.7132), (0.5122, 0.4333), (0.7060, 0.5673)),
    ("ETTh1", 192, (1.3249, 0.7331), (0.5808, 0.4692), (0.7133, 0.5746)),
    ("exchange", 96, (0.0811, 0.1964), None, (0.3066, 0.4157)),
]
SLOW_CELLS = [
    ("ETTh1", 336, (1.3299, 0.7460), (0.6499, 0.5008), (0.7059, 0.5792)),
    ("ETTh1", 720, (1.3351, 0.7550), (0.6554, 0.5141), (0.7005, 0.5958)),
    ("ETTh2", 96, (0.4317, 0.4216), (0.3905, 0.3802), (0.3846, 0.4186)),
    ("ETTh2", 720, (0.5945, 0.5190), (0.5255, 0.4739), (0.4319, 0.4546)),
    ("ETTm1", 96, (1.2139, 0.6648), (0.4227, 0.3865), (0.6802, 0.5441)),
    ("ETTm2", 96, (0.2665, 0.3278), (0.2631, 0.3005), (0.2754, 0.3439)),
    ("weather", 96, (0.2591, 0.2542), (0.3167, 0.2880), (0.2558, 0.3107)),
    ("exchange", 720, (0.8101, 0.6764), None, (1.1436, 0.8139)),
]


@pytest.mark.parametrize(
    ("name", "horizon", "last", "seasonal", "mean"),
    [*CELLS, *(pytest.param(*cell, marks=pytest.mark.slow) for cell in SLOW_CELLS)],
)
def test_naive_forecasts_give_the_measured_cells(shared: Path, name, horizon, last, seasonal, mean) -> None:
    test = benchmark(shared, name, 336)[2]
    found = {
        "last": errors(RepeatLast(horizon), test, 336),
        "mean": errors(WindowMean(horizon), test, 336),
        "seasonal": errors(SeasonalNaive(horizon, season=FILES[name][2]), test, 336),
    }
    wanted = {
        "last": last,
        "mean": mean,
        "seasonal": seasonal or last,
    }  # without a season it is the last value
    assert {key: pytest.approx(value, abs=1.01e-4) for key, value in wanted.items()} == found


@pytest.mark.parametrize(
    ("name", "context", "horizon", "wanted"),
    [
        ("ETTh1", 512, 96, (0.3634, 0.3911)),
        ("ETTh2", 512, 96, (0.2679, 0.3336)),
        pytest.param("ETTh1", 336, 96, (0.3696, 0.3913), marks=pytest.mark.slow),
        pytest.param("ETTh1", 512, 192, (0.3965, 0.4111), marks=pytest.mark.slow),
        pytest.param("ETTh1", 512, 720, (0.4320, 0.4519), marks=pytest.mark.slow),
        pytest.param("ETTh2", 336, 336, (0.3582, 0.3997), marks=pytest.mark.slow),
        pytest.param("ETTh2", 512, 720, (0.3886, 0.4360), marks=pytest.mark.slow),
    ],
)
def test_ridge_gives_the_measured_cells(shared: Path, name, context, horizon, wanted) -> None:
    train, validation, test = benchmark(shared, name, context)
    ridge = Ridge(horizon, context=context).fit([train], validation=[validation])
    assert errors(ridge, test, context) == pytest.approx(wanted, abs=1.01e-4)


@pytest.mark.slow
def test_dlinear_reaches_its_published_error_on_etth1(shared: Path) -> None:
    train, validation, test = benchmark(shared, "ETTh1", 512)
    mse, mae = errors(DLinear(96, context=512).fit([train], validation=[validation]), test, 512)
    assert mse <= 0.380
    assert mae <= 0.405


def test_smoothing_runs_the_recursion_of_statsmodels() -> None:
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    steps = torch.arange(96.0)
    noise = torch.randn(96, generator=torch.Generator().manual_seed(1))
    series = (10 + 0.1 * steps + 3 * torch.sin(steps * torch.pi / 6) + noise)[:, None]
    ets = ETS(24, season=12, context=96).fit([series])
    ets.constants = [(0.4, 0.2, 0.3, 0.95)]
    profile = series.reshape(8, 12) - series.reshape(8, 12).mean(1, keepdim=True)
    reference = ExponentialSmoothing(
        series[:, 0].double().numpy(),
        trend="add",
        damped_trend=True,
        seasonal="add",
        seasonal_periods=12,
        initialization_method="known",
        initial_level=series[:12].mean().item(),
        initial_trend=0.0,
        initial_seasonal=profile.mean(0).double().numpy(),
    ).fit(
        smoothing_level=0.4, smoothing_trend=0.2, smoothing_seasonal=0.3, damping_trend=0.95, optimized=False
    )
    ours, theirs = ets.predict(series[None])[0, :, 0].numpy(), reference.forecast(24)
    compared = [
        step for step in range(24) if step % 12 != 11
    ]  # there theirs forgets the last step's correction
    assert ours[compared] == pytest.approx(theirs[compared], abs=1e-3)


def test_smoothing_beats_the_last_value_on_a_seasonal_trend() -> None:
    steps = torch.arange(240.0)
    series = (0.05 * steps + torch.sin(steps * torch.pi / 6))[:, None]
    ets = ETS(12, season=12, context=96).fit([series[:180]])
    window = sliding_windows(series[84:], 108).transpose(1, 2)
    ours = (ets.predict(window[:, :96]) - window[:, 96:]).abs().mean()
    naive = (RepeatLast(12).predict(window[:, :96]) - window[:, 96:]).abs().mean()
    assert ours < 0.25 * naive


def test_dlinear_learns_a_linear_rule() -> None:
    series = torch.sin(torch.arange(600.0) * 2 * torch.pi / 12)[:, None].repeat(1, 2)
    dlinear = DLinear(6, context=24, lr=1e-2).fit([series[:400]], validation=[series[376:500]])
    assert errors(dlinear, series[476:], 24)[0] < 0.05


@pytest.mark.parametrize(
    "baseline", default_baselines(context=48, horizon=12, season=6), ids=lambda b: b.name
)
def test_every_baseline_takes_the_same_call_and_survives_gaps(baseline) -> None:
    table = torch.randn(400, 3, generator=torch.Generator().manual_seed(0)).cumsum(0)
    table[50:60, 1] = float("nan")
    baseline.fit([table[:300]], validation=[table[252:]])
    past = table[300:348].repeat(4, 1, 1)
    past[1, -5:] = float("nan")
    past[2] = float("nan")
    forecast = baseline.predict(past)
    assert forecast.shape == (4, 12, 3)
    assert bool(torch.isfinite(forecast).all())
    alone = baseline.predict(past[3:])
    assert torch.allclose(forecast[3:], alone, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 30), st.integers(1, 20))
def test_seasonal_naive_repeats_a_periodic_series_exactly(season: int, horizon: int, repeats: int) -> None:
    series = torch.arange(season, dtype=torch.float32).repeat(repeats + horizon)[None, :, None]
    length = season * repeats
    forecast = SeasonalNaive(horizon, season=season).predict(series[:, :length])
    assert torch.equal(forecast, series[:, length : length + horizon])


@pytest.mark.parametrize("baseline", [SeasonalNaive(8), ETS(8, context=48)], ids=lambda b: b.name)
def test_windows_of_one_batch_may_have_seasons_of_their_own(baseline) -> None:
    noise = 0.1 * torch.randn(2, 48, 1, generator=torch.Generator().manual_seed(0))
    past = torch.stack([torch.arange(48.0) % 4, torch.arange(48.0) % 6])[..., None] + noise
    mixed = baseline.predict(past, season=torch.tensor([4, 6]))
    apart = [baseline.predict(past[i : i + 1], season=torch.tensor([s])) for i, s in enumerate((4, 6))]
    assert torch.allclose(mixed, torch.cat(apart))
    assert (mixed[1, :6, 0] - torch.arange(6.0)).abs().max() < 0.6


def test_drift_continues_a_line() -> None:
    line = torch.arange(30.0)[None, :, None]
    assert torch.allclose(Drift(10).predict(line[:, :20]), line[:, 20:])


def test_missing_values_take_the_one_before_and_at_the_start_the_one_after() -> None:
    past = torch.tensor([float("nan"), 1.0, float("nan"), 3.0, float("nan")])[None, :, None]
    assert fill_missing(past, None).flatten().tolist() == [1.0, 1.0, 1.0, 3.0, 3.0]


def test_a_zero_marked_as_unobserved_counts_as_missing() -> None:
    past = torch.tensor([4.0, 0.0])[None, :, None]
    observed = torch.tensor([True, False])[None, :, None]
    assert RepeatLast(1).predict(past, observed).item() == 4.0
    assert WindowMean(1).predict(past, observed).item() == 4.0


def test_training_without_a_whole_window_says_how_long_the_longest_series_is() -> None:
    with pytest.raises(ValueError, match="no series holds a window of 60 rows"):
        Ridge(12, context=48).fit([torch.randn(20, 1)])


def test_ridge_skips_windows_with_gaps() -> None:
    rows = np.sin(np.arange(300) / 5)[:, None]
    rows[100] = np.nan
    ridge = Ridge(5, context=20, penalties=(1e-3,)).fit([torch.from_numpy(rows)])
    assert errors(ridge, torch.from_numpy(rows[150:]), 20)[0] < 1e-4
