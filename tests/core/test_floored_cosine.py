"""The cosine with a floor: HLAT's rates, and a run of any length."""

from __future__ import annotations

import math

import pytest

from core.errors import UserError
from core.optim import FlooredCosine

HLAT = FlooredCosine(warmup=2000, length=500_000, floor=0.1)


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.0),
        (1000, 0.5),
        (2000, 1.0),
        (251_000, 0.5),
        (100_000, 0.5 * (1 + math.cos(math.pi * 98_000 / 498_000))),
        (400_000, 0.1),
        (499_999, 0.1),
        (600_000, 0.1),
    ],
)
def test_hlats_factors(step, factor):
    assert HLAT.factor(step, 500_000) == pytest.approx(factor, abs=1e-12)


def test_the_curve_flattens_where_the_cosine_meets_the_floor():
    meeting = 2000 + 498_000 * math.acos(-0.8) / math.pi

    assert (meeting - 2000) / 498_000 == pytest.approx(0.795, abs=1e-3)
    assert HLAT.factor(math.floor(meeting) - 10, math.inf) > 0.1
    assert HLAT.factor(math.ceil(meeting), math.inf) == 0.1


def test_a_plateau_delays_the_decay():
    stable = FlooredCosine(warmup=10, plateau=60, length=100, floor=0.0)

    assert [stable.factor(step, 100) for step in (10, 70, 85, 100)] == pytest.approx([1, 1, 0.5, 0])


def test_a_share_of_a_run_without_an_end_is_refused():
    with pytest.raises(UserError, match="needs the run's length"):
        FlooredCosine().factor(3000, math.inf)
