"""One evaluation for the network and all baselines: the same windows, the same labels, the same units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from apps.timeseries.data import frequency as rates
from apps.timeseries.data import scaling
from apps.timeseries.metrics.baselines import ETS, Baseline, default_baselines
from apps.timeseries.metrics.errors import seasonal_error
from apps.timeseries.metrics.scores import DECILES, Scores
from core.metrics.conformal import Conformal

if TYPE_CHECKING:
    from apps.timeseries.data.module import Series
    from apps.timeseries.data.store import Track

__all__ = ["Evaluation", "Opponent", "opponents", "panel"]


class Evaluation:
    """Brings forecasts of a data module's windows into the data's own units and adds them to `scores`.

    The seasonal error of MASE is that of a series' training rows; of all its rows where it has none, as a
    series that only the test sees.

    Args:
        data: The data module, after its set-up.
        windows: Windows that will come, on all ranks together.
    """

    def __init__(self, data: Series, *, windows: int) -> None:
        facts = data.facts
        self.windows = windows
        self.scores = Scores(facts["horizon"], facts["channels"][: facts["targets"]])
        self._seen = 0
        self._statistics = [_statistics(data, track, facts["targets"]) for track in data.tracks]
        self._mean, self._scale = (
            torch.tensor([one[name] for one in self._statistics], dtype=torch.float64)
            for name in ("mean", "scale")
        )
        self._powered = any("power" in one for one in self._statistics)
        self._seasonal = torch.tensor(
            [_seasonal_errors(data, number, one) for number, one in enumerate(self._statistics)],
            dtype=torch.float64,
        )

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
            offsets: `(Q, H, C)`, what quantiles of `DECILES` add to the prediction, in scaled units.
        """
        point = self._own(prediction[:, None], series)  # B Q H C, with one level
        if offsets is None:
            quantiles = point.expand(-1, len(DECILES), -1, -1)
        else:
            quantiles = self._own(prediction[:, None].double() + offsets.to(prediction.device)[None], series)
        self.scores.update(
            name, prediction=prediction, target=target, observed=observed, point=point[:, 0],
            truth=self._own(target[:, None], series)[:, 0], quantiles=quantiles.movedim(1, -1),
            seasonal=self._seasonal.to(prediction.device)[series],
        )  # fmt: skip

    def late(self, last_windows: int | None, *, size: int) -> int:
        """Return how many of the next windows come too early for a slow forecaster.

        Args:
            last_windows: How many of the last windows it is asked for; None is all.
            size: Number of the next windows.
        """
        if last_windows is None:
            return 0
        return min(size, max(0, self.windows - last_windows - self._seen))

    def advance(self, size: int) -> None:
        """Count a batch that every forecaster has seen."""
        self._seen += size

    def _own(self, values: Tensor, series: Tensor) -> Tensor:
        """Return scaled values `(B, Q, H, C)` in the data's own units, float64."""
        mean, scale = (table.to(values.device)[series][:, None, None] for table in (self._mean, self._scale))
        raw = values.double() * scale + mean
        for number in series.unique().tolist() if self._powered else ():
            own = series == number
            block = scaling.invert_channels(values[own].double().cpu().numpy(), self._statistics[number])
            raw[own] = torch.from_numpy(block).to(raw)
        return raw


