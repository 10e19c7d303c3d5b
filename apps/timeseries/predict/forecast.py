"""Forecasts of many series and what could not be forecast, and the tables that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.timeseries.data.readers.columns import Roles
from apps.timeseries.data.readers.series import Unreadable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Forecast", "SeriesForecast"]


@dataclass(frozen=True)
class SeriesForecast:
    """The forecast of one series, in its own units.

    Args:
        id: Name of the series.
        roles: Of its table's columns.
        times: Stamps of the steps as the table writes its own, or None where the series has none.
        point: `(H, targets)`.
        quantiles: `(levels, H, targets)`.
        source: What the quantiles come from.
        past: `(T, targets)`, the end of the history.
        past_times: Its stamps, or None.
    """

    id: str
    roles: Roles
    times: pd.Index | None
    point: np.ndarray
    quantiles: np.ndarray
    source: str
    past: np.ndarray
    past_times: pd.Index | None

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the forecast channels."""
        return self.roles.targets

    def only(self, numbers: np.ndarray) -> SeriesForecast:
        """Return the same without other targets."""
        return replace(
            self,
            roles=replace(self.roles, targets=tuple(self.targets[i] for i in numbers)),
            point=self.point[:, numbers],
            quantiles=self.quantiles[..., numbers],
            past=self.past[:, numbers],
        )


@dataclass(frozen=True)
class Forecast:
    """Forecasts of many series, and what could not be forecast.

    Args:
        series: In the order of the source.
        levels: Quantile levels.
        skipped: Series, files or channels left out, each with a sentence that says why.
        notes: What was decided or mended for the user.
    """

    series: list[SeriesForecast]
    levels: tuple[float, ...]
    skipped: list[Unreadable] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def frame(self, *, wide: bool = False) -> pd.DataFrame:
        """Return a row per series, channel and step; with `wide` a row per series and step.

        Columns: the id (by its own name, else `id`, else `series`), the time (else `step`), `target`,
            `prediction`, one per quantile level such as `0.1`, and `quantiles_from`. Wide:
            `<target>_prediction`, `<target>_prediction_q0.1`, …. `.attrs` holds `not_forecast` and `notes`.
        """
        import pandas as pd

        parts = [part for one in self.series for part in self._parts(one, wide=wide)]
        names = list(dict.fromkeys(name for part in parts for name in part))
        frame = pd.DataFrame({name: _column(name, parts) for name in names})
        frame.attrs["not_forecast"] = [{"id": one.id, "reason": one.reason} for one in self.skipped]
        frame.attrs["notes"] = list(self.notes)
        return frame

    def _parts(self, one: SeriesForecast, *, wide: bool) -> list[dict[str, Any]]:
        """Return the columns of one series, in parts that stand below each other."""
        roles, horizon = one.roles, len(one.point)
        dated = all(other.times is not None for other in self.series)
        levels = list(enumerate(f"{level:g}" for level in self.levels))
        ours = {"target", "prediction", "quantiles_from", *(name for _, name in levels)}
        if wide:
            suffixes = ("", *(f"_q{name}" for _, name in levels))
            ours = {
                "quantiles_from",
                *(f"{t}_prediction{suffix}" for t in one.targets for suffix in suffixes),
            }
        # a name of the user's that is one of ours as well gives way
        when = _free((*roles.time, "time") if len(roles.time) == 1 else ("time",), ours) if dated else "step"
        key = _free((*roles.ids, "id") if len(roles.ids) == 1 else ("id",), {*ours, when})
        clock: Any = one.times if dated else np.arange(1, horizon + 1)
        shared = {key: np.full(horizon, one.id, dtype=object), when: np.asarray(clock)}
        source = {"quantiles_from": np.full(horizon, one.source, dtype=object)}
        if wide:
            columns: dict[str, Any] = {}
            for number, target in enumerate(one.targets):
                columns[f"{target}_prediction"] = one.point[:, number]
                columns |= {
                    f"{target}_prediction_q{name}": one.quantiles[row, :, number] for row, name in levels
                }
            return [{**shared, **columns, **source}]
        return [
            {
                **shared,
                "target": np.full(horizon, target, dtype=object),
                "prediction": one.point[:, number],
                **{name: one.quantiles[row, :, number] for row, name in levels},
                **source,
            }
            for number, target in enumerate(one.targets)
        ]


def _free(names: Sequence[str], taken: set[str]) -> str:
    return next(name for name in (*names, "series", "series_id", "time_stamp") if name not in taken)


def _column(name: str, parts: Sequence[Mapping[str, Any]]) -> pd.Series:
    """Join a column of all parts; a part that lacks it (wide, with other targets) holds NaN there."""
    import pandas as pd

    lengths = [len(next(iter(part.values()))) for part in parts]
    values = [part.get(name, np.full(n, np.nan)) for part, n in zip(parts, lengths, strict=True)]
    column = pd.Series(np.concatenate(values))
    stamped = column.dtype == object and not isinstance(column.iloc[0], str)
    return column.infer_objects() if stamped else column  # stamps with a zone, periods
