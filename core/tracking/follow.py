"""The callback that keeps a run folder's record straight: metrics on a resume, artifact, report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from core.tracking.metrics_csv import MetricsCSV
from core.tracking.settings import Tracking
from core.tracking.wandb_logger import WandbLogger

__all__ = ["FollowRun"]


class FollowRun(Callback):
    """Rewinds `metrics.csv` to the step a resumed run goes on from, and ends fit and test with the report.

    Args:
        folder: The run folder.
        tracking: What was asked for; `artifact` hands the best checkpoint to Weights & Biases when training
            ends.
    """

    def __init__(self, folder: str | os.PathLike[str], tracking: Tracking) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.tracking = tracking

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the rows that the restored state has not reached; a run that begins at 0 keeps every row."""
        done = trainer.global_step
        if done and trainer.is_global_zero:
            for logger in trainer.loggers:
                if isinstance(logger, MetricsCSV):
                    logger.rewind(done)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand the best checkpoint over, if asked."""
        best = best_checkpoint(trainer)
        if self.tracking.artifact and best is not None:
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_checkpoint(best)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the report: the last hook of a stage, so that tables and figures of the task are there."""
        if self.tracking.report and stage in ("fit", "validate", "test") and trainer.is_global_zero:
            from core.tracking.report import write_report

            if self.folder.is_dir():
                write_report(self.folder)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the files themselves are the state."""
        return {}


def best_checkpoint(trainer: Trainer) -> Path | None:
    """Return the best checkpoint of a run, else its last."""
    paths = [
        path
        for wanted in ("best_model_path", "last_model_path")
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint) and (path := getattr(callback, wanted))
    ]
    return next((Path(path) for path in paths if Path(path).is_file()), None)
