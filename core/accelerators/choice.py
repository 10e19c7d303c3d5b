"""Choice of a run's device: the one asked for, or the first that answers of neuron, cuda, mps and cpu."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from core.accelerators.presence import find_neuron
from core.errors import UserError

__all__ = ["ORDER", "available", "choose", "usable"]

ORDER = ("neuron", "cuda", "mps", "cpu")


def available(device: str) -> bool:
    """Tell whether torch can use a device type of `ORDER`; no device's runtime is started for that."""
    if device == "neuron":
        backend = getattr(torch, "neuron", None)
        return bool(backend is not None and backend.is_available())
    if device == "cuda":
        return bool(torch.cuda.is_available())
    if device == "mps":
        return bool(torch.backends.mps.is_available())
    return device == "cpu"


def choose(asked: str | None) -> str:
    """Return the device type for what a recipe says: `auto`, `gpu`, a name of `ORDER`, or another's name.

    Lightning's own choice knows no device that was registered later, and takes the CPU beside a Neuron chip.

    Raises:
        UserError: If Neuron is asked for and absent; the sentence names what is missing.
    """
    name = "auto" if asked is None else asked.lower()
    if name == "auto":
        return next(device for device in ORDER if available(device))
    if name == "gpu":
        return "mps" if available("mps") else "cuda"
    if name == "neuron" and not available("neuron"):
        raise UserError(find_neuron().why_absent())
    return name


def usable(asked: str, *, order: Sequence[str] = ORDER) -> str:
    """Return the device that `--device` means (`auto`, or a name such as `cuda:1`), after using it once.

    Raises:
        UserError: If it cannot be used here.
    """
    if asked == "auto":
        return next(device for device in order if available(device))
    device = choose(asked)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {asked} cannot be used here; `dfm doctor` shows the devices") from error
    return device
