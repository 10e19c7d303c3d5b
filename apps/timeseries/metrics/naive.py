"""Baselines without training: the last value or season, the mean, a line, and exponential smoothing.

Each baseline is built with the horizon, fitted on whole tables `(T, C)` in the units of the evaluation, and
predicts `past (B, L, C) -> (B, H, C)`. The naive ones learn nothing; `fit` is there all the same, so that
an evaluation treats all alike. Missing values may be NaN, or 0 with `observed` False.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from apps.timeseries.metrics.smoothing import Constants, holt_winters, smoothing_constants

__all__ = ["ETS", "Baseline", "Drift", "RepeatLast", "SeasonalNaive", "WindowMean", "fill_missing"]


@dataclass
class Baseline:
    """A forecaster without pre-training; sub-classes give `predict`, and `fit` if they learn anything.

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
        """
        raise TypeError(f"{type(self).__name__} has no predict")


class RepeatLast(Baseline):
    """The last observed value, for every step."""

    name: ClassVar[str] = "last value"

    def predict(
        self, past: Tensor, observed: Tensor | None = None, *, season: Tensor | None = None
    ) -> Tensor:
        """Forecast `(B, L, C) -> (B, H, C)`."""
        return fill_missing(past, observed)[:, -1:].expand(-1, self.horizon, -1).clone()


@dataclass
class SeasonalNaive(Baseline):
    """The last season, repeated; the last value where a season is longer than the context."""

    name: ClassVar[str] = "seasonal naive"

    season: int = 1

    def predict(
        self, past: Tensor, observed: Tensor | None = None, *, season: Tensor | None = None
    ) -> Tensor:
        """Forecast `(B, L, C) -> (B, H, C)`."""
        past = fill_missing(past, observed)
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
        """Forecast `(B, L, C) -> (B, H, C)`."""
        seen = _observed(past, observed)
        total = torch.where(seen, past, 0.0).sum(1, keepdim=True)
        return (
            (total / seen.sum(1, keepdim=True).clamp(min=1))
            .to(past.dtype)
            .expand(-1, self.horizon, -1)
            .clone()
        )


class Drift(Baseline):
    """The straight line through the first and the last value of the context, continued."""

    name: ClassVar[str] = "drift"

    def predict(
        self, past: Tensor, observed: Tensor | None = None, *, season: Tensor | None = None
    ) -> Tensor:
        """Forecast `(B, L, C) -> (B, H, C)`."""
        past = fill_missing(past, observed)
        first, last = past[:, :1], past[:, -1:]
        steps = torch.arange(1, self.horizon + 1, device=past.device, dtype=past.dtype)[None, :, None]
        return last + steps * (last - first) / max(past.shape[1] - 1, 1)


@dataclass
class ETS(Baseline):
    """Exponential smoothing with additive damped trend and additive season (Holt-Winters), by statsmodels.

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
            self.constants = [smoothing_constants(column, self.season) for column in newest.T]
        return self

    def predict(
        self, past: Tensor, observed: Tensor | None = None, *, season: Tensor | None = None
    ) -> Tensor:
        """Forecast `(B, L, C) -> (B, H, C)`; deterministic, in float64 inside."""
        values = fill_missing(past, observed).double().cpu().numpy()
        out = np.empty((len(values), self.horizon, values.shape[2]))
        shared = self.constants if len(self.constants) == values.shape[2] else None
        seasons = np.full(len(values), self.season) if season is None else season.cpu().numpy()
        for lag in np.unique(seasons):
            rows = np.flatnonzero(seasons == lag)
            for channel in range(values.shape[2]):
                if shared is not None:
                    picked = values[rows, :, channel]
                    out[rows, :, channel] = holt_winters(picked, shared[channel], int(lag), self.horizon)
                    continue
                for row in rows:
                    one = values[row : row + 1, :, channel]
                    constants = smoothing_constants(one[0], int(lag))
                    out[row, :, channel] = holt_winters(one, constants, int(lag), self.horizon)[0]
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
