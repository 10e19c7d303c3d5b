"""The external scaler of a series' channels; its parameters are plain numbers that a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from core.errors import UserError, did_you_mean

__all__ = ["SCALERS", "apply", "fit", "invert_channels", "of_channel"]

SCALERS = ("standard", "minmax", "power", "none")


def fit(values: np.ndarray, kind: str = "standard") -> dict[str, float]:
    """Return the scaler of one channel from its training rows, NaN left out.

    Args:
        values: `(T,)` float64.
        kind: `"standard"` (mean, population standard deviation), `"minmax"` (to 0..1), `"power"` (Yeo and
            Johnson 2000, then standard) or `"none"`.

    Returns:
        `mean` and `scale`, so that scaled = (x - mean) / scale, and for `"power"` also `power`, the exponent
        that is applied before. A constant channel has scale 1, an empty one mean 0 and scale 1.
    """
    if kind not in SCALERS:
        raise UserError(
            f"scaler is '{kind}', but must be one of {', '.join(SCALERS)}{did_you_mean(kind, SCALERS)}"
        )
    observed = values[~np.isnan(values)] if np.isnan(values).any() else values
    if kind == "none" or not len(observed):
        return {"mean": 0.0, "scale": 1.0}
    low, high = float(observed.min()), float(observed.max())
    if low == high:
        return {"mean": low, "scale": 1.0}
    if kind == "minmax":
        return {"mean": low, "scale": high - low}
    if kind == "power":
        exponent = _fit_exponent(observed)
        powered = _power(observed, exponent)
        return {"mean": float(powered.mean()), "scale": float(powered.std()) or 1.0, "power": exponent}
    mean = float(observed.mean())
    total = 0.0
    for first in range(0, len(observed), 1 << 18):  # in pieces: no temporary as long as the series
        piece = observed[first : first + (1 << 18)] - mean
        total += float(piece @ piece)
    return {"mean": mean, "scale": float(np.sqrt(total / len(observed))) or 1.0}


def apply(values: np.ndarray, scaler: Mapping[str, float]) -> np.ndarray:
    """Return scaled values (float64)."""
    if "power" in scaler:
        values = _power(values, scaler["power"])
    return (values - scaler["mean"]) / scaler["scale"]


def of_channel(facts: Mapping[str, Any], channel: int) -> dict[str, float]:
    """Return the scaler of one channel from a series' entry in `Series.facts["series"]`."""
    found = {"mean": facts["mean"][channel], "scale": facts["scale"][channel]}
    powers = facts.get("power")
    return found if not powers or powers[channel] is None else {**found, "power": powers[channel]}


def invert_channels(values: np.ndarray, facts: Mapping[str, Any]) -> np.ndarray:
    """Return `(..., C)` values in the data's own units.

    `facts` is one series' entry in `Series.facts["series"]`. Only the first channels may be given (targets
    stand first): `values.shape[-1] <= C`.
    """
    count = values.shape[-1]
    raw = values * np.asarray(facts["scale"][:count]) + np.asarray(facts["mean"][:count])
    for channel, exponent in enumerate((facts.get("power") or [])[:count]):
        if exponent is not None:
            raw[..., channel] = _unpower(raw[..., channel], exponent)
    return raw


def _fit_exponent(observed: np.ndarray) -> float:
    from sklearn.preprocessing import PowerTransformer

    fitted = PowerTransformer(method="yeo-johnson", standardize=False).fit(observed[:, None])
    # A few values far from zero give exponents such as -15, which map them all to one number: no way back.
    return min(max(float(fitted.lambdas_[0]), -2.0), 4.0)


def _power(values: np.ndarray, exponent: float) -> np.ndarray:
    positive = np.clip(values, 0, None)
    negative = np.clip(values, None, 0)
    up = np.log1p(positive) if abs(exponent) < 1e-12 else np.expm1(exponent * np.log1p(positive)) / exponent
    rest = 2 - exponent
    down = -np.log1p(-negative) if abs(rest) < 1e-12 else -np.expm1(rest * np.log1p(-negative)) / rest
    return up + down  # one of the two is always 0


def _unpower(values: np.ndarray, exponent: float) -> np.ndarray:
    positive = np.clip(values, 0, None)
    negative = np.clip(values, None, 0)
    rest = 2 - exponent
    with np.errstate(invalid="ignore", divide="ignore"):
        # a forecast may lie outside the transform's range, where there is no inverse: infinity is its limit
        up = (
            np.expm1(positive)
            if abs(exponent) < 1e-12
            else np.expm1(np.log(np.clip(exponent * positive + 1, 0, None)) / exponent)
        )
        down = (
            -np.expm1(-negative)
            if abs(rest) < 1e-12
            else -np.expm1(np.log(np.clip(1 - rest * negative, 0, None)) / rest)
        )
    return up + down
