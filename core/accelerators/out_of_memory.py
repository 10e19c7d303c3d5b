"""When memory runs out: one sentence on what to change, and a record of what held the memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from core.accelerators.memory import GIB
from core.errors import UserError
from core.files import replacing

__all__ = ["RecordMemory", "is_out_of_memory", "out_of_memory_advice"]

# torch says so in an exception of its own for CUDA, and in a plain RuntimeError for the CPU's allocator and
# for backends that came later.
_WORDS = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|NRT_RESOURCE|"
    r"[Ff]ailed to allocate \d+ bytes",
)
_WANTED = re.compile(r"[Tt]ried to allocate ([\d.]+ ?[KMGT]?i?B|\d+ bytes)")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception, of whichever device, means that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _WORDS.search(str(error)) is not None


def out_of_memory_advice(error: BaseException, trainer: Any, *, folder: Path | None = None) -> UserError:
    """Return one sentence: where memory ran out, how much was asked for, what to change, nearest first."""
    device = trainer.strategy.root_device
    batch = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
    asked = _WANTED.search(" ".join(str(error).split()))
    text = f"{device} has not enough memory"
    if asked:
        text += f" (it was asked for {_readable(asked[1])} more)"
    if device.type == "cuda" and torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info(device)
        text += f", {free / GIB:.1f} of {total / GIB:.1f} GiB are free"
    if isinstance(batch, int) and batch > 1:
        accumulate = trainer.accumulate_grad_batches
        text += (
            f"; halve the batch and keep what a step sees (--data.batch_size {batch // 2} "
            f"--trainer.accumulate_grad_batches {2 * accumulate})"
        )
    else:
        text += "; give smaller samples (sequence length, crop)"
    text += ", recompute activations or shard the network (core.strategies.Mesh: checkpointing, shard)"
    if device.type != "cpu" and "32" in str(trainer.precision):
        text += ", or give --trainer.precision bf16-mixed"
    if folder is not None and (snapshot := folder / _FILE).is_file():
        text += f"; {snapshot} shows what held the memory"
    return UserError(text)


_FILE = "memory_snapshot.pickle"


class RecordMemory(Callback):
    """Keeps CUDA's record of allocations and writes it into the run folder when memory runs out, once.

    Args:
        folder: The run folder.
        entries: Allocations and releases kept; the oldest are forgotten.
    """

    def __init__(self, folder: Path, *, entries: int = 100_000) -> None:
        super().__init__()
        self.folder, self.entries = folder, entries

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin to record."""
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.memory._record_memory_history(max_entries=self.entries)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the record."""
        if trainer.strategy.root_device.type != "cuda" or not is_out_of_memory(exception):
            return
        name = _FILE if trainer.global_rank == 0 else f"rank{trainer.global_rank}_{_FILE}"
        with replacing(self.folder / name) as temporary:
            torch.cuda.memory._dump_snapshot(str(temporary))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop recording."""
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.memory._record_memory_history(enabled=None)


def _readable(size: str) -> str:
    if size.endswith("bytes"):
        return f"{int(size.split()[0]) / GIB:.1f} GiB"
    return size
