"""Rolling-origin backtest: the model and the baselines forecast the ends of the user's series again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from apps.timeseries.data.readers.columns import Roles
from apps.timeseries.data.readers.series import Part, Tables, Unreadable
from apps.timeseries.data.settings import Split
from apps.timeseries.data.store import History
from apps.timeseries.metrics.baselines import Baseline
from apps.timeseries.metrics.errors import seasonal_error
from apps.timeseries.metrics.evaluation import DECILES, ForecastScores
from apps.timeseries.metrics.opponents import Opponent, default_baselines
from apps.timeseries.predict.model import Forecaster
from core.errors import UserError
from core.metrics.conformal import Conformal

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Backtest", "backtest"]


@dataclass(frozen=True)
class Backtest:
    """Scores of everybody's forecasts of the same windows.

    Args:
        forecasters: Their names, the model's first.
        scores: Series and channel to the scores of its windows.
        skipped: Series that were left out, and why.
        notes: What was decided for the user.
    """

    forecasters: list[str]
    scores: dict[tuple[str, str], ForecastScores]
    skipped: list[Unreadable] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def table(self) -> pd.DataFrame:
        """Return a row per forecaster with the metrics of `ForecastScores`, and the windows."""
        return self._total().frame()

    def by_step(self) -> pd.DataFrame:
        """Return the same per step of the horizon, indexed by forecaster and step (from 1)."""
        import pandas as pd

        return pd.DataFrame(self._total().by_step()).set_index(["model", "step"])

    def by_channel(self) -> pd.DataFrame:
        """Return the same per channel, indexed by forecaster and channel."""
        return self._by("channel", 1)

    def by_series(self) -> pd.DataFrame:
        """Return the same per series, indexed by forecaster and series."""
        return self._by("series", 0)

    def _by(self, key: str, place: int) -> pd.DataFrame:
        import pandas as pd

        rows = [
            {"model": row["model"], key: label} | row
            for label in dict.fromkeys(names[place] for names in self.scores)
            for row in self._total(lambda names, label=label: names[place] == label).results()
        ]
        rows.sort(key=lambda row: self.forecasters.index(row["model"]))
        return pd.DataFrame(rows).set_index(["model", key])

    def _total(self, chosen: Callable[[tuple[str, str]], bool] = lambda names: True) -> ForecastScores:
        first = next(iter(self.scores.values()))
        total = ForecastScores(first.horizon, first.channels, levels=first.levels)
        for names, scores in self.scores.items():
            if chosen(names):
                total.add(scores)
        return total


def backtest(
    forecaster: Forecaster,
    source: Tables,
    *,
    horizon: int | None = None,
    origins: int = 20,
    stride: int | None = None,
    quantiles: Sequence[float] = DECILES,
    baselines: Sequence[Baseline] | str = "all",
    name: str = "model",
    frequency: str | None = None,
    **roles: str | Sequence[str] | None,
) -> Backtest:
    """Forecast the ends of the series again from earlier moments, beside the baselines, and score both.

    Statistics of a series, baselines and the baselines' quantiles see only what precedes the first origin;
    the model's quantiles are those that it would give its user.

    Args:
        forecaster: The model.
        source: A file, a folder or a frame.
        horizon: Steps; by default what the network forecasts at once.
        origins: Windows per series at most; as many as fit are taken.
        stride: Steps between two origins; by default the horizon, so that windows do not overlap.
        quantiles: Levels of the quantile score.
        baselines: `all`, `naive` (those without training), or the baselines themselves, made for this
            horizon.
        name: What the table calls the model.
        frequency: Sampling rate; inferred from the stamps where it is not given.
        **roles: Columns by role, as for `Forecaster.forecast`.

    Raises:
        UserError: If no series is long enough for one window.
    """
    steps = forecaster.horizon if horizon is None else int(horizon)
    if steps < 1 or origins < 1 or (stride is not None and stride < 1):
        raise UserError(f"horizon {horizon}, origins {origins} and stride {stride} must all be at least 1")
    if isinstance(baselines, str) and baselines not in ("all", "naive"):
        raise UserError(f"baselines is '{baselines}'; it must be all or naive")
    levels = tuple(sorted(float(level) for level in quantiles))
    gap, context = steps if stride is None else stride, forecaster.context

    def ends_of(rows: int) -> list[int]:
        first = max(forecaster.minimum_history, min(context, rows // 2))
        return sorted(range(rows - steps, first - 1, -gap))[-origins:]

    def split(part: Part) -> Split:
        first = (ends_of(part.length) or [0])[0]  # what precedes the first origin trains
        return Split((0, first), (int(0.8 * first), first), (first, part.length))

    series = forecaster.read(source, Roles.of(**roles), frequency=frequency, split=split, ahead=steps)
    cases: list[_Case] = []
    skipped = list(series.report.unreadable)
    for history in series.histories():
        case = _Case(history, history.scaled(), ends_of(len(history)), steps, context)
        reasons = case.refusals(forecaster.minimum_history)
        skipped.extend(Unreadable(history.id, reason) for reason in reasons.values())
        live = tuple(i for i in range(len(history.targets)) if case.ends and i not in reasons)
        if live:
            history = replace(history, live=live)
            cases.append(replace(case, history=history, scaled=history.scaled()))
    if not cases:
        raise UserError(f"no series can be backtested at horizon {steps}: {skipped[-1].reason}")
    trained = [(0, 0)] * len(series.tracks)
    for case in cases:
        for number, track in zip(case.history.numbers, case.history.tracks, strict=True):
            trained[number] = (0, track.split.val[0])
    chosen, notes = _baselines(baselines, cases, trained, context=context, horizon=steps)
    width = cases[0].history.width
    rivals = [Opponent(one, series, trained, context=context, targets=width) for one in chosen]
    asked = [(case.history, end) for case in cases for end in case.ends]
    predictions = iter(forecaster.predict_from(asked, horizon=steps))
    bands = forecaster.offsets(
        [case.history for case in cases],
        [(0, case.ends[0]) for case in cases],
        [case.ends for case in cases],
        levels=levels,
        horizon=steps,
    )
    scores: dict[tuple[str, str], ForecastScores] = {}
    for case, (offsets, _) in zip(cases, bands, strict=True):
        targets = case.history.targets
        by_target = {target: ForecastScores(steps, ["*"], levels=levels) for target in targets}
        channels = list(by_target.values())
        case.score(channels, name, np.stack([next(predictions) for _ in case.ends]), offsets)
        for rival in rivals:
            bands_of_rival = case.guessed_offsets(rival, levels)
            case.score(channels, rival.name, case.guess(rival, case.ends), bands_of_rival)
        scores |= {(case.history.id, target): one for target, one in by_target.items()}
    return Backtest([name, *(rival.name for rival in rivals)], scores, skipped, notes)


@dataclass(frozen=True)
class _Case:
    """One series with the ends of its histories (rows before the first step of each window)."""

    history: History
    scaled: np.ndarray
    ends: list[int]
    steps: int
    context: int

    def refusals(self, minimum: int) -> dict[int, str]:
        """Return the targets that cannot be backtested, by number, and why."""
        rows, name = len(self.scaled), f"series '{self.history.id}'"
        if not self.ends:
            needed = max(minimum, min(self.context, rows // 2)) + self.steps
            return {0: f"{name} has {rows} rows, a backtest needs {needed}"}
        seen = np.isfinite(self.scaled[: self.ends[0]]).sum(0)
        return {
            number: f"{name} has too few values of '{column}' before its first origin"
            for number, column in enumerate(self.history.targets)
            if seen[number] < minimum
        }

    def score(
        self, scores: Sequence[ForecastScores], name: str, prediction: np.ndarray, offsets: np.ndarray
    ) -> None:
        """Add forecasts `(N, H, C)`, with offsets of quantiles `(N or 1, Q, H, C)`, to each channel's scores.

        A truth whose context shows no value to start from does not count.
        """
        history, target = self.history, self._truth(self.ends)
        blind = [~np.isfinite(self.scaled[max(0, e - self.context) : e]).any(0) for e in self.ends]
        target = np.where(np.stack(blind)[:, None], np.nan, target)
        offsets = np.nan_to_num(offsets)  # without quantiles every level is the point forecast
        quantiles = history.invert(prediction[:, None] + offsets)  # N Q H C
        point, truth = history.invert(prediction), history.invert(target)
        past = torch.from_numpy(np.ascontiguousarray(history.invert(self.scaled).T))
        seasonal = torch.stack([seasonal_error(past[:, :e], season=history.season) for e in self.ends])
        for channel, channel_scores in enumerate(scores):
            one = slice(channel, channel + 1)
            channel_scores.update(
                name,
                prediction=torch.from_numpy(prediction[..., one]),
                target=torch.from_numpy(target[..., one]),
                point=torch.from_numpy(point[..., one]),
                truth=torch.from_numpy(truth[..., one]),
                quantiles=torch.from_numpy(np.moveaxis(quantiles[..., one], 1, -1)),
                seasonal=seasonal[:, one],
            )

    def guess(self, rival: Opponent, ends: Sequence[int]) -> np.ndarray:
        """Return a baseline's forecasts `(N, H, C)` from the given ends."""
        history, starts = self.history, np.array(ends) - self.context
        forecasts = []
        for number in history.numbers:
            batch = history.store.batch(
                np.full(len(ends), number), starts, context=self.context, horizon=self.steps
            )
            past, observed = (t[..., : history.width] for t in (batch.past_values, batch.past_observed))
            forecasts.append(rival.predict(past.double(), observed, batch.series))
        return history.chosen(torch.cat(forecasts, 2).double().numpy())

    def guessed_offsets(self, rival: Opponent, levels: Sequence[float]) -> np.ndarray:
        """Return a baseline's conformal offsets from up to 50 windows before the first origin, else 0."""
        targets, last = self.history.targets, self.ends[0] - self.steps
        first = min(self.context, self.ends[0] // 2)
        ends = list(range(last, first - 1, -max(1, (last - first) // 50)))[:50] if last >= first else []
        if len(ends) >= 8:
            residuals = torch.from_numpy(self._truth(ends) - self.guess(rival, ends))
            if bool(torch.isfinite(residuals).any()):
                conformal = Conformal.from_residuals(residuals, channels=targets)
                return conformal.at(levels, horizon=self.steps, channels=targets).double().numpy()[None]
        return np.zeros((1, len(levels), self.steps, len(targets)))

    def _truth(self, ends: Sequence[int]) -> np.ndarray:
        return np.stack([self.scaled[end : end + self.steps] for end in ends])


def _baselines(
    chosen: Sequence[Baseline] | str,
    cases: Sequence[_Case],
    trained: Sequence[tuple[int, int]],
    *,
    context: int,
    horizon: int,
) -> tuple[list[Baseline], list[str]]:
    """Return the baselines, without those that lack training windows, and what to tell of that."""
    if not isinstance(chosen, str):
        return list(chosen), []
    windows = sum(
        max(0, trained[number][1] - context - horizon + 1) * case.history.width
        for case in cases
        for number in case.history.numbers
    )
    # fewer windows than weights would make a linear map of noise
    learned, notes = chosen == "all" and windows >= context, []
    if chosen == "all" and not learned:
        notes.append(f"DLinear and ridge are left out: the histories hold only {windows} training windows")
    season = cases[0].history.season
    return default_baselines(context=context, horizon=horizon, season=season, trained=learned), notes
