"""From a table to its forecast without Lightning: `Forecaster.from_checkpoint(path).forecast(df)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from apps.timeseries.data import frequency as rates
from apps.timeseries.data import scaling
from apps.timeseries.data.readers.roles import Roles
from apps.timeseries.data.readers.series import SeriesTable, Unreadable, read_collection, read_future
from apps.timeseries.data.windows import impute
from apps.timeseries.metrics.scores import DECILES
from apps.timeseries.predict.forecast import Forecast, SeriesForecast
from apps.timeseries.predict.rolling import Contexts, forecast_scaled, mixes_channels
from core.errors import UserError
from core.metrics.conformal import Conformal, ContextWindows, context_conformal

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Forecaster"]


class Forecaster:
    """A trained network with everything it needs to forecast a table in physical units.

    Args:
        network: Called as `network(past_values, past_observed=…, …)`; forecasts `horizon` steps from
            `context`.
        context: Steps it looks at.
        horizon: Steps it forecasts at once; other horizons are cut or rolled.
        facts: What the data module of its training knew (`Series.facts`, and `conformal`).
        device: Where to compute.
        batch_size: Windows per call; the result does not depend on it.
        minimum_history: Observed values that a series must have, at least 1.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        context: int,
        horizon: int,
        facts: Mapping[str, Any] | None = None,
        device: str | torch.device = "cpu",
        batch_size: int = 256,
        minimum_history: int = 8,
    ) -> None:
        self.network = network.to(device).eval()
        self.context, self.horizon = context, horizon
        self.facts: dict[str, Any] = dict(facts or {})
        self.device, self.batch_size = device, batch_size
        self.minimum_history = max(1, minimum_history)
        self.mixes_channels = mixes_channels(network) and not self.facts.get("univariate", False)
        stored = self.facts.get("conformal")
        self.conformal = Conformal.from_state(stored) if stored else None

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, *, device: str | torch.device = "cpu", batch_size: int = 256
    ) -> Forecaster:
        """Return the forecaster of our checkpoint, a folder in the hub's layout, a card or a hub id.

        Raises:
            UserError: If it is missing or damaged, or does not say which network it belongs to.
        """
        from core.checkpoints.weights import network_from

        facts: Mapping[str, Any] = {}
        if str(path).endswith(".ckpt"):
            from core.checkpoints.files import read_outline

            facts = read_outline(Path(path)).get("state_dict", {}).get("normaliser._extra_state") or {}
        network = network_from(str(path))
        context, horizon = _sizes(network, facts, where=str(path))
        return cls(
            network, context=context, horizon=horizon, facts=facts, device=device, batch_size=batch_size
        )

    def forecast(
        self,
        source: pd.DataFrame | str | Path | Sequence[pd.DataFrame],
        *,
        horizon: int | None = None,
        known_future: pd.DataFrame | str | Path | None = None,
        quantiles: Sequence[float] = DECILES,
        time: str | Sequence[str] | None = None,
        ids: str | Sequence[str] | None = None,
        targets: str | Sequence[str] | None = None,
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
            time: Column of time stamps; found where it is not named.
            ids: Column, or columns, that tell series apart.
            targets: Columns to forecast; by default every numeric one.
            frequency: Sampling rate; inferred from the stamps where it is not given.
            wide: One row per step instead of one per step and target.
            **roles: Further roles by name: `observable`, `control`, `conditional`, `categorical`,
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
            roles=Roles.of(time=time, ids=ids, targets=targets, **roles),
        )
        return result.frame(wide=wide)

    def run(
        self,
        source: pd.DataFrame | str | Path | Sequence[pd.DataFrame],
        *,
        horizon: int | None = None,
        known_future: pd.DataFrame | str | Path | None = None,
        quantiles: Sequence[float] = DECILES,
        roles: Roles | None = None,
        frequency: str | None = None,
    ) -> Forecast:
        """Do what `forecast` does and return the forecasts with their series, for figures and writers."""
        collection = read_collection(source, self._roles(roles or Roles(), source), frequency=frequency)
        future = None
        steps = self._check(horizon, quantiles)
        if known_future is not None:
            future = read_future(known_future, collection.series, horizon=steps)
        made = self.forecast_series(collection.series, horizon=steps, quantiles=quantiles, future=future)
        return replace(
            made, skipped=[*collection.unreadable, *made.skipped], notes=[*collection.notes, *made.notes]
        )

    def forecast_series(
        self,
        series: Sequence[SeriesTable],
        *,
        horizon: int | None = None,
        quantiles: Sequence[float] = DECILES,
        future: Mapping[str, np.ndarray] | None = None,
    ) -> Forecast:
        """Forecast series that were read already; `future` is `(H, C)` by id, in their units.

        Raises:
            UserError: If none of them can be forecast.
        """
        steps = self._check(horizon, quantiles)
        levels = tuple(sorted(float(level) for level in quantiles))
        usable: list[SeriesTable] = []
        skipped: list[Unreadable] = []
        for table in series:
            reason = self._refusal(table, future)
            if reason:
                skipped.append(Unreadable(table.id, reason))
            else:
                usable.append(table)
        if not usable:
            first = skipped[0].reason if skipped else "there is no series"
            raise UserError(f"none of the {len(skipped)} series can be forecast: {first}")
        scalers = [self.scalers(table) for table in usable]
        # the context and the windows that quantiles come from lie at the end: the rest is not copied
        tail = self.context + 16 * steps
        scaled = [self.scale(t, s, t.values[-tail:]) for t, s in zip(usable, scalers, strict=True)]
        knowns = [self._known(t, s, future, steps) for t, s in zip(usable, scalers, strict=True)]
        points = self.predict_scaled(usable, scaled, horizon=steps, future=knowns)
        made = []
        offsets_of = self.offsets(usable, scaled, levels=levels, horizon=steps)
        for table, scaler, point, (offsets, source) in zip(usable, scalers, points, offsets_of, strict=True):
            targets = self.targets(table)
            bands = point[None] + offsets
            made.append(
                SeriesForecast(
                    table=table,
                    targets=targets,
                    times=_future_times(table, steps),
                    point=scaling.invert_channels(point, scaler),
                    quantiles=scaling.invert_channels(bands, scaler),
                    source=source,
                )
            )
        notes = []
        if steps > self.horizon:
            notes.append(
                f"horizon {steps} is rolled in chunks of {self.horizon}, what the network forecasts at once"
            )
        short = sum(len(table.values) < self.context for table in usable)
        if short:
            notes.append(f"{short} series are shorter than the context of {self.context} and were padded")
        return Forecast(made, levels, skipped, notes)

    # what a backtest and the writers use as well

    def scalers(self, table: SeriesTable, rows: int | None = None) -> dict[str, Any]:
        """Return mean, scale (and power) of each channel: stored for a known id, else of its own history.

        Args:
            table: The series.
            rows: Only the first so many rows count for statistics computed anew.
        """
        known = (self.facts.get("series") or {}).get(table.id)
        if known and known.get("channels") == table.channels:
            return {key: list(known[key]) for key in ("mean", "scale", "power") if known.get(key) is not None}
        kind = self.facts.get("scaler", "standard")
        fitted = [
            {"mean": 0.0, "scale": 1.0}
            if name in table.categories
            else scaling.fit(table.values[:rows, channel], kind)
            for channel, name in enumerate(table.channels)
        ]
        facts: dict[str, Any] = {key: [one[key] for one in fitted] for key in ("mean", "scale")}
        if kind == "power":
            facts["power"] = [one.get("power") for one in fitted]
        return facts

    def scale(
        self, table: SeriesTable, scaler: Mapping[str, Any], values: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the values `(T, C)` in scaled units, NaN where missing."""
        raw = table.values if values is None else values
        channels = range(raw.shape[1])
        return np.stack([scaling.apply(raw[:, i], scaling.of_channel(scaler, i)) for i in channels], 1)

    def predict_scaled(
        self,
        tables: Sequence[SeriesTable],
        histories: Sequence[np.ndarray],
        *,
        horizon: int,
        future: Sequence[np.ndarray | None] | None = None,
    ) -> list[np.ndarray]:
        """Return scaled forecasts `(horizon, targets)` from histories `(T, C)`; tables may repeat."""
        contexts, owners = self._contexts(tables, histories, future)
        made = (
            forecast_scaled(
                self.network,
                contexts,
                horizon=horizon,
                chunk=self.horizon,
                batch_size=self.batch_size,
                device=self.device,
            )
            .double()
            .numpy()
        )
        if self.mixes_channels:
            return [one[:, : len(self.targets(table))] for one, table in zip(made, tables, strict=True)]
        return [np.stack([made[row, :, 0] for row in rows], 1) for rows in owners]

    def predict_from(
        self, asked: Sequence[tuple[SeriesTable, np.ndarray, int]], *, horizon: int
    ) -> list[np.ndarray]:
        """Return forecasts `(horizon, targets)` in scaled units from earlier ends of histories.

        Args:
            asked: Series, its scaled values `(T, C)`, and how many of its rows come before the first step.
                What comes after is hidden, but for the channels whose future is known.
            horizon: Steps.
        """
        future: list[np.ndarray | None] | None = None
        if self.mixes_channels and self.facts.get("exogenous"):
            future = []
            for _, scaled, end in asked:
                known = np.full((horizon, scaled.shape[1]), np.nan)
                part = scaled[end : end + horizon]
                for channel in self.facts["exogenous"]:
                    known[: len(part), channel] = part[:, channel]
                future.append(known)
        histories = [scaled[max(0, end - self.context) : end] for _, scaled, end in asked]
        return self.predict_scaled(
            [table for table, _, _ in asked], histories, horizon=horizon, future=future
        )

    def targets(self, table: SeriesTable) -> list[str]:
        """Return the names of the channels that are forecast, the first ones of the table."""
        return list(table.roles.targets or table.channels)

    def offsets(
        self,
        tables: Sequence[SeriesTable],
        histories: Sequence[np.ndarray],
        *,
        levels: Sequence[float],
        horizon: int,
    ) -> list[tuple[np.ndarray, str]]:
        """Return each series' quantile offsets `(levels, horizon, targets)`, scaled, and their source.

        They come from the validation residuals of the checkpoint; without any, from forecasts of each
        history's own end; NaN where it is too short for those too.
        """
        found = []
        for first in range(
            0, len(tables), 128
        ):  # so many at once that the windows stay small beside the tables
            part = list(zip(tables[first : first + 128], histories[first : first + 128], strict=True))
            found += self._offsets(part, levels, horizon)
        return found

    # helpers

    def _roles(self, stated: Roles, source: Any) -> Roles:
        """Complete the user's roles by training's, where the network is bound to its channels."""
        if not self.mixes_channels or "roles" not in self.facts:
            return stated
        trained = Roles(**{name: tuple(value) for name, value in self.facts["roles"].items()})
        kept = {name: value for name, value in vars(stated).items() if value}
        inherited = {name: value for name, value in vars(trained).items() if name not in ("time", "ids")}
        return replace(trained, **{"time": (), "ids": (), **inherited, **kept})

    def _check(self, horizon: int | None, quantiles: Sequence[float]) -> int:
        steps = self.horizon if horizon is None else int(horizon)
        if steps < 1:
            raise UserError(f"the horizon is {horizon}; it must be at least 1")
        wrong = [level for level in quantiles if not 0 < level < 1]
        if wrong:
            raise UserError(f"quantiles names {wrong[0]}; levels must lie between 0 and 1, as in 0.1")
        return steps

    def _refusal(self, table: SeriesTable, future: Mapping[str, np.ndarray] | None) -> str:
        """Return why a series cannot be forecast, empty where it can."""
        for name in self.targets(table):
            seen = int(np.isfinite(table.values[:, table.channels.index(name)]).sum())
            if seen < self.minimum_history:
                return (
                    f"series '{table.id}' has {seen} observed values in '{name}',"
                    f" at least {self.minimum_history} are needed"
                )
            recent = table.values[-self.context :, table.channels.index(name)]
            if not np.isfinite(recent).any():
                return f"series '{table.id}' has no value of '{name}' in its last {self.context} rows"
        wanted = self.facts.get("channels")
        if self.mixes_channels and wanted and len(wanted) != len(table.channels):
            return (
                f"series '{table.id}' has {len(table.channels)} channels,"
                f" the network was trained on {len(wanted)} ({', '.join(wanted[:8])})"
            )
        exogenous = (
            [table.channels[i] for i in self.facts.get("exogenous") or []] if self.mixes_channels else []
        )
        if exogenous and (future is None or table.id not in future):
            return (
                f"series '{table.id}' needs the known future of {', '.join(exogenous)};"
                " give known_future, a table with these columns after the series' end"
            )
        return ""

    def _known(
        self,
        table: SeriesTable,
        scaler: Mapping[str, Any],
        future: Mapping[str, np.ndarray] | None,
        steps: int,
    ) -> np.ndarray | None:
        if not self.mixes_channels or not future or table.id not in future:
            return None
        return self.scale(table, scaler, future[table.id][:steps])

    def _contexts(
        self,
        tables: Sequence[SeriesTable],
        histories: Sequence[np.ndarray],
        future: Sequence[np.ndarray | None] | None,
    ) -> tuple[Contexts, list[range]]:
        """Return the last `context` rows of each history, a row per target without channel mixing."""
        values: list[np.ndarray] = []
        owners: list[range] = []
        first = 0
        for table, history in zip(tables, histories, strict=True):
            wanted = len(table.channels) if self.mixes_channels else len(self.targets(table))
            block = np.full((self.context, wanted), np.nan, dtype=np.float32)
            recent = history[-self.context :, :wanted]
            block[self.context - len(recent) :] = recent
            rows = (
                [block]
                if self.mixes_channels
                else [block[:, channel : channel + 1] for channel in range(wanted)]
            )
            values.extend(rows)
            owners.append(range(first, first + len(rows)))
            first += len(rows)
        past = impute(torch.from_numpy(np.stack(values)), self.facts.get("missing") or "mask")
        observed = ~torch.isnan(past)
        vocabulary = getattr(self.network, "settings", {}).get("frequency_tokens", len(rates.TOKENS))
        known_rates = {table.frequency: rates.token(table.frequency) for table in tables}
        tokens = [
            known_rates[table.frequency] if known_rates[table.frequency] < vocabulary else rates.TOKENS["oov"]
            for table, rows in zip(tables, owners, strict=True)
            for _ in rows
        ]
        known = known_observed = None
        if (
            future is not None
            and all(one is not None for one in future)
            and self.mixes_channels
            and len(future)
        ):
            stacked = torch.from_numpy(np.stack([one for one in future if one is not None])).float()
            known_observed = ~torch.isnan(stacked)
            known = stacked.nan_to_num(0.0)
        contexts = Contexts(
            values=past.nan_to_num(0.0),
            observed=observed,
            future=known,
            future_observed=known_observed,
            freq_token=torch.tensor(tokens, dtype=torch.int64),
            static_categories=self._static(tables) if self.mixes_channels else None,
        )
        return contexts, owners

    def _static(self, tables: Sequence[SeriesTable]) -> Tensor | None:
        """Return the codes of the static categories, in training's numbering."""
        trained = self.facts.get("roles", {}).get("static_categorical") or []
        if not trained:
            return None
        words = self.facts["categories"]
        for table in tables:
            for name in trained:
                if table.static.get(name) not in words[name]:
                    raise UserError(
                        f"series '{table.id}' has '{table.static.get(name)}' in '{name}',"
                        f" which training never saw ({', '.join(words[name][:8])})"
                    )
        return torch.tensor(
            [[words[n].index(table.static[n]) for n in trained] for table in tables], dtype=torch.int64
        )

    def _offsets(
        self, cases: Sequence[tuple[SeriesTable, np.ndarray]], levels: Sequence[float], horizon: int
    ) -> list[tuple[np.ndarray, str]]:
        plans = [
            ContextWindows.of(len(history), horizon=horizon, context=self.context)
            if self.conformal is None
            else ContextWindows([], horizon)
            for _, history in cases
        ]
        forecasts: list[np.ndarray | None] = [None] * len(cases)
        for steps in {plan.steps for plan in plans if plan.ends}:
            chosen = [i for i, plan in enumerate(plans) if plan.ends and plan.steps == steps]
            asked = [(cases[i][0], cases[i][1], end) for i in chosen for end in plans[i].ends]
            made = iter(self.predict_from(asked, horizon=steps))
            for i in chosen:
                forecasts[i] = np.stack([next(made) for _ in plans[i].ends])
        found = []
        for (table, history), plan, made_before in zip(cases, plans, forecasts, strict=True):
            targets = self.targets(table)
            conformal = self.conformal or context_conformal(
                history[:, : len(targets)],
                plan,
                made_before,
                horizon=horizon,
                season=rates.season(table.frequency),
                channels=targets,
                levels=sorted({*levels, 0.5}),
            )
            if conformal is None:
                unknown = np.full((len(levels), horizon, len(targets)), np.nan)
                found.append((unknown, "none: the history is too short"))
                continue
            offsets = conformal.at(levels, horizon=horizon, channels=targets).double().numpy()
            found.append((offsets, conformal.described(horizon)))
        return found


def _future_times(table: SeriesTable, horizon: int) -> pd.DatetimeIndex | None:
    if table.times is None or not table.frequency:
        return None
    return rates.future_times(table.times[-1], table.frequency, horizon)


def _sizes(network: nn.Module, facts: Mapping[str, Any], *, where: str) -> tuple[int, int]:
    """Return context and horizon of a network: its own, or what the facts say."""
    context = getattr(network, "context", None) or facts.get("context")
    horizon = getattr(network, "kept", None) or getattr(network, "horizon", None) or facts.get("horizon")
    if not context or not horizon:
        raise UserError(f"{where} does not say how long its context and horizon are; it is no forecaster")
    return int(context), int(horizon)
