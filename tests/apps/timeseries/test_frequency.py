"""Aliases, inference, tokens, seasons and future stamps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from apps.timeseries.data import frequency
from core.errors import UserError


@pytest.mark.parametrize(
    ("written", "expected"),
    [("H", "h"), ("h", "h"), ("T", "min"), ("15T", "15min"), ("60min", "h"), ("24h", "D"), ("7D", "W"),
     ("M", "ME"), ("ME", "ME"), ("Q", "QE"), ("A", "YE"),
     ("W-SUN", "W-SUN"), ("2H", "2h"), ("S", "s"), ("monthly", "ME"),
     ("3600s", "h"), ("B", "B"), ("MS", "MS"), ("Q-DEC", "QE-DEC")],
)  # fmt: skip
def test_old_and_new_aliases_mean_the_same(written: str, expected: str) -> None:
    assert frequency.canonical(written) == expected


@pytest.mark.parametrize("alias", ["x", "", "0h", "h5", "fortnight"])
def test_an_unknown_alias_is_refused_in_one_sentence(alias: str) -> None:
    with pytest.raises(UserError, match="is not known"):
        frequency.canonical(alias)


def test_tokens_follow_the_published_table() -> None:
    names = [
        "min",
        "2min",
        "5min",
        "10min",
        "15min",
        "30min",
        "h",
        "H",
        "D",
        "W",
        "W-SUN",
        "60min",
        "ME",
        "4h",
        "",
    ]
    assert [frequency.token(name) for name in names] == [1, 2, 3, 4, 5, 6, 7, 7, 8, 9, 9, 7, 0, 0, 0]


def test_seasons_follow_the_fields_table() -> None:
    names = ["s", "min", "h", "D", "W", "ME", "MS", "B", "QE", "15min", "10min", "6h", "5h", "YE", ""]
    assert [frequency.season(name) for name in names] == [
        3600,
        1440,
        24,
        1,
        1,
        12,
        12,
        5,
        4,
        96,
        144,
        4,
        1,
        1,
        1,
    ]


@pytest.mark.parametrize(
    "alias", ["h", "15min", "10min", "D", "W-SAT", "ME", "MS", "QS-JAN", "QE-DEC", "YS-JAN", "2h", "B", "s"]
)
def test_the_rate_of_regular_stamps_is_found(alias: str) -> None:
    times = pd.date_range("2020-01-31", periods=60, freq=alias)
    found = frequency.infer(times)
    assert found == alias
    assert frequency.StampGrid.of(times, found)[1:] == (None, 60)


@pytest.mark.parametrize("alias", ["h", "D", "W-SAT", "MS", "15min"])
def test_the_rate_is_found_although_stamps_are_missing(alias: str) -> None:
    times = pd.date_range("2020-01-01", periods=40, freq=alias).delete([3, 4, 17])
    found = frequency.infer(times)
    _, positions, length = frequency.StampGrid.of(times, found)
    assert (found, length) == (alias, 40)
    assert sorted(set(range(40)) - set(positions.tolist())) == [3, 4, 17]


def test_stamps_without_a_grid_have_no_rate() -> None:
    rng = np.random.default_rng(0)
    times = pd.Timestamp("2020-01-01") + pd.to_timedelta(np.sort(rng.integers(0, 10**7, 50)), unit="s")
    assert frequency.infer(pd.DatetimeIndex(times)) is None


@pytest.mark.parametrize(
    ("last", "alias", "expected"),
    [("2020-02-28 23:00", "h", "2020-02-29 00:00"), ("2020-01-31", "ME", "2020-02-29"),
     ("2020-01-31", "M", "2020-02-29"), ("2020-01-01", "MS", "2020-02-01"),
     ("2020-01-03", "B", "2020-01-06"), ("2020-01-04", "W", "2020-01-11"),
     ("2020-01-04 12:00", "W", "2020-01-11 12:00"), ("1999-12-31", "YE", "2000-12-31"),
     ("2020-01-15", "MS", "2020-02-15")],
)  # fmt: skip
def test_future_stamps_go_on_after_the_last_one(last: str, alias: str, expected: str) -> None:
    times = frequency.StampGrid(pd.Timestamp(last), frequency.canonical(alias)).stamps(1, 5)
    assert len(times) == 5
    assert times[0] == pd.Timestamp(expected)


def test_coarser_rates_have_their_own_alias() -> None:
    made = [
        frequency.coarser("15min", 2),
        frequency.coarser("15min", 4),
        frequency.coarser("h", 24),
        frequency.coarser("", 2),
    ]
    assert made == ["30min", "h", "D", ""]


def test_a_bare_week_takes_the_weekday_of_the_stamps() -> None:
    assert frequency.anchored("W", pd.date_range("2020-01-04", periods=3, freq="7D")) == "W-SAT"
    assert frequency.anchored("ME", pd.date_range("2020-01-01", periods=3, freq="MS")) == "MS"
