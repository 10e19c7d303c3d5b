"""Our layout of simulated trajectories: one Zarr group, one file a sample, labelled so that xarray reads it.

`fields` is `(sample, time, channel, x[, y[, z]])` float32. A shard holds one sample and is cut into one chunk
a snapshot, so that a snapshot is read alone and a sample is written whole or not at all. `complete`
`(sample,)` says which samples are there; it is set after the data are on disk. The group's attributes say
what the fields are and how they were made.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.errors import UserError
from core.files import locked, replacing_folder

if TYPE_CHECKING:
    import zarr

__all__ = ["AXES", "LAYOUT", "Store", "consolidate", "made_once", "settings_digest"]

LAYOUT = "domainfm.pde"
FORMAT = 1
AXES = ("x", "y", "z")
_FLAGS = 1 << 14  # flags in one chunk of `complete`


def settings_digest(settings: object, *, size: int = 6) -> str:
    """Return `2 * size` hexadecimal digits of all that generated data depend on, plain containers."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


def made_once(path: Path, holds: Callable[[], bool], write: Callable[[Path], None]) -> Path:
    """Return a folder of generated data; `write` makes it when `holds`, which refuses anything else there,
    says that it is not there.

    It gets its name when all is written, so that a run that is killed leaves no half of one, and processes
    that ask for one folder at once wait for each other.

    Raises:
        UserError: If the folder cannot be written.
    """
    if holds():
        return path
    with locked(path.with_name(f"{path.name}.lock")):
        if holds():
            return path
        for left in path.parent.glob(f"{path.name}.*.tmp"):  # of a process that was killed: we hold the lock
            shutil.rmtree(left, ignore_errors=True)
        try:
            with replacing_folder(path) as folder:
                write(folder)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path


