"""One evaluation for the network and all baselines: the same windows, the same labels, the same units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from apps.timeseries.data import frequency as rates
from apps.timeseries.metrics.errors import ForecastErrors, seasonal_error
from core.tables import text_table

if TYPE_CHECKING:
    import pandas as pd

    from apps.timeseries.data.scaling import ChannelScaler
    from apps.timeseries.data.store import SeriesSet

__all__ = ["DECILES", "METRICS", "ForecastEvaluation", "ForecastScores", "Units"]

#: Quantile levels of an evaluation and of a forecast, as GIFT-Eval takes them.
DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_COLUMNS = {"mse": "MSE", "mae": "MAE", "mase": "MASE", "smape": "sMAPE", "nd": "ND", "wql": "WQL"}
_SCALED = ("mse", "mae")
#: Columns of every table.
METRICS = tuple(_COLUMNS.values())


class ForecastScores:
    """Errors by forecaster.

    MSE and MAE are in the units of the external scaler, as the field's benchmarks report them; MASE, sMAPE
    (0 to 2), ND and WQL are in the data's own units. A forecaster without quantiles gives its point forecast
    at every level, which makes its WQL its ND.

    Args:
        horizon: Steps H.
        channels: Names of the C channels.
        levels: The Q quantile levels.
    """

    def __init__(self, horizon: int, channels: Sequence[str], *, levels: Sequence[float] = DECILES) -> None:
        self.horizon, self.channels, self.levels = horizon, list(channels), tuple(levels)
        self._errors: dict[str, tuple[ForecastErrors, ForecastErrors]] = {}

    def update(
        self,
        name: str,
        *,
        prediction: Tensor,
        target: Tensor,
        point: Tensor,
        truth: Tensor,
        quantiles: Tensor,
        seasonal: Tensor,
        observed: Tensor | None = None,
    ) -> None:
        """Add a batch of forecasts.

        Args:
            name: The forecaster.
            prediction: `(B, H, C)` in scaled units.
            target: Its labels, NaN where missing.
            point: `prediction` in the data's own units.
            truth: `target` in the data's own units.
            quantiles: `(B, H, C, Q)` in the data's own units.
            seasonal: `(B, C)` seasonal errors in the data's own units.
            observed: `(B, H, C)`, false where a label is missing though it holds a number.
        """
        scaled, raw = self._errors.setdefault(name, self._sums())
        scaled.update(prediction, target, observed=observed)
        raw.update(point, truth, observed=observed, scale=seasonal, quantiles=quantiles)

    def add(self, other: ForecastScores) -> None:
        """Add what another object of the same shape has summed."""
        for name, sums in other._errors.items():
            for mine, theirs in zip(self._errors.setdefault(name, self._sums()), sums, strict=True):
                mine.add(theirs)

    def reduce(self) -> None:
        """Add the sums of all ranks; call once, on every rank."""
        for scaled, raw in self._errors.values():
            scaled.reduce()
            raw.reduce()

    def results(self) -> list[dict[str, Any]]:
        """Return one row per forecaster: name, metrics over everything and windows."""
        return [
            {"model": name} | _columns(scaled.compute(), raw.compute()) | {"windows": scaled.windows}
            for name, (scaled, raw) in self._errors.items()
        ]

    def by_step(self) -> list[dict[str, Any]]:
        """Return one row per forecaster and step of the horizon, counted from 1."""
        return [
            {"model": name, "step": step + 1} | {column: float(v[step]) for column, v in values.items()}
            for name, values in self._split("by_step")
            for step in range(self.horizon)
        ]

    def by_channel(self) -> list[dict[str, Any]]:
        """Return one row per forecaster and channel."""
        return [
            {"model": name, "channel": channel} | {column: float(v[i]) for column, v in values.items()}
            for name, values in self._split("by_channel")
            for i, channel in enumerate(self.channels)
        ]

    def curves(self, metric: str = "MAE") -> dict[str, np.ndarray]:
        """Return a metric by step of the horizon for every forecaster."""
        return {name: values[metric].numpy() for name, values in self._split("by_step")}

    def frame(self) -> pd.DataFrame:
        """Return `results` with the forecasters as index."""
        import pandas as pd

        return pd.DataFrame(self.results()).set_index("model")

    def text(self) -> str:
        """Return the results as a table for the terminal."""
        rows = self.results()
        names = list(rows[0])
        cells = [[row.get(name) for name in names] for row in rows]
        return text_table(cells, head=["", *names[1:]], number=".4f")

    def _sums(self) -> tuple[ForecastErrors, ForecastErrors]:
        size = (self.horizon, len(self.channels))
        return ForecastErrors(*size), ForecastErrors(*size, levels=self.levels)

    def _split(self, method: str) -> list[tuple[str, dict[str, Tensor]]]:
        return [
            (name, _columns(getattr(scaled, method)(), getattr(raw, method)()))
            for name, (scaled, raw) in self._errors.items()
        ]


class Units:
    """Scales of the targets of all series, which bring forecasts into the data's own units.

    The seasonal error of MASE is that of a series' training rows; of all its rows where it has none, as a
    series that only the test sees.
    """

    def __init__(self, series: SeriesSet, targets: int) -> None:
        self._tracks = series.tracks
        scalers = [track.scalers[:targets] for track in series.tracks]
        self._tables = [
            torch.tensor([[getattr(one, name) for one in row] for row in scalers], dtype=torch.float64)
            for name in ("mean", "scale", "resolution")
        ]
        self._powered = any(one.power is not None for row in scalers for one in row)
        seasonal = [_seasonal_errors(series, number, row) for number, row in enumerate(scalers)]
        self.seasonal = torch.tensor(seasonal, dtype=torch.float64)

    def raw(self, values: Tensor, series: Tensor) -> Tensor:
        """Return scaled values `(B, Q, H, C)` of the given series `(B,)` in the data's own units, float64."""
        mean, scale, resolution = (table.to(values.device)[series][:, None, None] for table in self._tables)
        raw = values.double() * scale + mean
        raw = raw.masked_fill(raw.abs() < resolution, 0.0)
        for number in series.unique().tolist() if self._powered else ():
            rows = series == number
            block = self._tracks[number].invert(values[rows].double().cpu().numpy())
            raw[rows] = torch.from_numpy(block).to(raw)
        return raw


