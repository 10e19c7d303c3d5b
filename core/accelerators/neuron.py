"""AWS Neuron's native device as a Lightning accelerator: Trainium 2 and 3 under the name `neuron`.

Lightning's connector knows no such device. Left to itself it trains one device's run on the CPU and puts
autocast on CUDA, both without a word; `neuron_arguments` and the checks in `setup` are there for that.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from core.accelerators.choice import available
from core.accelerators.memory import memory_figures
from core.errors import UserError

__all__ = [
    "NeuronAccelerator",
    "NeuronSwitches",
    "ReportFallbacks",
    "UnfusedOptimizer",
    "neuron_arguments",
    "register",
]


@dataclass(frozen=True)
class NeuronSwitches:
    """Environment and shapes of a run on Neuron; the first three are read before torch is loaded.

    Args:
        cache: Folder or object-store address of compiled programs, best one that outlives the machine; null
            takes one beside the data.
        stochastic_rounding: Round bfloat16 results at random; null does so with `bf16-true` only.
        strict: Let an operation that fails on the device fail, instead of moving it to the CPU.
        shapes: Different batch shapes that may come before a warning; each costs a compilation of minutes.
        drop_last: Leave an epoch's incomplete last batch out, whatever the recipe says: it has another shape.
        compile: Compile each block of the network into one program (`torch.compile` for Neuron).
    """

    cache: str | None = None
    stochastic_rounding: bool | None = None
    strict: bool = True
    shapes: int = 4
    drop_last: bool = True
    compile: bool = False

    def __post_init__(self) -> None:
        if self.shapes < 1:
            raise UserError(f"neuron.shapes is {self.shapes}; it must be at least 1")


class NeuronAccelerator(Accelerator):
    """One process, one logical core. Nothing here starts the runtime before the process group is there."""

    def setup_device(self, device: torch.device) -> None:
        """Refuse a device that is not Neuron's; the runtime is left alone, as the process group comes later.

        Raises:
            UserError: If a strategy chose another device.
        """
        if device.type != "neuron":
            raise UserError(
                f"trainer.strategy runs on {device} and trainer.accelerator is neuron; leave the strategy "
                "`auto`, or give it the device neuron:0"
            )

    def setup(self, trainer: pl.Trainer) -> None:
        """Choose this process's core, which starts the runtime, and check what would go wrong in silence.

        Raises:
            UserError: If autocast is meant for another device, or the process is a fork of one that used
                Neuron.
        """
        check_precision(trainer.precision_plugin)
        if torch.neuron._is_in_bad_fork():  # type: ignore[attr-defined]
            raise UserError(
                "this process was forked from one that had used Neuron, whose runtime cannot go on in it; "
                "start the ranks with trainer.strategy ddp or torchrun"
            )
        if trainer.world_size > 1 and not torch.distributed.is_initialized():
            raise RuntimeError("the process group must be there before Neuron's runtime is started")
        torch.neuron.set_device(trainer.strategy.root_device)  # type: ignore[attr-defined]
        if isinstance(trainer.strategy, DDPStrategy):
            # Given ids, Lightning wraps the module on a CUDA stream; its parameters tell the device anyway.
            trainer.strategy.determine_ddp_device_ids = lambda: None  # type: ignore[method-assign]

    def teardown(self) -> None:
        """Give cached memory back."""
        if torch.neuron.is_initialized():  # type: ignore[attr-defined]
            torch.neuron.empty_cache()  # type: ignore[attr-defined]

    def get_device_stats(self, device: str | int | torch.device) -> dict[str, Any]:
        """Return the device's memory figures, flat and in bytes, after all queued work is done."""
        return memory_figures(
            torch.device("neuron", device) if isinstance(device, int) else torch.device(device)
        )

    @staticmethod
    def parse_devices(devices: int | str | list[int]) -> list[int]:
        """Return the logical cores that `trainer.devices` means: a number, -1 for all, a list, or `0,2`.

        Raises:
            UserError: If it names none, or more than there are.
        """
        # A rank that a launcher started sees its own core alone.
        present = None if "LOCAL_RANK" in os.environ else int(torch.neuron.device_count())  # type: ignore[attr-defined]
        chosen = _chosen(devices, present)
        if not chosen or (present is not None and max(chosen) >= present) or len(set(chosen)) < len(chosen):
            there = "see `dfm doctor`" if present is None else f"this machine has {present}"
            raise UserError(
                f"trainer.devices is {devices!r}; give a number of Neuron cores or a list of them ({there})"
            )
        return chosen

    @staticmethod
    def get_parallel_devices(devices: list[int]) -> list[torch.device]:
        """Return one device for each core."""
        return [torch.device("neuron", index) for index in devices]

    @staticmethod
    def auto_device_count() -> int:
        """Return the number of logical cores."""
        return int(torch.neuron.device_count())  # type: ignore[attr-defined]

    @staticmethod
    def is_available() -> bool:
        """Tell whether the native backend is there and finds a core."""
        return available("neuron")

    @staticmethod
    def name() -> str:
        """Return `neuron`."""
        return "neuron"

    @classmethod
    def register_accelerators(cls, accelerator_registry: Any) -> None:
        """Make the name known to a registry of Lightning's."""
        accelerator_registry.register(
            "neuron", cls, description="AWS Neuron, one logical core", override=True
        )


