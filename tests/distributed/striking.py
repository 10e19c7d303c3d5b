"""Callbacks for runs of several processes: one rank dies, stops, errs or hangs at a micro-batch."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from core.errors import UserError


class Strike(Callback):
    """Send a signal to one rank before a micro-batch, counted over all epochs.

    Args:
        batch: Before which.
        rank: To whom.
        how: The signal.
        once: A file that says it has struck; a run that is started again is left alone.
    """

    def __init__(self, batch: int, once: str, rank: int = 1, how: str = "SIGKILL") -> None:
        self.batch, self.once, self.rank, self.how = batch, Path(once), rank, how

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        number = trainer.fit_loop.epoch_loop.batch_progress.total.ready - 1
        if number == self.batch and trainer.global_rank == self.rank and not self.once.exists():
            self.once.write_text(str(os.getpid()))
            os.kill(os.getpid(), getattr(signal, self.how))


class Err(Callback):
    """One rank alone finds a mistake when the data are set up, as if a file were missing on its machine."""

    def __init__(self, rank: int = 1) -> None:
        self.rank = rank

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.global_rank == self.rank:
            raise UserError(f"there is no file flows.zarr on the machine of rank {self.rank}")


class Sleep(Callback):
    """One rank stays in a micro-batch for ever, while its threads live on."""

    def __init__(self, rank: int = 1, batch: int = 2) -> None:
        self.rank, self.batch = rank, batch

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_rank == self.rank and batch_idx == self.batch:
            time.sleep(3600)
