"""PDEgym's files (Herde et al. 2024, arXiv 2405.19101): netCDF-4 sets, whole or in chunks, and
`Helmholtz.h5`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.pde.data.readers.arrays import ArraySource, Segment, Variable, cells, natural, uniform
from apps.pde.data.readers.labelled import Axes, axes_of
from apps.pde.data.readers.labelled import recognise as is_labelled
from core.data.hdf5 import is_hdf5, open_hdf5
from core.errors import UserError
from core.inference.outputs import maker

__all__ = ["SETS", "Published", "assembled", "recognise", "source"]

SUFFIXES = (".nc", ".h5", ".hdf5")
_FLOW = ("velocity_x", "velocity_y")
_EULER = ("density", *_FLOW, "pressure")
_POINTS = 128
_GROUP = "Sample_"


@dataclass(frozen=True)
class Published:
    """How one set is stored.

    Attributes:
        variables: Array to its channels in the order of the channel axis; one channel means no such axis.
        horizon: Time of the last snapshot; 0 where there is none, None where the sources contradict each
            other and snapshots are counted instead.
        periodic: Whether the domain is.
        transposed: Whether y is stored before x.
        constants: Arrays without an axis of time.
        snapshots: How many a trajectory has; of the waves, card and paper disagree.
    """

    variables: dict[str, tuple[str, ...]]
    horizon: float | None
    periodic: bool
    transposed: bool = False
    constants: tuple[str, ...] = ()
    snapshots: tuple[int, ...] = (21,)

    def axes(self, variable: str) -> str:
        """Return a letter for each stored axis of an array, see `apps.pde.data.readers.arrays.Variable`."""
        timeless = self.horizon == 0.0 or variable in self.constants
        several = len(self.variables[variable]) > 1
        return f"n{'' if timeless else 't'}{'c' if several else ''}{'yx' if self.transposed else 'xy'}"


_NS = Published({"velocity": (*_FLOW, "tracer")}, 1.0, True)
_CE = Published({"data": (*_EULER, "energy")}, 1.0, True)
_WAVE = Published(
    {"solution": ("displacement",), "c": ("speed",)}, None, False, constants=("c",), snapshots=(15, 21)
)

SETS: dict[str, Published] = {
    **dict.fromkeys(("NS-Sines", "NS-Gauss", "NS-PwC", "NS-BB", "NS-SVS"), _NS),
    "NS-SL": Published({"velocity": _FLOW}, 1.0, True, transposed=True),
    "FNS-KF": Published({"solution": _FLOW}, 1.0, True),
    **dict.fromkeys(("CE-RP", "CE-CRP", "CE-KH", "CE-Gauss", "CE-RPUI"), _CE),
    "CE-RM": Published({"solution": (*_EULER, "tracer")}, 2.0, True),
    "GCE-RT": Published(
        {"solution": (*_EULER, "tracer", "potential")}, 5.0, False, snapshots=(11,)
    ),
    "Wave-Gauss": _WAVE,
    "Wave-Layer": _WAVE,
    "ACE": Published({"solution": ("phase",)}, 0.0002, False, snapshots=(20,)),
    "SE-AF": Published({"solution": ("shape", "density")}, 0.0, False),
    "Poisson-Gauss": Published(
        {"source": ("source",), "solution": ("solution",)}, 0.0, False,
        constants=("source", "solution"),
    ),
    "Helmholtz": Published({}, 0.0, False),
}  # fmt: skip


def recognise(path: Path) -> str | None:
    """Return the set's name, from the file's or folder's name or from the arrays in it, or None.

    A file of ours is none of the sets, whatever its name: it says itself what it holds. So does a file that
    is called like a set without having its arrays, or whose arrays could be those of a set, if its axes have
    names or positions of their own.
    """
    path = assembled(path)
    files = _first_files(path)
    if not files or any(maker(file) for file in files.values()):
        return None
    name = _named(path)
    if name is None:
        return _by_arrays(files)
    return name if _holds(files, name) or not is_labelled(path) else None


def source(path: Path, *, name: str | None = None) -> ArraySource:
    """Return the trajectories of a set: one assembled file, or a folder of chunks `<variable>_<k>.nc`.

    Args:
        path: File or folder.
        name: The set; None takes what the name of the path or else the shapes of the arrays suggest.

    Raises:
        UserError: If arrays are missing or their shapes do not fit.
    """
    path = assembled(path)
    found = name or _named(path) or _by_arrays(_first_files(path), unsure=True)
    if found is None or found not in SETS:
        raise UserError(f"{path} is none of PDEgym's sets; known: {', '.join(SETS)}")
    if found == "Helmholtz":
        return _helmholtz(path)
    how = SETS[found]
    chunks = _chunks(path) if path.is_dir() else {variable: [path] for variable in how.variables}
    for variable in how.variables:
        if variable not in chunks:
            raise UserError(f"{path} has no file {variable}_0.nc, which {found} needs; copy it there")
    shapes = {variable: [_shape(file, variable, found) for file in chunks[variable]] for variable in chunks}
    first, files = next(iter(chunks.items()))
    segments = []
    for number, file in enumerate(files):
        count = shapes[first][number][0]
        for variable in how.variables:
            if len(chunks[variable]) != len(files) or shapes[variable][number][0] != count:
                raise UserError(
                    f"{path} has other trajectories in {variable} than in {first} (file {number}); "
                    "copy the missing files"
                )
        segments.append(_segment(file, count, how, chunks, number, found))
    stored = next(variable for variable in how.variables if variable not in how.constants) if len(
        how.constants
    ) < len(how.variables) else first  # fmt: skip
    whole = shapes[stored][0]
    grid = tuple(whole[-2:][::-1] if how.transposed else whole[-2:])
    steady = how.horizon == 0.0
    steps = 1 if steady else whole[1]
    last = float(steps - 1) if how.horizon is None else how.horizon
    channels = [channel for names in how.variables.values() for channel in names]
    return ArraySource(
        name=_named(path) or path.stem,
        path=str(path),
        layout="pdegym",
        segments=segments,
        times=uniform(steps, last),
        coordinates=tuple(cells(size) if how.periodic else uniform(size) for size in grid),
        channels=tuple(channel for channel in channels if channel in segments[0].variables),
        periodic=how.periodic,
        constants=tuple(name for variable in how.constants for name in how.variables[variable]),
        inputs=tuple(channels[:1]) if steady else (),
    )


def _segment(
    file: Path, count: int, how: Published, chunks: dict[str, list[Path]], number: int, name: str
) -> Segment:
    variables = {}
    for variable, channels in how.variables.items():
        own = chunks[variable][number]
        shape, axes = _shape(own, variable, name), how.axes(variable)
        if len(shape) != len(axes):
            raise UserError(f"{own} has {variable} of shape {shape}, but {name} has {len(axes)} axes")
        size = shape[axes.index("c")] if "c" in axes else 1
        for place, channel in enumerate(channels[:size]):
            variables[channel] = Variable(variable, axes, place, None if own == file else str(own))
    return Segment(str(file), count, variables)


def _helmholtz(path: Path) -> ArraySource:
    file = path
    with open_hdf5(str(file)) as opened:
        labels = tuple(sorted((name for name in opened if name.startswith(_GROUP)), key=natural))
        if not labels:
            raise UserError(f"{file} has no groups Sample_0, Sample_1, …, as Helmholtz.h5 has")
        missing = [name for name in ("a", "bc", "u") if name not in opened[labels[0]]]
        if missing:
            raise UserError(f"{file} has no '{missing[0]}' in {labels[0]}; Helmholtz.h5 has a, bc and u")
        grid = tuple(opened[labels[0]]["a"].shape)
        scalar = "" if opened[labels[0]]["bc"].shape == () else "1"
    variables = {
        "coefficient": Variable("{}/a", "xy"),
        "boundary": Variable("{}/bc", scalar),
        "solution": Variable("{}/u", "xy"),
    }
    return ArraySource(
        name=path.stem,
        path=str(path),
        layout="pdegym",
        segments=[Segment(str(file), len(labels), variables, labels)],
        times=uniform(1),
        coordinates=tuple(uniform(size) for size in grid),
        periodic=False,
        constants=("coefficient", "boundary", "solution"),
        inputs=("coefficient", "boundary"),
    )


def _chunks(folder: Path) -> dict[str, list[Path]]:
    """Return variable to its files in the order of their numbers."""
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*_*.nc"), key=lambda one: natural(one.name)):
        match = re.fullmatch(r"(velocity|data|solution|source|c)_(\d+)\.nc", file.name)
        if match:
            found.setdefault(match[1], []).append(file)
    return found


def assembled(path: Path) -> Path:
    """Return the one file of a folder that has a set's name; else the path itself."""
    if not path.is_dir():
        return path
    named = (path / f"{name}{suffix}" for name in SETS for suffix in SUFFIXES)
    return next((file for file in named if file.is_file()), path)