def register() -> None:
    """Let `Trainer(accelerator="neuron")` find the class; as often as wanted."""
    NeuronAccelerator.register_accelerators(AcceleratorRegistry)


def neuron_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Trainer's arguments with accelerator and strategy as Neuron needs them.

    One device gets a strategy of its own, because Lightning would choose the CPU; several get DDP.

    Raises:
        UserError: For a strategy that forks, or float64, which the device computes as float32.
    """
    register()
    new = {**arguments, "accelerator": "neuron"}
    precision, strategy = str(new.get("precision")), new.get("strategy")
    if precision.startswith("64"):
        raise UserError(
            f"trainer.precision is {precision} and Neuron computes float64 as float32; give 32-true, or "
            "--trainer.accelerator=cpu"
        )
    forks = isinstance(strategy, str) and ("fork" in strategy or "notebook" in strategy)
    if forks or (isinstance(strategy, DDPStrategy) and strategy._start_method == "fork"):
        raise UserError(
            "trainer.strategy forks its processes, and Neuron's runtime cannot be forked; give ddp, or start "
            "the ranks with torchrun"
        )
    devices = new.get("devices", 1)
    cores = NeuronAccelerator.parse_devices("-1" if devices == "auto" else devices)
    many = len(cores) > 1 or int(new.get("num_nodes") or 1) > 1
    if strategy in (None, "auto", "single_device"):
        new["strategy"] = "ddp" if many else SingleDeviceStrategy(device=torch.device("neuron", cores[0]))
    return new


def check_precision(plugin: Any) -> None:
    """Refuse autocast for another device.

    Raises:
        UserError: If the plug-in is Lightning's own for `bf16-mixed` or `16-mixed`, which is made for CUDA.
    """
    if isinstance(plugin, MixedPrecision) and plugin.device != "neuron":
        raise UserError(
            f"the precision plug-in casts on {plugin.device}, so that Neuron would train in float32; pass "
            f"core.precision.precision_plugin('{plugin.precision}', device='neuron') in plugins and leave "
            "precision out"
        )


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


def _chosen(devices: int | str | list[int], present: int | None) -> list[int]:
    """Return the numbers of the cores; none where what was given has no meaning."""
    if isinstance(devices, str):
        words = [word.strip() for word in devices.split(",") if word.strip()]
        if not words or any(not word.lstrip("-").isdigit() for word in words):
            return []
        devices = [int(word) for word in words] if "," in devices else int(words[0])
        if isinstance(devices, list):
            return devices
    if isinstance(devices, int):
        return list(range(max((present or 1) if devices == -1 else devices, 0)))
    return [int(index) for index in devices if int(index) >= 0]
