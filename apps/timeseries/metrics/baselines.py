"""Baselines without training: the last value or season, the mean, a line, and exponential smoothing.

Each baseline is built with the horizon, fitted on whole tables `(T, C)` in the units of the evaluation, and
predicts `past (B, L, C) -> (B, H, C)`. The naive ones learn nothing; `fit` is there all the same, so that
an evaluation treats all alike. Missing values may be NaN, or 0 with `observed` False.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

__all__ = ["ETS", "Baseline", "Drift", "RepeatLast", "SeasonalNaive", "WindowMean", "fill_missing"]

Constants = tuple[float, float, float, float]
"""alpha (level), beta (trend), gamma (season) and phi (damping of the trend) of exponential smoothing."""


@dataclass
class Baseline:
    """A forecaster without pre-training; sub-classes give `_forecast`, and `fit` if they learn anything.

    Args:
        horizon: Steps to forecast.
    """

    #: What tables and figures call it.
    name: ClassVar[str]

    horizon: int

    #: Only this many of the last windows are worth the time; None means all.
    last_windows: int | None = field(default=None, init=False, repr=False)

    def fit(self, train: Sequence[Tensor], *, validation: Sequence[Tensor] = ()) -> Baseline:
        """Learn from tables `(T, C)`; validation tables begin with their context rows. Returns itself."""
        return self

    def predict(
        self, past: Tensor, observed: Tensor | None = None, *, season: Tensor | None = None
    ) -> Tensor:
        """Forecast `past (B, L, C) -> (B, H, C)`, in the units and the float type of `past`.

        Args:
            past: Contexts.
            observed: `(B, L, C)` bool, False where a value is missing.
            season: `(B,)` steps per season of each window, where they differ; otherwise the baseline's own.

        Raises:
            RuntimeError: Before `fit`, if there is something to learn.
        """
        return self._forecast(fill_missing(past, observed), season)

    def _forecast(self, past: Tensor, season: Tensor | None) -> Tensor:
        """Forecast from contexts without gaps."""
        raise TypeError(f"{type(self).__name__} has no forecast")


class RepeatLast(Baseline):
    """The last observed value, for every step."""

    name: ClassVar[str] = "last value"

    def _forecast(self, past: Tensor, season: Tensor | None) -> Tensor:
        return past[:, -1:].expand(-1, self.horizon, -1).clone()


@dataclass
class SeasonalNaive(Baseline):
    """The last season, repeated; the last value where a season is longer than the context."""

    name: ClassVar[str] = "seasonal naive"

    season: int = 1

    def _forecast(self, past: Tensor, season: Tensor | None) -> Tensor:
        length = past.shape[1]
        lag = torch.full((len(past),), self.season) if season is None else season.to(torch.int64).cpu()
        lag = torch.where((lag > 0) & (lag <= length), lag, 1).to(past.device)[:, None]
        steps = length - lag + torch.arange(self.horizon, device=past.device) % lag  # B H
        return past.gather(1, steps[..., None].expand(-1, -1, past.shape[2]))


class WindowMean(Baseline):
    """The mean of what the context observed, for every step."""

    name: ClassVar[str] = "window mean"

    def predict(
        self, past: Tensor, observed: Tensor | None = None, *, season: Tensor | None = None
    ) -> Tensor:
        """Forecast `(B, L, C) -> (B, H, C)`; gaps do not count."""
        seen = _observed(past, observed)
        mean = torch.where(seen, past, 0.0).sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp(min=1)
        return mean.to(past.dtype).expand(-1, self.horizon, -1).clone()


class Drift(Baseline):
    """The straight line through the first and the last value of the context, continued."""

    name: ClassVar[str] = "drift"

    def _forecast(self, past: Tensor, season: Tensor | None) -> Tensor:
        first, last = past[:, :1], past[:, -1:]
        steps = torch.arange(1, self.horizon + 1, device=past.device, dtype=past.dtype)[None, :, None]
        return last + steps * (last - first) / max(past.shape[1] - 1, 1)


@dataclass
class ETS(Baseline):
    """Exponential smoothing, additive damped trend and season (Holt 1957, Winters 1960), by statsmodels.

    Trained on one series, the smoothing constants are estimated once per channel, on its newest `context`
    rows, and the recursion runs over all windows at once. Trained on several series or none, they are
    estimated for each window and channel, which takes some 10 ms each: evaluations ask for their last 200
    windows.

    Args:
        season: Steps per season; below 2, or with fewer than two seasons in the context, there is no
            seasonal part.
        context: Rows to estimate on.
    """

    name: ClassVar[str] = "ETS"

    season: int = 1
    context: int = 512
    constants: list[Constants] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        self.last_windows = 200

    def fit(self, train: Sequence[Tensor], *, validation: Sequence[Tensor] = ()) -> ETS:
        """Estimate the smoothing constants of each channel, if there is a single table."""
        self.constants = []
        if len(train) == 1:
            newest = fill_missing(train[0][None, -self.context :], None)[0].double().cpu().numpy()
            self.constants = [_smoothing_constants(column, self.season) for column in newest.T]
        return self

    def _forecast(self, past: Tensor, season: Tensor | None) -> Tensor:
        values = past.double().cpu().numpy()
        out = np.empty((len(values), self.horizon, values.shape[2]))
        shared = self.constants if len(self.constants) == values.shape[2] else None
        seasons = np.full(len(values), self.season) if season is None else season.cpu().numpy()
        for lag in np.unique(seasons):
            rows = np.flatnonzero(seasons == lag)
            for channel in range(values.shape[2]):
                if shared is not None:
                    picked = values[rows, :, channel]
                    out[rows, :, channel] = _holt_winters(picked, shared[channel], int(lag), self.horizon)
                    continue
                for row in rows:
                    one = values[row : row + 1, :, channel]
                    constants = _smoothing_constants(one[0], int(lag))
                    out[row, :, channel] = _holt_winters(one, constants, int(lag), self.horizon)[0]
        return torch.from_numpy(out).to(past)


def fill_missing(past: Tensor, observed: Tensor | None) -> Tensor:
    """Fill each gap of `past (B, L, C)` with the value before it, at the start with the one after.

    A channel with nothing observed becomes 0. Missing is NaN, or `observed` False.
    """
    seen = _observed(past, observed)
    if bool(seen.all()):
        return past
    steps = torch.arange(past.shape[1], device=past.device)[None, :, None]
    before = torch.where(seen, steps, -1).cummax(1).values
    first = torch.where(seen, steps, past.shape[1] - 1).amin(1, keepdim=True)
    source = torch.where(before < 0, first, before)
    return torch.where(seen, past, 0.0).gather(1, source.expand_as(past))


def _observed(past: Tensor, observed: Tensor | None) -> Tensor:
    """Return where `past` is known, `(B, L, C)` bool."""
    finite = torch.isfinite(past)
    return finite if observed is None else finite & observed.bool()


def _smoothing_constants(values: np.ndarray, season: int) -> Constants:
    """Return alpha, beta, gamma and phi that statsmodels finds best for one series `(T,)` without gaps."""
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    if len(values) < 10 or np.ptp(values) == 0:
        return (0.5, 0.0, 0.0, 1.0)
    season = _usable_season(season, len(values))
    level, trend, seasonal = _first_states(values[None], season)
    model = ExponentialSmoothing(
        values,
        trend="add",
        damped_trend=True,
        seasonal="add" if season else None,
        seasonal_periods=season or None,
        initialization_method="known",
        initial_level=level[0],
        initial_trend=trend[0],
        initial_seasonal=seasonal[0] if season else None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a search that ends short of convergence is good enough here
        found = model.fit(use_brute=False).params
    names = ("smoothing_level", "smoothing_trend", "smoothing_seasonal", "damping_trend")
    alpha, beta, gamma, phi = (float(np.nan_to_num(found[name])) for name in names)
    return (alpha, beta, gamma if season else 0.0, phi)


def _holt_winters(values: np.ndarray, constants: Constants, season: int, horizon: int) -> np.ndarray:
    """Run the additive damped recursion over windows `(N, L)` and return forecasts `(N, H)`."""
    alpha, beta, gamma, phi = constants
    season = _usable_season(season, values.shape[1])
    level, trend, seasonal = _first_states(values, season)
    length, cycle = values.shape[1], season or 1
    for step in range(length):
        now, before = step % cycle, level
        damped = phi * trend
        level = alpha * (values[:, step] - seasonal[:, now]) + (1 - alpha) * (before + damped)
        if season:  # corrected with the level before this step, as the recursion is defined
            seasonal[:, now] = gamma * (values[:, step] - before - damped) + (1 - gamma) * seasonal[:, now]
        trend = beta * (level - before) + (1 - beta) * damped
    steps = np.arange(1, horizon + 1)
    ahead = seasonal[:, (length + steps - 1) % cycle]
    return level[:, None] + np.cumsum(phi**steps) * trend[:, None] + ahead


def _first_states(values: np.ndarray, season: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return level `(N,)`, trend `(N,)` and season `(N, season)` before the first step of windows `(N, L)`.

    The season is the mean profile of all whole seasons in the window, each less its own mean; trend starts
    at 0.
    """
    if not season:
        return values[:, 0].copy(), np.zeros(len(values)), np.zeros((len(values), 1))
    whole = values.shape[1] // season * season
    cycles = values[:, :whole].reshape(len(values), -1, season)
    seasonal = (cycles - cycles.mean(2, keepdims=True)).mean(1)
    return cycles[:, 0].mean(1), np.zeros(len(values)), seasonal


def _usable_season(season: int, length: int) -> int:
    """Return the season where the context holds two of it, else 0: no seasonal part."""
    return season if season > 1 and length >= 2 * season + 2 else 0
