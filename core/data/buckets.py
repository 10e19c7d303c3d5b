"""A few fixed shapes instead of many: lengths rounded up to buckets, last batches padded to whole ones."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from core.data.batch import Batch

__all__ = ["bucket", "buckets_between", "pad_length", "pad_rows"]

B = TypeVar("B", bound=Batch)


def buckets_between(smallest: int, largest: int, *, multiple: int = 64, growth: float = 1.5) -> list[int]:
    """Return lengths from `smallest` to `largest`, each a multiple and at most `growth` times the one before.

    With growth 1.5 padding is a third of a batch at worst, and eight lengths reach from 64 to 1024.

    Raises:
        ValueError: If a length or the multiple is below 1, or growth is not above 1.
    """
    if smallest < 1 or largest < smallest or multiple < 1 or growth <= 1:
        raise ValueError(f"no buckets from {smallest} to {largest} by {multiple}, growing {growth}")
    sizes = [-(-smallest // multiple) * multiple]
    while sizes[-1] < largest:
        sizes.append(max(int(sizes[-1] * growth) // multiple * multiple, sizes[-1] + multiple))
    sizes[-1] = max(-(-largest // multiple) * multiple, sizes[0])
    return sizes


def bucket(length: int, sizes: Sequence[int]) -> int:
    """Return the smallest of the rising `sizes` that holds `length`.

    Raises:
        ValueError: If none does.
    """
    place = bisect_left(sizes, length)
    if place == len(sizes):
        raise ValueError(f"length {length} is above the largest bucket, {sizes[-1] if sizes else 'none'}")
    return sizes[place]


def pad_length(tensor: Tensor, length: int, *, dim: int = -1, value: float = 0) -> Tensor:
    """Return `tensor` with `value` appended along `dim` up to `length`.

    Raises:
        ValueError: If it is longer already.
    """
    missing = length - tensor.shape[dim]
    if missing < 0:
        raise ValueError(f"dimension {dim} has {tensor.shape[dim]} entries, more than {length}")
    if missing == 0:
        return tensor
    behind = tensor.ndim - 1 - (dim % tensor.ndim)
    return functional.pad(tensor, [0, 0] * behind + [0, missing], value=value)


def pad_rows(batch: B, rows: int) -> tuple[B, Tensor]:
    """Return a batch of `rows` samples and which of them are real, `(rows,)` boolean.

    What is missing repeats the last sample, so that nothing leaves the range of the data; the mask keeps it
    out of losses and metrics.

    Raises:
        ValueError: If the batch is empty or has more samples.
    """
    length = len(batch)
    if not 0 < length <= rows:
        raise ValueError(f"a batch of {length} samples cannot be padded to {rows}")
    real = torch.arange(rows) < length
    if length == rows:
        return batch, real
    return batch.select([*range(length), *[length - 1] * (rows - length)]), real
