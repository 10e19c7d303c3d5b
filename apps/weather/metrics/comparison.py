"""Differences of two forecasts: a paired bootstrap over blocks of starts (Künsch 1989)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from apps.weather.metrics.scores import WeatherScores

__all__ = ["differences"]

_METRICS = {"rmse": "mse", "mae": "mae", "acc": "acc", "crps": "crps"}
_COLUMNS = 4096  # fields, leads and regions at once


def differences(
    scores: WeatherScores, model: str, other: str, *, resamples: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """Return one row per field, lead, region and metric: `model` less `other`, of the same starts.

    Blocks of neighbouring starts are drawn with replacement, the same for both. `low` and `high` are the
    2.5 % and 97.5 % quantiles of the difference and `significant` says that they have one sign; with fewer
    than two blocks there are none of the three.

    Args:
        scores: Gathered, of both models, with `blocks`.
        model: The one looked at.
        other: What it is held against.
        resamples: Draws.
        seed: Of the draws.
    """
    rows = []
    for metric, name in _METRICS.items():
        pair = [scores.sums.get((m, name)) for m in (model, other)]
        if pair[0] is None or pair[1] is None:
            continue
        estimate, low, high = _bootstrap([x.cpu() for x in pair], metric == "rmse", resamples, seed)
        for head, place in scores.heads(estimate.shape):
            value, least, most = (float(x[place]) for x in (estimate, low, high))
            if value == value:
                row = {**head, "metric": metric, "model": model, "other": other, "difference": value}
                interval = {"low": least, "high": most, "significant": least * most > 0}
                rows.append(row | (interval if least == least else {}))
    return rows


def _bootstrap(pair: list[Tensor], root: bool, resamples: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the difference and the ends of its interval, `(K, F, R)`, from sums `(2, blocks, K, F, R)`."""
    used = (pair[0][1].sum((1, 2, 3)) > 0).nonzero()[:, 0]
    shape = pair[0].shape[2:]
    flat = [x[:, used].flatten(2).double() for x in pair]  # 2 blocks K*F*R

    def difference(draws: Tensor) -> Tensor:
        means = [(draws @ x[0]) / (draws @ x[1]) for x in parts]
        means = [x.sqrt() for x in means] if root else means
        return means[0] - means[1]

    generator = torch.Generator().manual_seed(seed)
    size = max(len(used), 1)
    drawn = torch.randint(size, (resamples, size), generator=generator)
    draws = torch.zeros(resamples, size, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(drawn.shape).double()
    )
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    columns = []
    for start in range(0, flat[0].shape[-1], _COLUMNS):
        parts = [x[..., start : start + _COLUMNS] for x in flat]
        interval = torch.nanquantile(difference(draws), ends, dim=0)
        if len(used) < 2:
            interval = torch.full_like(interval, torch.nan)
        columns.append(torch.cat([difference(torch.ones(1, len(used), dtype=torch.float64)), interval]))
    return tuple(torch.cat(columns, dim=1).unflatten(1, shape))  # type: ignore[return-value]
