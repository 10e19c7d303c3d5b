"""What counts in an evaluation, in which units, and what the baselines may learn from."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from apps.timeseries.data import Series


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
