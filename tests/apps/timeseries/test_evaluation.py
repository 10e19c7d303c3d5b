"""What counts in an evaluation, in which units, and what the baselines may learn from."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Trainer

from apps.timeseries.data.module import Series
from apps.timeseries.data.settings import SeriesSettings, SplitSettings
from apps.timeseries.metrics.evaluation import ForecastEvaluation, Units
from apps.timeseries.metrics.opponents import Opponent, opponents
from apps.timeseries.models.mixer.settings import DecoderSettings
from apps.timeseries.models.ttm import TTM
from apps.timeseries.tasks import Forecasting
from core.tracking.flops import count_flops


def table(rows: int = 300, **columns: np.ndarray) -> pd.DataFrame:
    """Return an hourly frame, by default of one noisy channel."""
    noise = np.random.default_rng(0).normal(size=rows)
    stamps = pd.date_range("2024-01-01", periods=rows, freq="h")
    return pd.DataFrame({"date": stamps, **(columns or {"y": 20 + np.arange(rows) / 50 + noise})})


def test_labels_behind_an_empty_context_do_not_count() -> None:
    values = np.random.default_rng(0).normal(size=300)
    values[240:290] = np.nan  # longer than a context: the last windows start from nothing
    other = np.random.default_rng(1).normal(size=300)
    data = Series.from_frame(table(y=values, z=other), context=24, horizon=6)
    windows = data.test_set()
    batch = windows.__getitems__(range(len(windows)))
    empty = ~batch.past_observed[..., 0].any(1)
    assert bool((empty & batch.future_observed[..., 0].any(1)).any()), "no window puts it to the test"
    assert not bool(batch.countable[empty][..., 0].any())
    assert torch.equal(batch.countable[..., 1], batch.future_observed[..., 1])
    assert torch.equal(batch.countable[~empty], batch.future_observed[~empty])


def rivals(data: Series, *, learned: bool) -> dict[str, Opponent]:
    """Return the baselines of a test of one channel, by name."""
    sizes = {"context": data.context, "horizon": data.horizon, "targets": 1}
    return {one.name: one for one in opponents(data.built, data.trained_rows, **sizes, learned=learned)}


def evaluated(data: Series, *, window: int = 0) -> tuple[ForecastEvaluation, np.ndarray]:
    """Return the evaluation of an all-zero forecast of one window, and that window's truth."""
    batch = data.test_set().__getitems__([window])
    found = ForecastEvaluation(Units(data.built, 1), horizon=data.horizon, channels=["y"], windows=1)
    labels = (batch.future_values[..., :1], batch.future_observed[..., :1], batch.series)
    found.update("zero", torch.zeros_like(labels[0]), *labels)
    first = int(batch.start[0]) + data.context
    return found, np.arange(first, first + data.horizon)


@pytest.mark.parametrize("scaler", ["standard", "minmax", "power", "none"])
def test_every_scaler_is_scored_in_the_datas_own_units(scaler: str) -> None:
    values = np.exp(np.random.default_rng(3).normal(size=300)) + 1
    data = Series.from_frame(table(y=values), context=24, horizon=6, windows=SeriesSettings(scaler=scaler))
    found, rows = evaluated(data)
    point = data.facts.series["series"]["y"].invert(np.zeros(6))[0]
    error, train = np.abs(values[rows] - point), values[:210]
    (row,) = found.scores.results()
    assert row["ND"] == pytest.approx(error.sum() / values[rows].sum(), rel=1e-4)
    assert row["MASE"] == pytest.approx(error.mean() / np.abs(train[24:] - train[:-24]).mean(), rel=1e-4)


def test_the_seasonal_error_of_a_short_training_part_is_that_of_the_next_row() -> None:
    data = Series.from_frame(table(60), context=12, horizon=6, split=SplitSettings([20, 40]))
    values = table(60)["y"].to_numpy()
    found, rows = evaluated(data)
    point = values[:20].mean()
    expected = np.abs(values[rows] - point).mean() / np.abs(np.diff(values[:20])).mean()
    assert found.scores.results()[0]["MASE"] == pytest.approx(expected, rel=1e-4)


