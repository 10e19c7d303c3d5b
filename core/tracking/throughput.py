"""Speed and steadiness of a run: samples per second, waiting for data, MFU, gradient norm."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Optimizer

from core.backbones.gradient_norm import global_norm
from core.tracking.flops import skeleton
from core.tracking.peaks import compute_dtype, mfu, peak_flops

__all__ = ["Throughput", "is_log_step", "log_interval", "replicas_of", "size_of"]


class _Step(NamedTuple):
    samples: int
    tokens: int | Tensor | None
    waited: float
    worked: float


class Throughput(Callback):
    """Logs a run's speed, learning rates and gradient norm, in the row of the other metrics of a log step.

    - `throughput/samples_per_second`: of all processes together, over the last `window` steps;
      `throughput/tokens_per_second` too if the batch has a field `tokens`.
    - `throughput/data_wait`: the share of that time spent waiting for the next batch, 0 to 1.
    - `throughput/mfu`: FLOPs done per second over the devices' dense peak, if both are known. FLOPs per
      sample are the argument, or the answer of the task's method `flops_per_sample()`, asked once and only
      where a peak is known; None, where samples differ in their work, leaves MFU out.
    - `throughput/samples`: samples seen since the start of the run, resumes included.
    - `lr` or `lr/<group>`; `grad_norm` before clipping, and `grad_norm_max` since the last log step.

    Validation and the writing of checkpoints are left out of the clock, and so is a process's first step,
    which warms caches up. On an accelerator the work is queued: what the host waits for it counts as work,
    not as waiting for data. Nothing here makes the host wait for the device but at log steps.

    Args:
        window: Steps the rates are taken over.
        flops_per_sample: FLOPs of a training step per sample, forward and backward.
        peak: Peak FLOP per second of one device; overrides the table.
        gradient_norm: Compute the norm of all gradients at every step.
    """

    def __init__(
        self,
        *,
        window: int = 50,
        flops_per_sample: float | None = None,
        peak: float | None = None,
        gradient_norm: bool = True,
    ) -> None:
        super().__init__()
        if window < 1:
            raise ValueError(f"window is {window}; it must be at least 1")
        self.window = window
        self.flops_per_sample = flops_per_sample
        self.peak = peak
        self.gradient_norm = gradient_norm
        self.samples_seen = 0
        self._steps: deque[_Step] = deque(maxlen=window)
        self._norms: list[Tensor] = []
        self._largest = 0.0  # norm since the last log step, of the steps before a resume
        self._asked_task = False
        self._whole: nn.Module | None = None
        self._warm = False
        self._known_peak: float | None = None
        self._began: float | None = None
        self._ended: float | None = None
        self._waited = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep the network's shape before a strategy takes it apart: FLOPs are counted of the whole."""
        self._norms.clear()
        self._largest = 0.0
        network = getattr(pl_module, "network", None)
        if stage == "fit" and trainer.world_size > 1 and isinstance(network, nn.Module):
            self._whole = skeleton(network)

    def state_dict(self) -> dict[str, Any]:
        """Return the samples seen, and the largest norm since the last log step."""
        norms = torch.stack(self._norms).float().tolist() if self._norms else []
        return {"samples_seen": self.samples_seen, "grad_norm_max": max([self._largest, *norms])}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting from the checkpoint's samples, and go on looking for the largest norm."""
        self.samples_seen = int(state_dict["samples_seen"])
        self._largest = float(state_dict.get("grad_norm_max", 0.0))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start anew: the first step of a process is not counted."""
        self._steps.clear()
        self._forget_clock()
        self._warm = False
        self._known_peak = self.peak or _peak(pl_module.device, str(trainer.precision))

    def _forget_clock(self, *_: Any) -> None:
        """Leave validation, the writing of checkpoints and what happens between epochs out of the clock."""
        self._began, self._ended, self._waited = None, None, 0.0

    on_validation_start = on_validation_end = on_train_epoch_end = on_save_checkpoint = _forget_clock  # type: ignore[assignment]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note how long the batch was waited for."""
        now = time.perf_counter()
        self._waited = 0.0 if self._ended is None else now - self._ended
        self._began = now

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Keep the gradients' norm on the device; clipping comes after this hook, unscaling before it."""
        if self.gradient_norm:
            parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
            if gradients := [parameter.grad for parameter in parameters if parameter.grad is not None]:
                self._norms.append(global_norm(gradients))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step, and log at log steps."""
        logs = bool(trainer.loggers) and is_log_step(trainer)
        if logs and pl_module.device.type != "cpu":
            # Else the clock would stop when the work is queued, not when it is done.
            torch.get_device_module(pl_module.device.type).synchronize()
        now = time.perf_counter()
        samples, tokens = size_of(batch), getattr(batch, "tokens", None)
        self.samples_seen += samples * replicas_of(trainer)
        if self._warm and self._began is not None:
            self._steps.append(_Step(samples, tokens, self._waited, now - self._began))
        self._warm = True
        if logs:
            # Lightning rounds plain numbers to float32: 0.1 would read 0.10000000149, and counts end at 2²⁴.
            values = self._values(trainer, pl_module)
            exact = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
            pl_module.log_dict(exact, on_step=True, on_epoch=False, batch_size=1)
        self._ended = time.perf_counter()  # logging is not waiting for data

    def _values(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        values: dict[str, float] = {"throughput/samples": float(self.samples_seen)}
        if self._steps:
            seconds = sum(step.waited + step.worked for step in self._steps) or 1e-9
            samples = sum(step.samples for step in self._steps) * replicas_of(trainer)
            values["throughput/samples_per_second"] = samples / seconds
            values["throughput/data_wait"] = sum(step.waited for step in self._steps) / seconds
            tokens = [int(step.tokens) for step in self._steps if step.tokens is not None]
            if tokens:
                # a batch counts the tokens of its own slice only
                slices = int(getattr(trainer.strategy, "axes", {}).get("context", 1))
                whole = sum(tokens) * slices * replicas_of(trainer)
                values["throughput/tokens_per_second"] = whole / seconds
            if self._known_peak and (flops := self._flops(pl_module)):
                all_peaks = self._known_peak * trainer.world_size
                values["throughput/mfu"] = mfu(flops * samples, seconds=seconds, peak=all_peaks)
        values |= learning_rates(trainer)
        if self._norms:
            norms = torch.stack(self._norms).float().tolist()
            values |= {"grad_norm": norms[-1], "grad_norm_max": max([self._largest, *norms])}
            self._norms.clear()
            self._largest = 0.0
        return values

    def _flops(self, pl_module: LightningModule) -> float | None:
        """Ask the task once; a network that cannot be counted costs the run its MFU and nothing else."""
        if self.flops_per_sample is None and not self._asked_task:
            self._asked_task = True
            ask = getattr(pl_module, "flops_per_sample", None)
            if callable(ask):
                try:
                    with _instead(pl_module, self._whole):
                        self.flops_per_sample = ask()
                except (RuntimeError, NotImplementedError, TypeError, ValueError) as problem:
                    print(f"MFU is not shown: the network's FLOPs cannot be counted ({problem})")
        return self.flops_per_sample


@contextmanager
def _instead(pl_module: LightningModule, whole: nn.Module | None) -> Iterator[None]:
    """Let the task see its network in one piece, with what is frozen, if a strategy has sharded it."""
    network = getattr(pl_module, "network", None)
    if whole is None or not any(hasattr(value, "full_tensor") for value in network.parameters()):  # type: ignore
        yield
        return
    trained = {name: value.requires_grad for name, value in network.named_parameters()}  # type: ignore[union-attr]
    for name, value in whole.named_parameters():
        value.requires_grad_(trained.get(name, value.requires_grad))
    pl_module.network = whole
    try:
        yield
    finally:
        pl_module.network = network  # type: ignore[assignment]


def learning_rates(trainer: Trainer) -> dict[str, float]:
    """Return `lr/<name or number>` for every parameter group, or just `lr` if there is one."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    if len(groups) == 1:
        return {"lr": float(groups[0]["lr"])}
    return {f"lr/{group.get('name', index)}": float(group["lr"]) for index, group in enumerate(groups)}


