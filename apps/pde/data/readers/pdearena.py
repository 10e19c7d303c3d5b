"""PDEArena's HDF5 files (Gupta and Brandstetter 2022, arXiv 2209.15616) and SineNet's of the same kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from apps.pde.data.readers.arrays import (
    ArraySource,
    Segment,
    Variable,
    cells,
    files_of,
    is_hdf5,
    natural,
    open_hdf5,
    uniform,
)
from core.errors import UserError

__all__ = ["SPLITS", "recognise", "source", "splits"]

SPLITS = ("train", "valid", "test")
SUFFIXES = (".h5", ".hdf5")
_FIELDS = {
    "u": "u", "D": "density", "P": "pressure", "pres": "pressure",
    "vx": "velocity_x", "vy": "velocity_y", "Vx": "velocity_x", "Vy": "velocity_y", "v": "velocity_y",
}  # fmt: skip


def recognise(path: Path) -> bool:
    """Say whether the file, or the first file of the folder, has this layout."""
    files = files_of(path, SUFFIXES)
    if not files or files[0].suffix.lower() not in SUFFIXES or not is_hdf5(files[0]):
        return False
    with open_hdf5(str(files[0])) as file:
        return any(_arrays(file[name]) or _seeds(file[name]) for name in SPLITS if name in file)


def splits(path: Path) -> tuple[str, ...]:
    """Return which of train, valid and test the file or folder has."""
    found = set()
    for file in files_of(path, SUFFIXES):
        with open_hdf5(str(file)) as opened:
            found.update(name for name in SPLITS if name in opened)
    return tuple(name for name in SPLITS if name in found)


def source(path: Path, *, split: str | None = None) -> ArraySource:
    """Return the trajectories of one split, the first there is if none is named.

    Navier-Stokes has `<split>/u, vx, vy` `(N, T, X, Y)`, with the buoyancy `buo_y` as a parameter; shallow
    water `<split>/u, v, pres`; compressible flow a group for each seed, `<split>/<seed>/D, P, Vx, Vy`
    `(N, T, X, Y, 1)`.

    Raises:
        UserError: If the split or the fields are not there.
    """
    known = splits(path)
    split = split or (known[0] if known else "train")
    if split not in known:
        raise UserError(f"{path} has no group '{split}'; it has {', '.join(known) or 'none'}")
    segments: list[Segment] = []
    shapes: set[tuple[int, ...]] = set()
    times = None
    for file in files_of(path, SUFFIXES):
        with open_hdf5(str(file)) as opened:
            if split not in opened:
                continue
            group = opened[split]
            seeds = _seeds(group)
            for prefix, one in [(f"{split}/{name}", group[name]) for name in seeds] or [(split, group)]:
                fields = _arrays(one)
                if not fields:
                    raise UserError(f"{file} has no fields in '{prefix}'; expected {', '.join(_FIELDS)}")
                shape = one[fields[0]].shape
                shapes.add(tuple(shape[1:4]))
                axes = "ntxy" + ("1" if len(shape) == 5 else "")
                names = _names(fields)
                variables = {names[name]: Variable(f"{prefix}/{name}", axes) for name in names}
                numbers = None
                if "buo_y" in one:
                    numbers = np.asarray(one["buo_y"][()], dtype=np.float32).reshape(shape[0], -1)[:, :1]
                segments.append(Segment(str(file), shape[0], variables, numbers=numbers))
                if times is None and "t" in one and one["t"].ndim <= 2:
                    times = np.ravel(one["t"][0] if one["t"].ndim == 2 else one["t"][()])
    if len(shapes) != 1:
        raise UserError(f"{path} holds grids of several sizes ({sorted(shapes)}); name files of one kind")
    steps, *grid = next(iter(shapes))
    return ArraySource(
        name=path.stem,
        path=str(path),
        layout="pdearena",
        segments=segments,
        steps=steps,
        space=tuple(grid),
        times=times if times is not None and len(times) == steps else uniform(steps, float(steps - 1)),
        coordinates=tuple(cells(size) for size in grid),
        periodic="D" in _raw(segments[0]),
        parameters=("buoyancy",) if segments[0].numbers is not None else (),
    )


def _arrays(group: Any) -> list[str]:
    if not hasattr(group, "keys"):
        return []
    return [name for name in _FIELDS if name in group and getattr(group[name], "ndim", 0) >= 4]


def _seeds(group: Any) -> list[str]:
    if not hasattr(group, "keys"):
        return []
    return sorted((name for name in group if _arrays(group[name])), key=natural)


def _names(fields: list[str]) -> dict[str, str]:
    """Return stored to channel names: `u` is a scalar in one file and a velocity beside `v` in another."""
    names = {name: _FIELDS[name] for name in fields}
    if "v" in fields and "u" in fields:
        names["u"] = "velocity_x"
        names = {name: names[name] for name in ("pres", "u", "v") if name in names}
    return names


def _raw(segment: Segment) -> set[str]:
    return {variable.dataset.rsplit("/", 1)[-1] for variable in segment.variables.values()}
