"""One evaluation for the network and all baselines: the same windows, the same labels, the same units."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from apps.timeseries.baselines import (
    ETS,
    Baseline,
    DLinear,
    Drift,
    RepeatLast,
    Ridge,
    SeasonalNaive,
    WindowMean,
)
from apps.timeseries.conformal import Conformal
from apps.timeseries.metrics import ForecastErrors, seasonal_error

if TYPE_CHECKING:
    import pandas as pd

    from apps.timeseries.data import Series

__all__ = ["LEVELS", "Evaluation", "Opponent", "opponents", "panel", "target_tables"]

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_COLUMNS = {"mse": "MSE", "mae": "MAE", "mase": "MASE", "smape": "sMAPE", "nd": "ND", "wql": "WQL"}


class Evaluation:
    """Sums of errors by forecaster.

    MSE and MAE are in the units of the external scaler, as the field reports them; MASE has each series'
    seasonal error of its training rows below the line (of all rows where nothing is trained on); sMAPE (0 to
    2), ND and WQL are in the data's own units. A forecaster without quantiles counts with its point forecast
    at every level, so that its WQL is ND.

    Args:
        data: The data module, after its set-up.
        windows: Windows that will come, on all ranks together.
    """

    def __init__(self, data: Series, *, windows: int) -> None:
        facts = data.facts
        self.horizon: int = facts["horizon"]
        self.channels: list[str] = list(facts["channels"][: facts["targets"]])
        self.windows = windows
        self._seen = 0
        self._errors: dict[str, tuple[ForecastErrors, ForecastErrors]] = {}
        statistics = [_statistics(data, number) for number in range(len(data.tracks))]
        self._mean = torch.tensor([mean for mean, _ in statistics], dtype=torch.float64)
        self._scale = torch.tensor([scale for _, scale in statistics], dtype=torch.float64)
        self._seasonal = _seasonal_errors(data, season=facts["season"], scale=self._scale)

    def update(
        self,
        name: str,
        prediction: Tensor,
        target: Tensor,
        observed: Tensor,
        series: Tensor,
        *,
        offsets: Tensor | None = None,
    ) -> None:
        """Add a batch of forecasts.

        Args:
            name: The forecaster.
            prediction: `(B, H, C)` in scaled units.
            target: Labels of the same shape.
            observed: Where they were measured.
            series: `(B,)`, rows of the series table.
            offsets: `(Q, H, C)`, what quantiles of `LEVELS` add to the prediction, in scaled units.
        """
        if name not in self._errors:
            channels = len(self.channels)
            self._errors[name] = (
                ForecastErrors(self.horizon, channels),
                ForecastErrors(self.horizon, channels, levels=LEVELS),
            )
        scaled, raw = self._errors[name]
        scaled.update(prediction, target, observed=observed)
        device = prediction.device
        mean, scale = (table.to(device)[series][:, None] for table in (self._mean, self._scale))
        point = prediction.double() * scale + mean
        if offsets is None:
            quantiles = point[..., None].expand(*point.shape, len(LEVELS))
        else:
            spread = offsets.to(device).double().permute(1, 2, 0)  # Q H C -> H C Q
            quantiles = point[..., None] + spread[None] * scale[..., None]
        raw.update(
            point, target.double() * scale + mean, observed=observed,
            scale=self._seasonal.to(device)[series], quantiles=quantiles,
        )  # fmt: skip

    def late(self, last_windows: int | None, *, size: int) -> int:
        """Return how many of the next `size` windows come before the last ones that a slow forecaster is
        asked for.
        """
        if last_windows is None:
            return 0
        return min(size, max(0, self.windows - last_windows - self._seen))

    def advance(self, size: int) -> None:
        """Count a batch that every forecaster has seen."""
        self._seen += size

    def reduce(self) -> None:
        """Add the sums of all ranks; call once, on every rank."""
        for scaled, raw in self._errors.values():
            scaled.reduce()
            raw.reduce()

    def results(self) -> list[dict[str, Any]]:
        """Return one row per forecaster: name, windows and metrics over everything."""
        rows = []
        for name, (scaled, raw) in self._errors.items():
            values = raw.compute() | {k: v for k, v in scaled.compute().items() if k in ("mse", "mae")}
            rows.append({"model": name, "windows": scaled.windows} | _columns(values))
        return rows

    def by_step(self) -> list[dict[str, Any]]:
        """Return one row per forecaster and step of the horizon, counted from 1."""
        return [
            {"model": name, "step": step + 1} | _columns({k: float(v[step]) for k, v in values.items()})
            for name, values in self._split("by_step")
            for step in range(self.horizon)
        ]

    def by_channel(self) -> list[dict[str, Any]]:
        """Return one row per forecaster and target channel."""
        return [
            {"model": name, "channel": channel} | _columns({k: float(v[i]) for k, v in values.items()})
            for name, values in self._split("by_channel")
            for i, channel in enumerate(self.channels)
        ]

    def curves(self, metric: str = "mae") -> dict[str, np.ndarray]:
        """Return a metric by step of the horizon for every forecaster."""
        return {name: values[metric].numpy() for name, values in self._split("by_step")}

    def frame(self) -> pd.DataFrame:
        """Return `results` with the forecasters as index."""
        import pandas as pd

        return pd.DataFrame(self.results()).set_index("model")

    def text(self) -> str:
        """Return the results as a table for the terminal."""
        rows = self.results()
        names = [column for column in _COLUMNS.values() if column in rows[0]]
        width = max(len(row["model"]) for row in rows) + 2
        lines = [" " * width + "".join(f"{name:>9}" for name in names) + f"{'windows':>10}"]
        for row in rows:
            cells = "".join(f"{row[name]:>9.4f}" for name in names)
            lines.append(f"{row['model']:<{width}}{cells}{row['windows']:>10}")
        return "\n".join(lines)

    def _split(self, method: str) -> list[tuple[str, dict[str, Tensor]]]:
        found = []
        for name, (scaled, raw) in self._errors.items():
            both = getattr(raw, method)() | {
                k: v for k, v in getattr(scaled, method)().items() if k in ("mse", "mae")
            }
            found.append((name, both))
        return found


class Opponent:
    """A baseline for many series: what depends on a series (its season, its own history) is built for each.

    Args:
        name: What tables call it.
        last_windows: How many of the last windows it is asked for; None is all.
        make: Returns the fitted baseline for a row of the series table; called once per `key`.
        key: What a series must share with another to share its baseline.
    """

    def __init__(
        self,
        name: str,
        last_windows: int | None,
        make: Callable[[int], Baseline],
        key: Callable[[int], Hashable],
    ) -> None:
        self.name, self.last_windows = name, last_windows
        self._make, self._key = make, key
        self._made: dict[Hashable, Baseline] = {}

    def predict(self, past: Tensor, observed: Tensor, series: Tensor) -> Tensor:
        """Forecast `past (B, L, C)` of the given series `(B,)`: `(B, H, C)`."""
        keys = {number: self._key(number) for number in series.unique().tolist()}
        groups = list(dict.fromkeys(keys.values()))
        if len(groups) == 1:
            return self._baseline(groups[0], next(iter(keys))).predict(past, observed)
        parts, rows = [], []
        owners = series.tolist()
        for group in groups:
            chosen = torch.tensor([row for row, number in enumerate(owners) if keys[number] == group])
            baseline = self._baseline(group, owners[int(chosen[0])])
            parts.append(baseline.predict(past[chosen], observed[chosen]))
            rows.append(chosen)
        out = torch.empty_like(torch.cat(parts))
        out[torch.cat(rows)] = torch.cat(parts)
        return out

    def _baseline(self, group: Hashable, number: int) -> Baseline:
        if group not in self._made:
            with torch.inference_mode(False), torch.enable_grad():  # some are trained, in the midst of a test
                self._made[group] = self._make(number)
        return self._made[group]


def opponents(data: Series, *, trained: bool) -> list[Opponent]:
    """Return the baselines of an evaluation: naive ones, ETS, and with `trained` DLinear and ridge on the
    training rows.

    The season is each series' own; ETS is estimated on each series' own training rows, or on the first
    context asked for where it has none; DLinear and ridge are one network and one matrix for all series.
    """
    facts = data.facts
    horizon, context = facts["horizon"], facts["context"]

    def season(number: int) -> int:
        return _season(data.tracks[number], facts["season"])

    def ets(number: int) -> Baseline:
        table = _rows(data, number, "train")
        baseline = ETS(horizon, season=season(number), context=context)
        return baseline.fit([table] if len(table) >= context else [])

    def learned(kind: type[DLinear] | type[Ridge]) -> Callable[[int], Baseline]:
        return lambda number: kind(horizon, context=context).fit(
            target_tables(data, "train"), validation=target_tables(data, "val")
        )

    def same(number: int) -> Hashable:
        return 0

    found = [
        Opponent("last value", None, lambda number: RepeatLast(horizon), same),
        Opponent(
            "seasonal naive", None, lambda number: SeasonalNaive(horizon, season=season(number)), season
        ),
        Opponent("window mean", None, lambda number: WindowMean(horizon), same),
        Opponent("drift", None, lambda number: Drift(horizon), same),
        Opponent("ETS", 200, ets, lambda number: number),
    ]
    if trained and any(len(table) >= context + horizon for table in target_tables(data, "train")):
        found += [
            Opponent("DLinear", None, learned(DLinear), same),
            Opponent("ridge", None, learned(Ridge), same),
        ]
    return found


def target_tables(data: Series, part: str) -> list[Tensor]:
    """Return the target channels of each series' `train` or `val` rows, `(T, C)` scaled; `val` begins with
    its context.
    """
    tables = [_rows(data, number, part) for number, track in enumerate(data.tracks) if track.factor == 1]
    return [table for table in tables if len(table)]


def _rows(data: Series, number: int, part: str) -> Tensor:
    first, end = getattr(data.tracks[number].split, part)
    if part != "train" and end > first:
        first = max(0, first - data.context)
    return data.store.series(number)[first:end, : data.facts["targets"]]


def panel(
    data: Series,
    number: int,
    start: int,
    *,
    past: Tensor,
    prediction: Tensor,
    truth: Tensor | None = None,
    baselines: Mapping[str, Tensor] | None = None,
    conformal: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return one panel of `forecast_figure`: a window's first target in the data's own units, with its time
    stamps.

    Args:
        data: The data module.
        number: Row of the series table.
        start: First row of the context.
        past: `(L,)` scaled.
        prediction: `(H,)` scaled.
        truth: `(H,)` scaled.
        baselines: Name to `(H,)` scaled.
        conformal: State of the residuals' quantiles.
    """
    track, facts = data.tracks[number], data.facts
    mean, scale = _statistics(data, number)
    channel = facts["channels"][0]

    def raw(values: Tensor) -> np.ndarray:
        return values.detach().double().cpu().numpy() * scale[0] + mean[0]

    shown: dict[str, Any] = {
        "title": track.id
        if track.channel is None and channel == "value"
        else f"{track.id}: {track.channel or channel}",
        "past": raw(past),
        "prediction": raw(prediction),
        "baselines": {name: raw(values) for name, values in (baselines or {}).items()},
    }
    if truth is not None:
        shown["truth"] = raw(truth)
    if conformal is not None:
        names = [channel]
        offsets = Conformal.from_state(conformal).at((0.1, 0.9), horizon=len(prediction), channels=names)[
            ..., 0
        ]
        shown["quantiles"] = {
            level: raw(prediction.cpu() + offset) for level, offset in zip((0.1, 0.9), offsets, strict=True)
        }
    stamps = _stamps(track, start, len(past), len(prediction))
    if stamps is not None:
        shown["past_times"], shown["times"] = stamps
    return shown


