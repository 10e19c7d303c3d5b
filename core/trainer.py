"""The Lightning Trainer as the suite sets it up: safe checkpoints, exact resume, tracking and the CPU's
switches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from core.accelerators import cpu as cpu_device
from core.accelerators import cuda as cuda_device
from core.accelerators import neuron as neuron_device
from core.accelerators.choice import choose
from core.accelerators.compilation import CountShapes, StaticShapes, compile_blocks
from core.accelerators.memory import LogMemory, RecordMemory
from core.accelerators.neuron import ReportFallbacks, UnfusedOptimizer
from core.checkpoints.archive import FORMAT, versions
from core.checkpoints.files import clean_leftovers
from core.checkpoints.io import SafeCheckpointIO
from core.checkpoints.networks import home_of
from core.data.checks import at_least
from core.files import replacing
from core.precision import precision_plugin
from core.resume import (
    BeginEpoch,
    IsolateValidation,
    NonFiniteGuard,
    RandomState,
    StopGracefully,
    checkpoint_callbacks,
)
from core.strategies.launch import Launch, devices_and_strategy
from core.strategies.processes import RunProcesses, slurm_as_it_is
from core.task import Task
from core.tracking.loggers import RunRecord, build_loggers
from core.tracking.profiler import Profile, ProfileSteps
from core.tracking.progress import on_terminal, progress_callbacks
from core.tracking.settings import Tracking
from core.tracking.throughput import Throughput

__all__ = ["Checkpoints", "Devices", "build_trainer", "describe"]


@dataclass(frozen=True)
class Devices:
    """What each kind of device is set up with; only that of the run's own is looked at.

    Attributes:
        cpu: Speed switches of the CPU.
        cuda: Number formats, kernels and compilation on CUDA.
        neuron: Environment and shapes on AWS Neuron.
    """

    cpu: cpu_device.CPUSwitches = field(default_factory=cpu_device.CPUSwitches)
    cuda: cuda_device.CUDASwitches = field(default_factory=cuda_device.CUDASwitches)
    neuron: neuron_device.NeuronSwitches = field(default_factory=neuron_device.NeuronSwitches)


@dataclass(frozen=True)
class Checkpoints:
    """When checkpoints are written, and how.

    Attributes:
        every_n_steps: Optimiser steps from one to the next; None writes one at each epoch's end, after its
            validation.
        keep: How many of the newest are kept, beside the best; at least 1.
        sharded: Whether a checkpoint is a folder, into which every process writes its part and from which any
            number of processes resumes; `auto` makes one where the strategy shards weights, a single file
            otherwise.
        asynchronous: Whether a thread writes while training goes on from a copy in memory; what goes wrong
            there is said at the next checkpoint.
    """

    every_n_steps: int | None = None
    keep: int = 2
    sharded: Literal["auto"] | bool = "auto"
    asynchronous: bool = False

    def __post_init__(self) -> None:
        at_least(1, room="checkpoints", every_n_steps=self.every_n_steps, keep=self.keep)


def build_trainer(
    arguments: Mapping[str, Any],
    *,
    task: Task,
    folder: Path,
    tracking: Tracking,
    checkpoints: Checkpoints,
    devices: Devices,
    config: Mapping[str, Any],
    verb: str,
    profile: Profile = Profile(),  # noqa: B008
    rows: int | None = None,
    launch: Launch | None = None,
    processes: RunProcesses | None = None,
) -> pl.Trainer:
    """Build the Trainer of one run.

    Args:
        arguments: What recipe, hardware file and command line say for `trainer`.
        task: The task; it learns its run folder and whether its optimiser may be fused.
        folder: The run folder.
        tracking: Loggers and report.
        checkpoints: When to write them.
        devices: How the device is set up that the run gets.
        config: The resolved config in plain containers: saved with the run and in every checkpoint.
        verb: fit, validate, test or predict.
        profile: Which steps to profile.
        rows: Rows of the network's largest matrix product, if known.
        launch: Whether a pre-empted job goes back into its queue.
        processes: The processes of the run; None if this is the only one.

    Raises:
        UserError: If the device is absent or does not go with the other arguments.
        TypeError, ValueError, MisconfigurationException: From Lightning, for arguments it refuses.
    """
    info = processes.info if processes is not None else None
    device, arguments = on_device(devices_and_strategy(arguments, info))
    precision = arguments.get("precision")
    fitting = verb == "fit"
    plugins = [
        *(arguments.pop("plugins", None) or []),
        SafeCheckpointIO(
            sharded=checkpoints.sharded,
            asynchronous=checkpoints.asynchronous and fitting,
            optimizers=fitting,
        ),
    ]
    if info is not None and info.launcher == "slurm":
        plugins.append(slurm_as_it_is())
    plugin = precision_plugin(precision, device=device)
    if plugin is not None:
        plugins.append(plugin)
        arguments["precision"] = None
    own = arguments.pop("callbacks", None) or []
    callbacks = list(own) if isinstance(own, list) else [own]
    if fitting and not arguments.get("fast_dev_run"):
        clean_leftovers(folder / "checkpoints")
        callbacks += [BeginEpoch(), RandomState(), IsolateValidation()]
        callbacks += [NonFiniteGuard(folder, skip=task.skip_non_finite)]
        callbacks += [Throughput(peak=tracking.peak), *device_callbacks(device, devices, folder)]
        if profile.steps is not None:
            callbacks.append(ProfileSteps(profile, folder))
        # The best's callback comes first: Lightning takes the first for `trainer.checkpoint_callback`.
        callbacks += checkpoint_callbacks(
            folder / "checkpoints",
            every_n_steps=checkpoints.every_n_steps,
            monitor=task.monitor,
            mode=task.mode,
            keep=checkpoints.keep,
        )
        callbacks += [StopGracefully(folder / "checkpoints", requeue=launch.requeue if launch else ())]
    else:
        arguments["enable_checkpointing"] = False
    if task.adaptation is not None and task.adaptation.needs_unused and arguments.get("strategy") == "ddp":
        # What is frozen at first has no gradient then.
        arguments["strategy"] = "ddp_find_unused_parameters_true"
    bar = arguments.pop("enable_progress_bar", None)
    terminal = on_terminal()
    if bar is not False:
        callbacks += progress_callbacks(terminal=terminal)
    callbacks.append(RunRecord(folder, tracking))
    if arguments.get("logger") in (None, True):
        name = f"{folder.parent.name}-{folder.name}"
        arguments["logger"] = build_loggers(tracking, folder, name=name, config=config)
    trainer = pl.Trainer(
        **{
            **arguments,
            "plugins": plugins,
            "callbacks": callbacks,
            "default_root_dir": str(folder),
            "enable_progress_bar": terminal and bar is not False,
        }
    )
    if processes is not None:
        processes.join(trainer)
    # Filling every uninitialised tensor costs more than a small step and makes no result more repeatable.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    on = apply_switches(device, devices, task=task, precision=precision, rows=rows)
    task.record["switches"] = on
    task.fused_optimizer = bool(on.get("fused_optimizer", {}).get("on"))
    task.run_folder = folder
    if fitting:
        save_config(config, folder)
    return trainer


def on_device(arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the device type that `trainer.accelerator` means here, and the arguments as it needs them."""
    asked = arguments.get("accelerator")
    device = asked.name() if isinstance(asked, Accelerator) else choose(asked)
    if device == "neuron":
        return device, neuron_device.neuron_arguments(arguments)
    return device, dict(arguments) if isinstance(asked, Accelerator) else {**arguments, "accelerator": device}


