"""Which checkpoints a run keeps: the newest few with a link to the last, and the best by a metric."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from core.data.checks import at_least, one_of
from core.errors import UserError, did_you_mean
from core.files import put_in_place

__all__ = ["KeepBest", "KeepNewest", "RestoreBest", "checkpoint_callbacks", "finish_saving"]


_PATHS = ("best", "kth_best", "last")  # what Lightning's state has paths of


def finish_saving(trainer: pl.Trainer) -> None:
    """Wait for the checkpoint that a thread may be writing (`checkpoints.asynchronous`).

    Raises:
        UserError: If the disk was full or refused.
    """
    wait = getattr(trainer.strategy.checkpoint_io, "wait", None)
    if wait is not None:
        wait()


class _Keep(ModelCheckpoint):
    """What both keep, in a run that goes on: also where its folder was moved since."""

    def __init__(self, folder: str | Path, **options: Any) -> None:
        super().__init__(
            dirpath=folder, auto_insert_metric_name=False, enable_version_counter=False, **options
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up scores and names; Lightning forgets them if the folder has another name."""
        home = Path(str(self.dirpath))

        def moved(path: str) -> str:
            return str(home / Path(path).name) if path else path

        scores = {moved(path): score for path, score in (state_dict.get("best_k_models") or {}).items()}
        scores = {path: score for path, score in scores.items() if Path(path).exists()}
        if scores and state_dict.get("dirpath") != self.dirpath:
            paths = {f"{key}_model_path": moved(state_dict[f"{key}_model_path"]) for key in _PATHS}
            state_dict = {**state_dict, **paths, "best_k_models": scores, "dirpath": self.dirpath}
        super().load_state_dict(state_dict)

    def _should_remove_checkpoint(self, trainer: pl.Trainer, previous: str, current: str) -> bool:
        """Tell whether an older file goes: that of the resume too, once newer ones are whole."""
        return previous != current and Path(str(self.dirpath)) in Path(previous).absolute().parents


class KeepNewest(_Keep):
    """Write `step<step>.ckpt` at every epoch's end and every n steps, keep the newest few, and link
    `last.ckpt` to the last.

    A step that validation follows is written after that validation: a run resumed from a file written before
    it would never do it.

    Args:
        folder: Where to write.
        every_n_steps: Optimizer steps between checkpoints within an epoch; None writes at the epochs' ends
            only.
        keep: How many to keep.
    """

    def __init__(self, folder: str | Path, *, every_n_steps: int | None = None, keep: int = 2) -> None:
        super().__init__(
            folder,
            filename="step{step:08d}",
            monitor="step",
            mode="max",
            save_top_k=keep,
            save_last="link",
            save_on_train_epoch_end=True,
            every_n_epochs=1,
        )
        self.every = every_n_steps
        self._due = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write every n steps, unless the step ends an epoch or validation follows it."""
        loop = trainer.fit_loop
        if self.every is None or loop._should_accumulate() or trainer.global_step % self.every:
            return
        if loop.epoch_loop._num_ready_batches_reached():
            return
        if loop._data_fetcher is not None and loop.epoch_loop._should_check_val_fx(loop._data_fetcher):
            self._due = True
            return
        self._write(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what was put off until after a validation in mid-epoch."""
        if self._due:
            self._due = False
            self._write(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write at the epoch's end, after its validation."""
        self._write(trainer)

    @staticmethod
    def _link_checkpoint(trainer: pl.Trainer, filepath: str, linkpath: str) -> None:
        """Turn the link in one step, once the checkpoint is whole; what stood there may be a folder too."""

        def link() -> None:
            temporary = Path(f"{linkpath}.{os.getpid()}.tmp")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(os.path.relpath(filepath, os.path.dirname(linkpath)))
            put_in_place(temporary, linkpath)

        if trainer.is_global_zero and os.path.abspath(filepath) != os.path.abspath(linkpath):
            getattr(trainer.strategy.checkpoint_io, "afterwards", lambda call: call())(link)
        trainer.strategy.barrier()

    def _write(self, trainer: pl.Trainer) -> None:
        if self._should_skip_saving_checkpoint(trainer):
            return
        candidates = self._monitor_candidates(trainer)
        self._save_topk_checkpoint(trainer, candidates)
        self._save_last_checkpoint(trainer, candidates)


class KeepBest(_Keep):
    """Keep the checkpoint with the best value of a metric of the validation as `best.ckpt`.

    Args:
        folder: Where to write.
        monitor: Name of the metric.
        mode: Whether `min` or `max` is best.
    """

    def __init__(self, folder: str | Path, *, monitor: str, mode: str = "min") -> None:
        super().__init__(
            folder, filename="best", monitor=monitor, mode=mode, save_top_k=1, save_on_train_epoch_end=False
        )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write if the metric is better than ever; the sanity check already finds out whether it exists at
        all.

        Raises:
            UserError: If validation did not log the metric.
        """
        logged = trainer.callback_metrics
        if trainer.state.fn == "fit" and self.monitor not in logged:
            names = sorted(str(name) for name in logged)
            raise UserError(
                f"the best checkpoint is chosen by '{self.monitor}', which validation does not log; "
                f"it logs {', '.join(names) or 'nothing'}{did_you_mean(str(self.monitor), names)}"
            )
        super().on_validation_end(trainer, pl_module)


def checkpoint_callbacks(
    folder: str | Path,
    *,
    every_n_steps: int | None = None,
    monitor: str | None = "val_loss",
    mode: str = "min",
    keep: int = 2,
) -> list[ModelCheckpoint]:
    """Return the callbacks that write a run's checkpoints; the best comes first, as Lightning takes the first
    for its own.

    Args:
        folder: Where to write; names are flat.
        every_n_steps: Optimizer steps between checkpoints within an epoch; None writes at the epochs' ends
            only.
        monitor: Metric of the best; None keeps no best.
        mode: Whether `min` or `max` is best.
        keep: How many of the newest to keep, at least 1.

    Raises:
        UserError: If a value is out of range.
    """
    at_least(1, room="checkpoints", every_n_steps=every_n_steps, keep=keep)
    one_of(("min", "max"), room="checkpoints", mode=mode)
    newest = KeepNewest(folder, every_n_steps=every_n_steps, keep=keep)
    return [newest] if monitor is None else [KeepBest(folder, monitor=monitor, mode=mode), newest]


class RestoreBest(Callback):
    """After a fit that ran to its end, put the best epoch's weights back into the module in memory."""

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Load `best.ckpt`, if a metric chose one; with averaging it holds the averaged weights."""
        keeper = next((c for c in trainer.checkpoint_callbacks if isinstance(c, KeepBest)), None)
        if keeper is None or getattr(trainer, "fast_dev_run", False) or not keeper.best_model_path:
            return
        finish_saving(trainer)
        best = Path(str(keeper.dirpath)) / "best.ckpt"
        if not best.exists():
            return
        checkpoint = trainer.strategy.load_checkpoint(best)
        trainer.strategy.load_model_state_dict(checkpoint, strict=pl_module.strict_loading)
