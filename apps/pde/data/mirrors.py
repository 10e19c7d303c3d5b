"""Mirrored fields: which of them change their sign, by the names of vectors' and tensors' components."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

__all__ = ["VECTORS", "mirrored_fill", "odd_fields"]

VECTORS = ("velocity", "momentum")
AXIAL = ("vorticity",)


def odd_fields(
    names: Sequence[str], space: int, vectors: Sequence[Sequence[str]] = ()
) -> dict[str, tuple[int, ...]]:
    """Return the fields that change their sign in a mirror, each with the axes along which they do.

    Velocity and momentum are vectors, and so is what has a field for every axis, as `force_x` and `force_y`
    (or for every two, as `stress_xx`, `stress_xy`, …, a tensor). Vorticity is axial: its sign changes once
    more with every mirror.

    Args:
        names: Fields of a file.
        space: Number of axes.
        vectors: Fields that are the components of a vector, along x first.
    """
    letters = "xyz"[:space]
    found: dict[str, tuple[int, ...]] = {}
    for name in names:
        base, _, tail = name.rpartition("_")
        if name in AXIAL:
            found[name] = tuple(range(space))
        elif name in VECTORS and space == 1:
            found[name] = (0,)
        elif base and tail and set(tail) <= set(letters):
            others = (f"{base}_{''.join(one)}" for one in product(letters, repeat=len(tail)))
            if base in VECTORS or all(other in names for other in others):
                turned = tuple(range(space)) if base in AXIAL else ()
                found[name] = (*(letters.index(letter) for letter in tail), *turned)
    for vector in vectors:
        found.update({name: (axis,) for axis, name in enumerate(vector)})
    return found


def mirrored_fill(fill: NDArray[np.float32] | float, axes: Sequence[int]) -> NDArray[np.float32] | float:
    """Return what a channel is filled with in a mirrored flow.

    An array is the forcing, of which the channel holds the component along x.
    """
    if not axes or isinstance(fill, float):
        return fill
    out = np.flip(fill, axis=tuple(axes))
    return -out if 0 in axes else out
