"""A callback for `--trainer.callbacks`: writes down what every step saw, and strikes the process dead."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback


class Watch(Callback):
    """Append one line a micro-batch: its number, its windows (of this process), its loss (of all processes).

    Args:
        log: File of JSON lines; the first process writes.
        after: Micro-batches, counted over all epochs, after which a signal is sent to this process.
        how: The signal.
    """

    def __init__(self, log: str, after: int | None = None, how: str = "SIGKILL") -> None:
        self.path, self.after, self.how = Path(log), after, how

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._number(trainer) == self.after:
            self.after = None
            os.kill(os.getpid(), getattr(signal, self.how))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = float(pl_module.all_gather(outputs["loss"].detach()).mean())
        if trainer.is_global_zero:
            windows = list(zip(batch.series.tolist(), batch.start.tolist(), strict=True))
            row = {"number": self._number(trainer), "windows": windows, "loss": loss}
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def _number(self, trainer: pl.Trainer) -> int:
        return trainer.fit_loop.epoch_loop.batch_progress.total.ready - 1
