"""The batch every time-series network is fed with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from core.data.batch import Batch

__all__ = ["SeriesBatch"]


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
