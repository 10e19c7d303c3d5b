"""The external scaler of a series' channels; its parameters are plain numbers that a checkpoint can hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apps.timeseries.data.pieces import pieces
from core.data.checks import one_of

__all__ = ["SCALERS", "ChannelScaler", "fit_recent", "fit_scaler", "ruling_row", "without_outliers"]

SCALERS = ("standard", "minmax", "power", "none")


@dataclass(frozen=True)
class ChannelScaler:
    """Scaling of one channel: scaled = (x - mean) / scale.

    Attributes:
        mean: What is subtracted.
        scale: What is divided by.
        power: Exponent of the transform of Yeo and Johnson (2000) that comes before, or None.
    """

    mean: float = 0.0
    scale: float = 1.0
    power: float | None = None

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Return scaled values (float64)."""
        if self.power is not None:
            values = _power(values, self.power)
        if self.scale > 1e300:  # the difference would leave float64's range
            return values / self.scale - self.mean / self.scale
        return (values - self.mean) / self.scale

    def invert(self, values: np.ndarray) -> np.ndarray:
        """Return values in the data's own units; what is 0 within float32 is 0, as metrics divide by it."""
        raw = values * self.scale + self.mean
        if self.power is not None:
            return _unpower(raw, self.power)
        return np.where(np.abs(raw) < self.resolution, 0.0, raw)

    @property
    def resolution(self) -> float:
        """Size below which values that were scaled in float32 say nothing."""
        return 2e-7 * (abs(self.mean) + self.scale)

    def fits(self, values: np.ndarray) -> bool:
        """Say whether values may be what this was fitted on: scaled, they lie about 0 with a spread about 1.

        Any other unit differs by more than these generous bounds; so do most other series.
        """
        observed = values[np.isfinite(values)]
        if not len(observed):
            return True
        low, middle, high = np.percentile(self.apply(observed), (25, 50, 75))
        return bool(abs(middle) < 10 and (low == high or 0.05 < high - low < 10))


def fit_scaler(values: np.ndarray, kind: str = "standard") -> ChannelScaler:
    """Return the scaler of one channel from its training rows, NaN left out.

    A constant channel has scale 1, an empty one mean 0 and scale 1.

    Args:
        values: `(T,)` float64.
        kind: `"standard"` (mean, population standard deviation), `"minmax"` (to 0..1), `"power"` (Yeo and
            Johnson 2000, then standard) or `"none"`.
    """
    one_of(SCALERS, room="data.windows", scaler=kind)
    observed = values[~np.isnan(values)] if np.isnan(values).any() else values
    if kind == "none" or not len(observed):
        return ChannelScaler()
    low, high = float(observed.min()), float(observed.max())
    if low == high:
        return ChannelScaler(low)
    size = max(abs(low), abs(high))
    if not 1e-100 < size < 1e100:  # squares and powers would leave float64's range
        unit = fit_scaler(observed / size)
        return ChannelScaler(unit.mean * size, unit.scale * size)
    if kind == "minmax":
        return ChannelScaler(low, high - low)
    if kind == "power":
        exponent = _fit_exponent(observed)
        powered = _power(observed, exponent)
        return ChannelScaler(float(powered.mean()), float(powered.std()) or 1.0, exponent)
    mean = float(observed.mean())
    total = 0.0
    for _, piece in pieces(observed):
        away = piece - mean
        total += float(away @ away)
    return ChannelScaler(mean, float(np.sqrt(total / len(observed))) or 1.0)


def fit_recent(values: np.ndarray, rows: int) -> ChannelScaler:
    """Return the standard scaler of the last rows of a history, which alone decide a forecast from them.

    A constant end takes the deviation of the usual values before it; a constant history a millionth of its
    level, in whatever unit.
    """
    recent = values[-rows:][np.isfinite(values[-rows:])]
    if not len(recent) or recent.min() < recent.max():
        return fit_scaler(recent)
    usual = without_outliers(values)
    deviation = fit_scaler(usual).scale if usual.min() < usual.max() else 1e-6 * abs(float(recent[0])) or 1e-6
    return ChannelScaler(float(recent[0]), deviation)


def ruling_row(values: np.ndarray) -> int | None:
    """Return the row of a value so far from all others that it rules their scale, where there is one.

    Of a long column a sample, beside its extremes, tells what is usual: no copy of it is made.
    """
    rows = np.arange(0, len(values), max(1, len(values) >> 14))
    if len(rows) < len(values):
        for first, piece in pieces(values):
            if np.isfinite(piece).any():
                rows = np.append(rows, (first + np.nanargmin(piece), first + np.nanargmax(piece)))
        rows = np.unique(rows)
        values = values[rows]
    observed = values[np.isfinite(values)]
    if not len(observed):
        return None
    low, middle, high = np.percentile(observed, (25, 50, 75))
    distance = np.nan_to_num(np.abs(values - middle))
    others = distance[(distance > 0) & (distance < distance.max())]  # where most values are equal
    usual = high - low if high > low else np.median(others) if len(others) else 0.0
    rules = distance.max() > 100 * usual and (usual or (distance > 0).sum() == 1)
    return int(rows[distance.argmax()]) if rules else None


def without_outliers(values: np.ndarray) -> np.ndarray:
    """Return the observed values within 20 interquartile ranges of the median; all where that range is 0."""
    observed = values[np.isfinite(values)]
    if not len(observed):
        return observed
    low, middle, high = np.percentile(observed, (25, 50, 75))
    reach = 20 * (high - low)
    return observed[np.abs(observed - middle) <= reach] if reach > 0 else observed


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
