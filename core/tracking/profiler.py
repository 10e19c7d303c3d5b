"""A few steps under torch's profiler: a trace for a viewer and a table of what took time and memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.profiler import ProfilerActivity, profile

from core.errors import UserError
from core.files import replacing
from core.tables import write_table

__all__ = ["Profile", "ProfileSteps"]


@dataclass(frozen=True)
class Profile:
    """Optimiser steps that are profiled.

    Attributes:
        steps: First step and the one after the last, as in `[10, 15]`; null profiles none. Leave the first
            steps out: they warm up and compile.
        memory: Note what each operation allocates.
        shapes: Note the shapes of inputs; operations are then listed for each shape.
        rows: Length of the tables.

    Raises:
        UserError: If the steps are not two rising numbers, or `rows` is below 1.
    """

    steps: list[int] | None = None
    memory: bool = True
    shapes: bool = False
    rows: int = 30

    def __post_init__(self) -> None:
        if self.steps is not None and not (len(self.steps) == 2 and 0 <= self.steps[0] < self.steps[1]):
            raise UserError(
                f"profile.steps is {self.steps}; give the first step and the one after the last, as in"
                " [10, 15]"
            )
        if self.rows < 1:
            raise UserError(f"profile.rows is {self.rows}; it must be at least 1")


class ProfileSteps(Callback):
    """Profiles the steps asked for and writes into `<folder>/profile`, each rank its own.

    - `trace.json.gz` opens in Perfetto or Chrome (`chrome://tracing`);
    - `operations.csv` holds the operations with most time of their own, `memory.csv` those that allocated
      most.

    A run that stops inside the steps writes what it has.
    """

    def __init__(self, settings: Profile, folder: Path) -> None:
        super().__init__()
        if settings.steps is None:
            raise ValueError("no steps to profile")
        self.settings, self.first, self.end = settings, *settings.steps
        self.folder = folder
        self._running: profile | None = None
        self._folder = folder / "profile"

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start with the first of the steps, or where a resumed run comes in."""
        if self._running is not None or not self.first <= trainer.global_step < self.end:
            return
        if trainer.world_size > 1:
            self._folder = self.folder / "profile" / f"rank{trainer.global_rank}"
        self._running = profile(
            activities=activities(pl_module.device),
            profile_memory=self.settings.memory,
            record_shapes=self.settings.shapes,
            acc_events=True,
        )
        self._running.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after the last of the steps and write."""
        if self._running is not None and trainer.global_step >= self.end:
            self._finish(pl_module.device)
            if trainer.is_global_zero:
                print(f"profile of steps {self.first} to {self.end - 1}: {self._folder}", flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what there is if training ends first."""
        self._finish(pl_module.device)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop; a profile of a step that failed says little."""
        if self._running is not None:
            self._running.stop()
            self._running = None

    def _finish(self, device: torch.device) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        if device.type != "cpu":
            torch.get_device_module(device.type).synchronize()
        running.stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._folder / "trace.json.gz") as temporary:
            # the profiler compresses what ends in .gz
            packed = temporary.with_name(f"{temporary.name}.gz")
            running.export_chrome_trace(str(packed))
            packed.replace(temporary)
        events = running.key_averages(group_by_input_shape=self.settings.shapes)
        rows = [_row(event, device.type) for event in events]
        tables = {"operations": "ms", **({"memory": "mib"} if self.settings.memory else {})}
        for name, unit in tables.items():
            ordered = sorted(rows, key=lambda row: -max(row[f"device_{unit}"], row[f"cpu_{unit}"]))
            write_table(self._folder / f"{name}.csv", ordered[: self.settings.rows])


def activities(device: torch.device) -> list[ProfilerActivity]:
    """Return what the profiler watches for a run on `device`: the CPU, and the device if it is another."""
    beside = {"cuda": ProfilerActivity.CUDA, "neuron": ProfilerActivity.PrivateUse1}
    return [ProfilerActivity.CPU, *([beside[device.type]] if device.type in beside else [])]


def _row(event: Any, device: str) -> dict[str, Any]:
    """Return one operation: calls, own milliseconds, and own MiB on the CPU and on the device."""
    row: dict[str, Any] = {"operation": event.key, "calls": event.count}
    for quantity, name, unit in (("time_total", "ms", 1e3), ("memory_usage", "mib", 2**20)):
        row[f"cpu_{name}"] = round(getattr(event, f"self_cpu_{quantity}") / unit, 3)
        own = 0.0 if device == "cpu" else getattr(event, f"self_device_{quantity}")
        row[f"device_{name}"] = round(own / unit, 3)
    shapes = getattr(event, "input_shapes", None)
    return {**row, "shapes": str(shapes)} if shapes else row
