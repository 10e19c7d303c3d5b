"""Input and solution as two tensors in a `.pt` file, as the neuraloperator project ships its small sets."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from apps.pde.data.readers.arrays import ArraySource, Segment, Variable, cells, uniform
from core.errors import UserError

__all__ = ["open_tensors", "recognise", "source"]

SUFFIXES = (".pt", ".pth")


def open_tensors(path: str) -> Mapping[str, Any]:
    """Return the tensors of a file as arrays; they stay on disk until they are read.

    Raises:
        UserError: If the file is damaged or holds anything but tensors.
    """
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise UserError(f"the file {path} does not exist; check data.path") from error
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is cut off, damaged or no file of tensors ({why}); copy it again") from error
    if not isinstance(found, Mapping) or not all(hasattr(found.get(name), "numpy") for name in ("x", "y")):
        held = ", ".join(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
        raise UserError(f"{path} must hold a dictionary with the tensors x and y, it holds {held}")
    return {name: value.numpy() for name, value in found.items() if hasattr(value, "numpy")}


def recognise(path: Path) -> bool:
    """Say whether the file is one of tensors."""
    return path.is_file() and path.suffix.lower() in SUFFIXES


def source(path: Path) -> ArraySource:
    """Return the samples: `x` `(N, *space)` beside `y`, of the same grid or with an axis of time.

    Boolean coefficients become 0 and 1. With time, `y` is the trajectory and `x` its first frame. An axis of
    one point after that of the samples or at the end, or of up to four beside longer ones, holds channels:
    `x_0`, `x_1`, …

    Raises:
        UserError: If the shapes do not fit.
    """
    arrays = open_tensors(str(path))
    x, y = arrays["x"], arrays["y"]
    numbers = None
    (given, grid), (solution, other) = _channels("x", x), _channels("y", y)
    if y.ndim == x.ndim + 1 and y.shape[0] == x.shape[0] and y.shape[2:] == x.shape[1:]:
        variables, grid = {"y": Variable("y", "nt" + "xyz"[: y.ndim - 2])}, y.shape[2:]
        steps, inputs = y.shape[1], tuple[str, ...]()
        if "visc" in arrays and arrays["visc"].size in (1, len(y)):
            numbers = np.broadcast_to(arrays["visc"].reshape(-1, 1), (len(y), 1)).astype(np.float32)
    elif len(x) == len(y) and grid == other:
        variables, steps, inputs = given | solution, 1, tuple(given)
    else:
        raise UserError(
            f"{path} has x of shape {x.shape} and y of shape {y.shape}, which do not fit; they must be "
            "(samples, channels, *space), without the channels where there is one"
        )
    return ArraySource(
        name=path.stem,
        path=str(path),
        layout="tensors",
        segments=[Segment(str(path), len(y), variables, numbers=numbers)],
        times=uniform(steps),
        coordinates=tuple(cells(size) for size in grid),
        periodic=steps > 1,
        parameters=() if numbers is None else ("viscosity",),
        constants=tuple(variables) if steps == 1 else (),
        inputs=inputs,
        opener=open_tensors,
    )


def _channels(name: str, array: Any) -> tuple[dict[str, Variable], tuple[int, ...]]:
    """Return the channels of an array and its grid."""
    shape, space = tuple(array.shape), "xyz"[: array.ndim - 2]
    for many, grid, axes in ((shape[1], shape[2:], f"nc{space}"), (shape[-1], shape[1:-1], f"n{space}c")):
        if (array.ndim > 2 and many == 1) or (len(grid) > 1 and many <= 4 < min(grid)):
            names = [name] if many == 1 else [f"{name}_{number}" for number in range(many)]
            return {one: Variable(name, axes, number) for number, one in enumerate(names)}, grid
    return {name: Variable(name, "n" + "xyz"[: array.ndim - 1])}, tuple(array.shape[1:])
