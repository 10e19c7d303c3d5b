"""Labelled arrays as netCDF or Zarr that xarray reads, written piece by piece; predicted trajectories so."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.data.sample_store import consolidate
from core.errors import UserError
from core.files import replacing, replacing_folder
from core.inference.outputs import MARK, check_replaceable

__all__ = [
    "SUFFIXES",
    "ArrayFile",
    "LabelledArray",
    "Solutions",
    "arrays_written_to",
    "check_suffix",
    "make_zarr",
    "written_to",
]

SUFFIXES = (".nc", ".zarr")

Write = Callable[[int, NDArray[np.float32], "NDArray[np.float32] | None"], None]


@dataclass(frozen=True)
class LabelledArray:
    """An array on named axes, and what the file says of it.

    Attributes:
        axes: Names of its axes in order; one with the axis' own name holds the positions along it.
        attributes: Unit, long name and such.
        values: All of it, where it is known beforehand; None for float32 that come piece by piece.
    """

    axes: Sequence[str]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    values: NDArray[Any] | None = None


@dataclass(frozen=True)
class ArrayFile:
    """What a file of labelled arrays will hold.

    Attributes:
        arrays: Name to array; each axis' length is that of an array on it whose values are known.
        command: Who writes it, such as `dfm pde predict`; the file is marked with it.
        attributes: Text, numbers and lists of text about the whole.
        pieces: Axis to the length of a piece along it, which Zarr keeps as one chunk; others are kept whole.
    """

    arrays: Mapping[str, LabelledArray]
    command: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    pieces: Mapping[str, int] = field(default_factory=dict)

    @property
    def lengths(self) -> dict[str, int]:
        """Length of each axis."""
        return {
            axis: length
            for array in self.arrays.values()
            if array.values is not None
            for axis, length in zip(array.axes, array.values.shape, strict=True)
        }


@dataclass(frozen=True)
class Solutions:
    """What a file of trajectories will hold.

    Attributes:
        fields: Names of the variables.
        samples: `(N,)` numbers of the trajectories.
        times: `(K,)`, or None for steady problems, which have no such axis.
        coordinates: Positions along each axis of space.
        units: Field to unit.
        spread: Whether each field has a standard deviation beside it, `<field>_std`.
        command: Who writes it, such as `dfm pde predict`; the file is marked with it.
        attributes: Text, numbers and lists of text about the whole.
        axis_names: What `coordinates` are called; `time` for a series, which then has no `times`.
    """

    fields: Sequence[str]
    samples: Sequence[int]
    times: NDArray[np.float64] | None
    coordinates: Sequence[NDArray[np.float64]]
    units: Mapping[str, str]
    spread: bool
    command: str
    attributes: Mapping[str, Any]
    axis_names: Sequence[str] = ("x", "y", "z")

    @property
    def axes(self) -> dict[str, NDArray[Any]]:
        """Name of each axis and its positions, in the order of the variables."""
        positions: dict[str, NDArray[Any]] = {"sample": np.asarray(self.samples, dtype=np.int64)}
        if self.times is not None:
            positions["time"] = np.asarray(self.times, dtype=np.float64)
        return positions | dict(zip(self.axis_names, self.coordinates, strict=False))

    @property
    def variables(self) -> dict[str, dict[str, Any]]:
        """Name of each variable and its attributes."""
        attributes: dict[str, dict[str, Any]] = {
            name: {"units": self.units.get(name, "1")} for name in self.fields
        }
        if self.spread:
            for name in self.fields:
                attributes[f"{name}_std"] = {
                    "units": self.units.get(name, "1"),
                    "long_name": f"standard deviation of {name} over the ensemble",
                }
        return attributes

    @property
    def file(self) -> ArrayFile:
        """The file, whose pieces are trajectories."""
        arrays = {
            name: LabelledArray(
                (name,), {} if name == "sample" else {"units": self.units.get(name, "1")}, values
            )
            for name, values in self.axes.items()
        }
        arrays |= {name: LabelledArray(tuple(self.axes), said) for name, said in self.variables.items()}
        return ArrayFile(arrays, self.command, self.attributes, {"sample": 1})


def check_suffix(path: str | os.PathLike[str], command: str) -> Path:
    """Return the path, if its suffix says how to write it and nothing is lost by writing there.

    Raises:
        UserError: If not, or something lies there that `command` did not write.
    """
    out = Path(path)
    if out.suffix not in SUFFIXES:
        raise UserError(f"--out {out} must end in {' or '.join(SUFFIXES)}")
    if out.suffix == ".nc" and out.is_dir():
        raise UserError(f"--out {out} is a folder; give a file that ends in .nc")
    return check_replaceable(out, command)


@contextmanager
def arrays_written_to(path: str | os.PathLike[str], file: ArrayFile) -> Iterator[Mapping[str, Any]]:
    """Yield the arrays by name, to which values are assigned as to NumPy's: `arrays["t"][3, :, 5] = values`.

    The file appears under its name only when the block ends well; until then a former output stays there.

    Raises:
        UserError: If the file cannot be written, or what lies there is no output of the same command.
    """
    out = check_suffix(path, file.command)
    try:
        with (_netcdf if out.suffix == ".nc" else _zarr)(out, file) as arrays:
            yield arrays
    except OSError as error:
        raise UserError(
            f"cannot write {out} ({error.strerror or error}); choose another --out or free some space"
        ) from error


@contextmanager
def written_to(path: str | os.PathLike[str], solutions: Solutions) -> Iterator[Write]:
    """Yield `write(row, mean, std)`; each takes one trajectory `(K, C', *space)` or its deviation.

    Raises:
        UserError: As `arrays_written_to` does.
    """
    with arrays_written_to(path, solutions.file) as arrays:

        def write(row: int, mean: NDArray[np.float32], std: NDArray[np.float32] | None) -> None:
            for place, name in enumerate(solutions.fields):
                for key, values in ((name, mean), (f"{name}_std", std)):
                    if values is not None:
                        arrays[key][row] = values[0, place] if solutions.times is None else values[:, place]

        yield write


def make_zarr(folder: Path, file: ArrayFile) -> dict[str, Any]:
    """Make a Zarr group in an empty folder and return its arrays by name; missing pieces are NaN."""
    import zarr

    lengths = file.lengths
    said: dict[str, Any] = {MARK: file.command, **file.attributes}
    group = zarr.create_group(folder, zarr_format=3, attributes=said)
    arrays = {}
    for name, array in file.arrays.items():
        labels: dict[str, Any] = {"dimension_names": list(array.axes), "attributes": dict(array.attributes)}
        if array.values is not None:
            held = group.create_array(name, shape=array.values.shape, dtype=array.values.dtype, **labels)
            held[...] = array.values
            continue
        shape = tuple(lengths[axis] for axis in array.axes)
        chunks = tuple(min(file.pieces.get(axis, lengths[axis]), lengths[axis]) for axis in array.axes)
        arrays[name] = group.create_array(
            name, shape=shape, chunks=chunks, dtype="float32", fill_value=float("nan"), **labels
        )
    return arrays


@contextmanager
def _netcdf(out: Path, content: ArrayFile) -> Iterator[Mapping[str, Any]]:
    import h5netcdf

    with replacing(out) as temporary, h5netcdf.File(temporary, "w") as file:
        file.dimensions = content.lengths
        arrays = {}
        for name, array in content.arrays.items():
            kind = "f4" if array.values is None else array.values.dtype
            variable = file.create_variable(name, tuple(array.axes), kind, data=array.values)
            variable.attrs.update(array.attributes)
            if array.values is None:
                arrays[name] = variable
        file.attrs.update({MARK: content.command, **content.attributes})
        yield arrays


@contextmanager
def _zarr(out: Path, content: ArrayFile) -> Iterator[Mapping[str, Any]]:
    with replacing_folder(out) as temporary:
        yield make_zarr(temporary, content)
        consolidate(temporary)
