"""Conformal offsets: coverage, order, symmetry, missing values and their way through a checkpoint."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.timeseries.batch import SeriesFacts
from core.metrics.conformal import GRID, Conformal, Residuals, conformal_quantiles


@pytest.mark.parametrize("count", [19, 50, 200])
@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_a_new_exchangeable_residual_is_covered_at_least_as_often_as_promised(
    count: int, level: float
) -> None:
    generator = torch.Generator().manual_seed(count)
    draws = torch.randn(count + 1, 20_000, generator=generator) ** 3  # heavy tails
    offsets = conformal_quantiles(draws[:-1], [1 - level, level])
    below_upper = (draws[-1] <= offsets[1]).double().mean().item()
    below_lower = (draws[-1] <= offsets[0]).double().mean().item()
    noise = 3 * math.sqrt(level * (1 - level) / 20_000)
    assert level - noise <= below_upper <= level + 1 / (count + 1) + noise
    assert below_lower <= 1 - level + noise


def test_symmetric_intervals_cover_as_promised() -> None:
    draws = torch.randn(40, 20_000, generator=torch.Generator().manual_seed(0))
    low, high = conformal_quantiles(draws[:-1], [0.1, 0.9], symmetric=True)
    inside = ((draws[-1] >= low) & (draws[-1] <= high)).double().mean().item()
    assert 0.8 - 0.01 <= inside <= 0.8 + 1 / 40 + 0.01


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60),
    st.lists(st.sampled_from(GRID), min_size=2, max_size=9, unique=True),
    st.booleans(),
)
def test_offsets_never_cross(values: list[float], levels: list[float], symmetric: bool) -> None:
    offsets = conformal_quantiles(torch.tensor(values)[:, None], sorted(levels), symmetric=symmetric)
    assert bool((offsets.diff(dim=0) >= 0).all())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60), st.sampled_from([0.1, 0.25, 0.4]))
def test_symmetric_offsets_mirror_each_other(values: list[float], level: float) -> None:
    low, middle, high = conformal_quantiles(
        torch.tensor(values)[:, None], [level, 0.5, 1 - level], symmetric=True
    )
    assert torch.equal(low, -high)
    assert middle.item() == 0


def test_the_correction_takes_the_tenth_of_ten_for_nine_tenths() -> None:
    residuals = torch.arange(1.0, 11.0)[:, None]
    assert conformal_quantiles(residuals, [0.1, 0.5, 0.9]).flatten().tolist() == [1.0, 5.5, 10.0]


def test_missing_residuals_are_left_out_step_by_step() -> None:
    residuals = torch.arange(1.0, 20.0)[:, None].repeat(1, 3)
    residuals[10:, 1] = math.nan
    residuals[:, 2] = math.nan
    assert conformal_quantiles(residuals, [0.5])[0].tolist() == [10.0, 5.5, 0.0]


def test_offsets_survive_a_checkpoint(tmp_path) -> None:
    conformal = Conformal.from_residuals(torch.randn(50, 4, 2), channels=("a", "b"))
    torch.save(SeriesFacts(context=1, horizon=4, conformal=conformal).plain(), tmp_path / "facts.pt")
    back = SeriesFacts.from_plain(torch.load(tmp_path / "facts.pt", weights_only=True)).conformal
    assert torch.equal(back.offsets, conformal.offsets)
    assert (back.channels, back.windows, back.source) == (("a", "b"), 50, "validation")


def test_a_longer_horizon_widens_with_the_root_of_the_step_and_says_so() -> None:
    conformal = Conformal.from_residuals(torch.randn(99, 4, 1))
    offsets = conformal.at([0.1, 0.9], horizon=16, channels=["anything"])
    assert torch.allclose(offsets[:, 15], 2 * offsets[:, 3])
    assert conformal.described(4) == "validation"
    assert conformal.described(16) == "validation, extrapolated beyond step 4"


def test_an_unknown_channel_takes_the_mean_of_the_known_ones() -> None:
    conformal = Conformal.from_residuals(torch.randn(99, 4, 2), channels=("a", "b"))
    known = conformal.at([0.9], horizon=4, channels=["a", "b"])
    assert torch.allclose(conformal.at([0.9], horizon=4, channels=["c"])[..., 0], known.mean(2))


def test_a_level_outside_zero_and_one_is_refused() -> None:
    conformal = Conformal.from_residuals(torch.randn(9, 1, 1))
    with pytest.raises(ValueError, match="between 0 and 1"):
        conformal.at([1.0], horizon=1, channels=["a"])


def test_collected_residuals_stay_within_their_limit_and_do_not_depend_on_the_batch_size() -> None:
    prediction, target = torch.randn(100, 5, 2), torch.randn(100, 5, 2)
    whole, parts = Residuals(limit=300), Residuals(limit=300)
    whole.update(prediction, target)
    for start in range(0, 100, 7):
        parts.update(prediction[start : start + 7], target[start : start + 7])
    assert whole.tensor().numel() <= 300
    assert torch.equal(whole.tensor(), parts.tensor())


def test_unobserved_targets_do_not_enter() -> None:
    residuals = Residuals()
    observed = torch.ones(12, 3, 1, dtype=torch.bool)
    observed[0] = False
    residuals.update(
        torch.zeros(12, 3, 1), torch.cat([torch.full((1, 3, 1), 1e6), torch.ones(11, 3, 1)]), observed
    )
    assert residuals.conformal(channels=("a",)).offsets.max().item() == 1.0
