"""Synthetic series are a pure function of (seed, index), finite and diverse."""

from __future__ import annotations

import numpy as np
import pytest

from apps.timeseries.data.module import Series
from apps.timeseries.simulation import RATES, frames, generate
from core.errors import UserError


def test_a_series_depends_on_seed_and_index_alone() -> None:
    alone, again, other = generate(3, 7, 256), generate(3, 7, 256), generate(4, 7, 256)
    in_turn = dict(frames(8, seed=3, length=256))["synthetic/7"]["value"].to_numpy()
    assert np.array_equal(alone.values, again.values)
    assert np.array_equal(alone.values, in_turn)
    assert not np.array_equal(alone.values, other.values)


def test_series_are_finite_and_vary() -> None:
    made = [generate(0, index, 512) for index in range(200)]
    assert all(np.isfinite(one.values).all() for one in made)
    assert sum(one.values.std() > 0 for one in made) == 200
    assert {one.frequency for one in made} == set(RATES)
    assert sum((one.values == 0).mean() > 0.5 for one in made) in range(5, 40)


def test_a_drawn_season_is_really_in_the_series() -> None:
    made = [generate(1, index, 1024) for index in range(150)]
    seasonal = [one for one in made if one.periods]
    plain = [one for one in made if not one.periods]

    def echo(one: object, lag: int) -> float:
        steps = np.diff(one.values)
        return float(np.corrcoef(steps[:-lag], steps[lag:])[0, 1])

    assert len(seasonal) > 100
    assert np.mean([echo(one, one.periods[0]) for one in seasonal]) > 0.25
    assert abs(np.mean([echo(one, 24) for one in plain])) < 0.15


def test_a_series_too_short_is_refused() -> None:
    with pytest.raises(UserError, match="too short"):
        generate(0, 0, 4)


def test_they_are_a_source_of_training_windows() -> None:
    data = Series(card="synthetic:12x300", context=64, horizon=16)
    assert len(data.tracks) == 12
    assert data.train_set()[0, 0].past_values.shape == (1, 64, 1)
    assert len(data.train_set()) == 12 * (210 - 79)


def test_no_single_point_rules_a_mean_over_a_series() -> None:
    for index in range(300):
        values = generate(42, index).values
        train = values[:716]
        assert np.abs(values[716:] - train.mean()).max() < 30 * train.std()
