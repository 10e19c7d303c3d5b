"""Overlapping tiles over an array of any size and number of axes, with weights that sum to exactly one.

A network that takes one size maps a larger image, volume or series tile by tile. Tiles stand on a regular
grid, the last one flush with the end; where they overlap, a cosine ramp leads from one to the next. Weights
are multiples of 1/512 along each axis, so that products with float32 values and their sums are exact in
float64 in up to three axes: what every tile agrees on stays bit for bit what it is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError

__all__ = ["Tile", "blended", "padded", "per_axis", "ramps", "starts", "tiles"]

_STEPS = 512


@dataclass(frozen=True)
class Tile:
    """One tile: its place in the array and its weights there.

    Args:
        start: First element along each axis.
        stop: One past the last element inside the array along each axis; the tile itself may reach further.
        ramps: Weights along each axis, `(stop - start,)` each; the tile's weights are their outer product.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]
    ramps: tuple[NDArray[np.float64], ...]

    @property
    def slices(self) -> tuple[slice, ...]:
        """The tile's elements in the array."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    @property
    def shape(self) -> tuple[int, ...]:
        """How many elements lie inside the array along each axis."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    def weights(self) -> NDArray[np.float64]:
        """Return the weights of the tile's elements, of its `shape`."""
        product = np.ones((), dtype=np.float64)
        for ramp in self.ramps:
            product = product[..., None] * ramp
        return product


def per_axis(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """Return one number for each axis: the given ones, or the same for all."""
    given = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(given) != axes:
        raise UserError(
            f"{given} has {len(given)} sizes for {axes} axes; give one number, or one for each axis"
        )
    return given


def starts(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    """Return where the tiles along one axis begin: 0, one stride apart, the last flush with the end.

    Args:
        length: Elements along the axis, at least 1.
        tile: Elements of a tile; a tile longer than the axis stands alone at 0.
        overlap: Elements that neighbours share at least, from 0 to `tile - 1`.

    Raises:
        UserError: If a number is out of its range.
    """
    if length < 1 or tile < 1:
        raise UserError(
            f"an axis of {length} elements and tiles of {tile} leave nothing to map; both must be 1 or more"
        )
    if not 0 <= overlap < tile:
        raise UserError(f"the overlap is {overlap}; for tiles of {tile} it must be 0 to {tile - 1}")
    last = max(length - tile, 0)
    return (*range(0, last, tile - overlap), last)


def ramps(length: int, tile: int, overlap: int) -> list[NDArray[np.float64]]:
    """Return each tile's weights along one axis, inside it; at every element they sum to exactly 1."""
    begins = starts(length, tile, overlap)
    rise = 0.5 - 0.5 * np.cos(np.pi * np.arange(1, overlap + 1) / (overlap + 1))
    raw = []
    for begin in begins:
        weight = np.ones(min(tile, length - begin), dtype=np.float64)
        if begin > 0:
            weight[:overlap] *= rise
        if begin + tile < length:
            weight[tile - overlap :] *= rise[::-1]
        raw.append(weight)
    total = np.zeros(length)
    for begin, weight in zip(begins, raw, strict=True):
        total[begin : begin + len(weight)] += weight
    # rounding the running sum, not each weight, keeps the sum at one
    reached, rounded = np.zeros(length), np.zeros(length)
    exact = []
    for begin, weight in zip(begins, raw, strict=True):
        part = slice(begin, begin + len(weight))
        reached[part] += weight
        now = np.rint(reached[part] / total[part] * _STEPS) / _STEPS
        exact.append(now - rounded[part])
        rounded[part] = now
    return exact


def tiles(shape: Sequence[int], tile: int | Sequence[int], overlap: int | Sequence[int]) -> Iterator[Tile]:
    """Yield the tiles that cover an array, the last axis fastest.

    Args:
        shape: Of the array, at least 1 along each axis.
        tile: Size of a tile, for all axes or each.
        overlap: Elements that neighbours share at least, for all axes or each.

    Raises:
        UserError: If a size is out of its range.
    """
    sizes, shared = per_axis(tile, len(shape)), per_axis(overlap, len(shape))
    axes = []
    for length, size, common in zip(shape, sizes, shared, strict=True):
        begins, weights = starts(length, size, common), ramps(length, size, common)
        axes.append([(b, b + len(w), w) for b, w in zip(begins, weights, strict=True)])
    for place in itertools.product(*axes):
        first, last, weights_of = zip(*place, strict=True)
        yield Tile(first, last, weights_of)


def padded(array: NDArray, size: Sequence[int]) -> NDArray:
    """Mirror the last axes of an array at their ends until they have `size`; one element is repeated."""
    lead = array.ndim - len(size)
    missing = [(0, want - have) for want, have in zip(size, array.shape[lead:], strict=True)]
    if not any(count for _, count in missing):
        return array
    return np.pad(array, [(0, 0)] * lead + missing, mode="reflect")


def blended(
    array: NDArray,
    function: Callable[[NDArray], NDArray],
    *,
    tile: int | Sequence[int],
    overlap: int | Sequence[int],
    axes: int = 2,
) -> NDArray[np.float32]:
    """Map an array in memory tile by tile.

    Args:
        array: `(C, ...)` with `axes` axes behind the first, of any size.
        function: Maps one tile `(C, *tile)` to `(K, *tile)`; a tile that is longer than an axis is mirrored.
        tile: Size of a tile, for all axes or each.
        overlap: Elements that neighbours share at least, for all axes or each.
        axes: How many axes are tiled: 1 for series, 2 for images, 3 for volumes.

    Returns:
        `(K, ...)`, float32.
    """
    if array.ndim != axes + 1:
        raise ValueError(f"the array has {array.ndim} axes; one of channels and {axes} tiled ones are needed")
    shape, sizes = array.shape[1:], per_axis(tile, axes)
    total: NDArray[np.float64] | None = None
    for part in tiles(shape, sizes, overlap):
        result = function(padded(array[:, *part.slices], sizes))
        if result.shape[1:] != sizes:
            raise ValueError(
                f"the function gave {result.shape} for tiles of {sizes}; it must keep their size"
            )
        if total is None:
            total = np.zeros((result.shape[0], *shape), dtype=np.float64)
        inside = tuple(slice(0, count) for count in part.shape)
        total[:, *part.slices] += result[:, *inside] * part.weights()
    assert total is not None and math.prod(shape) > 0
    return total.astype(np.float32)
