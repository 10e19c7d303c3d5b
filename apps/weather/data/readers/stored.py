"""Stored fields: where the values of one variable lie in one file or store, and how they are read.

xarray describes; values come from h5py, from zarr (decoded by zarrs where it can), from ecCodes, or, of
netCDF 3, through xarray. Each process opens files for itself, and no threads decode that a fork would lose.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.weather.data.readers.axes import StoredGrid
from apps.weather.data.readers.names import StoredName, may_vanish
from core.data.hdf5 import is_hdf5, open_hdf5
from core.errors import UserError

__all__ = ["InMemory", "StoredField", "arrays_of", "is_store", "open_dataset"]

_STORES = (".zgroup", ".zmetadata", "zarr.json")
_PROTOCOLS = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "http": "aiohttp", "https": "aiohttp"}
_GARBAGE = 1e30  # netCDF's own fill values lie above it, whether a file names them or not


def is_store(path: str) -> bool:
    """Say whether a path is a Zarr store: an address, or a folder with Zarr's own files."""
    return "://" in path or any((Path(path) / name).is_file() for name in _STORES)


def open_dataset(path: str) -> Any:
    """Return what xarray makes of a file or store, nothing decoded and nothing read but its axes.

    Raises:
        UserError: If it is not there, cut off, damaged or of another kind.
    """
    import xarray

    how: dict[str, Any] = {"decode_times": False, "mask_and_scale": False, "cache": False, "chunks": None}
    try:
        if is_store(path):
            return xarray.open_dataset(_store(path), engine="zarr", consolidated=None, **how)
        if is_hdf5(Path(path)):
            open_hdf5(path).close()  # says what is wrong with it, which xarray does not
            return xarray.open_dataset(path, engine="h5netcdf", phony_dims="access", **how)
        return xarray.open_dataset(path, engine="scipy", **how)
    except UserError:
        raise
    except Exception as error:  # each engine raises what it likes
        why = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(
            f"{path} is not there, cut off, damaged or no netCDF, GRIB or Zarr ({why}); check data.path, or "
            "copy or download it again"
        ) from error


def _store(path: str) -> Any:
    """Return what zarr takes: the path itself, or a store of an address."""
    protocol = path.partition("://")[0] if "://" in path else ""
    if not protocol:
        return path
    package = _PROTOCOLS.get(protocol, "fsspec")
    if importlib.util.find_spec(package) is None:
        raise UserError(f"reading {protocol}:// needs {package}; run `pip install {package}`")
    from zarr.storage import FsspecStore

    options = {"token": "anon"} if package == "gcsfs" else {"anon": True} if package == "s3fs" else {}
    return FsspecStore.from_url(path, storage_options=options, read_only=True)


def arrays_of(path: str) -> Any:
    """Open a file or store for its arrays by name; a function of a module, so that it can be pickled."""
    if is_store(path):
        return _group(path)
    if is_hdf5(Path(path)):
        return open_hdf5(path)
    return _Labelled(open_dataset(path))


def _group(path: str) -> Any:
    import zarr

    # One chunk after the other in this thread: zarrs' pool of threads would hang a forked worker.
    local = "://" not in path and importlib.util.find_spec("zarrs") is not None
    how = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"} if local else {}
    how |= {"threading.max_workers": 1, "codec_pipeline.chunk_concurrent_maximum": 1} if local else {}
    how |= {"codec_pipeline.chunk_concurrent_minimum": 1} if local else {}
    with zarr.config.set(how), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarrs tells of arrays that it leaves to zarr
        group = zarr.open_group(_store(path), mode="r")
        return dict(group.arrays())  # the pipeline is chosen here


@dataclass(frozen=True)
class InMemory:
    """Opens a data set in memory, whatever it is called."""

    dataset: Any

    def __call__(self, path: str) -> Any:
        """Return its arrays by name."""
        return _Labelled(self.dataset)


