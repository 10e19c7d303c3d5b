"""Overlapping tiles over an array of any size and number of axes, with weights that sum to exactly one.

A network that takes one size maps a larger image, volume or series tile by tile. Tiles stand on a regular
grid, the last one flush with the end; where they overlap, a cosine ramp leads from one to the next. Weights
are multiples of 1/512 along each axis, so that products with float32 values and their sums are exact in
float64 in up to three axes: what every tile agrees on stays bit for bit what it is.

`TileSums` adds tiles up, whole or row by row of an array that never is in memory; `blended` maps an array in
memory with it, `sliding` tensors on their device, with even weights.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.errors import UserError

__all__ = [
    "Tile", "TileSums", "blended", "check_window", "padded", "per_axis", "ramps", "sliding", "starts",
    "tiles",
]  # fmt: skip

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

    A tile longer than the axis stands alone at 0; neighbours share at least `overlap` elements, 0 to `tile -
    1`.

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
    """Yield the tiles that cover an array, the last axis fastest; neighbours share at least `overlap`.

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


class TileSums:
    """What tiles give, added up by their weights, for the part of an array whose tiles are not all in yet.

    Args:
        channels: Of what they give.
        shape: Of the part: as many rows as a tile has at least where rows are dropped one after another.
        top: The part's first row in the array.
        even: Weigh all tiles alike, in float32, and give means; else by their ramps, in float64.
        device: Where sums are kept.

    Attributes:
        top: The first row that was not dropped yet.
    """

    def __init__(
        self,
        channels: int,
        shape: Sequence[int],
        *,
        top: int = 0,
        even: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.top = top
        dtype = torch.float32 if even else torch.float64
        self._sums = torch.zeros(channels, *shape, dtype=dtype, device=device)
        self._counts = torch.zeros(*shape, dtype=dtype, device=device) if even else None
        self._valid = torch.zeros(*shape, dtype=torch.bool)

    def add(self, tile: Tile, values: Tensor, valid: Tensor | None = None) -> None:
        """Add what a tile gives, less its rows that were dropped already.

        Args:
            tile: Its place and weights.
            values: `(channels, *size)` of the tile's full size.
            valid: Which of its elements inside the array have data, of the tile's `shape`; None is all.
        """
        skip = max(self.top - tile.start[0], 0)
        if skip >= tile.shape[0]:
            return
        into = (slice(tile.start[0] + skip - self.top, tile.stop[0] - self.top), *tile.slices[1:])
        inside = values[:, skip : tile.shape[0], *(slice(0, count) for count in tile.shape[1:])]
        if self._counts is None:
            self._sums[:, *into] += inside * torch.from_numpy(tile.weights()[skip:])
        else:
            self._sums[:, *into] += inside
            self._counts[into] += 1
        self._valid[into] |= True if valid is None else valid[skip:]

    def rows(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the first rows, which no later tile reaches, and where they have data."""
        sums = self._sums[:, :count]
        return sums if self._counts is None else sums / self._counts[:count], self._valid[:count]

    def drop(self, count: int) -> None:
        """Forget the first rows; the others move up."""
        keep = self._sums.shape[1] - count
        for part in (self._valid, *self._sums, *([] if self._counts is None else [self._counts])):
            part[:keep] = part[count:].clone()
            part[keep:] = 0
        self.top += count


def blended(
    array: NDArray,
    function: Callable[[NDArray], NDArray],
    *,
    tile: int | Sequence[int],
    overlap: int | Sequence[int],
    axes: int = 2,
) -> NDArray[np.float32]:
    """Map an array `(C, ...)` in memory tile by tile, to `(K, ...)` float32.

    `axes` axes behind the first are tiled, of any size: 1 for series, 2 for images, 3 for volumes. The
    function maps one tile `(C, *tile)` to `(K, *tile)`; a tile that is longer than an axis is mirrored.
    """
    if array.ndim != axes + 1:
        raise ValueError(f"the array has {array.ndim} axes; one of channels and {axes} tiled ones are needed")
    shape, sizes = array.shape[1:], per_axis(tile, axes)
    total: TileSums | None = None
    for part in tiles(shape, sizes, overlap):
        result = function(padded(array[:, *part.slices], sizes))
        if result.shape[1:] != sizes:
            raise ValueError(
                f"the function gave {result.shape} for tiles of {sizes}; it must keep their size"
            )
        total = total or TileSums(result.shape[0], shape)
        total.add(part, torch.from_numpy(np.ascontiguousarray(result)))
    assert total is not None and math.prod(shape) > 0
    return total.rows(shape[0])[0].float().numpy()


def check_window(size: int | None, stride: int | None) -> tuple[int, int] | None:
    """Return side and step of the windows of `sliding`, or None for whole images.

    Raises:
        UserError: If they do not fit each other.
    """
    if size is None:
        if stride is not None:
            raise UserError("model.window_stride is given without model.window; give the side too")
        return None
    step = max(size // 2, 1) if stride is None else stride
    if size < 1 or not 1 <= step <= size:
        raise UserError(f"windows of {size} every {step} pixels leave gaps; the step must be 1 to {size}")
    return size, step


def sliding(
    network: Callable[..., Tensor],
    inputs: Mapping[str, Tensor],
    *,
    size: int,
    stride: int,
    most: int = 16,
    axes: int = 2,
) -> Tensor:
    """Return the mean of what windows of images or volumes give for each element, `(B, K, *shape)` float32.

    Args:
        network: Maps `x` `(N, C, …, *window)`, and what else is in `inputs`, to `(N, K, *window)`.
        inputs: `x` `(B, C, …, *shape)`, and what else belongs to each of the B.
        size: Side of a window; where the image is smaller, its side is taken.
        stride: Step between windows.
        most: Windows in a call.
        axes: How many of the last axes are tiled.
    """
    x = inputs["x"]
    shape = x.shape[-axes:]
    window = [min(size, length) for length in shape]
    parts = list(tiles(shape, window, [max(side - stride, 0) for side in window]))
    places = [(row, part) for row in range(len(x)) for part in parts]
    sums: list[TileSums] = []
    for first in range(0, len(places), most):
        chosen = places[first : first + most]
        windows = torch.stack([x[row][..., *part.slices] for row, part in chosen])  # type: ignore[index]
        owners = [row for row, _ in chosen]
        given = network(x=windows, **{name: value[owners] for name, value in inputs.items() if name != "x"})
        if not sums:
            sums = [TileSums(given.shape[1], shape, even=True, device=given.device) for _ in range(len(x))]
        for (row, part), values in zip(chosen, given, strict=True):
            sums[row].add(part, values)
    return torch.stack([total.rows(shape[0])[0] for total in sums])