def _statistics(data: Series, number: int) -> tuple[list[float], list[float]]:
    """Return mean and scale of the targets of one row of the series table."""
    track, facts = data.tracks[number], data.facts
    row = facts["series"][track.id]
    chosen = slice(track.place, track.place + facts["targets"])
    return row["mean"][chosen], row["scale"][chosen]


def _stamps(track: Any, start: int, past: int, future: int) -> tuple[Any, Any] | None:
    if track.start is None or not track.frequency:
        return None
    import pandas as pd

    first = track.start + start * pd.tseries.frequencies.to_offset(track.frequency)  # earlier inside padding
    every = pd.date_range(first, periods=past + future, freq=track.frequency)
    return every[:past], every[past:]


def _seasonal_errors(data: Series, *, season: int, scale: Tensor) -> Tensor:
    """Return each series' seasonal error `(S, C)` in the data's own units."""
    count = scale.shape[1]
    errors = []
    for number, track in enumerate(data.tracks):
        table = data.store.series(number)[:, :count]
        first, end = track.split.train
        if end - first > season:
            table = table[first:end]
        errors.append(seasonal_error(table.T, season=_season(track, season)))
    return torch.stack(errors) * scale


def _season(track: Any, season: int) -> int:
    from apps.timeseries.frequency import season as season_of

    return season_of(track.frequency) if track.frequency else season


def _columns(values: Mapping[str, float]) -> dict[str, float]:
    return {column: values[name] for name, column in _COLUMNS.items() if name in values}