def device_callbacks(device: str, devices: Devices, folder: Path) -> list[Callback]:
    """Return what a fit on a device needs beside training."""
    if device == "neuron":
        static = [StaticShapes()] if devices.neuron.drop_last else []
        watched = [CountShapes(devices.neuron.shapes), ReportFallbacks()]
        return [*static, *watched, UnfusedOptimizer(), LogMemory()]
    if device == "cuda":
        return [LogMemory(), *([RecordMemory(folder)] if devices.cuda.memory_snapshot else [])]
    return []


def apply_switches(
    device: str, devices: Devices, *, task: Task, precision: Any, rows: int | None
) -> dict[str, Any]:
    """Set the process and the network up for their device, and return what is on and why."""
    if device == "cpu":
        return dict(cpu_device.apply(devices.cpu, network=task.network, rows=rows))
    if device == "cuda":
        return cuda_device.apply(devices.cuda, network=task.network, precision=precision)
    if device == "neuron" and devices.neuron.compile:
        blocks = compile_blocks(task.network, backend="neuron")
        return {"compile": {"on": True, "reason": f"{blocks} blocks"}}
    return {}


@rank_zero_only
def save_config(config: Mapping[str, Any], folder: Path) -> None:
    """Write the resolved config as `<folder>/config.yaml`; it runs again as a recipe."""
    import yaml

    with replacing(folder / "config.yaml") as temporary:
        temporary.write_text(
            yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8"
        )


def describe(
    domain: str, recipe: str | None, config: Mapping[str, Any], task: Task, stored: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what every checkpoint of the run says of itself, in plain containers."""
    before = (stored or {}).get("domainfm") or {}
    about = config.get("about") or {}
    return {
        "format": FORMAT,
        "domain": domain,
        "system": about.get("system") or before.get("system"),
        "recipe": recipe or before.get("recipe"),
        "config": dict(config),
        "key_map": home_of(task.network).__name__,
        "licences": list(before.get("licences") or []),
        "sources": list(before.get("sources") or []),
        "versions": versions(),
        "switches": {},
    }
