"""Progress of a run: a bar on a terminal, one line per log interval in a pipe, a line per validation."""

from __future__ import annotations

import logging
import math
import sys
import time
import warnings
from functools import partialmethod
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar
from torch import Tensor

from core.tracking.throughput import log_interval, replicas_of, size_of

__all__ = ["Bar", "LineProgress", "on_terminal", "progress_callbacks", "quiet"]

NOISE = (
    ".*LeafSpec.*",  # torch 2.14 under Lightning 2.6
    ".*smaller than the logging interval.*",
    ".*does not have many workers.*",
    ".*exists and is not empty.*",
    ".*callbacks used to create the checkpoint need to be provided.*",  # a test needs none of a fit's
    ".*Total length of `list` across ranks is zero.*",  # no validation set is no mistake
)


def quiet() -> None:
    """Silence Lightning's greetings, advertisements and needless warnings; real warnings stay.

    Lightning sets its levels when it is imported, so that this must come after, which it sees to itself.
    """
    import lightning.pytorch

    for name in (lightning.pytorch.__name__, "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)


def progress_callbacks(*, terminal: bool | None = None) -> list[Callback]:
    """Return a bar for a terminal, else `LineProgress`.

    Args:
        terminal: Whether stdout is a terminal; found out by default. Give the same to the Trainer as
            `enable_progress_bar`, which refuses a bar where it is false and adds its own where it is true.
    """
    return [Bar() if (on_terminal() if terminal is None else terminal) else LineProgress()]


def on_terminal() -> bool:
    """Tell whether stdout is a terminal; some programs put an object there that cannot say so."""
    return bool(getattr(sys.stdout, "isatty", bool)())


class Bar(RichProgressBar):
    """Lightning's bar, with epochs counted from 1, a line per validation, and results below the bar."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the validation's line above the bar."""
        super().on_validation_end(trainer, pl_module)
        _say_validation(trainer)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the finished bar where it stands: the table that the task prints comes below."""
        self._stop_progress()

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{_epoch(self.trainer):{len(self.validation_description)}}".capitalize()


class LineProgress(Callback):
    """Prints one line per log interval on stdout, for pipes and files.

    `step 120/480  epoch 2/4  loss 0.412  1 234 samples/s  eta 00:42`

    Metrics logged with `prog_bar=True` are shown, validation's from its first end on; without any, the
    step's loss. The time left counts validation and checkpoints as they came so far. Validation prints a
    line at its end; it, testing and predicting print one every ten seconds. Rank 0 prints.

    Args:
        every_n_steps: Optimiser steps between lines; by default the trainer's `log_every_n_steps`.
    """

    def __init__(self, *, every_n_steps: int | None = None) -> None:
        super().__init__()
        self.every_n_steps = every_n_steps
        self._first_step = 0
        self._began = self._spoke = self._spoke_of_batches = 0.0
        self._samples = 0
        self._idle = 0.0  # seconds of validation since the last line
        self._stopped = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._first_step = trainer.global_step
        self._began = self._spoke = time.perf_counter()
        self._samples, self._idle = 0, 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock of the rate."""
        self._stopped = self._spoke_of_batches = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the validation's line, and go on with the clock of the rate."""
        seconds = time.perf_counter() - self._stopped
        self._idle += seconds
        _say_validation(trainer, seconds)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print the line of a log step, and of the last step."""
        self._samples += size_of(batch) * replicas_of(trainer)
        step, total = trainer.global_step, _total_steps(trainer)
        every = self.every_n_steps or log_interval(trainer)
        if trainer.fit_loop._should_accumulate() or (every and step % every and step != total):
            return
        now = time.perf_counter()
        rate = self._samples / max(now - self._spoke - self._idle, 1e-9)
        per_step = (now - self._began) / max(step - self._first_step, 1)
        if trainer.is_global_zero:
            left = [] if total is None else [f"eta {clock(per_step * (total - step))}"]
            print("  ".join([*self._parts(trainer, outputs, step, total, rate), *left]), flush=True)
        self._spoke, self._samples, self._idle = time.perf_counter(), 0, 0.0

    def _parts(self, trainer: Trainer, outputs: Any, step: int, total: int | None, rate: float) -> list[str]:
        parts = [f"step {step}" if total is None else f"step {step}/{total}", _epoch(trainer)]
        shown = {
            name.removesuffix("_step"): value
            for name, value in trainer.progress_bar_metrics.items()
            if isinstance(value, int | float) and name != "v_num" and not name.endswith("_epoch")
        }
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor) and not any("loss" in name and "val" not in name for name in shown):
            shown = {"loss": float(loss), **shown}
        parts += [f"{name} {value:.4g}" for name, value in shown.items()]
        speed = f"{rate:,.0f}".replace(",", " ") if rate >= 10 else f"{rate:.2g}"
        return [*parts, f"{speed} samples/s"]

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._spoke_of_batches = time.perf_counter()

    def _count(self, stage: str, trainer: Trainer, *rest: Any) -> None:
        """Print a line every ten seconds."""
        _, _, _, batch_idx, loader = (*rest, 0)[:5]
        now = time.perf_counter()
        if now - self._spoke_of_batches >= 10 and trainer.is_global_zero and not trainer.sanity_checking:
            totals = getattr(trainer, f"num_{stage}_batches")
            total = totals[loader] if loader < len(totals) else math.inf
            print(f"{stage} batch {batch_idx + 1}" + ("" if math.isinf(total) else f"/{total}"), flush=True)
            self._spoke_of_batches = now

    on_test_start = on_predict_start = _start
    on_validation_batch_end = partialmethod(_count, "val")
    on_test_batch_end = partialmethod(_count, "test")
    on_predict_batch_end = partialmethod(_count, "predict")


def _epoch(trainer: Trainer) -> str:
    epochs, epoch = trainer.max_epochs, trainer.current_epoch + 1
    return f"epoch {epoch}/{epochs}" if epochs and epochs > 0 else f"epoch {epoch}"


def _say_validation(trainer: Trainer, seconds: float | None = None) -> None:
    """Print what a validation of a fit logged."""
    if trainer.state.fn != "fit" or trainer.sanity_checking or not trainer.is_global_zero:
        return
    logged = trainer.callback_metrics.items()
    parts = [f"validation after step {trainer.global_step}", _epoch(trainer)]
    parts += [f"{name} {float(value):.4g}" for name, value in logged if name.startswith("val")]
    print("  ".join([*parts, *([] if seconds is None else [f"in {clock(seconds)}"])]), flush=True)


def clock(seconds: float) -> str:
    """Return seconds as `mm:ss`, or `h:mm:ss` from an hour on."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return (f"{hours}:" if hours else "") + f"{rest // 60:02d}:{rest % 60:02d}"


def _total_steps(trainer: Trainer) -> int | None:
    """Return the optimiser steps of the whole run, or None if it has no end."""
    steps = trainer.estimated_stepping_batches
    return None if math.isinf(steps) else int(steps)