class _Labelled:
    """Arrays of an xarray data set, by name."""

    def __init__(self, dataset: Any) -> None:
        self._dataset, self.close = dataset, dataset.close

    def __getitem__(self, name: str) -> _Values:
        return _Values(self._dataset.variables[name])


@dataclass
class _Values:
    variable: Any

    def __getitem__(self, where: Any) -> Any:
        return self.variable[where].values


@dataclass(frozen=True, eq=False)
class StoredField:
    """One variable in one file.

    Attributes:
        path: File or store.
        dataset: Name of its array.
        row: What the table of names says.
        letters: Of the stored axes, see `axes.NAMES`; `1` for another of length one.
        mesh: Rows and columns.
        times: Valid times, or starts where there are leads; empty without an axis of time.
        levels: In hPa, as stored; empty for a single level.
        factor: Packing and unit together: stored values times `factor` plus `offset` are SI.
        offset: See there.
        fills: Stored values that mean nothing.
        members: Of the ensemble; 0 without that axis.
        leads: Hours after the start, as stored; empty without that axis.
        rank: Of several values for one time, that of the lowest rank counts.
        fixed: Letter to the index at which an axis is read.
        chunk: Times in a chunk.
    """

    path: str
    dataset: str
    row: StoredName
    letters: str
    mesh: StoredGrid
    times: NDArray[np.datetime64]
    levels: tuple[float, ...] = ()
    factor: float = 1.0
    offset: float = 0.0
    fills: tuple[float, ...] = ()
    members: int = 0
    leads: tuple[float, ...] = ()
    rank: NDArray[np.int64] | None = None
    fixed: Mapping[str, int] = field(default_factory=dict)
    chunk: int = 1

    @property
    def key(self) -> tuple[str, str]:
        """Group (`surface`, `level`, `static`) and name."""
        kind = self.row.kind if self.row.kind in ("level", "static") else "surface"
        return kind, self.row.name

    def when(self, index: int) -> str:
        """Return file, variable and time, for messages."""
        time = f" at {self.times[index].astype('datetime64[m]')}" if len(self.times) else ""
        name = self.row.name if self.row.name == self.dataset else f"{self.dataset} ({self.row.name})"
        return f"{self.path}: {name}{time}"

    def read(
        self,
        array: Any,
        span: slice,
        levels: NDArray[np.int64],
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Return values `(T, C, H, W)` float32 in SI; what is missing is NaN.

        Args:
            array: The stored array.
            span: Of its times.
            levels: Indices on its axis of levels; `[0]` without one.
            rows: Of the mesh.
            columns: Of the mesh.

        Raises:
            UserError: If it cannot be read, or a chunk of a Zarr store is not there.
        """
        span = span if len(self.times) else slice(0, 1)
        parts = []
        for north, east in product(_parts(self.mesh.rows[rows]), _parts(self.mesh.columns[columns])):
            pick = {"l": slice(levels.min(), levels.max() + 1), "t": span, "y": north[0], "x": east[0]}
            where = tuple(self.fixed.get(axis, pick.get(axis, 0 if axis in "1np" else slice(None)))
                          for axis in self.letters)  # fmt: skip
            values = self._plain(self._raw(array, where, span), span)
            parts.append(
                (values[:, levels - levels.min()] if "l" in self.letters else values)[..., north[1], :][
                    ..., east[1]
                ]
            )
        if len(parts) == 1:
            return parts[0]
        wide = len(_parts(self.mesh.columns[columns]))
        bands = [np.concatenate(parts[at : at + wide], axis=-1) for at in range(0, len(parts), wide)]
        return np.concatenate(bands, axis=-2)

    def _raw(self, array: Any, where: tuple[Any, ...], span: slice) -> NDArray[Any]:
        try:
            raw = np.asarray(array[where])
            missing = _missing_chunks(array, where, raw, self.row) if hasattr(array, "store_path") else None
        except Exception as error:  # h5py, zarr and codecs raise what they like
            last = (
                f" to {self.times[span.stop - 1]}" if span.stop - span.start > 1 and len(self.times) else ""
            )
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(
                f"{self.when(span.start)}{last} cannot be read ({why}); the file is cut off or damaged: copy "
                "or download it again"
            ) from error
        if missing:
            chunk, begins = missing
            at = begins[self.letters.index("t")] if "t" in self.letters else 0
            raise UserError(
                f"{self.when(span.start + at)} is not in the store: its chunk {chunk} is missing, "
                "which zarr reads as the fill value; copy the store again, or choose other times"
            )
        return raw

    def _plain(self, raw: NDArray[Any], span: slice) -> NDArray[np.float32]:
        """Return `(T, C, H, W)` in SI of what is stored."""
        left = [axis for axis in self.letters if axis not in "1np" and axis not in self.fixed]
        packed = raw.dtype.kind in "iu" or (self.factor, self.offset) != (1.0, 0.0)
        values = raw.astype(np.float64 if packed else np.float32)
        if self.fills:
            values[np.isin(raw, np.array(self.fills, dtype=raw.dtype))] = np.nan
        if packed:
            values = (values * self.factor + self.offset).astype(np.float32)
        if "e" in left:  # the final values, else the preliminary ones
            first, *others = np.moveaxis(values, left.index("e"), 0)
            left.remove("e")
            values = first
            for other in others:
                values = np.where(np.isnan(values), other, values)
        for axis in "tl":
            if axis not in left:
                values, left = values[None], [axis, *left]
        values = values.transpose([left.index(axis) for axis in "tlyx"])  # ... -> T C H W
        if not abs(values.mean(dtype=np.float64)) < _GARBAGE / values.size:
            values = np.where(np.abs(values) < _GARBAGE, values, np.nan)
        return values


def _parts(indices: NDArray[np.int64]) -> list[tuple[slice, NDArray[np.int64]]]:
    """Return the runs of rising or falling indices, as the stretch to read and the places within it."""
    rises = np.sign(np.diff(indices))
    turns = np.flatnonzero(rises != np.sign(rises.sum())) + 1
    ends = [0, *turns.tolist(), len(indices)]
    runs = [indices[begin:end] for begin, end in pairwise(ends)]
    return [(slice(int(run.min()), int(run.max()) + 1), run - run.min()) for run in runs]


def _missing_chunks(
    array: Any, where: tuple[Any, ...], raw: NDArray[Any], row: StoredName
) -> tuple[str, list[int]] | None:
    """Return the first chunk within a part of an array that is not stored, and where it begins on each axis.

    zarr reads such a chunk as the fill value. It is looked for only where values are that. Chunks of zeros
    are left out by zarr itself when it writes: of a field that may be zero everywhere they are taken as that.
    """
    fill = array.fill_value
    if fill is None or (fill == 0 and may_vanish(row)):
        return None
    sizes = getattr(array, "shards", None) or array.chunks
    spans = [slice(at, at + 1) if isinstance(at, int | np.integer) else slice(*at.indices(size))
             for at, size in zip(where, array.shape, strict=True)]  # fmt: skip
    whole = raw.reshape([span.stop - span.start for span in spans])
    blank = np.isnan(whole) if fill != fill else whole == fill
    if not blank.any():
        return None
    ranges = [
        range(span.start // size, (span.stop - 1) // size + 1)
        for span, size in zip(spans, sizes, strict=True)
    ]
    for chunk in product(*ranges):
        inside = tuple(slice(max(number * size - span.start, 0), (number + 1) * size - span.start)
                       for number, size, span in zip(chunk, sizes, spans, strict=True))  # fmt: skip
        if blank[inside].all():
            key = array.metadata.encode_chunk_key(chunk)
            if not _stored(array, key):
                return key, [part.start for part in inside]
    return None


def _stored(array: Any, key: str) -> bool:
    from zarr.core.sync import sync

    return bool(sync((array.store_path / key).exists()))