def _first_files(path: Path) -> dict[str, Path]:
    """Return for each array of a folder of chunks its first file; a file is there for all of its arrays."""
    if path.is_dir():
        return {variable: files[0] for variable, files in _chunks(path).items()}
    return {"": path} if path.suffix.lower() in SUFFIXES and is_hdf5(path) else {}


def _named(path: Path) -> str | None:
    words = re.sub(r"[^a-z0-9]", "", path.stem.lower())
    return next((name for name in SETS if re.sub(r"[^a-z0-9]", "", name.lower()) == words), None)


def _holds(files: dict[str, Path], name: str) -> bool:
    """Say whether a set's arrays are there, with as many axes as they have."""
    how = SETS[name]
    for variable in how.variables:
        file = files.get(variable, files.get(""))
        if file is None:
            return False
        with open_hdf5(str(file)) as opened:
            shape = getattr(opened.get(variable), "shape", None)
            if shape is None or len(shape) != len(how.axes(variable)):
                return False
    if how.variables:
        return True
    with open_hdf5(str(next(iter(files.values())))) as opened:
        return any(key.startswith(_GROUP) for key in opened)


def _by_arrays(files: dict[str, Path], *, unsure: bool = False) -> str | None:
    """Return the set whose arrays have such names and shapes; if `unsure`, whatever their axes are called."""
    shapes: dict[str, tuple[int, ...]] = {}
    axes: dict[str, Axes] = {}
    units: dict[str, str] = {}
    for file in files.values():
        with open_hdf5(str(file)) as opened:
            if f"{_GROUP}0" in opened:
                return "Helmholtz"
            for name in ("velocity", "data", "solution", "source", "c"):
                if name in opened and hasattr(opened[name], "shape"):
                    shapes[name], axes[name] = opened[name].shape, axes_of(opened[name])
                    units[name] = str(opened[name].attrs.get("units", "1"))
    found = _by_shapes(shapes)
    if found is None or unsure:
        return found
    how = SETS[found]
    fits = all(
        _fits(how, name, shapes[name], axes[name]) and (not axes[name].named or units[name] == "1")
        for name in how.variables
    )
    return found if fits else None


