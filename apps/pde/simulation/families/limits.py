"""What the numbers of the families may be; a name means the same in every family."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["wrong_number"]

RANGES = ("width", "density", "pressure", "radius")
POSITIVE = frozenset(
    [
        *("cfl", "step", "width", "density", "pressure", "depth", "gravity", "low", "high", "epsilon"),
        *(f"{name}_{end}" for name in RANGES for end in ("low", "high")),
    ]
)
NOT_NEGATIVE = frozenset(("damping", "viscosity", "diffusivity", "before", "frequency"))
COUNTS = frozenset(("oversample", "refine", "cells", "modes", "vortices", "points"))


def wrong_number(parameters: Mapping[str, float]) -> str:
    """Return what is wrong with the numbers of a family, or an empty string.

    Args:
        parameters: All of them, finite.
    """
    for name, value in parameters.items():
        if name in POSITIVE and not value > 0:
            return f"{name} is {value:g}; it must be positive"
        if name == "cfl" and value > 1:
            return f"cfl is {value:g}; no scheme is stable with steps of more than a cell, give at most 1"
        if name in NOT_NEGATIVE and value < 0:
            return f"{name} is {value:g}; it must be 0 or more"
        if name in COUNTS and (value < 1 or value != int(value)):
            return f"{name} is {value:g}; it must be a whole number, at least 1"
        if name == "gamma" and not value > 1:
            return f"gamma is {value:g}; it must be above 1"
    for name in RANGES:
        low, high = f"{name}_low", f"{name}_high"
        if low in parameters and high in parameters and parameters[low] > parameters[high]:
            return f"{low} is {parameters[low]:g}, above {high}, which is {parameters[high]:g}"
    return ""
