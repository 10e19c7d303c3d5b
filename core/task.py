"""The one base class of every task: it joins a network, its weights, its adaptation, optimiser, data facts
and figures.

A domain's task holds its steps and nothing else; what is here delegates to the rooms of core.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from core.adaptation import Adaptation, kept_names, trained_table
from core.checkpoints.weights import load_weights
from core.data.facts import Facts
from core.data.normaliser import STATE, Normaliser
from core.errors import UserError
from core.optim import LRFinder, LRFinderResult, Schedule, ScheduleLR, parameter_groups
from core.resume import RestoreBest, check_averaging, repair_loops
from core.strategies.collectives import AccumulationWindow, averaged, weighted
from core.strategies.initialisation import load_and_freeze
from core.tracking.throughput import is_log_step

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["Task"]


class Task(LightningModule):
    """A network with everything a run needs around it.

    Args:
        network: The finished network: a named size in the recipe.
        optimizer: Builds the optimiser from parameter groups.
        schedule: Rate as a pure function of the step; None keeps the optimiser's own rate.
        weights: Where the network starts from: an own checkpoint, an official one (file or folder), a weights
            card's name, or a hub id; None starts from the network's initialisation.
        reinitialise: Patterns of parameter names that `weights` may lack or hold in another shape.
        adaptation: What is trained; None trains everything.
        no_decay: Which parameters have no weight decay: name patterns, and `1d` for biases and norms.
        layer_decay: Factor of the rate from one block to the one before; None gives all the same rate.
        rates: Pattern of parameter names to a factor of the rate; the first that fits counts.
        monitor: The metric that chooses the best epoch; None takes the last, where validation is too small to
            choose by.
        mode: Whether the best is the `min` or the `max` of it.
        patience: Validations without progress after which training stops; None never stops early.
        restore_best: Whether the best epoch's weights are put back at the end of training.
        ema: Decay of an exponential moving average of the weights; None keeps none.
        lr_finder: Searches the peak rate before the first step; None takes the optimiser's.
        skip_non_finite: Whether a step with a loss that is not finite is left out; otherwise such a loss
            stops the run.

    Raises:
        UserError: If a value is out of its range, or weights or data do not fit the network.
    """

    facts_type: ClassVar[type[Facts]] = Facts
    """The domain's facts, which the normaliser keeps."""
    drawn_fields: ClassVar[tuple[str, ...]] = ()
    """Fields of a batch that the figures of examples are made of."""

    def __init__(
        self,
        network: nn.Module,
        *,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        schedule: Schedule | None = None,
        weights: str | None = None,
        reinitialise: Sequence[str] = (),
        adaptation: Adaptation | None = None,
        no_decay: Sequence[str] = (),
        layer_decay: float | None = None,
        rates: dict[str, float] | None = None,
        monitor: str | None = "val_loss",
        mode: str = "min",
        patience: int | None = None,
        restore_best: bool = True,
        ema: float | None = None,
        lr_finder: LRFinder | None = None,
        skip_non_finite: bool = False,
    ) -> None:
        super().__init__()
        if mode not in ("min", "max"):
            raise UserError(f"model.mode is '{mode}'; it must be min or max")
        if ema is not None and not 0 < ema < 1:
            raise UserError(f"model.ema is {ema}; it must lie between 0 and 1, as in 0.999")
        if patience is not None and patience < 1:
            raise UserError(f"model.patience is {patience}; it must be at least 1")
        if patience is not None and monitor is None:
            raise UserError(
                "model.patience stops by model.monitor, which is null; give a metric or no patience"
            )
        self.network = network
        self.normaliser: Any = Normaliser(self.facts_type)
        self.optimizer = optimizer
        self.schedule = schedule
        self.weights = weights
        self.reinitialise = list(reinitialise)
        self.adaptation = adaptation
        self.no_decay = list(no_decay)
        self.layer_decay = layer_decay
        self.rates = dict(rates or {})
        self.monitor, self.mode, self.patience = monitor, mode, patience
        self.restore_best, self.ema = restore_best, ema
        self.lr_finder = lr_finder
        self.skip_non_finite = skip_non_finite
        self.record: dict[str, Any] = {}  # goes into every checkpoint: config, licences, versions, switches
        self.examples = 0  # of an evaluation, to be drawn
        self.drawn: list[dict[str, Any]] = []
        self.run_folder: Path | None = None
        self.fused_optimizer = False
        self._ready = False
        self._window = AccumulationWindow()
        self._count: Tensor | None = None

    @property
    def facts(self) -> Any:
        """What is known of the data at hand, else of the data that the task was trained on.

        Raises:
            UserError: If neither is known.
        """
        data = getattr(self._trainer, "datamodule", None)
        return getattr(data, "facts", None) or self.normaliser.facts

    @property
    def title(self) -> str:
        """Name of the network in tables."""
        return str(self.record.get("system") or type(self.network).__name__)

    @property
    def fitting(self) -> bool:
        """Whether a validation belongs to a training, of which it is no trial before the start."""
        return self.trainer.state.fn == "fit" and not self.trainer.sanity_checking

    # what a domain's task may override

    def inputs(self, batch: Any) -> Mapping[str, Any] | None:
        """Return the network's arguments for a batch; None where a task has no single ones."""
        return None

    def flops_per_sample(self) -> float | None:
        """Return the FLOPs of a training step per sample, counted on the meta device; MFU is made of it.

        None leaves MFU out, as where samples differ in their work.
        """
        from core.tracking.flops import count_flops

        inputs = self.inputs(self.trainer.datamodule.train_set().__getitems__([(0, 0)]))  # type: ignore[attr-defined]
        return None if inputs is None else float(count_flops(self.network, inputs))

    def loss(self, batch: Any) -> Tensor:
        """Return the scalar loss of one batch, for the learning-rate finder."""
        raise TypeError(f"{type(self).__name__} defines no loss, which the learning-rate finder needs")

    def check_facts(self, facts: Any) -> None:
        """Refuse data that does not fit the network; called in `setup` with the data module's facts.

        Raises:
            UserError: Naming both values.
        """

    def rate_found(self, result: LRFinderResult) -> None:
        """Draw the learning-rate finder's curve."""
        from core.figures.curves import learning_rate_figure

        self.log_figure("learning_rate", learning_rate_figure(result.rates, result.losses, result.rate))

    def product_rows(self, datamodule: Any) -> int | None:
        """Return the rows of the network's largest matrix product, if known: oneDNN gains if it is large."""
        return None

    # Lightning's hooks

    def setup(self, stage: str) -> None:
        """Take the data module's facts: check them against the network and keep them in the normaliser."""
        datamodule = getattr(self.trainer, "datamodule", None)
        facts = getattr(datamodule, "facts", None)
        if facts:
            self.check_facts(facts)
            if stage == "fit":
                self.normaliser.facts = facts
                self._note_origin(vars(facts))

    def configure_model(self) -> None:
        """Load the weights, freeze what stays frozen, and arrange the network as the strategy does: once."""
        if self._ready:
            return
        self._ready = True
        load = None
        if self.weights is not None:
            load = partial(load_weights, self.weights, self.network, reinitialise=self.reinitialise)
        prepare = None
        if self.adaptation is not None:
            prepare = partial(self.adaptation.prepare, fresh=self.reinitialise)
        initialise = getattr(getattr(self._trainer, "strategy", None), "initialise", load_and_freeze)
        report = initialise(self.network, load=load, prepare=prepare)
        if report is not None:
            self._note_origin(report.metadata)
            self.say(str(report))
        if self.adaptation is not None:
            self.say(trained_table(self.network))
            self.record["trained"] = kept_names(self.network)

    def configure_optimizers(self) -> Any:
        """Build groups that exist from the first step, the optimiser, and the schedule stepped with it."""
        peak = self._peak_rate()
        decay = self.layer_decay
        if decay is None and self.adaptation is not None:
            decay = self.adaptation.layer_decay
        groups = parameter_groups(
            self.network, lr=peak, no_decay=self.no_decay, layer_decay=decay, rates=self.rates
        )
        optimizer = self.optimizer(groups)
        if self.fused_optimizer and "fused" in optimizer.defaults:
            for group in optimizer.param_groups:
                group["fused"], group["foreach"] = True, False
        if self.schedule is None:
            return optimizer
        total = self.trainer.estimated_stepping_batches
        scheduler = ScheduleLR(optimizer, self.schedule, total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_callbacks(self) -> list[Callback]:
        """Return early stopping, averaging and best-epoch restore as the arguments ask for them."""
        from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging

        callbacks: list[Callback] = []
        if self.patience is not None and self.monitor is not None:
            callbacks.append(
                # Asked after each validation: a run whose last epoch is cut short has none at its end.
                EarlyStopping(
                    self.monitor,
                    mode=self.mode,
                    patience=self.patience,
                    check_on_train_epoch_end=False,
                )
            )
        if self.ema is not None:
            callbacks.append(EMAWeightAveraging(decay=self.ema))
        if self.restore_best:
            callbacks.append(RestoreBest())
        return callbacks

    def on_train_start(self) -> None:
        """Set freezing for the step the run starts or resumes at."""
        self._window, self._count = AccumulationWindow(), None  # what a run that broke off left
        self._adapt()

    def on_train_epoch_start(self) -> None:
        """Set freezing anew for each epoch."""
        self._adapt()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set freezing that depends on the step."""
        self._adapt()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Run the backward pass, with a batch's weight among those that are accumulated."""
        count, self._count = self._count, None
        if count is not None and self.trainer.accumulate_grad_batches > 1:
            loss = self._window.add(loss, count)
        super().backward(loss, *args, **kwargs)

    def on_after_backward(self) -> None:
        """Make the gradients of accumulated batches those of one batch that holds them all."""
        if not self.trainer.fit_loop.epoch_loop._should_accumulate():
            self._window.close(self.parameters(), length=self.trainer.accumulate_grad_batches)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the resolved config, key map, licences and process switches."""
        checkpoint["domainfm"] = self.record
        if STATE in (state := checkpoint.get("state_dict") or {}):
            # Averaged weights come with a copy of the task from before it knew its data.
            state[STATE] = self.normaliser.get_extra_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Mend the loop state of a file written at an epoch's end, and carry on where the data came from."""
        repair_loops(checkpoint)
        before = checkpoint.get("domainfm") or {}
        if "peak_rate" in before:
            self.record["peak_rate"] = before["peak_rate"]
        trainer = self._trainer
        if trainer is not None and trainer.state.fn == "fit":
            check_averaging(checkpoint, trainer.callbacks)  # type: ignore[attr-defined]

    # for the steps of a domain's task

    def mean_over_ranks(self, total: Tensor, count: Tensor) -> Tensor:
        """Return `total / count` weighted so that ranks with uneven counts together make the global mean."""
        return self.weigh(total / count.clamp(min=1), count)

    def weigh(self, mean: Tensor, count: Tensor | float) -> Tensor:
        """Weigh this rank's mean over `count` values by its share of all ranks' values.

        Batches that are accumulated then count by their values too.
        """
        trainer = self._trainer
        if trainer is None:
            return mean
        loss, self._count = weighted(mean, count, trainer.strategy)  # type: ignore[attr-defined]
        return loss

    def log_scalars(self, scalars: Mapping[str, Tensor], *, batch_size: int, **options: Any) -> None:
        """Log tensors without moving them to the host, the means over all processes where a training step is
        logged; `batch_size` weighs them in an epoch's mean.
        """
        trainer = self._trainer
        if trainer is not None and trainer.training and is_log_step(trainer):  # type: ignore[attr-defined]
            scalars = averaged(scalars, trainer.strategy)  # type: ignore[attr-defined]
        if trainer is not None and options.get("sync_dist"):
            # Lightning takes the mean of the ranks' counts and cuts its fraction off, as of 1 and 2 samples.
            batch_size *= trainer.world_size  # type: ignore[attr-defined]
        self.log_dict(dict(scalars), batch_size=batch_size, **options)

    def log_results(self, scores: Mapping[str, float | Tensor], *, stage: str) -> None:
        """Log the scores of a whole set, which every process has."""
        values = {f"{stage}_{name}": torch.as_tensor(value).float() for name, value in scores.items()}
        self.log_dict(values, sync_dist=True)

    def keep_examples(self, batch: Any, **more: Tensor | None) -> None:
        """Keep the first samples of an evaluation, on the CPU of the first process, to be drawn at its end.

        Args:
            batch: With `drawn_fields`, and perhaps `names`.
            more: Further tensors of the batch, such as a prediction.
        """
        if not self.trainer.is_global_zero:
            return
        parts = {name: getattr(batch, name) for name in self.drawn_fields} | more
        for row in range(min(len(batch), self.examples - len(self.drawn))):
            example: dict[str, Any] = {
                name: value[row].detach().cpu() if isinstance(value, Tensor) else None
                for name, value in parts.items()
            }
            self.drawn.append(example | {"name": batch.names[row] if len(batch.names) > row else ""})

    def log_figure(self, name: str, figure: Figure) -> None:
        """Write `figure` once as PNG into the run folder and mirror it to the loggers."""
        if self.run_folder is None or not self.trainer.is_global_zero:
            return
        from core.tracking.loggers import log_figure

        log_figure(self.trainer.loggers, self.run_folder, name, figure, step=self.global_step)

    def log_movie(self, name: str, frames: Sequence[NDArray[np.uint8]]) -> None:
        """Write pictures `(H, W, 3)` once as a GIF into the run folder and mirror it to the loggers."""
        if self.run_folder is None or not self.trainer.is_global_zero:
            return
        from core.tracking.loggers import log_movie

        log_movie(self.trainer.loggers, self.run_folder, name, frames, step=self.global_step)

    def write_table(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows of one shape as `<name>.csv` into the run folder."""
        if self.run_folder is None or not self.trainer.is_global_zero:
            return
        from core.tables import write_table

        write_table(self.run_folder / f"{name}.csv", rows)

    def write_results(self, results: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Write and print the scores of each model as `results.csv`, the task's own first."""
        rows = [
            {"model": name, **{key: float(value) for key, value in scores.items()}}
            for name, scores in results.items()
        ]
        self.write_and_say("results", rows)

    def write_and_say(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows of one shape as `<name>.csv`, and print them; whole numbers have no decimals there."""
        from core.tables import text_table

        self.write_table(name, rows)
        heads = list(rows[0])
        cells = [[_whole(row[head]) for head in heads] for row in rows]
        self.say(text_table(cells, head=heads, number=".4f"))

    @rank_zero_only
    def say(self, text: str) -> None:
        """Print for the user, from the first process only."""
        print(text, flush=True)

    def _peak_rate(self) -> float:
        """Return the optimiser's own rate, or the one that the finder picks and a resumed run keeps."""
        try:
            own = self.optimizer([torch.nn.Parameter(torch.empty(0))]).defaults["lr"]
        except ValueError as error:  # what an optimiser refuses, the recipe asked for
            raise UserError(f"model.optimizer: {error}; give it another value") from error
        if self.lr_finder is None:
            return own
        if "peak_rate" not in self.record:
            if getattr(self.trainer.strategy, "sharded", False):
                raise UserError(
                    "model.lr_finder needs whole weights in each process; find the rate without sharding"
                )
            batches = self.trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]
            result = self.lr_finder.run(
                lambda batch: self.loss(batch.to(self.device)), self.network, self.optimizer, batches
            )
            self.record["peak_rate"] = self.trainer.strategy.broadcast(result.rate)
            self.rate_found(result)
            self.say(f"learning rate found: {result.rate:.3g}")
        return float(self.record["peak_rate"])

    def _adapt(self) -> None:
        if self.adaptation is not None:
            self.adaptation.apply(self.network, step=self.global_step, epoch=self.current_epoch)

    def _note_origin(self, facts: Mapping[str, Any]) -> None:
        for key in ("licences", "sources"):
            known = self.record.setdefault(key, [])
            known.extend(entry for entry in facts.get(key) or () if entry not in known)


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) > 1 else value
