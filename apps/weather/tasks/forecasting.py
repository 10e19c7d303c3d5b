"""The forecasting task: states in, the next ones out, step by step; scored beside what needs no learning."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from apps.weather.batch import States, WeatherBatch, WeatherFacts
from apps.weather.data.scaling import Scaling
from apps.weather.models.forecast import learnt, next_batch, rollout
from apps.weather.tasks.objective import WeightedAbsolute
from apps.weather.tasks.testing import RollOutScores
from core.errors import UserError
from core.task import Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from apps.weather.metrics.scores import WeatherScores

__all__ = ["WeatherForecasting", "WeatherTask"]


class WeatherTask(Task):
    """Base of the tasks: which data fit a network, and scores of roll-outs beside the baselines.

    `test` rolls out over all targets of each test window in physical units and writes `results.csv`
    (variable, level, lead time, region), the score card, maps, spectra and a moving picture.

    Args:
        network: Has `advance(batch)` (see `apps.weather.models.forecast`).
        examples: Forecasts drawn by `test`.
        movie: Whether `test` writes the first example as a moving picture.
        task: See `core.task.Task`.
    """

    facts_type = WeatherFacts

    def __init__(self, network: nn.Module, *, examples: int = 1, movie: bool = True, **task: Any) -> None:
        super().__init__(network, **task)
        if examples < 0:
            raise UserError(f"model.examples is {examples}; it must be at least 0")
        self.examples, self.movie = examples, movie
        self._scores: RollOutScores | None = None
        self._scaling: tuple[WeatherFacts, Scaling] | None = None

    def check_facts(self, facts: WeatherFacts) -> None:
        """Refuse fields that do not fit the network.

        Raises:
            UserError: Naming both values.
        """
        network = self.network
        for kind in ("surface", "atmospheric", "static"):
            own, offered = getattr(network.variables, kind), getattr(facts.variables, kind)
            own = dict.fromkeys((*own, *getattr(getattr(network, "taken", network.variables), kind)))
            if missing := [name for name in offered if name not in own]:
                raise UserError(
                    f"the data has the {kind} variables {', '.join(offered)} and the network knows "
                    f"{', '.join(own) or 'none'}; give it {', '.join(missing)} by model.network.{kind} (and "
                    f"model.reinitialise for weights that lack them), or leave them out by data.variables"
                )
        if network.history < facts.history:
            raise UserError(
                f"the network takes {network.history} states and data.history is {facts.history}; give "
                f"--data.history={network.history}, or a network of that history"
            )
        if network.step != facts.step:
            raise UserError(
                f"the network's step is {network.step:g} hours and the data's {facts.step:g}; set "
                f"--model.network.step={facts.step:g} or --data.step={network.step:g}"
            )
        rows, columns = len(facts.latitude), len(facts.longitude)
        if rows % network.patch or columns % network.patch:
            raise UserError(
                f"the grid has {rows} x {columns} points and the network's patch is {network.patch}; give "
                f"--data.patch={network.patch}, which crops the grid"
            )

    def flops_per_sample(self) -> float:
        """Return the FLOPs of a training step per sample, counted on the meta device; MFU is made of it."""
        from core.tracking.flops import count_flops

        batch = self.trainer.datamodule.train_set().__getitems__([(0, 0)])  # type: ignore[attr-defined]
        inputs = {"batch": learnt(self.network, replace(batch, targets=None), self.scaling)}
        return float(batch.targets.steps * count_flops(_Advance(self.network), inputs))

    @property
    def scaling(self) -> Scaling:
        """Normalisation of the data at hand, else of those the task was trained on."""
        facts = self.facts
        if self._scaling is None or self._scaling[0] is not facts:
            self._scaling = facts, Scaling.of(facts)
        return self._scaling[1]

    def predicted(self, batch: WeatherBatch, steps: int) -> States:
        """Return `(B, steps, …)` in physical units; no target is looked at."""
        states = rollout(self.network, replace(batch, targets=None), self.scaling, steps)
        return States.in_order(list(states))

    def on_test_start(self) -> None:
        """Fit the baselines on training windows, once."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self._scores = RollOutScores(self.facts, data.test_steps, device=self.device)
        self._scores.fit(data.forecasts("train"), rank=self.global_rank, batch_size=data.eval_batch_size)
        self.drawn = []

    def test_step(self, batch: WeatherBatch, batch_idx: int) -> None:
        """Score the network and the baselines on the same forecasts."""
        assert batch.targets is not None and self._scores is not None
        forecast = self.predicted(batch, batch.targets.steps)
        self._scores.update(self.title, forecast, batch)
        if self.trainer.is_global_zero and len(self.drawn) < self.examples:
            kept = batch.select(range(min(len(batch), self.examples - len(self.drawn)))).to("cpu")
            self.drawn += [
                {"forecast": forecast.select([row]).to("cpu"), "batch": kept.select([row])}
                for row in range(len(kept))
            ]

    def on_test_epoch_end(self) -> None:
        """Write the tables and figures, and log the network's own scores."""
        assert self._scores is not None and self._scores.scores is not None
        scores = self._scores.scores
        scores.gather()
        self._scores.unweighted.gather(self.device)
        rows = scores.table()
        self.log_results(self._scores.headline(rows, self.title), stage="test")
        self.write_table("results", rows)
        self.write_table("unweighted", self._scores.unweighted.table())
        self.write_table("spectra", scores.spectra())
        self.say(self._scores.text())
        for sentence in scores.missing():
            self.say(sentence)
        if self.trainer.is_global_zero:
            self._draw(scores, self._scores.land)

    def _draw(self, scores: WeatherScores, land: NDArray[np.float32] | None) -> None:
        from apps.weather.figures import drawings, movie

        units = self.facts.units
        examples = [(one["forecast"], one["batch"].targets) for one in self.drawn]
        for number, example in enumerate(examples or [None]):  # type: ignore[list-item]
            for name, figure in drawings(scores, self.title, example=example, land=land, units=units):
                if number == 0 or name == "map":
                    self.log_figure(f"map_{number + 1}" if name == "map" else name, figure)
        if self.movie and examples and len(scores.leads) > 1:
            self.log_movie("rollout", movie(scores, examples[0], units))


