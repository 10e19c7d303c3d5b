"""Means and deviations of data that do not fit into memory, in one pass, and kept for the next run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from core.files import data_folder, replacing

__all__ = ["Moments", "file_state", "kept"]

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Moments:
    """Counts, means and sums of squared deviations `(C,)` of channels, in float64.

    Parts are joined as by Chan et al. 1979, so that a large mean costs no digits.
    """

    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def none(cls, channels: int) -> Moments:
        """Return the moments of no values."""
        return cls(np.zeros(channels), np.zeros(channels), np.zeros(channels))

    @classmethod
    def of(cls, values: NDArray[Any]) -> Moments:
        """Return the moments of `(C, N)`; values that are not finite are left out one by one."""
        block = values.astype(np.float64)
        good = np.isfinite(block)
        count = good.sum(axis=1).astype(np.float64)
        block[~good] = 0.0
        mean = block.sum(axis=1) / np.maximum(count, 1)
        squares = (((block - mean[:, None]) * good) ** 2).sum(axis=1)
        return cls(count, mean, squares)

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of both parts."""
        count = self.count + other.count
        total = np.maximum(count, 1)
        gap = other.mean - self.mean
        mean = self.mean + gap * other.count / total
        squares = self.squares + other.squares + gap**2 * self.count * other.count / total
        return Moments(count, mean, squares)

    @property
    def std(self) -> NDArray[np.float64]:
        """Population standard deviation of each channel; 1 for one that is the same everywhere."""
        std = np.sqrt(self.squares / np.maximum(self.count, 1))
        return np.where(std <= 1e-12 * np.maximum(np.abs(self.mean), 1e-30), 1.0, std)


def kept(
    name: str,
    depends_on: Sequence[Any],
    make: Callable[[], T],
    read: Callable[[dict[str, Any]], T],
    *,
    folder: Path | None = None,
) -> T:
    """Return the statistics that an earlier run kept for the same data; else make and keep them.

    Args:
        name: Of the data, in the file's name.
        depends_on: Everything that they depend on, the files by `file_state`; its text is compared.
        make: Counts them; gives a dataclass.
        read: Makes it of plain containers; a ValueError, TypeError or KeyError has them counted again.
        folder: Where they are kept; None is `statistics` below the environment's DFM_DATA.
    """
    digest = hashlib.blake2b(repr(list(depends_on)).encode(), digest_size=12).hexdigest()
    path = (data_folder() / "statistics" if folder is None else folder) / f"{name}-{digest}.json"
    try:
        return read(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, KeyError):
        statistics = make()
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(asdict(statistics)) + "\n")  # type: ignore[call-overload]
    return statistics


def file_state(path: Path) -> tuple[str, int, int]:
    """Return name, size and time of change of a file; zeros for a missing one."""
    try:
        state = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), state.st_size, state.st_mtime_ns
