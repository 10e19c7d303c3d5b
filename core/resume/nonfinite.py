"""A loss that is not finite: its step is left out, or the run stops; either way it is written down which
batch it was.
"""

from __future__ import annotations

import json
import math
from collections import deque
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from core.errors import UserError

__all__ = ["NonFiniteGuard"]


class NonFiniteGuard(Callback):
    """Watch every loss before its backward pass.

    Stopping on the CPU happens at once, before the weights change. On an accelerator the test stays on the
    device, and the host looks at it every `every` batches and before each checkpoint, so that no checkpoint
    holds what came of such a loss on any rank. Skipping needs the answer at every step: the gradients are
    dropped, so that the optimizer leaves weights and moments as they are, and running statistics of BatchNorm
    are put back.

    Args:
        folder: Run folder; `nonfinite.jsonl` there gets one line per such batch.
        skip: Leave the step out instead of stopping the run.
        every: Batches between two looks where the test stays on the device.
        limit: Skipped steps in a row after which the run stops all the same.
        deferred: Whether the test stays on the device; None does so everywhere but on the CPU. Skipping never
            does.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        skip: bool = False,
        every: int = 10,
        limit: int = 20,
        deferred: bool | None = None,
    ) -> None:
        if every < 1 or limit < 1:
            raise UserError(f"NonFiniteGuard: every is {every} and limit {limit}; both must be at least 1")
        self.path = Path(folder) / "nonfinite.jsonl"
        self.skip, self.every, self.limit, self.deferred = skip, every, limit, deferred
        self.skipped = 0
        self._row = 0
        self._bad = self._undo = False
        self._batch: tuple[Any, int] | None = None
        self._recent: deque[tuple[Tensor, dict[str, Any]]] = deque()
        self._statistics: list[tuple[Tensor, Tensor]] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep what a skipped batch must not change."""
        self._batch = batch, batch_idx
        if self.skip:
            norms = (m for m in pl_module.modules() if isinstance(m, _BatchNorm) and m.training)
            self._statistics = [(b, b.detach().clone()) for norm in norms for b in norm.buffers()]

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Test the loss.

        Raises:
            UserError: If it is not finite and such losses stop the run.
        """
        finite = torch.isfinite(loss.detach()).all()
        deferred = finite.device.type != "cpu" if self.deferred is None else self.deferred
        if self.skip or not deferred:
            if self._any(trainer, not bool(finite)):
                self._found(trainer, loss.detach())
            return
        batch, index = self._batch or (None, -1)
        self._recent.append((torch.where(finite, 0.0, loss.detach()), _identity(trainer, batch, index)))
        if len(self._recent) >= self.every:
            self._look(trainer)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put running statistics back; the backward pass still needed what the forward pass left."""
        if self._undo:
            self._undo = False
            for buffer, before in self._statistics:
                buffer.copy_(before)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Make a bad step an empty one: an optimizer passes over parameters without a gradient."""
        if not self._bad:
            self._row = 0
            return
        self._bad = False
        self.skipped += 1
        self._row += 1
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        if self._row >= self.limit:
            raise UserError(
                f"the loss was not finite in {self._row} steps in a row up to step {trainer.global_step}; "
                f"lower the learning rate or check the data (batches in {self.path})"
            )

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Look once more before anything is written."""
        self._look(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look once more, and say how many steps were left out."""
        self._look(trainer)
        if self.skipped and trainer.is_global_zero:
            text = f"left out {self.skipped} steps whose loss was not finite (batches in {self.path})"
            print(text, flush=True)

    def _found(self, trainer: pl.Trainer, loss: Tensor) -> None:
        batch, index = self._batch or (None, -1)
        record = {"loss": str(float(loss)), **_identity(trainer, batch, index)}
        self._note(record)
        if not self.skip:
            self._stop(record)
        self._bad = self._undo = True

    def _look(self, trainer: pl.Trainer) -> None:
        """Read the losses kept on the device; the only wait for it.

        All ranks come here after the same batches. What one finds has reached the weights of all, and none
        may write them.
        """
        recent, self._recent = self._recent, deque()
        if not recent:
            return
        values = torch.stack([value.float().reshape(()) for value, _ in recent]).tolist()
        records = [
            {"loss": str(value), **record}
            for value, (_, record) in zip(values, recent, strict=True)
            if not math.isfinite(value)
        ]
        if records:
            self._note(records[0])
        if self._any(trainer, bool(records)):
            self._stop(_first(trainer, records))

    def _any(self, trainer: pl.Trainer, bad: bool) -> bool:
        """Tell whether any rank's loss is bad: gradients are shared, and so must be the decision."""
        if trainer.world_size == 1:
            return bad
        return not trainer.strategy.reduce_boolean_decision(not bad, all=True)

    def _note(self, record: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def _stop(self, record: dict[str, Any]) -> None:
        raise UserError(
            f"the loss is {record['loss']} at step {record['step']}, epoch {record['epoch']}, "
            f"batch {record['batch']}; "
            f"lower the learning rate, check the data (the batch's samples are in {self.path}), "
            "or skip such steps with --model.skip_non_finite=true"
        )


def _first(trainer: pl.Trainer, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the earliest batch that any rank has found."""
    if trainer.world_size > 1:
        of_all: list[list[dict[str, Any]]] = [[] for _ in range(trainer.world_size)]
        dist.all_gather_object(of_all, found[:1])
        found = [record for of_one in of_all for record in of_one]
    return min(found, key=lambda record: (record["epoch"], record["batch"], record["rank"]))


def _identity(trainer: pl.Trainer, batch: Any, index: int) -> dict[str, Any]:
    """Return which batch it is: its place in the order of samples, and the integer fields that name its
    samples.

    Fields on an accelerator are left out: reading them would wait for it.
    """
    record: dict[str, Any] = {
        "step": trainer.global_step,
        "epoch": trainer.current_epoch,
        "batch": index,
        "rank": trainer.global_rank,
    }
    items: dict[str, Any] = {}
    if is_dataclass(batch) and not isinstance(batch, type):
        items = {field.name: getattr(batch, field.name) for field in fields(batch)}
    elif isinstance(batch, dict):
        items = dict(batch)
    for name, value in items.items():
        whole = isinstance(value, Tensor) and not value.is_floating_point() and value.dtype != torch.bool
        if whole and value.ndim == 1 and value.device.type == "cpu":
            record[name] = value.tolist()
    return record
