"""Any netCDF file or Zarr group whose axes have names, read through xarray."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.pde.data.readers.arrays import ArraySource, Segment, Variable, uniform
from core.data.hdf5 import is_hdf5, open_hdf5
from core.errors import UserError
from core.inference.outputs import maker

__all__ = [
    "Axes", "LazyArrays", "axes_of", "letters", "open_dataset", "open_labelled", "recognise", "source",
    "source_of",
]  # fmt: skip

AXES = {
    "n": (
        "sample", "samples", "trajectory", "trajectories", "member", "batch", "n", "simulation", "run",
        "runs", "realization",
    ),
    "t": ("time", "times", "t", "step", "snapshot"),
    "c": ("channel", "channels", "variable", "component"),
    "x": ("x", "lon", "longitude"),
    "y": ("y", "lat", "latitude"),
    "z": ("z", "level", "height"),
}  # fmt: skip
_NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable"
SUFFIXES = (".nc", ".nc4", ".cdf", ".h5", ".hdf5", ".zarr")
_STORES = ("zarr.json", ".zgroup")
_YES, _NO = {"true", "yes", "1", "1.0"}, {"false", "no", "0", "0.0"}


@dataclass(frozen=True)
class Axes:
    """The axes of an array of a netCDF-4 file.

    Attributes:
        letters: For each axis a letter of `AXES`, or None where it has no name or no known one.
        placed: Whether an axis has a coordinate variable.
    """

    letters: tuple[str | None, ...]
    placed: bool

    @property
    def named(self) -> bool:
        """Whether all axes have known names, one of space among them, so that nothing has to be guessed."""
        return all(self.letters) and "x" in self.letters and len(set(self.letters)) == len(self.letters)


def letters(names: Iterable[Any]) -> tuple[str | None, ...]:
    """Return the letter of `AXES` that each name of an axis stands for, None for an unknown name."""
    found = []
    for name in names:
        word = str(name).lower()
        letter = next((letter for letter, known in AXES.items() if word in known), None)
        found.append("c" if letter is None and word.endswith("_channel") else letter)
    return tuple(found)


def axes_of(array: Any) -> Axes:
    """Return what the dimension scales of an HDF5 array say, which are netCDF-4's dimensions."""
    scales = [axis[0] if len(axis) else None for axis in array.dims]
    names = ["" if scale is None else str(scale.name).rpartition("/")[2] for scale in scales]
    placed = any(
        scale is not None and not _text(scale.attrs.get("NAME", "")).startswith(_NO_VARIABLE)
        for scale in scales
    )
    return Axes(letters(names), placed)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


class LazyArrays:
    """Variables of xarray by name, as objects that read what is indexed.

    Args:
        variables: By name.
        close: Closes their file.
    """

    def __init__(self, variables: Mapping[Any, Any], close: Callable[[], None]) -> None:
        self._variables, self.close = variables, close

    def __getitem__(self, name: str) -> Any:
        """Return one array."""
        return _Array(self._variables[name])


class _Array:
    def __init__(self, variable: Any) -> None:
        self._variable, self.shape = variable, variable.shape

    def __getitem__(self, where: Any) -> Any:
        return self._variable[where].values


def open_labelled(path: str) -> Any:
    """Return the arrays of a file by name.

    Raises:
        UserError: If the file is damaged, cut off or of no known kind.
    """
    dataset = open_dataset(path)
    return LazyArrays(dataset.variables, dataset.close)


def recognise(path: Path) -> bool:
    """Say whether the file has an array with named axes of space."""
    if path.suffix.lower() not in SUFFIXES and not any((path / name).is_file() for name in _STORES):
        return False
    with open_dataset(str(path)) as dataset:
        return any(_axes(array.dims) is not None for array in dataset.data_vars.values())


def source(path: Path) -> ArraySource:
    """Return the trajectories: each data variable with an axis of space is a channel.

    Axes are found by their names (sample or trajectory, time, channel, x, y, z, in any order). Without an
    axis of samples there is one trajectory, without one of time one snapshot. A variable may list the names
    and units of its channels in its attributes `channels` and `units`, with commas between.

    Attributes of the file are read too: `periodic` (true, false, yes, no, 1, 0), `inputs` (the fields that a
    steady problem is given), `constants` (those that do not change in time), `parameters` (`name=number`)
    and `licence`. A variable along the axis of samples alone is a number of the equation, too.

    Raises:
        UserError: If no variable has named axes of space, two have other grids, or `periodic` is neither true
            nor false.
    """
    with open_dataset(str(path)) as dataset:
        return source_of(
            dataset, path, layout="labelled", opener=open_hdf5 if _unpacked(path, dataset) else open_labelled
        )


