"""Scores of several forecasters on the same windows: summed batch by batch, laid out as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from apps.timeseries.metrics.errors import ForecastErrors

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DECILES", "METRICS", "Scores"]

#: Quantile levels of an evaluation and of a forecast, as GIFT-Eval takes them.
DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_COLUMNS = {"mse": "MSE", "mae": "MAE", "mase": "MASE", "smape": "sMAPE", "nd": "ND", "wql": "WQL"}
_SCALED = ("mse", "mae")
#: Columns of every table.
METRICS = tuple(_COLUMNS.values())


class Scores:
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
        if name not in self._errors:
            size = (self.horizon, len(self.channels))
            self._errors[name] = (ForecastErrors(*size), ForecastErrors(*size, levels=self.levels))
        scaled, raw = self._errors[name]
        scaled.update(prediction, target, observed=observed)
        raw.update(point, truth, observed=observed, scale=seasonal, quantiles=quantiles)

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
        names = [column for column in METRICS if column in rows[0]]
        width = max(len(row["model"]) for row in rows) + 2
        lines = [" " * width + "".join(f"{name:>9}" for name in names) + f"{'windows':>10}"]
        for row in rows:
            cells = "".join(f"{row[name]:>9.4f}" for name in names)
            lines.append(f"{row['model']:<{width}}{cells}{row['windows']:>10}")
        return "\n".join(lines)

    def _split(self, method: str) -> list[tuple[str, dict[str, Tensor]]]:
        return [
            (name, _columns(getattr(scaled, method)(), getattr(raw, method)()))
            for name, (scaled, raw) in self._errors.items()
        ]


def _columns(scaled: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """Take each metric from the units it is defined in, under the name that tables use."""
    units = {metric: scaled if metric in _SCALED else raw for metric in _COLUMNS}
    return {column: units[metric][metric] for metric, column in _COLUMNS.items() if metric in units[metric]}
