"""PDEBench's HDF5 files (Takamoto et al. 2022, arXiv 2210.07182): scalar, Darcy, compressible, per-seed
groups.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.pde.data.readers.arrays import ArraySource, Segment, Variable, cells, natural, uniform
from core.data.hdf5 import is_hdf5, open_hdf5
from core.errors import UserError

__all__ = ["recognise", "source"]

SUFFIXES = (".h5", ".hdf5")
_FLUID = {
    "density": "density", "Vx": "velocity_x", "Vy": "velocity_y", "Vz": "velocity_z", "pressure": "pressure"
}  # fmt: skip


def recognise(path: Path) -> bool:
    """Say whether the file has this layout."""
    if not path.is_file() or path.suffix.lower() not in SUFFIXES or not is_hdf5(path):
        return False
    with open_hdf5(str(path)) as file:
        return _kind(file) is not None


def source(path: Path) -> ArraySource:
    """Return the trajectories of one file.

    The files do not say whether the domain is periodic. That of the scalar equations on a line is (advection,
    Burgers, diffusion-reaction), that of compressible flow as its file's name says, all others are not.

    Raises:
        UserError: If the file has another layout, or its arrays do not fit each other.
    """
    with open_hdf5(str(path)) as file:
        kind = _kind(file)
        if kind is None:
            raise UserError(f"{path} has none of tensor, density and seed groups with data, as PDEBench has")
        return {"tensor": _tensor, "fluid": _fluid, "seeds": _seeds, "flow": _incompressible}[kind](
            path, file
        )


def _kind(file: Any) -> str | None:
    if "tensor" in file:
        return "tensor"
    if "density" in file and "Vx" in file and hasattr(file["density"], "shape"):
        return "fluid"
    if "velocity" in file and {"particles", "force"} & set(file) and file["velocity"].ndim == 5:
        return "flow"
    first = next(iter(file), None)
    if first is not None and first.isdigit() and hasattr(file[first], "keys") and "data" in file[first]:
        return "seeds"
    return None


def _tensor(path: Path, file: Any) -> ArraySource:
    shape = file["tensor"].shape
    darcy = "nu" in file and file["nu"].ndim > 1
    space = "xyz"[: len(shape) - 2]
    steps, grid = shape[1], tuple(shape[2:])
    if darcy:
        if file["nu"].shape != (shape[0], *grid):
            raise UserError(f"{path} has nu of shape {file['nu'].shape} for a tensor of shape {shape}")
        variables = {"nu": Variable("nu", "n" + space), "tensor": Variable("tensor", "n1" + space)}
        steps = 1
    else:
        variables = {"tensor": Variable("tensor", "nt" + space)}
    named = {name: file[name][()] for name in ("nu", "beta") if name in file and file[name].size == 1}
    named |= {name: file.attrs[name] for name in ("beta",) if name in file.attrs}
    values = [float(np.ravel(value)[0]) for value in named.values()]
    numbers = np.tile(np.array(values, dtype=np.float32), (shape[0], 1)) if named else None
    return _made(
        path,
        file,
        [Segment(str(path), shape[0], variables, numbers=numbers)],
        steps=steps,
        grid=grid,
        periodic=len(grid) == 1 and not darcy,
        parameters=tuple(named),
        constants=tuple(variables) if darcy else (),
    )


def _fluid(path: Path, file: Any) -> ArraySource:
    shape = file["density"].shape
    space = "xyz"[: len(shape) - 2]
    variables = {}
    for stored, name in _FLUID.items():
        if stored in file:
            if file[stored].shape != shape:
                raise UserError(f"{path} has {stored} of shape {file[stored].shape}, density of {shape}")
            variables[name] = Variable(stored, "nt" + space)
    segments = [Segment(str(path), shape[0], variables)]
    return _made(
        path,
        file,
        segments,
        steps=shape[1],
        grid=tuple(shape[2:]),
        periodic=_periodic_fluid(path, len(space)),
    )


def _seeds(path: Path, file: Any) -> ArraySource:
    labels = tuple(sorted((name for name in file if name.isdigit()), key=natural))
    first = file[labels[0]]
    shape = first["data"].shape  # (T, *space, C)
    for label in labels[1:]:
        own = file[label]
        if "data" not in own or own["data"].shape != shape:
            found = own["data"].shape if "data" in own else "nothing"
            raise UserError(
                f"{path} has data of shape {found} in group {label} and {shape} in {labels[0]}; keep "
                "trajectories of one kind in a file"
            )
        if "grid/t" in own and "grid/t" in first and not np.allclose(own["grid/t"], first["grid/t"]):
            raise UserError(
                f"{path} has other times in group {label} than in {labels[0]}; keep trajectories of one kind "
                "in a file"
            )
    names = ("tensor",) if shape[-1] == 1 else tuple(f"field_{number}" for number in range(shape[-1]))
    axes = "t" + "xyz"[: len(shape) - 2] + "c"
    variables = {name: Variable("{}/data", axes, number) for number, name in enumerate(names)}
    segments = [Segment(str(path), len(labels), variables, labels)]
    return _made(path, first, segments, steps=shape[0], grid=tuple(shape[1:-1]))


def _incompressible(path: Path, file: Any) -> ArraySource:
    """Return the flow, its particles and the force on it; axes are `(N, T, X, Y, C)`, times `(N, T)`."""
    count, steps, *grid, _ = file["velocity"].shape
    space = "xyz"[: len(grid)]
    variables = {f"velocity_{axis}": Variable("velocity", f"nt{space}c", k) for k, axis in enumerate(space)}
    if "particles" in file:
        variables["particles"] = Variable("particles", f"nt{space}c")
    if "force" in file:
        variables |= {f"force_{axis}": Variable("force", f"n{space}c", k) for k, axis in enumerate(space)}
    constants = tuple(name for name in variables if name.startswith("force_"))
    times = np.asarray(file["t"][()], dtype=np.float64) if "t" in file else None
    if times is not None and times.ndim == 2:
        if not np.allclose(times, times[:1]):
            raise UserError(f"{path} has other times in some trajectories; keep those of one kind in a file")
        times = times[0]
    segments = [Segment(str(path), count, variables)]
    return _made(path, file, segments, steps=steps, grid=tuple(grid), times=times, constants=constants)


def _made(
    path: Path,
    file: Any,
    segments: list[Segment],
    *,
    steps: int,
    grid: tuple[int, ...],
    times: NDArray[np.float64] | None = None,
    periodic: bool = False,
    parameters: tuple[str, ...] = (),
    constants: tuple[str, ...] = (),
) -> ArraySource:
    times = _positions(file, "t", steps) if times is None else times[:steps]
    axes = [_positions(file, axis, size) for axis, size in zip("xyz", grid, strict=False)]
    return ArraySource(
        name=path.stem,
        path=str(path),
        layout="pdebench",
        segments=segments,
        times=uniform(steps) if times is None else times,
        coordinates=tuple(
            cells(size) if axis is None else axis for axis, size in zip(axes, grid, strict=True)
        ),
        # A grid with points on both edges stores the same point twice if it is periodic, so it is not.
        periodic=periodic and all(axis is None or _open(axis) for axis in axes),
        parameters=parameters,
        constants=constants,
        inputs=constants[:1],
    )


def _periodic_fluid(path: Path, space: int) -> bool:
    """Say whether a compressible set is periodic: its file's name does, else those in the plane are.

    The benchmark's names say `periodic` or `trans` (values go on unchanged beyond the edge); sets that start
    from a shock or a blast have open edges too.
    """
    name = path.stem.lower()
    if "periodic" in name:
        return True
    return space == 2 and not any(word in name for word in ("trans", "shock", "blast", "outflow"))


def _positions(file: Any, axis: str, size: int) -> NDArray[np.float64] | None:
    for name in (f"{axis}-coordinate", f"grid/{axis}"):
        if name in file:
            values = np.asarray(file[name][()], dtype=np.float64)
            if values.ndim == 1 and size <= len(values) <= size + 1:
                return values[:size]  # some files have one time more than snapshots
            if values.ndim == 1:
                raise UserError(
                    f"{file.filename} has {len(values)} positions along {axis} for {size} points; its arrays "
                    "must be (samples, times, x, y, z), without axes of other kinds"
                )
    return None


def _open(axis: NDArray[np.float64]) -> bool:
    """Say whether the points are those of whole cells: number times distance is a round number."""
    length = len(axis) * (axis[1] - axis[0]) if len(axis) > 1 else 1.0
    return bool(abs(length - round(length)) < 1e-3 * max(length, 1.0))
