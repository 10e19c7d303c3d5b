"""Scores of filled gaps: by band and of the whole, in any precision."""

from __future__ import annotations

import pytest
import torch

from apps.remote_sensing.tasks.gap_scores import GapSums, gap_scores


def test_gaps_by_band_average_to_the_published_scores() -> None:
    generator = torch.Generator().manual_seed(5)
    truth = torch.rand(2, 3, 2, 24, 24, generator=generator)
    made = truth + 0.1 * torch.randn(truth.shape, generator=generator)
    gaps = torch.rand(2, 2, 24, 24, generator=generator) > 0.7
    sums = GapSums(["a", "b", "c"], similarity=True)
    sums.update(made, truth, gaps)
    found = sums.compute()
    wanted = gap_scores(made, truth, gaps[:, None], mean=[0.0] * 3, std=[1.0] * 3, scale=1.0)
    for name in ("ssim", "mse", "mae"):
        assert float(found[name].mean()) == pytest.approx(float(getattr(wanted, name)), abs=1e-5)


def test_scores_of_gaps_keep_their_digits_in_a_run_of_lower_precision() -> None:
    generator = torch.Generator().manual_seed(6)
    truth = 0.3 + 0.02 * torch.rand(2, 3, 2, 24, 24, generator=generator)
    made = truth + 0.01 * torch.randn(truth.shape, generator=generator)
    gaps = torch.zeros(2, 2, 24, 24, dtype=torch.bool)
    gaps[:, 1, 3:20, 3:20] = True

    def found() -> list[torch.Tensor]:
        sums = GapSums(["a", "b", "c"], similarity=True)
        sums.update(made, truth, gaps)
        one = gap_scores(made, truth, gaps[:, None], mean=[0.0] * 3, std=[1.0] * 3, scale=1.0)
        return [*sums.compute().values(), one.ssim, one.mse, one.mae]

    whole = found()
    with torch.autocast("cpu", torch.bfloat16):
        within = found()
    assert all(torch.equal(one, other) for one, other in zip(whole, within, strict=True))
