"""The real series that need no download."""

from __future__ import annotations

import numpy as np
import pytest
from series_tables import read_series

from apps.timeseries.data.module import Series
from apps.timeseries.data.readers import embedded
from apps.timeseries.data.settings import SeriesSettings
from core.errors import UserError


@pytest.mark.parametrize(
    ("name", "rows", "channels", "missing", "frequency"),
    [("co2", 2284, 1, 59, "W-SAT"), ("sunspots", 309, 1, 0, "YS-JAN"), ("nile", 100, 1, 0, "YS-JAN"),
     ("elnino", 732, 1, 0, "MS"), ("elec_equip", 257, 1, 0, "MS"), ("macrodata", 203, 12, 0, "QS-JAN"),
     ("danish_data", 55, 5, 0, "QS-JAN")],
)  # fmt: skip
def test_embedded_series_are_whole(name: str, rows: int, channels: int, missing: int, frequency: str) -> None:
    (series,) = read_series(embedded.frame(name), name=name)
    assert series.values.shape == (rows, channels)
    assert int(np.isnan(series.values).sum()) == missing
    assert series.frequency == frequency


def test_only_free_series_are_offered() -> None:
    assert not {"copper", "interest_inflation", "fertility"} & set(embedded.NAMES)
    assert set(embedded.resolve("train")) | set(embedded.resolve("unseen")) == set(embedded.NAMES)


def test_an_unknown_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UserError, match="did you mean 'sunspots'"):
        embedded.resolve("sunspot")


def test_they_train_together_channel_by_channel() -> None:
    data = Series(
        card="embedded:train", context=64, horizon=12, windows=SeriesSettings(univariate=True, pad_short=True)
    )
    assert len(data.tracks) == 1 + 1 + 1 + 12 + 5
    assert data.train_set()[0, 0].past_values.shape == (1, 64, 1)
    assert data.facts.licences == ("public domain",)
