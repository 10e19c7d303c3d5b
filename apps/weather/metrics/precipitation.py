"""The stable equitable error in probability space of precipitation (SEEPS; Rodwell et al. 2010)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["DRY", "seeps"]

DRY = {24.0: 0.25e-3, 6.0: 0.1e-3}
"""Hours of accumulation to the amount in metres below which it is dry (WeatherBench 2)."""

_CLIMATES = (0.1, 0.85)  # shares of dry days between which the score tells anything


def seeps(forecast: Tensor, truth: Tensor, dry_share: Tensor, heavy: Tensor, *, dry: float) -> Tensor:
    """Return the score at each point, 0 for a perfect forecast; NaN where it is too wet or too dry for it.

    Args:
        forecast: Amounts `(...)`.
        truth: The same.
        dry_share: Climatological probability of less than `dry`.
        heavy: Amount that parts light from heavy.
        dry: Amount below which it is dry, in the unit of the others.
    """
    p = dry_share
    zero = torch.zeros_like(p)
    rows = (
        (zero, 1 / (1 - p), 4 / (1 - p)),
        (1 / p, zero, 3 / (1 - p)),
        (1 / p + 3 / (2 + p), 3 / (2 + p), zero),
    )
    matrix = torch.stack([torch.stack(row, -1) for row in rows], -2) / 2  # ... forecast truth
    predicted, observed = ((x >= dry).long() + (x >= heavy).long() * (x >= dry) for x in (forecast, truth))
    shape = torch.broadcast_shapes(predicted.shape, p.shape)
    flat = matrix.expand(*shape, 3, 3).flatten(-2)
    score = flat.gather(-1, (3 * predicted + observed).expand(shape).unsqueeze(-1)).squeeze(-1)
    tells = (p >= _CLIMATES[0]) & (p <= _CLIMATES[1]) & forecast.isfinite() & truth.isfinite()
    return torch.where(tells, score, torch.nan)
