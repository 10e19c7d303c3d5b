"""Scores of all processes together: the one way in which sums and kept values cross ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gathered", "processes", "summed"]

Value = TypeVar("Value")

_NO_FLOAT64 = ("mps", "neuron")


def processes() -> int:
    """Return the number of processes that score together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def summed(sums: Mapping[str, Tensor], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Return each tensor added up over all processes; call it on every rank, with the same names and shapes.

    Args:
        sums: Name to float64 sums of this process.
        device: Where the process group communicates; on one without float64 the sums travel in float32.

    Returns:
        Float64 tensors, each where it was.
    """
    if processes() == 1:
        return dict(sums)
    total = {}
    kind = torch.device(device).type
    for name, values in sums.items():
        travelling = values.to(device, torch.float32 if kind in _NO_FLOAT64 else torch.float64, copy=True)
        dist.all_reduce(travelling)
        total[name] = travelling.to(values.device, torch.float64)
    return total


def gathered(value: Value) -> list[Value]:
    """Return the value of every process in the order of ranks; call it on every rank.

    Args:
        value: What pickles, with tensors on the CPU.
    """
    if processes() == 1:
        return [value]
    values: list[Value] = [value] * processes()
    dist.all_gather_object(values, value)
    return values
