"""Scores of all processes together: the one way in which sums and kept values cross ranks."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["SampleValues", "gathered", "processes", "summed"]

Value = TypeVar("Value")

_NO_FLOAT64 = ("mps", "neuron")


def processes() -> int:
    """Return the number of processes that score together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def summed(sums: Mapping[str, Tensor], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Return each float64 tensor added up over all processes, where it was; call it on every rank, with the
    same names and shapes.

    The process group communicates on `device`; on one without float64 the sums travel in float32.
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
    """Return the value, which pickles with tensors on the CPU, of every process in the order of ranks; call
    it on every rank.
    """
    if processes() == 1:
        return [value]
    values: list[Value] = [value] * processes()
    dist.all_gather_object(values, value)
    return values


class SampleValues:
    """Values `(N, ...)` of samples, kept batch by batch under a key and a name."""

    def __init__(self) -> None:
        self._batches: dict[Hashable, dict[str, list[Tensor]]] = {}

    def add(self, key: Hashable, values: Mapping[str, Tensor]) -> None:
        """Keep the values of further samples; all names of a key have as many."""
        kept = self._batches.setdefault(key, {})
        for name, batch in values.items():
            kept.setdefault(name, []).append(batch)

    def gather(self) -> None:
        """Take in the values of all processes in the order of ranks; call it once, on every rank."""
        if processes() == 1:
            return
        parts = gathered({key: self.joined(key) for key in self})
        self._batches = {}
        for part in parts:
            for key, values in part.items():
                self.add(key, values)

    def __iter__(self) -> Iterator[Any]:
        """Yield the keys in the order in which they came."""
        yield from self._batches

    def joined(self, key: Hashable) -> dict[str, Tensor]:
        """Return name to the values of all samples of a key, on the CPU."""
        return {name: torch.cat(batches).cpu() for name, batches in self._batches[key].items()}
