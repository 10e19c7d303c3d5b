"""Randomness of one sample: the same for any number of workers, processes and restarts."""

from __future__ import annotations

import hashlib
import operator

import torch

__all__ = ["generator", "key"]


def key(seed: int, epoch: int, index: int | str, purpose: str) -> int:
    """Return a number in [0, 2^63) that depends on all four arguments and on nothing else.

    BLAKE2b is used because Python's own `hash` is salted anew in every process, and because neighbouring
    seeds and indices give unrelated numbers.

    Args:
        seed: The run's seed.
        epoch: Epoch, or pass over a source.
        index: Number of the sample in its data set, or a name.
        purpose: What the randomness is for ("crop", "mask", …), so that two uses in one sample are
            independent.
    """
    where = index if isinstance(index, str) else operator.index(index)
    text = repr((operator.index(seed), operator.index(epoch), where, purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, epoch: int, index: int | str, purpose: str) -> torch.Generator:
    """Return a CPU generator seeded with `key(seed, epoch, index, purpose)`."""
    return torch.Generator().manual_seed(key(seed, epoch, index, purpose))
