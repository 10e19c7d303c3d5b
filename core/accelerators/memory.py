"""Memory of an accelerator: its figures in one form, logged while a run trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

__all__ = ["LogMemory", "flat", "memory_figures", "synchronise"]

GIB = 2**30
# The same quantities under CUDA's flat names and Neuron's nested ones, flattened.
_CURRENT = ("allocated_bytes.all.current", "allocated_bytes.current")
_PEAK = ("allocated_bytes.all.peak", "allocated_bytes.peak")
_RESERVED = ("reserved_bytes.all.current", "reserved_bytes.current")


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what is queued; without it a timer times the queueing."""
    if device.type != "cpu":
        torch.get_device_module(device.type).synchronize()


def memory_figures(device: torch.device) -> dict[str, float]:
    """Return the allocator's figures of a device with dotted names, in bytes; none for the CPU."""
    if device.type == "cpu":
        return {}
    synchronise(device)
    module = torch.get_device_module(device.type)
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
        named = {"allocated": _CURRENT, "peak": _PEAK, "reserved": _RESERVED}
        values = {
            f"memory/{name}_gib": figures[key] / GIB
            for name, keys in named.items()
            for key in keys
            if key in figures
        }
        if values:
            pl_module.log_dict(values, on_step=True, on_epoch=False, batch_size=1)
