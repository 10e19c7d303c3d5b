"""Errors of gridded forecasts, one number per field and region; sheet: WeatherBench 2 (arXiv 2308.15560).

Weights are `(R, H, W)` of `apps.weather.metrics.regions.region_weights`; their precision is that of the sums.
Points where a field is not finite are left out of the means; a mean over none is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = [
    "anomaly_correlation",
    "by_rows",
    "openstl_errors",
    "spatial_errors",
    "spatial_means",
    "vector_mse",
]

_CELLS = 2**17  # points worked on at once: 1 MB for each intermediate field in float64


def spatial_means(weights: Tensor, *fields: Tensor) -> list[Tensor]:
    """Return weighted means `(..., R)` of fields `(..., H, W)` over points where all are finite."""
    known = torch.stack([field.isfinite() for field in fields]).all(0)
    return _means(weights, known, *(torch.where(known, field, 0).to(weights.dtype) for field in fields))


def spatial_errors(
    forecast: Tensor, truth: Tensor, weights: Tensor, normal: Tensor | None = None
) -> dict[str, Tensor]:
    """Return `mse`, `mae`, `bias` (forecast - truth) and, with a climatology, `acc`, each `(..., R)`.

    Differences of near numbers are exact in their own precision; what follows has that of the weights.

    Args:
        forecast: `(..., H, W)`.
        truth: The same.
        weights: `(R, H, W)`.
        normal: `(..., H, W)` climatology of the valid time.
    """
    error = (forecast - truth).to(weights.dtype)
    known = error.isfinite()
    error = torch.where(known, error, 0)
    means = _means(weights, known, error.square(), error.abs(), error)
    errors = dict(zip(("mse", "mae", "bias"), means, strict=True))
    if normal is not None:
        errors["acc"] = anomaly_correlation(forecast, truth, normal, weights)
    return errors


def anomaly_correlation(forecast: Tensor, truth: Tensor, normal: Tensor, weights: Tensor) -> Tensor:
    """Return `<f't'> / sqrt(<f'f'> <t't'>)` `(..., R)` of anomalies against the climatology, not centred."""
    f, t = ((x - normal).to(weights.dtype) for x in (forecast, truth))
    known = (f + t).isfinite()
    f, t = (torch.where(known, x, 0) for x in (f, t))
    ft, ff, tt = _means(weights, known, f * t, f.square(), t.square())
    return ft / (ff * tt).sqrt()


def _means(weights: Tensor, known: Tensor, *fields: Tensor) -> list[Tensor]:
    """Return means `(..., R)` of fields in the weights' precision that are 0 where they are not known."""
    stacked = torch.stack([known.to(weights.dtype), *fields]).flatten(-2)  # F ... H*W
    total, *sums = stacked @ weights.flatten(1).T
    return [part / total for part in sums]


def vector_mse(
    u_forecast: Tensor, v_forecast: Tensor, u_truth: Tensor, v_truth: Tensor, weights: Tensor
) -> Tensor:
    """Return the mean `(..., R)` of the squared length of the wind's error."""
    u, v = ((a - b).to(weights.dtype) for a, b in ((u_forecast, u_truth), (v_forecast, v_truth)))
    return spatial_means(weights, u.square() + v.square())[0]


def openstl_errors(prediction: Tensor, truth: Tensor, *, spatial_norm: bool = True) -> dict[str, Tensor]:
    """Return `mse`, `mae` and `rmse` of one batch as OpenSTL has them, without weights.

    Args:
        prediction: `(B, T, C, H, W)`.
        truth: The same.
        spatial_norm: Whether C, H and W are averaged over; they are summed without.
    """
    error = (prediction - truth).double()
    axes = (-3, -2, -1)
    over = (lambda x: x.mean(axes).mean()) if spatial_norm else (lambda x: x.sum(axes).mean())
    mse = over(error.square())
    return {"mse": mse, "mae": over(error.abs()), "rmse": mse.sqrt()}


def by_rows(work: Callable[..., dict[str, Tensor]], *fields: Tensor | None) -> dict[str, Tensor]:
    """Return what `work` returns for fields `(B, K, F, ..., H, W)`, done some at a time: memory stays small.

    `work` takes the fields with one leading axis and returns tensors with that axis first. None is passed on.
    """
    given = [field for field in fields if field is not None]
    lead, cells = given[0].shape[:3], max(math.prod(field.shape[3:]) for field in given)
    flat = [None if field is None else field.flatten(0, 2) for field in fields]
    size = max(_CELLS // cells, 1)
    parts = [
        work(*(None if field is None else field[start : start + size] for field in flat))
        for start in range(0, lead.numel(), size)
    ]
    return {name: torch.cat([part[name] for part in parts]).unflatten(0, lead) for name in parts[0]}
