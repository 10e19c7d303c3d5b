"""The batch every time-series network is fed with, and what a checkpoint knows of its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from apps.timeseries.data import frequency as rates
from apps.timeseries.data.readers.columns import Roles
from apps.timeseries.data.scaling import ChannelScaler
from core.data.batch import Batch
from core.data.facts import Facts
from core.metrics.conformal import Conformal

__all__ = ["SeriesBatch", "SeriesFacts"]


@dataclass(frozen=True, eq=False)
class SeriesBatch(Batch):
    """Windows of scaled series; L is the context length, H the horizon, C the number of channels.

    Values are in the units of the external scaler (dimensionless); a missing value is 0 with its mask False.
    Channels stand in the order target, observable, control, conditional, categorical.

    Attributes:
        past_values: `(B, L, C)` float32, the context.
        past_observed: `(B, L, C)` bool, True where the context was measured.
        future_values: `(B, H, C)` float32, the labels of the targets and the known future of observable and
            control channels; 0 in channels whose future nobody knows (conditional, categorical).
        future_observed: `(B, H, C)` bool, False where `future_values` says nothing.
        freq_token: `(B,)` int64, the resolution's token (`apps.timeseries.data.frequency.token`), or None.
        static_categories: `(B, n)` int64, codes of the static categorical columns, or None.
        series: `(B,)` int64, the row of the series table (`Series.tracks`) that a window comes from.
        start: `(B,)` int64, the row of the series where the context begins; negative inside left padding.
    """

    past_values: Tensor
    past_observed: Tensor
    future_values: Tensor
    future_observed: Tensor
    freq_token: Tensor | None
    static_categories: Tensor | None
    series: Tensor
    start: Tensor

    @property
    def countable(self) -> Tensor:
        """Which labels `(B, H, C)` count: the measured ones of channels whose context shows any value.

        From an empty context nothing can be forecast, so an error there says nothing of the forecaster.
        """
        return self.future_observed & self.past_observed.any(1, keepdim=True)

    @property
    def spread(self) -> Tensor:
        """Deviation of each channel's observed context `(B, 1, C)`, the unit of quantile offsets.

        A constant context says nothing of its series' spread; there it is 1, the external scaler's unit.
        """
        count = self.past_observed.sum(1, keepdim=True).clamp(min=1)
        centred = self.past_values - self.past_values.sum(1, keepdim=True) / count  # missing ones are 0
        square = centred.square().masked_fill(~self.past_observed, 0.0).sum(1, keepdim=True)
        variance = square / count
        return torch.where(variance > 1e-10, (variance + 1e-5).sqrt(), 1.0)


@dataclass(frozen=True, kw_only=True)
class SeriesFacts(Facts):
    """What a forecaster must know of its data to forecast in the data's own units.

    Attributes:
        context: Rows the network sees.
        horizon: Rows it forecasts.
        roles: The columns by role.
        univariate: Whether every channel was a series of its own, as one channel called `value`.
        frequency: Sampling rate of all series; empty where they differ or it is not known.
        scaler: Kind of the external scaler.
        missing: How gaps in a context are filled.
        categories: Categorical column to the words that its codes 0, 1, … stand for.
        series: Id of a series to its channels' scalers, by name.
        conformal: Quantiles of the validation's residuals, once there was a validation.
    """

    context: int
    horizon: int
    roles: Roles = field(default_factory=Roles)
    univariate: bool = False
    frequency: str = ""
    scaler: str = "standard"
    missing: str = "mask"
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    series: Mapping[str, Mapping[str, ChannelScaler]] = field(default_factory=dict)
    conformal: Conformal | None = None

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of a batch's channels."""
        return ("value",) if self.univariate else self.roles.channels

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the channels that are forecast, the first ones."""
        return ("value",) if self.univariate else self.roles.targets

    @property
    def exogenous(self) -> tuple[int, ...]:
        """Positions of the channels whose future is known."""
        return () if self.univariate else self.roles.exogenous

    @property
    def season(self) -> int:
        """Rows in a season."""
        return rates.season(self.frequency)