def test_baselines_learn_from_the_rows_of_a_few_shot_run_alone() -> None:
    values = np.random.default_rng(4).normal(size=2000)
    spoilt = values.copy()
    spoilt[400:1300] *= 100  # training rows that the few-shot run leaves out
    forecasts = []
    for series in (values, spoilt):
        frame = table(2000, y=series)
        split, windows = SplitSettings(few_shot=0.2), SeriesSettings(scaler="none")
        data = Series.from_frame(frame, context=24, horizon=6, split=split, windows=windows)
        batch = data.test_set().__getitems__(range(4))
        ridge = rivals(data, learned=True)["ridge"]
        forecasts.append(ridge.predict(batch.past_values, batch.past_observed, batch.series))
    assert torch.equal(*forecasts)


def test_each_series_is_held_against_its_own_season() -> None:
    daily = pd.date_range("2024-01-01", periods=200, freq="D")
    hourly = pd.date_range("2024-01-01", periods=200, freq="h")
    stamps = {"d": daily, "h": hourly}
    parts = [pd.DataFrame({"id": name, "date": date, "y": np.arange(200.0)}) for name, date in stamps.items()]
    frame = pd.concat(parts)
    data = Series.from_frame(frame, context=48, horizon=2, ids="id", windows=SeriesSettings(scaler="none"))
    naive = rivals(data, learned=False)["seasonal naive"]
    batch = data.test_set().__getitems__([0, len(data.test_set()) - 1])
    made = naive.predict(batch.past_values, batch.past_observed, batch.series)
    lag = (batch.future_values - made)[:, 0, 0].tolist()
    assert [data.tracks[int(n)].frequency for n in batch.series] == ["D", "h"]
    assert lag == [1.0, 24.0]


def test_ets_serves_windows_of_several_series_in_any_order() -> None:
    frame = pd.concat([table(200).assign(id=name) for name in "ab"])
    data = Series.from_frame(frame, context=48, horizon=4, ids="id")
    ets = rivals(data, learned=False)["ETS"]
    batch = data.test_set().__getitems__([0, 1, len(data.test_set()) - 1])
    inputs = (batch.past_values, batch.past_observed, batch.series)
    forward = ets.predict(*inputs)
    assert torch.equal(ets.predict(*(one.flip(0) for one in inputs)).flip(0), forward)


def test_a_step_costs_three_times_the_products_of_every_channel() -> None:
    data = Series.from_frame(table(y=np.arange(300.0) % 7, z=np.arange(300.0) % 5), context=24, horizon=6)
    network = TTM(context=24, horizon=6, patch=8, width=16, decoder=DecoderSettings(width=8), levels=1)
    task = Forecasting(network)
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.datamodule = data
    task.trainer = trainer

    forward = count_flops(network, {"past_values": torch.empty(1, 24, 2)}, backward=False)

    # The first layer has no gradient of its input to compute, so a little less than three times.
    assert 2.7 * forward < task.flops_per_sample() <= 3 * forward


def test_labels_that_are_zero_in_float32_divide_nothing() -> None:
    values = np.where(np.arange(300) < 200, np.arange(300) % 17 == 0, 0).astype(float) * 3
    data = Series.from_frame(table(y=values), context=24, horizon=6)
    found, _ = evaluated(data)
    (row,) = found.scores.results()
    assert not row.get("ND", np.nan) < np.inf
    scaler = data.facts.series["series"]["y"]
    assert (scaler.invert(scaler.apply(np.zeros(3)).astype(np.float32)) == 0).all()


def test_an_outlier_in_the_training_rows_is_named() -> None:
    values = np.sin(np.arange(300.0))
    values[100] = 999999
    data = Series.from_frame(table(y=values), context=24, horizon=6)
    assert "holds 999999 in 'y', which rules its scale" in str(data.built.report.notes)


def test_one_wild_label_does_not_rule_what_chooses_the_best_epoch() -> None:
    scores = {}
    for wild in (0.0, 1e6):
        values = np.sin(np.arange(300.0))
        values[230] += wild
        data = Series.from_frame(table(y=values), context=24, horizon=6)
        torch.manual_seed(0)
        task = Forecasting(
            TTM(context=24, horizon=6, patch=8, width=16, decoder=DecoderSettings(width=8), levels=1)
        )
        trainer = Trainer(
            logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False
        )
        trainer.validate(task, data, verbose=False)
        scores[wild] = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert task.monitor == "val_bounded_mae"
    assert scores[1e6]["val_mae"] > 1e4 * scores[0.0]["val_mae"]
    assert scores[1e6]["val_bounded_mae"] < scores[0.0]["val_bounded_mae"] + 5
