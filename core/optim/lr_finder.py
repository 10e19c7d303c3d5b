"""Suggesting a learning rate from a short sweep of rates, by the "valley" rule of TTM's published training
script.

The sweep trains on up to 100 batches with rates growing exponentially from 1e-7 to 10. Weights, buffers and
random streams are put back afterwards. A suggestion can be far too low; a recipe that gives its rate never
comes here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from core.errors import UserError

__all__ = ["LRFinder", "LRFinderResult", "find_learning_rate", "valley"]

Item = TypeVar("Item")


@dataclass(frozen=True)
class LRFinder:
    """How the sweep is done; a recipe names it in place of a rate.

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
        """Do the sweep with these settings; see `find_learning_rate`."""
        return find_learning_rate(
            step,
            network,
            optimizer_factory,
            batches,
            minimum=self.minimum,
            maximum=self.maximum,
            steps=self.steps,
            beta=self.beta,
            stop=self.stop,
        )


@dataclass(frozen=True)
class LRFinderResult:
    """The curve of a sweep and what it suggests.

    Args:
        rate: The suggested learning rate.
        index: Its position in `rates`.
        rates: Rate of each batch.
        losses: Smoothed loss of each batch.
    """

    rate: float
    index: int
    rates: tuple[float, ...]
    losses: tuple[float, ...]


def find_learning_rate(
    step: Callable[[Item], Tensor],
    parameters: nn.Module | Iterable[nn.Parameter],
    optimizer_factory: Callable[[list[nn.Parameter]], Optimizer],
    batches: Iterable[Item],
    *,
    minimum: float = 1e-7,
    maximum: float = 10.0,
    steps: int = 100,
    beta: float = 0.98,
    stop: float = 4.0,
) -> LRFinderResult:
    """Train on some batches with growing rates, put everything back, and suggest a rate.

    Args:
        step: Maps a batch to its scalar loss, in training mode and on the right device.
        parameters: The module that is trained: its parameters, buffers, `grad`s and modes are put back.
            Parameters alone do for a module without buffers.
        optimizer_factory: Makes an optimizer of its own from the parameters that require a gradient, so that
            the run's optimizer is never touched.
        batches: Read at most `steps` times, and from the beginning again if shorter (then it must be
            re-iterable).
        minimum: Rate of the first batch.
        maximum: Rate of batch `steps`.
        steps: Number of batches.
        beta: Smoothing of the loss.
        stop: Ends the sweep when the smoothed loss exceeds this many times its smallest; so does a loss that
            is not finite.

    Returns:
        The suggestion and the curve.

    Raises:
        UserError: If a setting is out of range, there is no batch, or the loss is not finite from the start.
    """
    LRFinder(minimum=minimum, maximum=maximum, steps=steps, beta=beta, stop=stop)  # checks the settings
    tensors = list(parameters.parameters()) if isinstance(parameters, nn.Module) else list(parameters)
    module = parameters if isinstance(parameters, nn.Module) else None
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    with _put_back(tensors, module):
        optimizer = optimizer_factory([p for p in tensors if p.requires_grad])
        for i, batch in enumerate(_cycled(batches, steps)):
            rate = minimum * (maximum / minimum) ** (i / (steps - 1))
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            with torch.enable_grad():
                loss = step(batch)
                loss.backward()
            optimizer.step()
            average = beta * average + (1 - beta) * float(loss.detach())
            smoothed = average / (1 - beta ** (i + 1))
            if not math.isfinite(smoothed):
                break
            rates.append(rate)
            losses.append(smoothed)
            if smoothed > stop * min(losses):
                break
    if len(losses) < 2:
        raise UserError(
            f"the learning-rate finder saw {len(losses)} finite losses and needs 2; "
            "check the data, or give the rate by hand"
        )
    index = valley(losses)
    return LRFinderResult(rate=rates[index], index=index, rates=tuple(rates), losses=tuple(losses))


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
    count = 0
    while count < steps:
        before = count
        for batch in batches:
            yield batch
            count += 1
            if count == steps:
                return
        if count == before:
            if count == 0:
                raise UserError("the learning-rate finder found no batch; check the data")
            return


@contextmanager
def _put_back(parameters: list[nn.Parameter], module: nn.Module | None) -> Iterator[None]:
    """Keep values, gradients, buffers, modes and random streams, and put them back whatever happens."""
    tensors: list[Tensor] = [*parameters, *(module.buffers() if module is not None else ())]
    values = [tensor.detach().clone() for tensor in tensors]
    gradients = [parameter.grad for parameter in parameters]
    modes = {m: m.training for m in module.modules()} if module is not None else {}
    for parameter in parameters:
        parameter.grad = None
    devices = sorted({t.device.index for t in tensors if t.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices), _host_streams():
            yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        for part, mode in modes.items():
            part.training = mode


@contextmanager
def _host_streams() -> Iterator[None]:
    """Keep the streams of numpy and of Python's random."""
    import random

    import numpy

    python, array = random.getstate(), numpy.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        numpy.random.set_state(array)
