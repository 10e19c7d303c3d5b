"""Randomness of one sample: the same for any number of workers, processes and restarts."""

from __future__ import annotations

import hashlib
import operator
from typing import Any

import torch
from torch import Tensor

__all__ = ["draws", "generator", "key", "uniforms"]

_STEP, _FIRST, _SECOND = (
    value - (1 << 64) if value >> 63 else value
    for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def key(seed: int, epoch: int, index: int | str, purpose: str) -> int:
    """Return a number in [0, 2^63) that depends on all four arguments and on nothing else.

    BLAKE2b is used because Python's own `hash` is salted anew in every process, and because neighbouring
    seeds and indices give unrelated numbers. `index` is a sample's number or name, `epoch` may be a pass over
    a source, and `purpose` ("crop", "mask", …) makes two uses in one sample independent.
    """
    where = index if isinstance(index, str) else operator.index(index)
    text = repr((operator.index(seed), operator.index(epoch), where, purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, epoch: int, index: int | str, purpose: str) -> torch.Generator:
    """Return a CPU generator seeded with `key(seed, epoch, index, purpose)`."""
    return torch.Generator().manual_seed(key(seed, epoch, index, purpose))


def uniforms(keys: Tensor, count: int) -> Tensor:
    """Return numbers `(B, count)` float64 in [0, 1) that depend on each of the keys `(B,)` int64 and the
    place in its row alone, on any device.

    They are those of SplitMix64 (Steele, Lea and Flood 2014, doi 10.1145/2714064.2660195) seeded with it:
    what a batch on an accelerator draws is then a function of its samples, without a generator for each.
    """
    places = torch.arange(1, count + 1, device=keys.device)
    state = keys[:, None] + places * _STEP  # wraps around at 64 bits, as it is meant to
    state = (state ^ _shifted(state, 30)) * _FIRST
    state = (state ^ _shifted(state, 27)) * _SECOND
    return _shifted(state ^ _shifted(state, 31), 11).double() * 2.0**-53


def draws(task: Any, batch: Any, purpose: str, *counts: int) -> tuple[Tensor, ...]:
    """Return what a task draws for a batch: random numbers `(B, count)` in [0, 1) for each count.

    In training they depend on the data's seed, the epoch and a scene's name alone, so a resumed run draws
    what an unbroken one does, and so does any number of processes. In an evaluation they depend on the name
    alone. Windows of one scene (`data.repeats`) thus draw alike in an epoch. Batches without names draw from
    torch's own stream in training, and by row otherwise. `batch` has `image` `(B, ...)`, and perhaps `names`.
    """
    size, device = len(batch.image), batch.image.device
    names = getattr(batch, "names", ())
    named = not isinstance(names, str) and len(names) == size
    if task.training and not named:
        return torch.rand(size, sum(counts), device=device).split(counts, dim=1)
    seed, epoch = 0, 0
    if task.training:
        seed, epoch = getattr(getattr(task._trainer, "datamodule", None), "seed", 0), task.current_epoch
    stage = "training" if task.training else "evaluation"
    rows = names if named else range(size)
    keys = torch.tensor([key(seed, epoch, row, f"{purpose} in {stage}") for row in rows])
    return uniforms(keys.to(device, non_blocking=True), sum(counts)).split(counts, dim=1)


def _shifted(state: Tensor, bits: int) -> Tensor:
    """Shift to the right with zeros from the left, which torch's own shift of signed numbers does not."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
