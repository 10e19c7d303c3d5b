"""Predicted trajectories as netCDF or Zarr that xarray reads: a variable a field, written one by one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.data.sample_store import consolidate
from core.errors import UserError
from core.files import replacing, replacing_folder
from core.inference.outputs import MARK, check_replaceable

__all__ = ["SUFFIXES", "Solutions", "check_suffix", "written_to"]

SUFFIXES = (".nc", ".zarr")

Write = Callable[[int, NDArray[np.float32], "NDArray[np.float32] | None"], None]


@dataclass(frozen=True)
class Solutions:
    """What a file will hold.

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
def written_to(path: str | os.PathLike[str], solutions: Solutions) -> Iterator[Write]:
    """Yield `write(row, mean, std)`; each takes one trajectory `(K, C', *space)` or its deviation.

    The file appears under its name only when the block ends well; until then a former output stays there.

    Raises:
        UserError: If the file cannot be written, or what lies there is no output of the same command.
    """
    out = check_suffix(path, solutions.command)
    try:
        with (_netcdf if out.suffix == ".nc" else _zarr)(out, solutions) as arrays:

            def write(row: int, mean: NDArray[np.float32], std: NDArray[np.float32] | None) -> None:
                for place, name in enumerate(solutions.fields):
                    for key, values in ((name, mean), (f"{name}_std", std)):
                        if values is not None:
                            arrays[key][row] = (
                                values[0, place] if solutions.times is None else values[:, place]
                            )

            yield write
    except OSError as error:
        raise UserError(
            f"cannot write {out} ({error.strerror or error}); choose another --out or free some space"
        ) from error


@contextmanager
def _netcdf(out: Path, solutions: Solutions) -> Iterator[Mapping[str, Any]]:
    import h5netcdf

    axes = solutions.axes
    with replacing(out) as temporary, h5netcdf.File(temporary, "w") as file:
        file.dimensions = {name: len(values) for name, values in axes.items()}
        for name, values in axes.items():
            file.create_variable(name, (name,), values.dtype, data=values)
            if name != "sample":
                file[name].attrs["units"] = solutions.units.get(name, "1")
        variables = {}
        for name, attributes in solutions.variables.items():
            variables[name] = file.create_variable(name, tuple(axes), "f4")
            variables[name].attrs.update(attributes)
        file.attrs.update({MARK: solutions.command, **solutions.attributes})
        yield variables


@contextmanager
def _zarr(out: Path, solutions: Solutions) -> Iterator[Mapping[str, Any]]:
    import zarr

    axes = solutions.axes
    shape = tuple(len(values) for values in axes.values())
    with replacing_folder(out) as temporary:
        said: dict[str, Any] = {MARK: solutions.command, **solutions.attributes}
        group = zarr.create_group(temporary, zarr_format=3, attributes=said)
        for name, values in axes.items():
            unit: dict[str, Any] = {} if name == "sample" else {"units": solutions.units.get(name, "1")}
            array = group.create_array(
                name, shape=values.shape, dtype=values.dtype, dimension_names=[name], attributes=unit
            )
            array[:] = values
        yield {
            name: group.create_array(
                name,
                shape=shape,
                chunks=(1, *shape[1:]),
                dtype="float32",
                fill_value=float("nan"),
                dimension_names=list(axes),
                attributes=attributes,
            )
            for name, attributes in solutions.variables.items()
        }
        consolidate(temporary)