class ForecastEvaluation:
    """Scores of forecasts of windows, in scaled and in the data's own units, of all forecasters alike.

    Args:
        units: Of the series.
        horizon: Steps.
        channels: Names of the channels that are forecast.
        windows: Windows that will come, on all ranks together.
        levels: Quantile levels.
    """

    def __init__(
        self,
        units: Units,
        *,
        horizon: int,
        channels: Sequence[str],
        windows: int,
        levels: Sequence[float] = DECILES,
    ) -> None:
        self.units, self.windows = units, windows
        self.scores = ForecastScores(horizon, channels, levels=levels)
        self._seen = 0

    def update(
        self,
        name: str,
        prediction: Tensor,
        target: Tensor,
        observed: Tensor,
        series: Tensor,
        *,
        offsets: Tensor | None = None,
        seasonal: Tensor | None = None,
    ) -> None:
        """Add a batch of forecasts.

        Args:
            name: The forecaster.
            prediction: `(B, H, C)` in scaled units.
            target: Labels of the same shape.
            observed: Where they were measured.
            series: `(B,)`, rows of the series table.
            offsets: `(Q, H, C)` or `(B, Q, H, C)`, what the quantiles add to the prediction, in scaled units.
            seasonal: `(B, C)` seasonal errors of each window; by default its series'.
        """
        point = self.units.raw(prediction[:, None], series)  # B Q H C, with one level
        if offsets is None:
            quantiles = point.expand(-1, len(self.scores.levels), -1, -1)
        else:
            banded = prediction[:, None].double() + offsets.to(prediction.device)
            quantiles = self.units.raw(banded, series)
        if seasonal is None:
            seasonal = self.units.seasonal.to(prediction.device)[series]
        self.scores.update(
            name, prediction=prediction, target=target, observed=observed, point=point[:, 0],
            truth=self.units.raw(target[:, None], series)[:, 0], quantiles=quantiles.movedim(1, -1),
            seasonal=seasonal,
        )  # fmt: skip

    def late(self, last_windows: int | None, *, size: int) -> int:
        """Return how many of the next windows come too early for a slow forecaster."""
        if last_windows is None:
            return 0
        return min(size, max(0, self.windows - last_windows - self._seen))

    def advance(self, size: int) -> None:
        """Count a batch that every forecaster has seen."""
        self._seen += size


def _columns(scaled: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """Take each metric from the units it is defined in, under the name that tables use."""
    units = {metric: scaled if metric in _SCALED else raw for metric in _COLUMNS}
    return {column: units[metric][metric] for metric, column in _COLUMNS.items() if metric in units[metric]}


def _seasonal_errors(series: SeriesSet, number: int, scalers: Sequence[ChannelScaler]) -> list[float]:
    """Return the seasonal error of each target of a series in the data's own units."""
    table, track = series.store.series(number), series.tracks[number]
    first, end = track.split.train
    if end > first:
        table = table[first:end]
    season = rates.season(track.frequency)
    errors = []
    for channel, scaler in enumerate(scalers):  # one by one: a long series is not copied whole
        raw = scaler.invert(table[:, channel].double().numpy())
        errors.append(float(seasonal_error(torch.from_numpy(raw), season=season)))
    return errors