def _by_shapes(shapes: dict[str, tuple[int, ...]]) -> str | None:
    if len(shapes.get("velocity", ())) == 5:
        return "NS-Sines" if shapes["velocity"][2] == 3 else "NS-SL" if shapes["velocity"][2] == 2 else None
    if len(shapes.get("data", ())) == 5 and shapes["data"][2] >= 4:
        return "CE-RP"
    if "solution" not in shapes:
        return None
    solution = shapes["solution"]
    if "source" in shapes:
        return "Poisson-Gauss"
    if "c" in shapes:
        return "Wave-Gauss"
    if len(solution) == 5:
        return {2: "FNS-KF", 5: "CE-RM", 6: "GCE-RT"}.get(solution[2])
    return None if len(solution) != 4 else "SE-AF" if solution[1] == 2 else "ACE"


def _fits(how: Published, variable: str, shape: tuple[int, ...], axes: Axes) -> bool:
    """Say whether what an array tells of its axes leaves room for its being a set's."""
    expected = how.axes(variable)
    if axes.placed or len(shape) != len(expected):
        return False
    if any(own not in (None, wanted) for own, wanted in zip(axes.letters, expected, strict=True)):
        return False
    if not any(axes.letters):
        return True
    if how.transposed:
        return False
    # Named as a set's axes are, as those of many other files: then only the published size tells them apart.
    steps = shape[1] in how.snapshots if "t" in expected else True
    return not axes.named or (steps and shape[-2:] == (_POINTS, _POINTS))


def _shape(file: Path, variable: str, name: str) -> tuple[int, ...]:
    with open_hdf5(str(file)) as opened:
        if variable not in opened:
            held: list[Any] = [key for key in opened if hasattr(opened[key], "shape")]
            raise UserError(
                f"{file} has no array '{variable}', which {name} has (it has {', '.join(held) or 'none'})"
            )
        return tuple(opened[variable].shape)
