"""Memory of an accelerator: its figures in one form, logged; one sentence and a record when it runs out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from core.errors import UserError
from core.files import replacing

__all__ = ["LogMemory", "RecordMemory", "flat", "is_out_of_memory", "memory_figures", "out_of_memory_advice"]

GIB = 2**30
# The same quantities under CUDA's flat names and Neuron's nested ones, flattened.
_QUANTITIES = {
    "allocated": ("allocated_bytes.all.current", "allocated_bytes.current"),
    "peak": ("allocated_bytes.all.peak", "allocated_bytes.peak"),
    "reserved": ("reserved_bytes.all.current", "reserved_bytes.current"),
}
# torch says so in an exception of its own for CUDA, and in a plain RuntimeError for the CPU's allocator and
# for backends that came later.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|NRT_RESOURCE|"
    r"[Ff]ailed to allocate \d+ bytes",
)
_ASKED_FOR = re.compile(r"[Tt]ried to allocate ([\d.]+ ?[KMGT]?i?B|\d+ bytes)")
_RECORD = "memory_snapshot.pickle"


def memory_figures(device: torch.device) -> dict[str, float]:
    """Return the allocator's figures of a device with dotted names, in bytes; none for the CPU.

    Waits until the device has done what is queued.
    """
    if device.type == "cpu":
        return {}
    module = torch.get_device_module(device.type)
    module.synchronize()
    stats = getattr(module, "memory_stats", None)
    return dict(flat(stats(device))) if callable(stats) else {}


def flat(figures: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, float]]:
    """Yield dotted names and numbers of a nested mapping (Neuron's form) or a flat one (CUDA's)."""
    for key, value in figures.items():
        full = f"{name}.{key}" if name else str(key)
        if isinstance(value, Mapping):
            yield from flat(value, full)
        elif isinstance(value, int | float):
            yield full, float(value)


class LogMemory(Callback):
    """Logs `memory/allocated_gib`, `memory/peak_gib` and `memory/reserved_gib` of the device at log steps."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the figures where Lightning writes a row; reading them waits for the device."""
        every = int(getattr(trainer, "log_every_n_steps", 0))
        if trainer.fit_loop._should_accumulate() or not trainer.loggers or every < 1:
            return
        if (trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % every:
            return
        figures = memory_figures(pl_module.device)
        values = {
            f"memory/{name}_gib": figures[key] / GIB
            for name, keys in _QUANTITIES.items()
            for key in keys
            if key in figures
        }
        if values:
            pl_module.log_dict(values, on_step=True, on_epoch=False, batch_size=1)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception, of whichever device, means that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def out_of_memory_advice(error: BaseException, trainer: Any, *, folder: Path | None = None) -> UserError:
    """Return one sentence: where memory ran out, how much was asked for, what to change, nearest first."""
    device = trainer.strategy.root_device
    batch = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
    text = f"{device} has not enough memory"
    if asked := _ASKED_FOR.search(" ".join(str(error).split())):
        size = asked[1]
        if size.endswith("bytes"):
            size = f"{int(size.split()[0]) / GIB:.1f} GiB"
        text += f" (it was asked for {size} more)"
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
    if folder is not None and (record := folder / _RECORD).is_file():
        text += f"; {record} shows what held the memory"
    return UserError(text)


class RecordMemory(Callback):
    """Keeps CUDA's record of allocations and writes it into the run folder when memory runs out, once."""

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
        name = _RECORD if trainer.global_rank == 0 else f"rank{trainer.global_rank}_{_RECORD}"
        with replacing(self.folder / name) as temporary:
            torch.cuda.memory._dump_snapshot(str(temporary))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop recording."""
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.memory._record_memory_history(enabled=None)
