"""Suggesting a learning rate from a short sweep of rates, by the "valley" rule of TTM's published training
script.

The sweep trains on up to 100 batches with rates growing exponentially from 1e-7 to 10. Weights, buffers and
random streams are put back afterwards. A suggestion can be far too low; a recipe that gives its rate never
comes here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from core.errors import UserError

__all__ = ["LRFinder", "LRFinderResult", "valley"]

Item = TypeVar("Item")


@dataclass(frozen=True)
class LRFinder:
    """Settings of the sweep; a recipe names them in place of a rate.

    Args:
        minimum: Rate of the first batch.
        maximum: Rate of the last batch.
        steps: Number of batches.
        beta: Smoothing of the loss, 0 (none) to below 1; the start of the average is corrected for.
        stop: The sweep ends when the smoothed loss exceeds this many times its smallest value.
    """

    minimum: float = 1e-7
    maximum: float = 10.0
    steps: int = 100
    beta: float = 0.98
    stop: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < self.minimum < self.maximum < math.inf:
            raise UserError(
                f"LRFinder: minimum is {self.minimum} and maximum {self.maximum}; "
                "both must be positive, the minimum below the maximum"
            )
        if self.steps < 3:
            raise UserError(f"LRFinder: steps is {self.steps}; it must be at least 3")
        if not 0 <= self.beta < 1:
            raise UserError(f"LRFinder: beta is {self.beta}; it must be at least 0 and below 1")
        if not self.stop > 1:
            raise UserError(f"LRFinder: stop is {self.stop}; it must be above 1")

    def run(
        self,
        step: Callable[[Item], Tensor],
        network: nn.Module,
        optimizer_factory: Callable[[list[nn.Parameter]], Optimizer],
        batches: Iterable[Item],
    ) -> LRFinderResult:
        """Train on some batches with growing rates, put everything back, and suggest a rate.

        Args:
            step: Maps a batch to its scalar loss, in training mode and on the right device.
            network: What is trained: its parameters, buffers, `grad`s and modes are put back.
            optimizer_factory: Makes an optimizer of its own from the parameters that require a gradient, so
                that the run's optimizer is never touched.
            batches: Read at most `steps` times, and from the beginning again if shorter (then it must be
                re-iterable).

        Raises:
            UserError: If there is no batch, or the loss is not finite from the start.
        """
        rates: list[float] = []
        losses: list[float] = []
        average = 0.0
        with _put_back(network):
            optimizer = optimizer_factory([p for p in network.parameters() if p.requires_grad])
            for i, batch in enumerate(_cycled(batches, self.steps)):
                rate = self.minimum * (self.maximum / self.minimum) ** (i / (self.steps - 1))
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.zero_grad(set_to_none=True)
                with torch.enable_grad():
                    loss = step(batch)
                    loss.backward()
                optimizer.step()
                average = self.beta * average + (1 - self.beta) * float(loss.detach())
                smoothed = average / (1 - self.beta ** (i + 1))
                if not math.isfinite(smoothed):
                    break
                rates.append(rate)
                losses.append(smoothed)
                if smoothed > self.stop * min(losses):
                    break
        if len(losses) < 2:
            raise UserError(
                f"the learning-rate finder saw {len(losses)} finite losses and needs 2; "
                "check the data, or give the rate by hand"
            )
        index = valley(losses)
        return LRFinderResult(rate=rates[index], index=index, rates=tuple(rates), losses=tuple(losses))


@dataclass(frozen=True)
class LRFinderResult:
    """Rates and smoothed losses of a sweep, batch by batch, and the rate that it suggests with its index."""

    rate: float
    index: int
    rates: tuple[float, ...]
    losses: tuple[float, ...]


def valley(losses: Sequence[float]) -> int:
    """Return the index that the valley rule picks on a curve of losses.

    With `n` the length of the longest strictly decreasing subsequence (the first to reach it) and `end` the
    index of its last member, `start = end − n`, `s = n / 3` and the index is `start + int(s) + int(s / 2)`:
    halfway down the valley.

    Args:
        losses: Smoothed losses, at least one.
    """
    lengths: list[int] = []
    for i, loss in enumerate(losses):
        lengths.append(1 + max((lengths[j] for j in range(i) if loss < losses[j]), default=0))
    end = max(range(len(lengths)), key=lengths.__getitem__)
    start = end - lengths[end] if lengths[end] > 1 else 0
    third = (end - start) / 3
    # a curve that falls from its very first value has start -1
    return max(0, start + int(third) + int(third / 2))


def _cycled(batches: Iterable[Item], steps: int) -> Iterator[Item]:
    """Yield `steps` batches, from the beginning again where there are fewer."""
    count = 0
    while count < steps:
        before = count
        for batch in islice(batches, steps - count):
            yield batch
            count += 1
        if count == 0:
            raise UserError("the learning-rate finder found no batch; check the data")
        if count == before:
            return


@contextmanager
def _put_back(module: nn.Module) -> Iterator[None]:
    """Keep values, gradients, buffers, modes and random streams, and put them back whatever happens."""
    tensors = [*module.parameters(), *module.buffers()]
    values = [tensor.detach().clone() for tensor in tensors]
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    modes = [(part, part.training) for part in module.modules()]
    module.zero_grad()
    python, array = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(
            devices=sorted({t.device.index for t in tensors if t.device.type == "cuda"})
        ):
            yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for part, mode in modes:
            part.training = mode
        random.setstate(python)
        np.random.set_state(array)
