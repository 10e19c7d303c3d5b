"""What a checkpoint needs before Lightning may resume from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.loops.loop import _Loop

from core.errors import UserError

__all__ = ["BeginEpoch", "check_averaging", "repair_loops"]


def repair_loops(checkpoint: dict[str, Any]) -> None:
    """Mend the epoch counters of a checkpoint that was taken in mid-epoch, in place.

    After resuming from an epoch's last batch, Lightning 2.6 does not count the next epoch as begun, and takes
    every later checkpoint of that run for one at an epoch's end: a validation is lost and the batch index
    wrong. In mid-epoch exactly one more epoch has begun than was finished, so the counters can be derived.

    Args:
        checkpoint: As read; one without loop state (weights alone) is left as it is.
    """
    loops = (checkpoint.get("loops") or {}).get("fit_loop")
    if not loops or loops["epoch_loop.batch_progress"]["is_last_batch"]:
        return
    for scope in ("total", "current"):
        counts = loops["epoch_progress"][scope]
        counts["ready"] = counts["started"] = counts["processed"] + 1


class BeginEpoch(Callback):
    """Begin a new epoch after a checkpoint of an epoch's end, also in a run that `max_steps` ends.

    Such a run Lightning 2.6 takes for one stopped in mid-epoch wherever its checkpoint was taken: it would go
    on behind the finished epoch's last batch, one batch too far, and count a step more than there was.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the finished epoch as done, and let the next one start from its first batch."""
        loop = trainer.fit_loop
        progress: Any = loop.epoch_progress.current
        finished = progress.processed > 0 and progress.processed == progress.ready
        if not loop.restarting or not finished or not loop.epoch_loop.batch_progress.is_last_batch:
            return
        total: Any = loop.epoch_progress.total
        for counts in (total, progress):
            counts.completed = counts.processed
        _Loop.restarting.fset(loop, False)  # type: ignore[attr-defined]  # its own says yes again
        for part in (loop, loop.epoch_loop):
            part.reset_restart_stage()


def check_averaging(checkpoint: Mapping[str, Any], callbacks: Iterable[Callback]) -> None:
    """Refuse to resume an averaged run without averaging, or a plain run with it.

    The file's `state_dict` is the average; without the callback training would go on from it with the
    optimizer state of the raw weights, and nobody would notice.

    Raises:
        UserError: If only one of the two has averaging.
    """
    averaged = "averaging_state" in checkpoint
    configured = any(isinstance(callback, WeightAveraging) for callback in callbacks)
    if averaged and not configured:
        raise UserError(
            "the checkpoint was made with weight averaging and this run has none; "
            "give the same model.ema to resume, or start a new run from its weights with --model.weights"
        )
    if configured and not averaged:
        raise UserError(
            "this run averages its weights and the checkpoint was made without; "
            "leave model.ema out to resume, or start a new run from its weights with --model.weights"
        )
