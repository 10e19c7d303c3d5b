"""The forecasting task: a window in, the horizon out, scored beside the baselines on the same windows."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from apps.timeseries import BINDING
from apps.timeseries.batch import SeriesBatch, SeriesFacts
from apps.timeseries.figures import ForecastPanel, comparison_figure, forecast_figure, window_panel
from apps.timeseries.metrics.evaluation import DECILES, ForecastEvaluation, Units
from apps.timeseries.metrics.opponents import Opponent, opponents
from core.errors import UserError
from core.figures.curves import error_figure
from core.metrics.conformal import Residuals
from core.task import Task

__all__ = ["Forecasting"]


class Forecasting(Task):
    """Trains a point forecaster and keeps what its quantiles are made of.

    Losses are in the units of the external scaler (each series' training rows have mean 0 and deviation 1),
    as in the field's benchmarks. After each validation the residuals of its windows give conformal quantiles,
    which travel in the normaliser, and `val_bounded_mae`, the mean absolute error in units of each context's
    spread with no point counted above 5, chooses the best epoch: one wild value rules every other mean.
    `test` scores the network and the baselines on the same windows and writes `results.csv`, `by_step.csv`
    and `by_channel.csv`.

    Args:
        network: Maps `SeriesBatch` fields to an output with `prediction (B, H, C')` and `loss`.
        baselines: Whether `test` scores the baselines too.
        trained_baselines: Whether those that are fitted on the training rows (DLinear, ridge) are among them.
        examples: Forecasts drawn in the figure of `test`.
        monitor: The metric that chooses the best epoch.
        task: See `core.task.Task`.
    """

    facts_type = SeriesFacts

    def __init__(
        self,
        network: nn.Module,
        *,
        baselines: bool = True,
        trained_baselines: bool = True,
        examples: int = 3,
        monitor: str = "val_bounded_mae",
        **task: Any,
    ) -> None:
        super().__init__(network, monitor=monitor, **task)
        self.baselines, self.trained_baselines, self.examples = baselines, trained_baselines, examples
        self._residuals = Residuals()
        self._evaluation: ForecastEvaluation | None = None
        self._opponents: list[Opponent] = []
        self._drawn: list[ForecastPanel] = []
        self._shown: set[int] = set()
        self._offsets: Tensor | None = None

    @property
    def _targets(self) -> int:
        return len(self.facts.targets)

    def check_facts(self, facts: SeriesFacts) -> None:
        """Refuse windows of other sizes than the network's.

        Raises:
            UserError: Naming both values.
        """
        network = self.network
        context, horizon = getattr(network, "context", None), getattr(network, "kept", None)
        for name, size, wrong in (
            ("context", context, context is not None and facts.context < context),
            ("horizon", horizon, horizon is not None and facts.horizon != horizon),
        ):
            if wrong:
                raise UserError(
                    f"the network's {name} is {size} and data.{name} is {getattr(facts, name)};"
                    f" give --data.{name}={size}, or a network of that size"
                )
        settings, channels = getattr(network, "settings", {}), facts.channels
        if any(settings.get(name) for name in BINDING) and network.channels != len(channels):
            raise UserError(
                f"the network is built for {network.channels} channels and the data has "
                f"{len(channels)} ({', '.join(channels[:8])}); set model.network.channels"
            )

    def product_rows(self, datamodule: Any) -> int | None:
        """Return batch size times patches (for one channel): the rows of the network's linear maps."""
        patches = getattr(self.network, "patches", None)
        return None if patches is None else datamodule.batch_size * patches

    def inputs(self, batch: SeriesBatch) -> dict[str, Tensor | None]:
        """Return the network's arguments for a batch with its labels."""
        return self._inputs(batch, labels=True)

    def forecast(self, batch: SeriesBatch) -> Tensor:
        """Return `(B, H, targets)` in scaled units; no label is looked at."""
        return self.network(**self._inputs(batch, labels=False)).prediction[..., : self._targets]

    def loss(self, batch: SeriesBatch) -> Tensor:
        """Return the network's own loss on a batch."""
        return self.network(**self._inputs(batch, labels=True)).loss

    def training_step(self, batch: SeriesBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, weighted by how many of all processes' points count in it."""
        output = self.network(**self._inputs(batch, labels=True))
        loss = self.weigh(output.loss, self._labels(batch, output.prediction)[1].sum())
        self.log_scalars({"train_loss": loss.detach()}, batch_size=len(batch), prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the residuals of the epoch before."""
        self._residuals.reset()

    def validation_step(self, batch: SeriesBatch, batch_idx: int) -> None:
        """Log loss and errors, and keep the residuals."""
        output = self.network(**self._inputs(batch, labels=True))
        prediction = output.prediction[..., : self._targets]
        target, observed = self._labels(batch, prediction)
        error = (prediction - target).masked_fill(~observed, 0.0)
        spread = batch.spread[..., : self._targets]
        count = observed.sum().clamp(min=1)
        scalars = {
            "val_loss": output.loss,
            "val_mse": error.square().sum() / count,
            "val_mae": error.abs().sum() / count,
            "val_bounded_mae": (error / spread).abs().clamp(max=_BOUND).sum() / count,
        }
        self.log_scalars(scalars, batch_size=len(batch), prog_bar=False, sync_dist=True)
        self._residuals.update(prediction / spread, target / spread, observed)

    def on_validation_epoch_end(self) -> None:
        """Keep the quantiles of the residuals, per step of the horizon, where prediction finds them."""
        if len(self._residuals) and self.normaliser.known and not self.trainer.sanity_checking:
            residuals = self._residuals.conformal(channels=self.facts.targets, by_window=True)
            self.normaliser.learn(conformal=residuals)
        self._residuals.reset()

    def on_test_start(self) -> None:
        """Fit the baselines on the training rows, once."""
        data, facts = self.trainer.datamodule, self.facts  # type: ignore[attr-defined]
        loaders = self.trainer.test_dataloaders
        loaders = loaders if isinstance(loaders, list) else [loaders]
        self._evaluation = ForecastEvaluation(
            Units(data.built, len(facts.targets)),
            horizon=facts.horizon,
            channels=facts.targets,
            windows=sum(len(loader.dataset) for loader in loaders),
        )
        self._opponents, self._drawn, self._shown, self._offsets = [], [], set(), None
        conformal = self.normaliser.facts.conformal if self.normaliser.known else None
        if conformal is not None and conformal.by_window:
            self._offsets = conformal.at(DECILES, horizon=facts.horizon, channels=facts.targets)
        if self.baselines:
            self._opponents = opponents(
                data.built,
                data.trained_rows,
                context=facts.context,
                horizon=facts.horizon,
                targets=len(facts.targets),
                learned=self.trained_baselines,
            )

    def test_step(self, batch: SeriesBatch, batch_idx: int) -> None:
        """Score the network and every baseline on the same windows."""
        evaluation = self._evaluation
        assert evaluation is not None
        prediction = self.forecast(batch)
        target, observed = self._labels(batch, prediction)
        past = batch.past_values[..., : self._targets]
        seen = batch.past_observed[..., : self._targets]
        offsets = None
        if self._offsets is not None:  # B Q H C
            offsets = self._offsets.to(prediction.device) * batch.spread[:, None, :, : self._targets]
        evaluation.update(self.title, prediction, target, observed, batch.series, offsets=offsets)
        for baseline in self._opponents:
            first = evaluation.late(baseline.last_windows, size=len(batch))
            if first == len(batch):
                continue
            label = (target[first:], observed[first:], batch.series[first:])
            if baseline.last_windows is None or evaluation.windows <= baseline.last_windows:
                guess = baseline.predict(past, seen, batch.series)
                evaluation.update(baseline.name, guess, *label)
                continue
            note = f"last {baseline.last_windows} windows"
            late = None if offsets is None else offsets[first:]
            evaluation.update(f"{self.title} ({note})", prediction[first:], *label, offsets=late)
            guess = baseline.predict(past[first:], seen[first:], batch.series[first:])
            evaluation.update(f"{baseline.name} ({note})", guess, *label)
        evaluation.advance(len(batch))
        self._keep_examples(batch, prediction, target, past, seen, offsets)

    def on_test_epoch_end(self) -> None:
        """Write the tables and figures, and log the network's own scores."""
        assert self._evaluation is not None
        scored = self._evaluation.scores
        scored.reduce()
        results = scored.results()
        scores = {f"test_{name.lower()}": float(results[0][name]) for name in _LOGGED if name in results[0]}
        self.log_dict(scores, rank_zero_only=True)
        self.write_table("results", results)
        self.write_table("by_step", scored.by_step())
        self.write_table("by_channel", scored.by_channel())
        self.say(scored.text())
        if not self.trainer.is_global_zero:
            return
        whole = scored.frame()
        whole = whole[~whole.index.str.contains(r"\(last")]
        self.log_figure("comparison", comparison_figure(whole, title=f"{self.title} and the baselines"))
        curves = {name: values for name, values in scored.curves("MAE").items() if "(last" not in name}
        about = {"metric": "MAE", "unit": "scaled units", "title": "MAE by step of the horizon"}
        self.log_figure("error_by_step", error_figure(curves, **about))
        if self._drawn:
            self.log_figure("forecast", forecast_figure(self._drawn, title="Forecasts of test windows"))

    def predict_step(self, batch: SeriesBatch, batch_idx: int) -> Tensor:
        """Return `(B, H, targets)` in scaled units."""
        return self.forecast(batch)

    @property
    def title(self) -> str:
        """What tables call the network."""
        return str(self.record.get("system") or type(self.network).__name__).upper()

    def _inputs(self, batch: SeriesBatch, *, labels: bool) -> dict[str, Tensor | None]:
        known = labels or bool(getattr(self.network, "exogenous", ()))
        return {
            "past_values": batch.past_values,
            "past_observed": batch.past_observed,
            "future_values": batch.future_values if known else None,
            "future_observed": batch.countable if known else None,
            "freq_token": batch.freq_token,
            "static_categories": batch.static_categories,
        }

    def _labels(self, batch: SeriesBatch, prediction: Tensor) -> tuple[Tensor, Tensor]:
        steps, channels = prediction.shape[1:]
        return batch.future_values[:, :steps, :channels], batch.countable[:, :steps, :channels]

    def _keep_examples(
        self,
        batch: SeriesBatch,
        prediction: Tensor,
        target: Tensor,
        past: Tensor,
        seen: Tensor,
        offsets: Tensor | None,
    ) -> None:
        """Keep windows for the figure: the first of each series, until there are enough."""
        tracks = self.trainer.datamodule.tracks  # type: ignore[attr-defined]
        wanted = min(self.examples, len(tracks))
        if len(self._drawn) >= wanted or not self.trainer.is_global_zero:
            return
        naive = next((baseline for baseline in self._opponents if baseline.name == "seasonal naive"), None)
        for row, number in enumerate(batch.series.tolist()):
            if number in self._shown or len(self._drawn) >= wanted:
                continue
            self._shown.add(number)
            window = slice(row, row + 1)
            guesses = {}
            if naive is not None:
                guesses[naive.name] = naive.predict(past[window], seen[window], batch.series[window])[0, :, 0]
            panel = window_panel(
                tracks[number],
                self.facts.channels[0],
                int(batch.start[row]),
                past=past[row, :, 0],
                prediction=prediction[row, :, 0],
                truth=target[row, :, 0],
                baselines=guesses,
                offsets={} if offsets is None else dict(zip(DECILES, offsets[row, :, :, 0], strict=True)),
            )
            self._drawn.append(panel)


_BOUND = 5.0  # spreads of its context that an error counts at most in val_bounded_mae
_LOGGED = ("MSE", "MAE", "MASE", "sMAPE", "WQL")