def size_of(batch: Any) -> int:
    """Return how many samples a batch holds: its length, or that of its first tensor."""
    if isinstance(batch, Tensor):
        return int(batch.shape[0]) if batch.ndim else 1
    if isinstance(batch, Mapping):
        return size_of(next(iter(batch.values()))) if batch else 0
    if isinstance(batch, list | tuple):
        return size_of(batch[0]) if batch else 0
    return len(batch) if hasattr(batch, "__len__") else 1


def replicas_of(trainer: Trainer) -> int:
    """Return how many processes read different samples; ranks that share a network's parts read the same."""
    where = getattr(trainer.strategy, "distributed_sampler_kwargs", None)
    return int(where["num_replicas"]) if where else trainer.world_size


def _peak(device: torch.device, precision: str) -> float | None:
    """Return the table's peak of a run's device, or None for a CPU and for devices it does not hold."""
    module = None if device.type == "cpu" else torch.get_device_module(device.type)
    ask = getattr(module, "get_device_name", None)
    return None if ask is None else peak_flops(ask(device), compute_dtype(precision, device.type))


def is_log_step(trainer: Trainer) -> bool:
    """Tell whether a training step ends an optimiser step whose turn to be logged has come."""
    loop = trainer.fit_loop
    if loop._should_accumulate():
        return False
    step, every = loop.epoch_loop._batches_that_stepped + 1, log_interval(trainer)
    return bool(getattr(trainer, "fast_dev_run", False)) or (every > 0 and step % every == 0)


def log_interval(trainer: Trainer) -> int:
    """Return the optimiser steps between log steps; 0 means that none is logged."""
    return int(getattr(trainer, "log_every_n_steps", 0))  # Lightning sets it outside its class