class WeatherForecasting(WeatherTask):
    """Trains a network to the next state, or to several with gradients through all of them.

    Losses are in normalised units. `data.horizon` says how many steps a training window has; each is fed
    back, and counts alike.

    Args:
        network: See `WeatherTask`.
        objective: What is minimised.
        task: See `WeatherTask`.
    """

    def __init__(self, network: nn.Module, *, objective: WeightedAbsolute | None = None, **task: Any) -> None:
        super().__init__(network, **task)
        self.objective = WeightedAbsolute() if objective is None else objective

    def loss(self, batch: WeatherBatch) -> Tensor:
        """Return the objective on a batch in physical units, the mean over its target steps."""
        assert batch.targets is not None
        scaled = learnt(self.network, batch, self.scaling)
        steps = batch.targets.steps
        total = scaled.static.new_zeros(())
        current = scaled
        for step in range(steps):
            state = self.network.advance(current)  # type: ignore[operator]
            total = total + self.error(state, scaled.targets.at(slice(step, step + 1)), scaled)  # type: ignore[union-attr]
            if step + 1 < steps:
                current = next_batch(current, state)
        return total / steps

    def error(self, state: States, target: States, batch: WeatherBatch) -> Tensor:
        """Return the objective of one normalised state."""
        return self.objective(state, target, batch.target_variables)

    def training_step(self, batch: WeatherBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, weighted by its share of all processes' samples."""
        loss = self.weigh(self.loss(batch), len(batch))
        self.log_scalars({"train_loss": loss.detach()}, batch_size=len(batch), prog_bar=True)
        return loss

    def validation_step(self, batch: WeatherBatch, batch_idx: int) -> None:
        """Log the objective, the mean over the roll-out."""
        self.log_scalars({"val_loss": self.loss(batch)}, batch_size=len(batch), sync_dist=True)


class _Advance(nn.Module):
    """Lets the FLOP counter call `advance`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: WeatherBatch) -> States:
        return self.network.advance(batch)  # type: ignore[operator]
