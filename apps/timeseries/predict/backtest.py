"""Rolling-origin backtest: the model and the baselines forecast the ends of the user's series again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from apps.timeseries.data import frequency as rates
from apps.timeseries.data import scaling
from apps.timeseries.data.readers.series import SeriesTable, Unreadable
from apps.timeseries.metrics import errors as metrics
from apps.timeseries.metrics.baselines import Baseline, default_baselines
from apps.timeseries.metrics.scores import DECILES, Scores
from apps.timeseries.predict.model import Forecaster
from core.errors import UserError
from core.metrics.conformal import Conformal

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Backtest", "backtest"]


@dataclass(frozen=True)
class Rows:
    """Forecasts of one forecaster, a row per window and channel: R of them.

    Args:
        prediction: `(R, H)` in scaled units.
        quantiles: `(R, H, Q)` in the series' own units.
        point: `(R, H)` in the series' own units.
    """

    prediction: Tensor
    quantiles: Tensor
    point: Tensor


@dataclass(frozen=True)
class Backtest:
    """Forecasts of everybody on the same windows, and their scores.

    Args:
        target: `(R, H)` truth in scaled units, NaN where missing; a row per window and channel.
        truth: The same in the series' own units.
        seasonal: `(R, 1)` seasonal error of the history before each window, in the series' own units.
        channels: Name of each row's channel.
        series: Id of each row's series.
        forecasters: Name to rows; the model first.
        levels: Quantile levels.
        skipped: Series that were left out, and why.
        notes: What was decided for the user.
    """

    target: Tensor
    truth: Tensor
    seasonal: Tensor
    channels: np.ndarray
    series: np.ndarray
    forecasters: dict[str, Rows]
    levels: tuple[float, ...]
    skipped: list[Unreadable] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def table(self) -> pd.DataFrame:
        """Return a row per forecaster with the metrics of `Scores`, and how many windows and channels."""
        return self._scores().frame()

    def by_step(self) -> pd.DataFrame:
        """Return the same per step of the horizon, indexed by forecaster and step (from 1)."""
        import pandas as pd

        return pd.DataFrame(self._scores().by_step()).set_index(["model", "step"])

    def by_channel(self) -> pd.DataFrame:
        """Return the same per channel, indexed by forecaster and channel."""
        return self._by("channel", self.channels)

    def by_series(self) -> pd.DataFrame:
        """Return the same per series, indexed by forecaster and series."""
        return self._by("series", self.series)

    def _by(self, key: str, labels: np.ndarray) -> pd.DataFrame:
        import pandas as pd

        found = [
            {"model": row["model"], key: label} | row
            for label in dict.fromkeys(labels)
            for row in self._scores(torch.from_numpy(labels == label)).results()
        ]
        order = list(self.forecasters)
        found.sort(key=lambda row: order.index(row["model"]))
        return pd.DataFrame(found).set_index(["model", key])

    def _scores(self, rows: Tensor | slice = slice(None)) -> Scores:
        """Return the scores of some rows, each taken as a window of one channel."""
        scores = Scores(self.target.shape[1], ["*"], levels=self.levels)
        for name, made in self.forecasters.items():
            scores.update(
                name, prediction=made.prediction[rows, :, None], target=self.target[rows, :, None],
                point=made.point[rows, :, None], truth=self.truth[rows, :, None],
                quantiles=made.quantiles[rows, :, None], seasonal=self.seasonal[rows],
            )  # fmt: skip
        return scores


def backtest(
    forecaster: Forecaster,
    tables: Sequence[SeriesTable],
    *,
    horizon: int | None = None,
    origins: int = 20,
    stride: int | None = None,
    quantiles: Sequence[float] = DECILES,
    baselines: Sequence[Baseline] | str = "all",
    name: str = "model",
) -> Backtest:
    """Forecast the ends of the series again from earlier moments, beside the baselines, and score both.

    Statistics of a series, baselines and the baselines' quantiles see only what precedes the first origin;
    the model's quantiles are those that it would give its user.

    Args:
        forecaster: The model.
        tables: Series in their own units.
        horizon: Steps; by default what the network forecasts at once.
        origins: Windows per series at most; as many as fit are taken.
        stride: Steps between two origins; by default the horizon, so that windows do not overlap.
        quantiles: Levels of the quantile score.
        baselines: `all`, `naive` (those without training), or the baselines themselves, made for this
            horizon.
        name: What the table calls the model.

    Raises:
        UserError: If no series is long enough for one window.
    """
    steps = forecaster.horizon if horizon is None else int(horizon)
    if steps < 1 or origins < 1 or (stride is not None and stride < 1):
        raise UserError(f"horizon {horizon}, origins {origins} and stride {stride} must all be at least 1")
    levels = tuple(sorted(float(level) for level in quantiles))
    gap = steps if stride is None else stride
    cases, skipped = _cases(forecaster, tables, steps=steps, origins=origins, stride=gap)
    season = rates.season(cases[0].table.frequency)
    fitted, notes = _fit(baselines, cases, context=forecaster.context, horizon=steps, season=season)
    pieces: dict[str, list[Rows]] = {name: [], **{baseline.name: [] for baseline in fitted}}
    made_by_model = iter(
        forecaster.predict_from([(c.table, c.scaled, end) for c in cases for end in c.ends], horizon=steps)
    )
    histories = [case.scaled[: case.ends[0]] for case in cases]
    bands = forecaster.offsets([case.table for case in cases], histories, levels=levels, horizon=steps)
    for case, (offsets, _) in zip(cases, bands, strict=True):
        pieces[name].append(_rows(np.stack([next(made_by_model) for _ in case.ends]), offsets, case))
        past = torch.from_numpy(case.contexts(case.ends, forecaster.context))
        for baseline in fitted:
            made = baseline.predict(past, season=case.seasons(len(past))).double().numpy()
            pieces[baseline.name].append(
                _rows(made, _baseline_offsets(baseline, case, forecaster, levels), case)
            )
    joined = {
        key: Rows(
            *(
                torch.cat([getattr(one, part) for one in rows])
                for part in ("prediction", "quantiles", "point")
            )
        )
        for key, rows in pieces.items()
    }
    width, context = [len(case.targets) for case in cases], forecaster.context
    return Backtest(
        target=torch.cat([_flat(case.truth(case.scaled, steps, context=context)) for case in cases]),
        truth=torch.cat([_flat(case.truth(case.raw, steps, context=context)) for case in cases]),
        seasonal=torch.cat([_flat(case.seasonal_errors()) for case in cases]),
        channels=np.concatenate([np.tile(case.targets, len(case.ends)) for case in cases]),
        series=np.concatenate(
            [np.repeat(c.table.id, len(c.ends) * w) for c, w in zip(cases, width, strict=True)]
        ),
        forecasters=joined,
        levels=levels,
        skipped=skipped,
        notes=notes,
    )


@dataclass(frozen=True)
class _Case:
    """One series, scaled, with the ends of its histories (rows before the first step of each window)."""

    table: SeriesTable
    scaler: dict[str, Any]
    scaled: np.ndarray
    targets: list[str]
    ends: list[int]

    @property
    def raw(self) -> np.ndarray:
        return self.table.values[:, : len(self.targets)]

    def truth(self, values: np.ndarray, steps: int, *, context: int) -> np.ndarray:
        """Return `(N, steps, targets)` of what came; NaN where the context showed no value to start from."""
        count = len(self.targets)
        blind = np.stack(
            [~np.isfinite(self.scaled[max(0, end - context) : end, :count]).any(0) for end in self.ends]
        )
        found = np.stack([values[end : end + steps, :count] for end in self.ends])
        return np.where(blind[:, None], np.nan, found)

    def contexts(self, ends: Sequence[int], length: int) -> np.ndarray:
        """Return `(N, length, targets)`, NaN on the left where the history is shorter."""
        block = np.full((len(ends), length, len(self.targets)), np.nan)
        for row, end in enumerate(ends):
            part = self.scaled[max(0, end - length) : end, : len(self.targets)]
            block[row, length - len(part) :] = part
        return block

    def seasons(self, count: int) -> Tensor:
        """Return the series' season for `count` windows."""
        return torch.full((count,), rates.season(self.table.frequency))

    def seasonal_errors(self) -> np.ndarray:
        """Return `(N, 1, targets)`: the scale of MASE, from everything before each window."""
        season = rates.season(self.table.frequency)
        past = torch.from_numpy(self.raw.T.copy())
        return np.stack(
            [metrics.seasonal_error(past[:, :end], season=season).numpy()[None] for end in self.ends]
        )


