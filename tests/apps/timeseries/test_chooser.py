"""The chooser against the published selection rules, over the list of released variants."""

from __future__ import annotations

import pytest

from apps.timeseries.data.frequency import is_daily_or_slower
from apps.timeseries.predict.chooser import Variant, choose, variant_from_name
from core.errors import UserError

R2 = [Variant(f"ttm-r2-{c}-{h}", "r2", c, h) for c in (512, 1024, 1536) for h in (96, 192, 336, 720)]
LOW = [
    Variant(f"ttm-r2.1-{c}-{h}-ft-l1", "r2.1", c, h, prefix_tuned=True, absolute=True)
    for c, h in ((52, 16), (90, 30), (180, 60), (360, 60), (512, 48), (512, 96))
]
R1 = [Variant("ttm-r1-512-96", "r1", 512, 96), Variant("ttm-r1-1024-96", "r1", 1024, 96)]
ALL = R2 + LOW + R1


@pytest.mark.parametrize(
    ("context", "horizon", "frequency", "wanted"),
    [
        (5000, 96, "h", "ttm-r2-1536-96"),
        (5000, 100, "15min", "ttm-r2-1536-192"),
        (1100, 336, "h", "ttm-r2-1024-336"),
        (600, 96, "h", "ttm-r2.1-512-96-ft-l1"),
        (600, 24, "h", "ttm-r2.1-512-48-ft-l1"),
        (5000, 24, "D", "ttm-r2.1-512-48-ft-l1"),
        (200, 30, "W", "ttm-r2.1-180-60-ft-l1"),
        (60, 12, "M", "ttm-r2.1-52-16-ft-l1"),
    ],
)
def test_the_longest_available_context_and_the_shortest_sufficient_horizon_win(
    context, horizon, frequency, wanted
):
    assert choose(context=context, horizon=horizon, frequency=frequency, variants=ALL).variant.name == wanted


def test_without_preferences_the_plain_variant_wins_where_both_exist() -> None:
    plain = choose(
        context=600, horizon=96, variants=ALL, prefer_absolute=False, prefer_prefix_tuned=False, frequency="h"
    )
    assert plain.variant.name == "ttm-r2-512-96"


def test_the_shortest_context_can_be_preferred() -> None:
    assert choose(context=5000, horizon=96, variants=R2, longest_context=False).variant.context == 512


def test_a_longer_forecast_than_wanted_is_cut() -> None:
    chosen = choose(context=512, horizon=40, frequency="h", variants=R2)
    assert (chosen.keep, chosen.chunks, chosen.pad) == (40, 1, 0)


def test_a_short_context_is_refused_or_padded() -> None:
    with pytest.raises(UserError, match="30 steps of history, the shortest released context is 52"):
        choose(context=30, horizon=10, frequency="D", variants=ALL)
    padded = choose(context=30, horizon=10, frequency="D", variants=ALL, short_context="zeropad")
    assert (padded.variant.context, padded.pad) == (52, 22)


def test_a_long_horizon_is_refused_or_rolled() -> None:
    with pytest.raises(UserError, match="the horizon is 1000, the longest"):
        choose(context=512, horizon=1000, frequency="h", variants=ALL)
    rolled = choose(context=512, horizon=1000, frequency="h", variants=ALL, long_horizon="rolling")
    assert (rolled.variant.horizon, rolled.chunks, rolled.keep) == (720, 2, None)


def test_an_older_family_can_be_asked_for() -> None:
    assert (
        choose(context=2000, horizon=96, frequency="h", variants=ALL, family="r1").variant.name
        == "ttm-r1-1024-96"
    )


def test_an_unknown_option_names_the_allowed_ones() -> None:
    with pytest.raises(UserError, match="'pad'; it must be error or zeropad"):
        choose(context=10, horizon=1, variants=ALL, short_context="pad")


@pytest.mark.parametrize("variant", ALL, ids=lambda v: v.name)
def test_names_of_cards_tell_the_variant(variant: Variant) -> None:
    assert variant_from_name(variant.name) == variant


@pytest.mark.parametrize(
    ("frequency", "slow"),
    [("h", False), ("15T", False), ("24h", True), ("D", True), ("W-SUN", True), ("M", True), ("", False)],
)
def test_daily_or_slower_is_told_from_the_alias(frequency: str, slow: bool) -> None:
    assert is_daily_or_slower(frequency) is slow
