"""Mirrored fields: which of them change their sign, by the names of vectors' and tensors' components."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from apps.pde.data.channels import ChannelReader

__all__ = ["VECTORS", "find_odd_fields", "mirrored_fill", "odd_fields"]

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


def find_odd_fields(readers: Sequence[ChannelReader], vectors: Sequence[Sequence[str]] | None) -> None:
    """Note in every reader which of its fields change their sign in a mirror.

    Args:
        readers: Of every source and part.
        vectors: What the recipe names, see `odd_fields`; None if nothing.

    Raises:
        UserError: If none of a source's fields is known to and none is named, or a named one is nowhere.
    """
    read: set[str] = set()
    for reader in readers:
        channels = {one.channel.name: one.channel.source for one in (*reader.inputs, *reader.labels)}
        named = [[channels.get(name) or name for name in vector] for vector in vectors or ()]
        space = len(reader.space)
        if wrong := next((vector for vector in named if len(vector) > space), None):
            raise UserError(
                f"data.prepare.vectors has {', '.join(wrong)}, but {reader.name} has {space} axes; name one "
                "component an axis, along x first"
            )
        reader.odd = odd_fields(reader.source.channels, space, named)
        read.update(channels, reader.source.channels)
        if vectors is None and not any(name in reader.odd for name in reader.stored):
            raise UserError(
                f"data.prepare.flips mirrors {', '.join(reader.stored)} of {reader.name}, of which none is "
                "known as a component of a vector; name those in data.prepare.vectors, as in [[u, v]], or "
                "give [] if all are scalars"
            )
    for name in (name for vector in vectors or () for name in vector):
        if name not in read:
            raise UserError(
                f"data.prepare.vectors has '{name}', which is no field{did_you_mean(name, read)} "
                f"(there are {', '.join(sorted(read))})"
            )


def mirrored_fill(fill: NDArray[np.float32] | float, axes: Sequence[int]) -> NDArray[np.float32] | float:
    """Return what a channel is filled with in a mirrored flow.

    An array is the forcing, of which the channel holds the component along x.
    """
    if not axes or isinstance(fill, float):
        return fill
    out = np.flip(fill, axis=tuple(axes))
    return -out if 0 in axes else out
