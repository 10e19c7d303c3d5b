"""Labelled arrays written step by step that outlive a kill: the next process goes on from the last step.

Beside `NAME` lies `NAME.unfinished.tmp`, a folder with the arrays as Zarr, what they depend on, and the state
that the next step starts from. It becomes `NAME` by a rename (netCDF: by a copy) at the end.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.data.sample_store import consolidate
from core.errors import UserError
from core.files import locked, put_in_place, remove, replacing
from core.inference.netcdf import ArrayFile, arrays_written_to, check_suffix, make_zarr

__all__ = ["ResumableArrays", "resumed"]

_ARRAYS, _ORIGIN, _STATE = "arrays", "origin.json", "state.safetensors"


@dataclass(frozen=True)
class ResumableArrays:
    """An output that is being written.

    Attributes:
        arrays: By name; values are assigned to pieces as to NumPy's arrays.
        state: What the last whole step of a killed process left; empty where all begins.
        steps: Number of whole steps then.
    """

    arrays: Mapping[str, Any]
    state: Mapping[str, NDArray[Any]]
    steps: int
    _folder: Path

    def keep(self, steps: int, state: Mapping[str, NDArray[Any]]) -> None:
        """Note that `steps` are whole, after their pieces were assigned, and what the next starts from."""
        from safetensors.numpy import save_file

        whole = {name: np.ascontiguousarray(values) for name, values in state.items()}
        with replacing(self._folder / _STATE) as temporary:
            save_file(whole, temporary, metadata={"steps": str(steps)})


@contextmanager
def resumed(path: str | Path, file: ArrayFile, origin: Mapping[str, Any]) -> Iterator[ResumableArrays]:
    """Yield an output to write, with what a killed process of the same `origin` had written of it.

    What was begun from another origin (checkpoint, data, options …: plain containers) is thrown away. The
    file has its name when the block ends well; when it does not, whole steps are kept for the next process.

    Raises:
        UserError: If the file cannot be written, or what lies there is no output of the same command.
    """
    out = check_suffix(path, file.command)
    folder, lock = (out.with_name(f"{out.name}.{end}") for end in ("unfinished.tmp", "lock"))
    with locked(lock):
        try:
            yield _opened(folder, file, json.dumps(origin, sort_keys=True, default=str))
            _finish(folder, out, file)
        except OSError as error:
            raise UserError(
                f"cannot write {out} ({error.strerror or error}); choose another --out or free some space"
            ) from error
        finally:
            if not (folder / _STATE).exists():
                shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _opened(folder: Path, file: ArrayFile, origin: str) -> ResumableArrays:
    import zarr
    from safetensors import safe_open

    state = folder / _STATE
    if state.exists() and (folder / _ORIGIN).read_text() == origin:
        with safe_open(state, "np") as held:
            steps = int(held.metadata()["steps"])
            kept = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
        group: Any = zarr.open_group(folder / _ARRAYS, mode="r+")
        missing = [name for name, array in file.arrays.items() if array.values is None]
        return ResumableArrays({name: group[name] for name in missing}, kept, steps, folder)
    remove(folder)
    (folder / _ARRAYS).mkdir(parents=True)
    (folder / _ORIGIN).write_text(origin)
    return ResumableArrays(make_zarr(folder / _ARRAYS, file), {}, 0, folder)


def _finish(folder: Path, out: Path, file: ArrayFile) -> None:
    """Put the arrays under the output's name, and remove the folder."""
    if out.suffix == ".zarr":
        consolidate(folder / _ARRAYS)
        put_in_place(folder / _ARRAYS, out)
    else:
        import zarr

        group: Any = zarr.open_group(folder / _ARRAYS, mode="r")
        with arrays_written_to(out, file) as arrays:
            for name, array in arrays.items():
                for piece in _pieces(group[name].shape, group[name].chunks):
                    array[piece] = group[name][piece]
    (folder / _STATE).unlink(missing_ok=True)
    remove(folder)


def _pieces(shape: tuple[int, ...], chunks: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Yield the slices that cover an array chunk by chunk."""
    starts = (range(0, length, chunk) for length, chunk in zip(shape, chunks, strict=True))
    for corner in product(*starts):
        yield tuple(slice(first, first + chunk) for first, chunk in zip(corner, chunks, strict=True))
