"""Forecast metrics: the field's definitions, missing labels excluded, streaming equal to all at once."""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.timeseries.metrics import errors as metrics
from core.errors import UserError

F = torch.tensor([[1.0, 2.0, 4.0]])
Y = torch.tensor([[2.0, math.nan, 1.0]])


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("mse", (1 + 9) / 2),
        ("mae", (1 + 3) / 2),
        ("rmse", math.sqrt(5)),
        ("mape", (1 / 2 + 3 / 1) / 2),
        ("smape", (2 / 3 + 6 / 5) / 2),
        ("nd", 4 / 3),
        ("nrmse", math.sqrt(5) / 1.5),
    ],
)
def test_missing_labels_are_left_out(metric: str, expected: float) -> None:
    assert metrics.forecast_errors(F, Y)[metric] == pytest.approx(expected, rel=1e-12)


def test_a_lone_median_gives_the_normalised_deviation() -> None:
    found = metrics.forecast_errors(F, Y, quantiles=F[..., None], levels=[0.5])
    assert found["wql"] == pytest.approx(found["nd"])


def test_terms_without_meaning_are_left_out() -> None:
    prediction, target = torch.tensor([0.0, 3.0]), torch.tensor([0.0, 2.0])

    found = metrics.forecast_errors(prediction, target)
    assert found["mape"] == pytest.approx(0.5)
    assert found["smape"] == pytest.approx(0.4)


def test_the_seasonal_error_skips_gaps() -> None:
    past = torch.tensor([[1.0, 2.0, 4.0, math.nan, 7.0]])

    assert metrics.seasonal_error(past, season=2).tolist() == [3.0]


def test_a_season_longer_than_the_past_falls_back_to_one_step() -> None:
    past = torch.tensor([[1.0, 2.0, 4.0]])

    assert metrics.seasonal_error(past, season=24).tolist() == [1.5]


def test_an_impossible_season_is_refused() -> None:
    with pytest.raises(UserError, match="season is 0"):
        metrics.seasonal_error(torch.zeros(1, 5), season=0)


def test_the_interval_score_charges_misses() -> None:
    lower, upper, target = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 1.0]]), torch.tensor([[0.5, 2.0]])

    score = metrics.msis(lower, upper, target, torch.tensor([[2.0]]), alpha=0.5)

    assert float(score) == pytest.approx(((1.0 + 5.0) / 2) / 2)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), cuts=st.lists(st.integers(1, 29), max_size=4, unique=True))
def test_streamed_batches_give_the_metric_of_all_windows(seed: int, cuts: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randn(30, 4, 3, generator=generator)
    target = torch.randn(30, 4, 3, generator=generator)
    observed = torch.rand(30, 4, 3, generator=generator) > 0.2
    quantiles = torch.randn(30, 4, 3, 2, generator=generator)
    scale = torch.rand(3, generator=generator) + 0.5
    errors = metrics.ForecastErrors(4, 3, levels=(0.1, 0.9))
    edges = [0, *sorted(cuts), 30]

    for start, end in itertools.pairwise(edges):
        part = slice(start, end)
        errors.update(
            prediction[part],
            target[part],
            observed=observed[part],
            scale=scale,
            quantiles=quantiles[part],
        )

    labels = target.masked_fill(~observed, math.nan)
    found = errors.compute()
    levels = (0.1, 0.9)
    whole = metrics.forecast_errors(prediction, labels, scale=scale, quantiles=quantiles, levels=levels)
    assert errors.windows == 30
    assert found["mse"] == pytest.approx(
        float((prediction.double() - labels.double()).square().nanmean()), rel=1e-10
    )
    assert found["smape"] == pytest.approx(whole["smape"], rel=1e-10)
    assert found["nrmse"] == pytest.approx(whole["nrmse"], rel=1e-10)
    assert found["mase"] == pytest.approx(whole["mase"], rel=1e-10)
    assert found["wql"] == pytest.approx(whole["wql"], rel=1e-10)
    third = metrics.forecast_errors(prediction[:, 2], labels[:, 2])["mse"]
    second = metrics.forecast_errors(prediction[..., 1], labels[..., 1])["mae"]
    assert float(errors.by_step()["mse"][2]) == pytest.approx(third)
    assert float(errors.by_channel()["mae"][1]) == pytest.approx(second)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"must be \(batch, 4, 3\)"):
        metrics.ForecastErrors(4, 3).update(torch.zeros(2, 4, 1), torch.zeros(2, 4, 1))


def _rank(rank: int, folder: str) -> None:
    os.environ.update(OMP_NUM_THREADS="1")
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 10, 2, 1, generator=generator)
    errors = metrics.ForecastErrors(2, 1)
    errors.update(prediction[rank::2], target[rank::2])
    errors.reduce()
    torch.save({**errors.compute(), "windows": errors.windows}, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_ranks_give_the_metric_of_one(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(str(tmp_path),), nprocs=2)

    prediction, target = torch.randn(2, 10, 2, 1, generator=torch.Generator().manual_seed(0))
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert results[0] == results[1]
    assert results[0]["windows"] == 10
    assert results[0]["mse"] == pytest.approx(metrics.forecast_errors(prediction, target)["mse"], rel=1e-12)