def _cases(
    forecaster: Forecaster, tables: Sequence[SeriesTable], *, steps: int, origins: int, stride: int
) -> tuple[list[_Case], list[Unreadable]]:
    cases, skipped = [], []
    for table in tables:
        rows = len(table.values)
        first = max(forecaster.minimum_history, min(forecaster.context, rows // 2))
        ends = sorted(range(rows - steps, first - 1, -stride))[-origins:]
        targets = forecaster.targets(table)
        if not ends:
            needed = first + steps
            skipped.append(
                Unreadable(table.id, f"series '{table.id}' has {rows} rows, a backtest needs {needed}")
            )
            continue
        history = table.values[: ends[0], : len(targets)]
        poor = np.isfinite(history).sum(0) < forecaster.minimum_history
        if poor.any():
            column = targets[int(poor.argmax())]
            reason = f"series '{table.id}' has too few values of '{column}' before its first origin"
            skipped.append(Unreadable(table.id, reason))
            continue
        scaler = forecaster.scalers(table, rows=ends[0])
        cases.append(_Case(table, scaler, forecaster.scale(table, scaler), targets, ends))
    if not cases:
        reason = skipped[0].reason if skipped else "there is no series"
        raise UserError(f"no series can be backtested at horizon {steps}: {reason}")
    return cases, skipped


def _fit(
    chosen: Sequence[Baseline] | str, cases: Sequence[_Case], *, context: int, horizon: int, season: int
) -> tuple[list[Baseline], list[str]]:
    """Fit the baselines on what precedes the first origins, without those that lack training windows."""
    if not isinstance(chosen, str):
        baselines = list(chosen)
    elif chosen in ("all", "naive"):
        baselines = default_baselines(
            context=context, horizon=horizon, season=season, trained=chosen == "all"
        )
    else:
        raise UserError(f"baselines is '{chosen}'; it must be all or naive")
    train, validation = [], []
    for case in cases:
        table = torch.from_numpy(case.scaled[: case.ends[0], : len(case.targets)]).float()
        border = int(0.8 * len(table))
        train.append(table[:border])
        validation.append(table[max(0, border - context) :])
    size = context + horizon
    windows = sum(max(0, len(table) - size + 1) * table.shape[1] for table in train)
    notes = []
    # fewer windows than weights would make a linear map of noise
    if windows < context and isinstance(chosen, str) and chosen == "all":
        baselines = default_baselines(context=context, horizon=horizon, season=season, trained=False)
        notes.append(f"DLinear and ridge are left out: the histories hold only {windows} training windows")
    return [baseline.fit(train, validation=validation) for baseline in baselines], notes


def _baseline_offsets(
    baseline: Baseline, case: _Case, forecaster: Forecaster, levels: Sequence[float]
) -> np.ndarray:
    """Return a baseline's conformal offsets from up to 50 windows before the first origin, else 0."""
    steps, last = baseline.horizon, case.ends[0] - baseline.horizon
    first = min(forecaster.context, case.ends[0] // 2)
    ends = list(range(last, first - 1, -max(1, (last - first) // 50)))[:50] if last >= first else []
    if len(ends) < 8:
        return np.zeros((len(levels), steps, len(case.targets)))
    truth = np.stack([case.scaled[end : end + steps, : len(case.targets)] for end in ends])
    past = torch.from_numpy(case.contexts(ends, forecaster.context))
    made = baseline.predict(past, season=case.seasons(len(ends))).double().numpy()
    residuals = torch.from_numpy(truth - made)
    if not bool(torch.isfinite(residuals).any()):
        return np.zeros((len(levels), steps, len(case.targets)))
    conformal = Conformal.from_residuals(residuals, channels=case.targets)
    return conformal.at(levels, horizon=steps, channels=case.targets).double().numpy()


def _rows(scaled: np.ndarray, offsets: np.ndarray, case: _Case) -> Rows:
    """Return forecasts `(N, H, C)` with quantile offsets `(Q, H, C)` as rows per window and channel."""
    offsets = np.nan_to_num(offsets)  # without quantiles every level is the point forecast
    bands = scaling.invert_channels(scaled[:, None] + offsets[None], case.scaler)  # N Q H C
    quantiles = torch.from_numpy(np.moveaxis(bands, 1, -1))  # N Q H C -> N H C Q
    return Rows(
        prediction=_flat(scaled),
        quantiles=quantiles.permute(0, 2, 1, 3).reshape(-1, quantiles.shape[1], quantiles.shape[3]),
        point=_flat(scaling.invert_channels(scaled, case.scaler)),
    )


def _flat(values: np.ndarray) -> Tensor:
    """Return `(N, H, C)` as rows per window and channel `(N*C, H)`, float64."""
    block = torch.from_numpy(np.ascontiguousarray(values)).double()
    return block.transpose(1, 2).reshape(-1, block.shape[1])
