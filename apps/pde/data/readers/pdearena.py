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
    joined,
    natural,
    uniform,
)
from core.data.hdf5 import is_hdf5, open_hdf5
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
    found: set[str] = set()
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
    sources = []
    for file in files_of(path, SUFFIXES):
        with open_hdf5(str(file)) as opened:
            if split in opened:
                group = opened[split]
                seeds = [(f"{split}/{name}", group[name]) for name in _seeds(group)]
                sources += [_group(file, prefix, one) for prefix, one in seeds or [(split, group)]]
    if len({(one.steps, one.space) for one in sources}) != 1:
        sizes = sorted({(one.steps, *one.space) for one in sources})
        raise UserError(f"{path} holds grids of several sizes ({sizes}); name files of one kind")
    return joined(sources, path, name=path.stem)


def _group(file: Path, prefix: str, group: Any) -> ArraySource:
    """Return the trajectories of one group of fields."""
    fields = _arrays(group)
    if not fields:
        raise UserError(f"{file} has no fields in '{prefix}'; expected {', '.join(_FIELDS)}")
    count, steps, *grid = group[fields[0]].shape[:4]
    axes = "ntxy" + ("1" if group[fields[0]].ndim == 5 else "")
    names = _names(fields)
    numbers = times = None
    if "buo_y" in group:
        numbers = np.asarray(group["buo_y"][()], dtype=np.float32).reshape(count, -1)[:, :1]
    if "t" in group and group["t"].ndim <= 2:
        times = np.ravel(group["t"][0] if group["t"].ndim == 2 else group["t"][()])
    variables = {names[name]: Variable(f"{prefix}/{name}", axes) for name in names}
    return ArraySource(
        name=file.stem,
        path=str(file),
        layout="pdearena",
        segments=[Segment(str(file), count, variables, numbers=numbers)],
        times=times if times is not None and len(times) == steps else uniform(steps, float(steps - 1)),
        coordinates=tuple(cells(size) for size in grid),
        periodic="D" in fields,
        parameters=() if numbers is None else ("buoyancy",),
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
