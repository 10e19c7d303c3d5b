"""From a table to its forecast without Lightning: `Forecaster.from_checkpoint(path).forecast(df)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from apps.timeseries.batch import SeriesFacts
from apps.timeseries.data import frequency as rates
from apps.timeseries.data.build import Layout, SplitSource, build
from apps.timeseries.data.readers.columns import Roles
from apps.timeseries.data.readers.series import Part, SeriesSource, Tables, Unreadable
from apps.timeseries.data.scaling import ruling_row
from apps.timeseries.data.settings import SeriesSettings, Split
from apps.timeseries.data.store import History, SeriesSet
from apps.timeseries.metrics.evaluation import DECILES
from apps.timeseries.predict.forecast import Forecast, SeriesForecast
from apps.timeseries.predict.rolling import mixes_channels, roll
from core.errors import UserError
from core.inference.predictor import Predictor
from core.metrics.conformal import ContextWindows, context_conformal

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Forecaster"]

_UNKNOWN = "none: the history is too short"


class Forecaster(Predictor[SeriesFacts]):
    """A trained network with everything it needs to forecast a table in physical units.

    Args:
        networks: Called as `network(past_values, past_observed=…, …)`; forecasts so many steps from so long a
            context as it says (`context`, `kept` or `horizon`), else as the facts do.
        facts: Of the data that it was trained on; None for official weights.
        batch_size: Windows per call; the result does not depend on it.
        minimum_history: Observed values that a series must have, at least 1.
        **predictor: See `core.inference.predictor.Predictor`.

    Raises:
        UserError: If neither network nor facts say how long context and horizon are.
    """

    facts_type = SeriesFacts
    needs_facts = False

    def __init__(
        self,
        networks: nn.Module | Sequence[nn.Module],
        facts: SeriesFacts | Sequence[SeriesFacts] | None = None,
        *,
        batch_size: int = 256,
        minimum_history: int = 8,
        **predictor: Any,
    ) -> None:
        super().__init__(networks, facts, batch_size=batch_size, **predictor)
        network, known = self.network, self.facts
        context = getattr(network, "context", None) or getattr(known, "context", None)
        horizon = getattr(network, "kept", None) or getattr(network, "horizon", None)
        horizon = horizon or getattr(known, "horizon", None)
        if not context or not horizon:
            raise UserError(
                f"{self.name} does not say how long its context and horizon are; it is no forecaster"
            )
        self.context, self.horizon = int(context), int(horizon)
        self.minimum_history = max(1, minimum_history)
        self.mixes_channels = mixes_channels(network) and not (known and known.univariate)
        own_scale = getattr(network, "settings", {}).get("scaling") == "std"
        self.by_context = own_scale and not self.mixes_channels and not (known and known.scaler == "power")
        conformal = known.conformal if known else None
        self.conformal = conformal if conformal and conformal.by_window else None

    def forecast(
        self,
        source: Tables,
        *,
        horizon: int | None = None,
        known_future: pd.DataFrame | str | Path | None = None,
        quantiles: Sequence[float] = DECILES,
        frequency: str | None = None,
        wide: bool = False,
        **roles: str | Sequence[str] | None,
    ) -> pd.DataFrame:
        """Forecast every series of a frame, a file or a folder.

        Args:
            source: A table in the long or wide layout, or where it lies.
            horizon: Steps to forecast, any number; by default what the network forecasts at once.
            known_future: Rows after the series' end with the observable and control columns.
            quantiles: Levels between 0 and 1.
            frequency: Sampling rate; inferred from the stamps where it is not given.
            wide: One row per step instead of one per step and target.
            **roles: Columns by role: `time` and `targets` (found where they are not named; by default every
                numeric one), `ids`, `observable`, `control`, `conditional`, `categorical`,
                `static_categorical`.

        Returns:
            See `Forecast.frame`; `.attrs["not_forecast"]` lists what was left out, and why.

        Raises:
            UserError: If nothing can be forecast, or what the network needs is missing.
        """
        result = self.run(
            source,
            horizon=horizon,
            known_future=known_future,
            quantiles=quantiles,
            frequency=frequency,
            roles=Roles.of(**roles),
        )
        return result.frame(wide=wide)

    @np.errstate(over="ignore", invalid="ignore")  # what is no number is left out with a reason
    def run(
        self,
        source: Tables,
        *,
        horizon: int | None = None,
        known_future: pd.DataFrame | str | Path | None = None,
        quantiles: Sequence[float] = DECILES,
        roles: Roles | None = None,
        frequency: str | None = None,
    ) -> Forecast:
        """Do what `forecast` does and return the forecasts with their series, for figures and writers."""
        steps = self.horizon if horizon is None else int(horizon)
        if steps < 1:
            raise UserError(f"the horizon is {horizon}; it must be at least 1")
        wrong = [level for level in quantiles if not 0 < level < 1]
        if wrong:
            raise UserError(f"quantiles names {wrong[0]}; levels must lie between 0 and 1, as in 0.1")
        levels = tuple(sorted(float(level) for level in quantiles))
        series = self.read(source, roles, frequency=frequency, ahead=steps, known_future=known_future)
        usable: list[History] = []
        skipped = list(series.report.unreadable)
        for history in series.histories():
            dead = self._dead(history)
            live = tuple(i for i in range(len(history.targets)) if i not in dead)
            reasons = list(dead.values()) if live else list(dead.values())[:1]
            lacking = self._lacking(history, steps) if live else ""
            skipped.extend(Unreadable(history.id, reason) for reason in ([lacking] if lacking else reasons))
            if live and not lacking:
                usable.append(replace(history, live=live) if dead else history)
        if not usable:
            raise UserError(f"none of the {len(skipped)} series can be forecast: {skipped[0].reason}")
        points = self.predict_from([(history, len(history)) for history in usable], horizon=steps)
        # the context and the windows that quantiles come from lie at the end
        tail = self.context + 16 * steps
        ends = [(max(0, len(history) - tail), len(history)) for history in usable]
        lasts = [[len(history)] for history in usable]
        bands = self.offsets(usable, ends, lasts, levels=levels, horizon=steps)
        forecasts = []
        for history, point, (offsets, source) in zip(usable, points, bands, strict=True):
            forecast = self._described(history, point, offsets[0], source)
            good = np.isfinite(forecast.point).all(0)
            if self.by_context:
                good &= ~np.isinf(forecast.quantiles).any((0, 1))
            for name in np.array(history.targets)[~good]:
                reason = f"the forecast of '{name}' of '{history.id}' is no finite number; give another unit"
                skipped.append(Unreadable(history.id, reason))
            if good.any():
                forecasts.append(forecast if good.all() else forecast.only(np.flatnonzero(good)))
        if not forecasts:
            raise UserError(skipped[-1].reason)
        notes = [*series.report.notes, *(note for history in usable for note in self._outliers(history))]
        if steps > self.horizon:
            notes.append(
                f"horizon {steps} is rolled in chunks of {self.horizon}, what the network forecasts at once"
            )
        short = sum(len(history) < self.context for history in usable)
        if short:
            notes.append(f"{short} series are shorter than the context of {self.context} and were padded")
        return Forecast(forecasts, levels, skipped, notes)

    # what a backtest uses as well

    def read(
        self,
        source: Tables,
        roles: Roles | None = None,
        *,
        frequency: str | None = None,
        split: Callable[[Part], Split] | None = None,
        ahead: int = 1,
        known_future: pd.DataFrame | str | Path | None = None,
    ) -> SeriesSet:
        """Return the series of a source as training would read and scale them.

        Statistics are those of the training rows as `split` gives them; without any, of the context that is
        forecast from where the network scales each window anyway, else of the whole history but its outliers.
        Stored ones go before the last, for a series whose id and channel are known and whose values they fit.

        Args:
            source: As for `forecast`.
            roles: Stated roles of columns, completed by training's where the network is bound to them.
            frequency: Stated sampling rate.
            split: Parts of each series; None has no training rows.
            ahead: Steps that are to be forecast.
            known_future: As for `forecast`.

        Raises:
            UserError: If nothing can be read.
        """
        known, roles = self.facts, roles or Roles()
        if self.mixes_channels and known is not None:
            stated = {name: value for name, value in vars(roles).items() if value}
            roles = replace(known.roles, **{"time": (), "ids": (), **stated})
        windows = SeriesSettings(
            scaler=known.scaler if known else "standard", univariate=not self.mixes_channels
        )
        layout = Layout(self.context, ahead, windows, ahead=ahead, future=known_future, trained=known)
        layout = replace(layout, by_context=self.by_context)
        tables = SeriesSource.of(source, roles, frequency=frequency)
        return build([SplitSource("", tables, split or (lambda part: Split((0, 0), (0, 0), (0, 0))))], layout)

    def predict_from(self, asked: Sequence[tuple[History, int]], *, horizon: int) -> list[np.ndarray]:
        """Return scaled forecasts `(horizon, targets)`, each of a series from so many of its rows.

        What comes after them is hidden, but for the channels whose future is known.
        """
        store = asked[0][0].store
        numbers = np.array([n for history, _ in asked for n in history.numbers], dtype=np.int64)
        starts = np.array([end - self.context for history, end in asked for _ in history.numbers])
        vocabulary = getattr(self.network, "settings", {}).get("patching.frequency_tokens", len(rates.TOKENS))
        missing = self.facts.missing if self.facts else "mask"
        parts = []
        for first in range(0, len(numbers), self.batch_size):
            rows = slice(first, first + self.batch_size)
            batch = store.batch(
                numbers[rows], starts[rows], context=self.context, horizon=horizon, missing=missing
            )
            tokens = batch.freq_token
            assert tokens is not None
            batch = replace(batch, freq_token=torch.where(tokens < vocabulary, tokens, rates.TOKENS["oov"]))
            forecast = roll(self.network, batch.to(self.device), horizon=horizon, chunk=self.horizon)
            parts.append(forecast.float().cpu())
        rows_of = iter(torch.cat(parts).double().numpy())
        return [
            history.chosen(np.concatenate([next(rows_of)[:, : history.width] for _ in history.numbers], 1))
            for history, _ in asked
        ]

    def offsets(
        self,
        histories: Sequence[History],
        rows: Sequence[tuple[int, int]],
        ends: Sequence[Sequence[int]],
        *,
        levels: Sequence[float],
        horizon: int,
    ) -> list[tuple[np.ndarray, str]]:
        """Return each series' quantile offsets `(ends, levels, horizon, targets)`, scaled, and their source.

        They come from the validation residuals of the checkpoint, times the spread of the context before each
        of a series' `ends`; without any, from forecasts of the ends of each history's `rows`, alike for all
        (`ends` is 1 then); NaN where it is too short for those too.
        """
        windows = [ContextWindows([], horizon)] * len(rows)
        if self.conformal is None:
            windows = [ContextWindows.of(b - a, horizon=horizon, context=self.context) for a, b in rows]
        forecasts: list[np.ndarray | None] = [None] * len(rows)
        for steps in {one.steps for one in windows if one.ends}:  # many series in few batches
            chosen = [i for i, one in enumerate(windows) if one.ends and one.steps == steps]
            asked = [(histories[i], rows[i][0] + end) for i in chosen for end in windows[i].ends]
            predictions = iter(self.predict_from(asked, horizon=steps))
            for i in chosen:
                forecasts[i] = np.stack([next(predictions) for _ in windows[i].ends])
        bands = []
        for history, part, asked_ends, tested, forecast in zip(
            histories, rows, ends, windows, forecasts, strict=True
        ):
            targets, widths = history.targets, None
            if forecast is not None:
                spread = self._spread(history, [part[0] + end for end in (*tested.ends, part[1] - part[0])])[
                    :, 0
                ]
                # a context far wider than the last, as one with an outlier, says little of the errors to come
                widths = np.where(spread[:-1] > 10 * spread[-1], spread[:-1] / spread[-1], 1.0)
            conformal = self.conformal or context_conformal(
                history.scaled(*part),
                tested,
                forecast,
                widths=widths,
                horizon=horizon,
                season=history.season,
                channels=targets,
                levels=sorted({*levels, 0.5}),
            )
            if conformal is None:
                bands.append((np.full((1, len(levels), horizon, len(targets)), np.nan), _UNKNOWN))
                continue
            offsets = conformal.at(levels, horizon=horizon, channels=targets)
            spread = self._spread(history, asked_ends) if conformal.by_window else 1.0
            bands.append((offsets.double().numpy()[None] * spread, conformal.described(horizon, levels)))
        return bands

    # helpers

    def _spread(self, history: History, ends: Sequence[int]) -> np.ndarray:
        """Return the spread of the context before each end, `(ends, 1, 1, targets)`."""
        starts, missing = np.array(ends) - self.context, self.facts.missing if self.facts else "mask"
        size = {"context": self.context, "horizon": 0, "missing": missing}
        batches = [history.store.batch(np.full(len(ends), n), starts, **size) for n in history.numbers]
        spread = torch.cat([batch.spread[..., : history.width] for batch in batches], 2)
        return history.chosen(spread.double().numpy())[:, None]

    def _dead(self, history: History) -> dict[int, str]:
        """Return the targets that cannot be forecast, by number, and why."""
        dead, observed, series = {}, np.isfinite(history.scaled()), f"series '{history.id}'"
        for number, (name, rows) in enumerate(zip(history.targets, observed.T, strict=True)):
            if rows.sum() < self.minimum_history:
                least = f"at least {self.minimum_history} are needed"
                dead[number] = f"{series} has {rows.sum()} observed values in '{name}', {least}"
            elif not rows[-self.context :].any():
                dead[number] = f"{series} has no value of '{name}' in its last {self.context} rows"
        return dead

    def _outliers(self, history: History) -> list[str]:
        """Return a note for each target whose context holds a value that rules its scale."""
        first = max(0, len(history) - self.context)
        notes = []
        for name, values in zip(history.targets, history.invert(history.scaled(first)).T, strict=True):
            row = ruling_row(values)
            if row is not None:
                notes.append(
                    f"row {first + row + 1} of '{history.id}' holds {values[row]:g} in '{name}', which rules"
                    " the scale of all that is forecast from; leave the cell empty if it is an error"
                )
        return notes

    def _lacking(self, history: History, steps: int) -> str:
        """Return what a series' known future lacks, empty where nothing does."""
        exogenous = self.facts.exogenous if self.mixes_channels and self.facts else ()
        if exogenous:
            after = history.store.rows(np.array(history.numbers), np.array([len(history)]), steps)
            if not bool(torch.isfinite(after[..., list(exogenous)]).any()):
                names = ", ".join(self.facts.channels[channel] for channel in exogenous)
                return (
                    f"series '{history.id}' needs the known future of {names};"
                    " give known_future, a table with these columns after the series' end"
                )
        return ""

    def _described(
        self, history: History, point: np.ndarray, offsets: np.ndarray, source: str
    ) -> SeriesForecast:
        """Return a forecast in the series' own units, with its stamps and the end of its history."""
        track, steps = history.tracks[0], len(point)
        first = max(0, len(history) - max(3 * steps, 48))
        return SeriesForecast(
            id=history.id,
            roles=replace(track.roles, targets=tuple(history.targets)),
            times=track.stamps(len(history), steps),
            point=history.invert(point),
            quantiles=history.invert(point[None] + offsets),
            source=source,
            past=history.invert(history.scaled(first)),
            past_times=track.stamps(first, len(history) - first),
        )