def source_of(dataset: Any, path: Path, *, layout: str, opener: Callable[[str], Any]) -> ArraySource:
    """Return the trajectories of a data set with named axes, see `source`.

    Args:
        dataset: Of xarray; its values are not read, but for positions and numbers.
        path: Its file.
        layout: Name of the layout, for messages.
        opener: Opens the file again for its arrays by name.
    """
    variables: dict[str, Variable] = {}
    units: dict[str, str] = {}
    sizes: dict[str, int] = {}
    names: dict[str, Any] = {}  # of the fields' axes
    constants = []
    by_sample: dict[str, Any] = {}
    for name, array in dataset.data_vars.items():
        axes = _axes(array.dims)
        if array.dtype.kind in "fiu" and letters(array.dims) == ("n",) and str(name) not in array.dims:
            by_sample[str(name)] = np.asarray(array.values, dtype=np.float32)
        if axes is not None and array.dtype.kind == "c":
            raise UserError(
                f"{path} has complex values in {name}; store the real and the imaginary part as two fields"
            )
        if axes is None or array.dtype.kind not in "fiub" or letters([name]) == tuple(axes):
            continue  # the last are positions
        names = dict(zip(axes, array.dims, strict=True)) | names
        for axis, size in zip(axes, array.shape, strict=True):
            if axis != "c" and sizes.setdefault(axis, size) != size:
                raise UserError(
                    f"{path} has {name} with {size} points along {axis}, others have {sizes[axis]}; "
                    "keep fields of one grid in a file"
                )
        many = array.shape[axes.index("c")] if "c" in axes else 1
        own = _words(array.attrs.get("units"))
        for number, channel in enumerate(_channels(str(name), array, axes, many, dataset)):
            variables[channel] = Variable(str(name), axes, number)
            several = many > 1 and len(own) == many
            units[channel] = own[number] if several else str(array.attrs.get("units", "1"))
            if "t" not in axes:
                constants.append(channel)
    if not variables:
        known = ", ".join(f"{name}{tuple(array.dims)}" for name, array in dataset.data_vars.items())
        raise UserError(
            f"{path} has no field with axes named x (and y, z); it has {known or 'no variables'}; "
            "rename its axes or name the layout in data.layout"
        )
    space = [axis for axis in "xyz" if axis in sizes]
    steps = sizes.get("t", 1)
    along = {axis: _along(dataset, axis, names) for axis in ("t", *space)}
    positions = {axis: _positions(array, path) for axis, array in along.items()}
    said = dataset.attrs
    if "units" in getattr(along["t"], "attrs", {}):
        units["time"] = str(along["t"].attrs["units"]).partition(" since ")[0]
    parameters: dict[str, Any] = _parameters(said.get("parameters"))
    count = sizes.get("n", 1)
    parameters |= {name: values for name, values in by_sample.items() if len(values) == count}
    columns = [np.broadcast_to(np.float32(values), count) for values in parameters.values()]
    rows = np.stack(columns, axis=1) if columns else None
    return ArraySource(
        name=path.stem,
        path=str(path),
        layout=layout,
        segments=[Segment(str(path), count, variables, numbers=rows)],
        times=uniform(steps, float(steps - 1)) if positions["t"] is None else positions["t"],
        coordinates=tuple(uniform(sizes[axis]) if (at := positions[axis]) is None else at for axis in space),
        units=units,
        periodic=_flag(said.get("periodic", 0), path),
        walls_assumed="periodic" not in said,
        parameters=tuple(parameters),
        constants=tuple(dict.fromkeys([*constants, *_fields(said.get("constants"), variables)])),
        inputs=_fields(said.get("inputs"), variables),
        licence=str(said.get("licence") or ""),
        opener=opener,
    )