class Opponent:
    """A baseline for many series, fitted when it is first asked.

    Those that learn one map take it from the training rows of all series; ETS is estimated on each series'
    own, or on each context where there are none. The season is each series' own.

    Args:
        baseline: Not yet fitted.
        data: The data module.
    """

    def __init__(self, baseline: Baseline, data: Series) -> None:
        self.name, self.last_windows = baseline.name, baseline.last_windows
        self._baseline, self._data = baseline, data
        self._seasons = torch.tensor([rates.season(track.frequency) for track in data.tracks])
        self._fitted: dict[int | None, Baseline] = {}

    def predict(self, past: Tensor, observed: Tensor, series: Tensor) -> Tensor:
        """Forecast `past (B, L, C)` of the given series `(B,)`: `(B, H, C)`."""
        series = series.cpu()
        if not isinstance(self._baseline, ETS):
            return self._fit(None).predict(past, observed, season=self._seasons[series])
        out = past.new_empty(len(past), self._baseline.horizon, past.shape[2])
        for number in series.unique().tolist():
            own = (series == number).to(past.device)
            out[own] = self._fit(number).predict(past[own], observed[own])
        return out

    def _fit(self, number: int | None) -> Baseline:
        """Return the baseline fitted on one series, or on all."""
        if number not in self._fitted:
            with torch.inference_mode(False), torch.enable_grad():  # some are trained, in the midst of a test
                self._fitted[number] = self._fitted_on_all() if number is None else self._fitted_on(number)
        return self._fitted[number]

    def _fitted_on_all(self) -> Baseline:
        return self._baseline.fit(_tables(self._data, "train"), validation=_tables(self._data, "val"))

    def _fitted_on(self, number: int) -> Baseline:
        rows = _rows(self._data, number, "train")
        own = replace(self._baseline, season=int(self._seasons[number]))  # type: ignore[call-arg]
        return own.fit([rows] if len(rows) >= self._data.context else [])


def opponents(data: Series, *, trained: bool) -> list[Opponent]:
    """Return the baselines of an evaluation; with `trained` also those that learn from the training rows."""
    context, horizon = data.facts["context"], data.facts["horizon"]
    trained = trained and any(len(rows) >= context + horizon for rows in _tables(data, "train"))
    chosen = default_baselines(context=context, horizon=horizon, season=data.facts["season"], trained=trained)
    return [Opponent(baseline, data) for baseline in chosen]


def _tables(data: Series, part: str) -> list[Tensor]:
    """Return the target channels of each series' `train` or `val` rows that are not empty."""
    numbers = [number for number, track in enumerate(data.tracks) if track.factor == 1]
    return [rows for number in numbers if len(rows := _rows(data, number, part))]


def _rows(data: Series, number: int, part: str) -> Tensor:
    """Return the target channels of a series' rows, `(T, C)` scaled; `val` begins with its context."""
    first, end = data.trained_rows[number] if part == "train" else data.tracks[number].split.val
    if part == "val" and end > first:
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
    """Return one panel of `forecast_figure`: a window's first target in the data's own units, and its stamps.

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
    statistics = _statistics(data, track, facts["targets"])
    channel = facts["channels"][0]

    def raw(values: Tensor) -> np.ndarray:
        return scaling.invert_channels(values.detach().double().cpu().numpy()[:, None], statistics)[:, 0]

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


def _statistics(data: Series, track: Track, targets: int) -> dict[str, list[Any]]:
    """Return mean and scale (and power) of the targets of one row of the series table."""
    row, chosen = data.built.facts[track.id], slice(track.place, track.place + targets)
    return {name: row[name][chosen] for name in ("mean", "scale", "power") if row.get(name)}


def _stamps(track: Track, start: int, past: int, future: int) -> tuple[Any, Any] | None:
    if track.start is None or not track.frequency:
        return None
    import pandas as pd

    first = track.start + start * pd.tseries.frequencies.to_offset(track.frequency)  # earlier inside padding
    every = pd.date_range(first, periods=past + future, freq=track.frequency)
    return every[:past], every[past:]


def _seasonal_errors(data: Series, number: int, statistics: Mapping[str, Any]) -> list[float]:
    """Return the seasonal error of each target of a series in the data's own units."""
    table, track = data.store.series(number), data.tracks[number]
    first, end = track.split.train
    if end > first:
        table = table[first:end]
    found = []
    for channel in range(len(statistics["mean"])):  # one by one: a long series is not copied whole
        own = {name: values[channel : channel + 1] for name, values in statistics.items()}
        raw = scaling.invert_channels(table[:, channel : channel + 1].double().numpy(), own)
        found.append(float(seasonal_error(torch.from_numpy(raw[:, 0]), season=rates.season(track.frequency))))
    return found
