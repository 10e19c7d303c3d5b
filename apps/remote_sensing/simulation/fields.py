"""Random fields, winding lines and parcels: the shapes a landscape is made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Line", "edges", "field_parcels", "fractal", "nearest", "soft_below", "winding"]

Array = NDArray[np.floating[Any]]
Line = tuple[Array, Array, Array]
"""Rows, columns and half widths of points along a line, in pixels."""

_STEP = 0.5  # pixels between two points of a line


def fractal(
    drawn: np.random.Generator, count: int, size: int, *, slope: float = 3.2, longest: float = 90.0
) -> Array:
    """Return `count` random fields `(count, size, size)` of mean 0 and deviation 1 before cutting.

    Their power falls with the wave number to the power `slope` (spectral synthesis, Peitgen and Saupe 1988)
    and is flat above the wavelength `longest` in pixels. They are cut from larger periodic fields, so that
    opposite sides do not match.
    """
    from scipy.fft import irfft2

    side = size + size // 2
    down, across = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    power = (down**2 + across**2 + longest**-2) ** (-slope / 2)
    power[0, 0] = 0
    waves = drawn.standard_normal((count, *power.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
    found = irfft2(waves * np.sqrt(power).astype(np.float32), s=(side, side))
    found /= found.std((1, 2), keepdims=True)
    return found[:, :size, :size]


def soft_below(field: Array, level: float | Array, *, gain: float = 1.0) -> Array:
    """Return how much of each pixel lies below a level, 0 to 1: its edge is a pixel wide, not a staircase."""
    down, across = np.gradient(field)
    steep = np.hypot(down, across) + 1e-6
    return np.clip(0.5 + gain * (level - field) / steep, 0, 1)


def winding(
    drawn: np.random.Generator,
    *,
    start: tuple[float, float],
    heading: float,
    length: float,
    width: float,
    bend: float,
    taper: float = 1.0,
) -> Line:
    """Return a meandering channel: a sine-generated curve (Langbein and Leopold 1966) that also drifts.

    Args:
        drawn: Where randomness comes from.
        start: Row and column.
        heading: Direction down the valley in radians from the row axis.
        length: Along the channel in pixels.
        width: In pixels; eleven of them are a meander (Leopold and Wolman 1960).
        bend: Largest angle off the valley's direction in radians.
        taper: Width at the end as a share of `width`.
    """
    count = max(int(length / _STEP), 2)
    along = np.arange(count) * _STEP
    wave = max(11 * width, 13.0) * drawn.uniform(0.85, 1.25) * (1 + 0.9 * bend**2)
    drift = np.cumsum(drawn.standard_normal(count // 24 + 2)) * 0.16
    drift -= np.linspace(drift[0], drift[-1], len(drift))
    slow = np.interp(along, np.linspace(0, along[-1], len(drift)), drift)
    strength = bend * (1 + 0.35 * np.sin(2 * np.pi * along / (wave * 4.3) + drawn.uniform(0, 6.28)))
    angle = heading + slow + strength * np.sin(2 * np.pi * along / wave + drawn.uniform(0, 6.28))
    rows, columns = start[0] + np.cumsum(np.cos(angle)) * _STEP, start[1] + np.cumsum(np.sin(angle)) * _STEP
    half = width / 2 * np.linspace(1, taper, count)
    return rows, columns, half * (1 + 0.15 * np.sin(2 * np.pi * along / (wave * 1.7)))


def nearest(line: Line, size: int) -> tuple[Array, Array]:
    """Return the distance of every pixel to a line's nearest point, and the half width there.

    Both are `(size, size)`; without a point in the scene (and a margin) the distance is very large.
    """
    from scipy.ndimage import distance_transform_edt

    margin = size // 4
    side = size + 2 * margin
    rows, columns, half = line
    row, column = np.rint(rows).astype(int) + margin, np.rint(columns).astype(int) + margin
    inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
    if not inside.any():
        return np.full((size, size), 1e6), np.full((size, size), 0.5)
    row, column = row[inside], column[inside]
    at = np.full((side, side), -1)
    at[row, column] = np.flatnonzero(inside)
    near = distance_transform_edt(at < 0, return_distances=False, return_indices=True)
    cut = slice(margin, margin + size)
    index = at[near[0][cut, cut], near[1][cut, cut]]
    grid = np.arange(size)
    return np.hypot(grid[:, None] - rows[index], grid[None] - columns[index]), half[index]


def field_parcels(
    drawn: np.random.Generator, size: int, *, side: float, planned: bool, warp: Array
) -> NDArray[np.int64]:
    """Return the number of the parcel each pixel lies in, `(size, size)`, from 0 without gaps.

    Args:
        drawn: Where randomness comes from.
        size: Pixels along an edge.
        side: Typical side of a parcel in pixels.
        planned: Strips cut into blocks at one angle; else the cells of scattered points (Voronoi), as in land
            that was never laid out anew.
        warp: Two fields `(2, size, size)` that bend the boundaries.
    """
    down, across = np.mgrid[:size, :size].astype(np.float64)
    down, across = down + 1.2 * warp[0], across + 1.2 * warp[1]
    if planned:
        angle = drawn.uniform(0, np.pi)
        u = down * np.cos(angle) + across * np.sin(angle) + 2 * size
        v = across * np.cos(angle) - down * np.sin(angle) + 2 * size
        strips = int(5 * size / (0.5 * side)) + 2
        cuts = np.cumsum(drawn.uniform(0.55, 1.5, strips) * side)
        strip = np.searchsorted(cuts, v)
        wide = drawn.uniform(0.7, 2.4, strips + 1) * side
        begin = drawn.uniform(0, 1, strips + 1)
        numbers = strip * 100_000 + np.floor(u / wide[strip] + begin[strip]).astype(np.int64)
    else:
        from scipy.spatial import cKDTree

        points = drawn.uniform(-0.1 * size, 1.1 * size, (int((1.2 * size / side) ** 2) + 4, 2))
        numbers = cKDTree(points).query(np.stack((down.ravel(), across.ravel()), -1))[1]
    return np.unique(numbers, return_inverse=True)[1].reshape(size, size)


def edges(numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which pixels touch another parcel below or to the right."""
    found = np.zeros(numbers.shape, bool)
    found[:-1] |= numbers[:-1] != numbers[1:]
    found[:, :-1] |= numbers[:, :-1] != numbers[:, 1:]
    return found
