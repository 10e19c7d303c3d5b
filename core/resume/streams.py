"""The random streams of a training process: kept in checkpoints, and left alone by validation."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

__all__ = ["IsolateValidation", "RandomState", "capture", "restore"]


def capture(device: torch.device | None = None) -> dict[str, Any]:
    """Return the state of torch's, numpy's and Python's random streams in plain containers and tensors.

    Args:
        device: The accelerator whose stream is kept beside the CPU's: this process's own, for asking the
            others would start them up.
    """
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": {
            "kind": str(kind),
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "gauss": float(gauss),
        },
        "python": random.getstate(),
    }
    if device is not None and device.type != "cpu":
        module = torch.get_device_module(device.type)
        if hasattr(module, "get_rng_state"):
            own = (device,) if device.type != "mps" else ()  # MPS has one device and takes none
            state["devices"] = [module.get_rng_state(*own)]
    return state


def restore(state: dict[str, Any], device: torch.device | None = None) -> None:
    """Put back what `capture` returned; streams of devices that are not there any more are left out."""
    torch.set_rng_state(state["torch"].cpu())
    array = state["numpy"]
    keys = array["keys"].cpu().numpy().astype(np.uint32)
    np.random.set_state((array["kind"], keys, array["position"], array["has_gauss"], array["gauss"]))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kept = state.get("devices")
    if kept and device is not None and device.type != "cpu":
        module = torch.get_device_module(device.type)
        own = (device,) if device.type != "mps" else ()
        # A file of an earlier version holds the streams of all devices that its process saw.
        number = device.index or 0 if len(kept) > 1 else 0
        if number < len(kept):
            module.set_rng_state(kept[number].cpu(), *own)


class RandomState(Callback):
    """Save the random streams of every process and put them back when a resumed run starts training.

    They are set in `on_train_start`: after the loader has drawn what it wants and before the first sample is
    read. With another number of processes, where each had streams of its own, new ones are derived from the
    first's for every data-parallel rank (tensor-parallel peers draw alike), and a line says so.
    """

    def __init__(self) -> None:
        self._device: torch.device | None = None
        self._kept: list[dict[str, Any]] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Note the device."""
        self._device = trainer.strategy.root_device

    def state_dict(self) -> dict[str, Any]:
        """Return every rank's streams; all ranks come here when a checkpoint is made."""
        own = capture(self._device)
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return {"ranks": [own]}
        ranks: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(ranks, own)
        return {"ranks": ranks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the streams until training starts."""
        self._kept = list(state_dict["ranks"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set this rank's streams."""
        kept, self._kept = self._kept, []
        if not kept:
            return
        if len(kept) == trainer.world_size:
            restore(kept[trainer.global_rank], self._device)
        elif all(_same(kept[0], other) for other in kept[1:]):
            restore(kept[0], self._device)
        else:
            sampler = getattr(trainer.strategy, "distributed_sampler_kwargs", None) or {"rank": 0}
            _derive(kept[0], sampler["rank"])
            if trainer.is_global_zero:
                print(
                    f"random streams: the checkpoint has those of {len(kept)} processes and this run has "
                    f"{trainer.world_size}; new ones are derived from the first",
                    flush=True,
                )


def _same(one: Any, other: Any) -> bool:
    """Return whether two states of streams are equal bit by bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _derive(state: dict[str, Any], rank: int) -> None:
    """Seed every stream of this process from the torch stream in `state` and the rank."""
    digest = hashlib.sha256(bytes(state["torch"].tolist()) + rank.to_bytes(8, "little")).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little"))
    np.random.seed(int.from_bytes(digest[8:12], "little"))
    random.seed(int.from_bytes(digest[12:20], "little"))


class IsolateValidation(Callback):
    """Keep the training's random streams over validation, the sanity check included.

    A resumed run skips the sanity check, and may validate at other times; neither may change what training
    draws.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Any] | None = None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the streams."""
        self._kept = capture(trainer.strategy.root_device)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put them back."""
        if self._kept is not None:
            restore(self._kept, trainer.strategy.root_device)
        self._kept = None
