"""Mean and standard deviation of fields that do not fit into memory, in one pass over the training part."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["streaming"]

_QUIET = 2.0  # seconds without a word


def streaming(
    blocks: Iterable[NDArray[np.float32]], *, count: int, name: str, say: Callable[[str], None] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and population standard deviation of each channel, `(C,)` float64.

    Means and squared deviations of blocks are joined in float64 (Chan et al. 1979), so that a large mean
    costs no digits. A field that is the same everywhere gets the deviation 1.

    Args:
        blocks: Arrays `(S, C, *space)`; those that are not finite are left out value by value.
        count: How many blocks there are, for the progress line.
        name: What is read, for the progress line.
        say: Takes the progress line; None prints it on stderr.
    """
    total: NDArray[np.float64] | None = None
    started = told = time.monotonic()
    for number, block in enumerate(blocks, start=1):
        values = np.moveaxis(block, 1, 0).reshape(block.shape[1], -1).astype(np.float64)
        good = np.isfinite(values)
        size = good.sum(axis=1).astype(np.float64)
        values[~good] = 0.0
        mean = values.sum(axis=1) / np.maximum(size, 1)
        squares = (((values - mean[:, None]) * good) ** 2).sum(axis=1)
        part = np.stack([size, mean, squares])
        total = part if total is None else _joined(total, part)
        now = time.monotonic()
        if now - told > _QUIET:
            told, left = now, (now - started) / number * (count - number)
            line = f"data: statistics of {name}: {number}/{count} trajectories, {left:.0f} s left"
            (say or _print)(line)
    if total is None:
        raise ValueError("there are no blocks")
    size, mean, squares = total
    std = np.sqrt(squares / np.maximum(size, 1))
    constant = std <= 1e-12 * np.maximum(np.abs(mean), 1e-30)
    return mean, np.where(constant, 1.0, std)


def _joined(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    size = np.maximum(first[0] + second[0], 1)
    gap = second[1] - first[1]
    mean = first[1] + gap * second[0] / size
    return np.stack([first[0] + second[0], mean, first[2] + second[2] + gap**2 * first[0] * second[0] / size])


def _print(line: str) -> None:
    print(line, file=sys.stderr)