class Store:
    """Trajectories of one family on disk, written sample by sample.

    Open one with `Store.open`, make one with `Store.create`; both are cheap and read no values. A store is
    not locked here: who generates sees to it that one process writes at a time.

    Attributes:
        path: The group's folder.
        attributes: What the group says of itself: family, equation, channels, units, parameters, seed, ….
    """

    def __init__(self, path: Path, group: zarr.Group) -> None:
        self.path = path
        self.attributes: dict[str, Any] = dict(group.attrs)
        self._fields: Any = group["fields"]
        self._flags: Any = group["complete"]
        arrays: Any = group
        self._times = np.asarray(arrays["time"][:], dtype=np.float64)
        self._positions = tuple(np.asarray(arrays[name][:], dtype=np.float64) for name in self._axes())

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        samples: int,
        channels: Sequence[str],
        times: ArrayLike,
        coordinates: Sequence[ArrayLike],
        units: Mapping[str, str] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Store:
        """Make an empty store and return it; it appears under its name only when it is whole.

        Args:
            path: The folder to make; it must not exist.
            samples: Length of the first axis; `extend` makes it longer.
            channels: Names of the fields.
            times: `(T,)` times of the snapshots.
            coordinates: For each space axis the positions of its points.
            units: Field or axis name to unit; "1" where none is given.
            attributes: Plain containers that are kept with the data.

        Raises:
            UserError: If the path exists or cannot be written.
        """
        import zarr

        final = Path(path)
        if final.exists():
            raise UserError(f"{final} exists already; choose another folder or remove it")
        known = dict(units or {})
        axes = AXES[: len(coordinates)]
        points = [np.asarray(values, dtype=np.float64) for values in coordinates]
        frames = np.asarray(times, dtype=np.float64)
        inner = (1, 1, len(channels), *(len(values) for values in points))
        whole = (1, len(frames), *inner[2:])
        try:
            with replacing_folder(final) as temporary:
                group = zarr.create_group(
                    temporary,
                    zarr_format=3,
                    attributes={
                        "layout": LAYOUT,
                        "format": FORMAT,
                        "channels": list(channels),
                        "units": {name: known.get(name, "1") for name in channels},
                        "axis_units": {name: known.get(name, "1") for name in ("time", *axes)},
                        **(attributes or {}),
                    },
                )
                # not compressed: fields shrink by 2 to 30 % only, and are read a third slower
                add = partial(group.create_array, compressors=None)
                add(
                    "fields",
                    shape=(samples, *whole[1:]),
                    shards=whole,
                    chunks=inner,
                    dtype="float32",
                    fill_value=float("nan"),
                    dimension_names=["sample", "time", "channel", *axes],
                    attributes={"long_name": "fields at the snapshots; NaN where a sample is not complete"},
                )
                add(
                    "complete",
                    shape=(samples,),
                    chunks=(_FLAGS,),
                    dtype="bool",
                    fill_value=False,
                    dimension_names=["sample"],
                    attributes={"long_name": "whether the sample is there"},
                )
                for name, values in zip(("time", *axes), (frames, *points), strict=True):
                    unit: dict[str, Any] = {"units": known.get(name, "1")}
                    add(name, data=values, dimension_names=[name], attributes=unit)
                names = add("channel", shape=(len(channels),), dtype=str, dimension_names=["channel"])
                names[:] = np.array(list(channels), dtype=object)
                consolidate(temporary)
        except OSError as error:
            raise UserError(
                f"cannot write {final}: {error.strerror}; choose a folder you can write to"
            ) from error
        return cls.open(final)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Store:
        """Return the store at `path`.

        Raises:
            UserError: If there is none, it is damaged, or a newer version made it.
        """
        import zarr

        folder = Path(path)
        try:
            group = zarr.open_group(folder, mode="r+", use_consolidated=False)
            attributes = dict(group.attrs)
        except Exception as error:  # zarr raises whatever its parsers do
            raise UserError(f"{folder} is no Zarr group of trajectories, or a damaged one") from error
        if attributes.get("layout") != LAYOUT:
            raise UserError(f"{folder} is a Zarr group, but not of `dfm data generate`")
        made = attributes.get("format")
        if not isinstance(made, int) or made > FORMAT:
            raise UserError(f"{folder} has format {made}; this version reads up to {FORMAT}: update domainfm")
        try:
            return cls(folder, group)
        except Exception as error:
            raise UserError(
                f"{folder} lacks a part of its arrays ({error}); remove it and generate it again"
            ) from error

    @property
    def samples(self) -> int:
        """Length of the first axis, complete or not."""
        return int(min(self._fields.shape[0], self._flags.shape[0]))

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the fields."""
        return tuple(self.attributes["channels"])

    @property
    def times(self) -> NDArray[np.float64]:
        """Times `(T,)` of the snapshots."""
        return self._times

    @property
    def coordinates(self) -> tuple[NDArray[np.float64], ...]:
        """Positions of the points along each space axis."""
        return self._positions

    @property
    def space(self) -> tuple[int, ...]:
        """Number of points along each space axis."""
        return tuple(self._fields.shape[3:])

    def extend(self, samples: int) -> None:
        """Make room for `samples` samples in all; fewer than there are change nothing."""
        if samples > self._fields.shape[0]:
            self._fields.resize((samples, *self._fields.shape[1:]))
        if samples > self._flags.shape[0]:
            self._flags.resize((samples,))
        consolidate(self.path)

    def write(self, samples: Sequence[int], values: ArrayLike) -> None:
        """Write whole samples by their numbers, `(len(samples), T, C, *space)`, then say that they are
        complete.

        Raises:
            ValueError: If the values do not have that shape.
            UserError: If the disk is full.
        """
        data = np.ascontiguousarray(values, dtype=np.float32)
        expected = (len(samples), *self._fields.shape[1:])
        if data.shape != expected:
            raise ValueError(f"values of samples have shape {data.shape} instead of {expected}")
        try:
            for sample, one in zip(samples, data, strict=True):
                self._fields[sample] = one
                _flush(self.path / "fields" / self._fields.metadata.encode_chunk_key(
                    (sample, *(0,) * (self._fields.ndim - 1))
                ))  # fmt: skip
            flags = np.asarray(self._flags[:])
            flags[list(samples)] = True
            self._flags[:] = flags
        except OSError as error:
            raise UserError(
                f"cannot write into {self.path}: {error.strerror}; free some space and run it again, "
                "complete samples are kept"
            ) from error

    def complete(self) -> NDArray[np.bool_]:
        """Return `(samples,)`: which of them are there."""
        return np.asarray(self._flags[: self.samples], dtype=bool)

    def lacking(self, samples: int) -> list[int]:
        """Return which of the first `samples` are not there."""
        done = self.complete()[:samples]
        return [*(int(sample) for sample in (~done).nonzero()[0]), *range(len(done), samples)]

    def finished(self, sample: int) -> bool:
        """Return whether a sample is there."""
        return 0 <= sample < self.samples and bool(self._flags[sample])

    def read(
        self, sample: int, steps: Sequence[int] | None = None, channels: Sequence[int] | None = None
    ) -> NDArray[np.float32]:
        """Return `(steps, C, *space)` of one sample; only the snapshots asked for are read.

        Raises:
            UserError: If the sample is not complete.
        """
        if not self.finished(sample):
            raise UserError(f"sample {sample} of {self.path} is not complete; generate it to its end")
        wanted = range(len(self._times)) if steps is None else steps
        frames = [np.asarray(self._fields[sample, int(step)], dtype=np.float32) for step in wanted]
        block = np.stack(frames) if frames else np.empty((0, *self._fields.shape[2:]), dtype=np.float32)
        return block if channels is None else block[:, list(channels)]

    def _axes(self) -> tuple[str, ...]:
        return AXES[: self._fields.ndim - 3]


def _flush(file: Path) -> None:
    """Have the system write a file out, so that no flag outlives its data when the power fails."""
    if file.exists():  # a shard of nothing but fill values is not written
        with open(file, "rb") as written:
            os.fsync(written.fileno())


def consolidate(path: Path) -> None:
    """Gather the metadata of a Zarr group's arrays in the group's own, where xarray looks first."""
    import zarr

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(path)