def open_dataset(path: str, *, groups: bool = False) -> Any:
    """Return what xarray makes of a file; if `groups`, a dictionary of all its groups where it has such.

    Raises:
        UserError: If it is damaged, held or of another kind.
    """
    import xarray

    how: dict[str, Any] = {"decode_times": False, "cache": False}
    if Path(path).is_dir():
        how |= {"engine": "zarr", "consolidated": False if groups else None}
    elif Path(path).is_file() and is_hdf5(Path(path)):
        open_hdf5(path).close()  # says what is wrong with it, which xarray does not
        how |= {"engine": "h5netcdf", "phony_dims": "access"}
    else:
        groups = False
    try:
        return xarray.open_groups(path, **how) if groups else xarray.open_dataset(path, **how)
    except FileNotFoundError as error:
        raise UserError(f"the file {path} does not exist; check data.path") from error
    except Exception as error:  # each engine raises what it likes
        why = " ".join(str(error).split())[:160]
        if "_ARRAY_DIMENSIONS" in why or "dimension_names" in why:
            raise UserError(f"{path} has arrays without dimensions' names; write it with xarray") from error
        raise UserError(
            f"{path} is cut off, damaged or no netCDF file or Zarr group ({why}); copy or download it again"
        ) from error


def _unpacked(path: Path, dataset: Any) -> bool:
    """Say whether a file of ours is as we wrote it: packed in no way, it is read faster without xarray."""
    if not path.is_file() or not maker(path):
        return False
    how = [array.encoding for array in dataset.data_vars.values()]
    packed = any("scale_factor" in one or "add_offset" in one for one in how)
    return not packed and all(one["dtype"].kind == "f" for one in how)


def _axes(dims: Any) -> str | None:
    """Return the letters of an array's axes; None if one has no known name or none is of space."""
    found = letters(dims)
    known = "".join(letter for letter in found if letter is not None)
    return known if len(set(known)) == len(found) and "x" in known else None


def _channels(name: str, array: Any, axes: str, many: int, dataset: Any) -> list[str]:
    said = _words(array.attrs.get("channels"))
    if len(said) == many:
        return said
    if "c" not in axes:
        return [name]
    dim = array.dims[axes.index("c")]
    if dim in dataset.coords:
        return [str(value) for value in dataset[dim].values]
    return [f"{name}_{number}" for number in range(many)]


def _words(value: Any) -> list[str]:
    """Return the words of an attribute: a list, or one text with commas between them."""
    parts = value if isinstance(value, list | tuple | np.ndarray) else str(value or "").split(",")
    return [str(part).strip() for part in parts if str(part).strip()]


def _fields(value: Any, variables: Mapping[str, Variable]) -> tuple[str, ...]:
    """Return the fields that an attribute lists; none if it lists anything else."""
    names = tuple(_words(value))
    return names if all(name in variables for name in names) else ()


def _parameters(value: Any) -> dict[str, float]:
    """Return the numbers of `name=number, ...`, or of a mapping; none of them if it is something else."""
    pairs = value.items() if isinstance(value, Mapping) else (word.split("=") for word in _words(value))
    try:
        return {str(name).strip(): float(number) for name, number in pairs}
    except (TypeError, ValueError):
        return {}


def _flag(value: Any, path: Path) -> bool:
    words = {str(one.decode() if isinstance(one, bytes) else one).strip().lower() for one in np.ravel(value)}
    if words and words <= _YES:
        return True
    if words and words <= _NO:
        return False
    shown = " ".join(str(value).split())
    raise UserError(
        f"{path} has the attribute periodic = '{shown}'; it must be true or false (or yes, no, 1, 0)"
    )


def _along(dataset: Any, axis: str, names: Mapping[str, Any]) -> Any:
    """Return what holds the points' positions: the axis's own, or one along it of such a name, or None."""
    if axis not in names:
        return None
    rows = ((names[axis],), (names.get("n"), names[axis]))
    for name, array in dataset.variables.items():
        called = name == names[axis] or letters([name]) == (axis,)
        if called and array.dims in rows and array.dtype.kind in "fiu":
            return array
    return None


def _positions(array: Any, path: Path) -> NDArray[np.float64] | None:
    """Return the positions that a variable of one or two axes holds; None without one.

    Raises:
        UserError: If they are stored for each trajectory and differ.
    """
    if array is None:
        return None
    values = np.atleast_2d(np.array(array.values, dtype=np.float64))
    if not np.allclose(values, values[:1], equal_nan=True):
        raise UserError(
            f"{path} has other positions along {array.dims[-1]} in some trajectories; keep those of one kind "
            "in a file"
        )
    return values[0]
