"""What a run on Neuron does beside training: tells what the CPU computes, mends a resumed optimiser."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

__all__ = ["ReportFallbacks", "UnfusedOptimizer"]


class ReportFallbacks(Callback):
    """Says once, after the first step, which operations Neuron has no program for and the CPU computes."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ask the backend; forward, backward and the optimiser's step have been there by now."""
        if self.operations is not None or trainer.fit_loop._should_accumulate():
            return
        ask = getattr(sys.modules.get("torch_neuronx"), "get_fallback_ops", None)
        self.operations = sorted(map(str, ask())) if callable(ask) else []
        if self.operations and trainer.is_global_zero:
            print(f"computed on the CPU, not on Neuron: {', '.join(self.operations)}", flush=True)


class UnfusedOptimizer(Callback):
    """Takes back the fused update that a checkpoint from a CPU or a GPU brings along: Neuron has none."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Change the groups after a checkpoint was loaded into them."""
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                if group.get("fused"):
                    group["fused"], group["foreach"] = False, None
