"""Stored fields: where the values of one variable lie in one file or store, and how they are read.

xarray describes; values come from h5py, from zarr (decoded by zarrs where it can), from cfgrib, or, of
netCDF 3, through xarray. Each process opens files for itself, and no threads decode that a fork would lose.
"""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.weather.data.readers.axes import StoredGrid
from apps.weather.data.readers.direct import DirectArray
from apps.weather.data.readers.names import StoredName
from apps.weather.data.readers.pickled import is_pickle, pickled_fields
from core.data.hdf5 import is_hdf5, open_hdf5
from core.errors import UserError

__all__ = ["ReadWindow", "StoredField", "arrays_of", "is_grib", "is_store", "open_datasets", "unwritten_as"]

_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "http": "aiohttp", "https": "aiohttp"}
# One chunk after the other in the reader's own thread: zarrs' pool of threads would hang a forked worker.
_ZARRS = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "threading.max_workers": 1}
_ZARRS |= dict.fromkeys(
    ("codec_pipeline.chunk_concurrent_minimum", "codec_pipeline.chunk_concurrent_maximum"), 1
)
_FIRST: dict[str, Any] = {"1": 0, "n": 0, "p": 0}  # axes that are read at one index, unless fixed
Stretch = tuple[slice, slice | NDArray[np.int64]]  # what to read, and what is wanted of it
Stretches = list[Stretch]
_GARBAGE = 1e30  # netCDF's own fill values lie above it, whether a file names them or not


def is_store(path: str) -> bool:
    """Say whether a path is a Zarr store: an address, or a folder with Zarr's own files."""
    own = (Path(path) / name for name in (".zgroup", ".zmetadata", "zarr.json"))
    return "://" in path or any(file.is_file() for file in own)


def is_grib(path: str) -> bool:
    """Say whether a file is GRIB."""
    if is_store(path):
        return False
    with open(path, "rb") as file:
        return file.read(4) == b"GRIB"


def open_datasets(path: str) -> list[Any]:
    """Return what xarray makes of a file or store, nothing decoded; of GRIB one data set a variable.

    Raises:
        UserError: If it is not there, cut off, damaged or of another kind.
    """
    import xarray

    how: dict[str, Any] = {"decode_times": False, "mask_and_scale": False, "cache": False, "chunks": None}
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")  # a store without consolidated metadata is only slower
            if is_store(path):
                return [xarray.open_dataset(_store(path), engine="zarr", **how)]
            if is_pickle(path):
                return [pickled_fields(path)]
            if is_grib(path):
                from cfgrib.xarray_store import open_variable_datasets

                index = f"{folder}/{{short_hash}}.idx"  # it is not left beside the user's file
                keys = {"indexpath": index, "errors": "raise", "read_keys": ["class"]}
                return open_variable_datasets(path, backend_kwargs=keys, cache=False)
            if zipfile.is_zipfile(path):
                raise UserError(
                    f"{path} is a zip archive, as CDS packs several files; unpack it, name the folder"
                )
            if not is_hdf5(Path(path)):
                return [xarray.open_dataset(path, engine="scipy", **how)]
            open_hdf5(path).close()  # says what is wrong with it, which xarray does not
            return [xarray.open_dataset(path, engine="h5netcdf", phony_dims="access", **how)]
    except UserError:
        raise
    except ImportError as error:
        raise UserError(
            f"reading {path} needs {error.name}; run `pip install 'domainfm[weather]'`"
        ) from error
    except Exception as error:  # each engine raises what it likes
        why = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(
            f"{path} is cut off, damaged, not there or no netCDF, GRIB or Zarr ({why}); check data.path, or "
            f"{'consolidate its metadata' if '://' in path else 'copy or download it again'}"
        ) from error


def _store(path: str) -> Any:
    """Return what zarr takes: the path itself, or a store of an address."""
    protocol, _, address = path.partition("://")
    if not address:
        return path
    package = _PACKAGES.get(protocol, "fsspec")
    if importlib.util.find_spec(package) is None:
        raise UserError(f"reading {protocol}:// needs {package}; run `pip install {package}`")
    from zarr.storage import FsspecStore

    options = {"gcsfs": {"token": "anon"}, "s3fs": {"anon": True}}.get(package, {})
    return FsspecStore.from_url(path, storage_options=options, read_only=True)


def arrays_of(path: str) -> Any:
    """Open a file or store for its arrays by name; a function of a module, so that it can be pickled."""
    if not is_store(path):
        return open_hdf5(path) if is_hdf5(Path(path)) else open_datasets(path)[0].variables
    import zarr

    arrays = dict(zarr.open_group(_store(path), mode="r").arrays())
    if "://" in path or importlib.util.find_spec("zarrs") is None:
        return arrays
    with zarr.config.set(_ZARRS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarrs tells of arrays that it leaves to zarr
        decoded = dict(zarr.open_group(_store(path), mode="r").arrays())  # the pipeline is chosen here
    return {name: DirectArray(array, decoded[name]) for name, array in arrays.items()}


def unwritten_as(path: str, name: Any) -> float | None:
    """Return what zarr takes for chunks that an array of a store on disk lacks; None if it has all."""
    array = None if "://" in path else arrays_of(path).get(str(name))
    return None if array is None or array.nchunks_initialized == array.nchunks else array.fill_value or 0.0


@dataclass(frozen=True, eq=False)
class ReadWindow:
    """Rows and columns of a grid, and where they are in each file, found once for all variables of a read."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    _places: dict[int, Any] = field(default_factory=dict)

    def on(self, place: StoredGrid) -> tuple[Stretches, Stretches]:
        """Return the stretches of rows and of columns that are to be read."""
        if id(place) not in self._places:
            self._places[id(place)] = _runs(place.rows[self.rows]), _runs(place.columns[self.columns])
        return self._places[id(place)]


@dataclass(frozen=True, eq=False)
class StoredField:
    """One variable in one file."""

    path: str  # file or store
    dataset: str  # name of its array
    row: StoredName
    letters: str  # of the stored axes, see `axes.NAMES`; 1 for another of length one
    place: StoredGrid
    times: NDArray[np.datetime64]  # valid times, or starts where there are leads; empty without that axis
    levels: tuple[float, ...] = ()  # in hPa, as stored; empty for a single level
    factor: float = 1.0  # packing and unit together: stored values times `factor` plus `offset` are SI
    offset: float = 0.0
    fills: tuple[float, ...] = ()  # stored values that mean nothing
    members: int = 0  # of the ensemble; 0 without that axis
    leads: tuple[float, ...] = ()  # hours after the start; empty without that axis
    rank: float = 0.0  # of several fields for one time that of the lowest rank counts
    fixed: Mapping[str, int] = field(default_factory=dict)  # letter to the index at which an axis is read
    chunk: int = 1  # times in a chunk
    array: Any = None  # of GRIB, the messages, or in memory; others are opened by each process

    @property
    def key(self) -> tuple[str, str]:
        """Group (`surface`, `level`, `static`) and name."""
        return self.row.kind if self.row.kind in ("level", "static") else "surface", self.row.name

    def at(self, index: int) -> str:
        """Return file, variable and time, for messages."""
        name = self.row.name if self.row.name == self.dataset else f"{self.dataset} ({self.row.name})"
        time = f" at {self.times[index].astype('datetime64[m]')}" if len(self.times) else ""
        return f"{self.path}: {name}{time}"

    def read(
        self, array: Any, span: slice, levels: NDArray[np.int64], window: ReadWindow
    ) -> NDArray[np.float32]:
        """Return values `(T, C, H, W)` float32 in SI; what is missing is NaN.

        Raises:
            UserError: If it cannot be read, or a chunk of a Zarr store is not there.
        """
        layers, within_levels = _stretch(levels)
        rows, columns = window.on(self.place)
        bands = []
        for south_to, within_rows in rows:
            band = []
            for east_to, within in columns:
                part = {"l": layers, "t": span, "y": south_to, "x": east_to} | _FIRST | {**self.fixed}
                values = self._part(array, tuple(part.get(axis, slice(None)) for axis in self.letters), span)
                band.append(values[:, within_levels if "l" in self.letters else slice(None)][..., within])
            bands.append((np.concatenate(band, axis=-1) if len(band) > 1 else band[0])[..., within_rows, :])
        return np.concatenate(bands, axis=-2) if len(bands) > 1 else bands[0]

    def _part(self, array: Any, where: tuple[Any, ...], span: slice) -> NDArray[np.float32]:
        try:
            raw = np.asarray(array[where])
            values = self._plain(raw)
            with np.errstate(over="ignore"):
                total = float(values.sum())
            missing = None
            if hasattr(array, "store_path") and (
                array.fill_value == array.fill_value or not np.isfinite(total)
            ):
                missing = self._missing(array, where, raw)
        except Exception as error:  # h5py, zarr and codecs raise what they like
            for at in (
                range(span.start, span.stop) if "t" in self.letters and span.stop > span.start + 1 else ()
            ):
                single = slice(at, at + 1)  # at which time it is
                self._part(array, tuple(single if x is span else x for x in where), single)
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(
                f"{self.at(span.start)} cannot be read ({why}); the file is cut off or damaged: copy or "
                "download it again"
            ) from error
        if missing:
            step = missing[1][self.letters.index("t")] if "t" in self.letters else 0
            raise UserError(
                f"{self.at(span.start + step)} is not in the store: its chunk {missing[0]} is missing, which "
                "zarr reads as the fill value; copy the store again, or choose other times"
            )
        return values if abs(total) < _GARBAGE else np.where(np.abs(values) < _GARBAGE, values, np.nan)

    def _plain(self, raw: NDArray[Any]) -> NDArray[np.float32]:
        """Return `(T, C, H, W)` in SI of what is stored."""
        left = [axis for axis in self.letters if axis not in "1np" and axis not in self.fixed]
        converted = raw.dtype.kind in "iu" or (self.factor, self.offset) != (1.0, 0.0)
        values = raw.astype(np.float64 if converted else np.float32, copy=bool(self.fills))
        if self.fills:
            values[np.isin(raw, np.array(self.fills).astype(raw.dtype))] = np.nan
        if converted:
            values = (values * self.factor + self.offset).astype(np.float32)
        if "e" in left or "E" in left:  # the final values (of a falling axis the last), else the preliminary
            axis = left.index("e" if "e" in left else "E")
            first, *others = np.moveaxis(values, axis, 0)[:: 1 if "e" in left else -1]
            left.pop(axis)
            values = first
            for other in others:
                values = np.where(np.isnan(values), other, values)
        for axis in "lt":
            if axis not in left:
                values, left = values[None], [axis, *left]
        return values.transpose([left.index(axis) for axis in "tlyx"])  # ... -> T C H W

    def _missing(self, array: Any, where: tuple[Any, ...], raw: NDArray[Any]) -> tuple[str, list[int]] | None:
        """Return the first chunk in a part of a Zarr array that is not stored, and where it begins there.

        zarr reads such a chunk as the fill value, so it is looked for where values are that. When it writes,
        zarr leaves out chunks of the fill value: zeros are believed of a field that may be zero everywhere.
        """
        from zarr.core.sync import sync

        fill, sizes = array.fill_value, getattr(array, "shards", None) or array.chunks
        if fill is None or (fill == 0 and self.row.may_vanish) or self.row.kind == "wave":
            return None
        parts = [at if isinstance(at, slice) else slice(at, at + 1) for at in where]
        spans = [part.indices(size)[:2] for part, size in zip(parts, array.shape, strict=True)]
        blank = np.isnan(raw) if fill != fill else raw == fill
        if not blank.any():
            return None
        blank = blank.reshape([stop - start for start, stop in spans])
        ranges = (range(start // size, (stop - 1) // size + 1)
                  for (start, stop), size in zip(spans, sizes, strict=True))  # fmt: skip
        for chunk in product(*ranges):
            begins = [at * size - start for at, size, (start, _) in zip(chunk, sizes, spans, strict=True)]
            part = tuple(slice(max(at, 0), at + size) for at, size in zip(begins, sizes, strict=True))
            key = array.metadata.encode_chunk_key(chunk)
            if blank[part].all() and not sync((array.store_path / key).exists()):
                return key, [max(at, 0) for at in begins]
        return None


def _runs(indices: NDArray[np.int64]) -> Stretches:
    """Return the rising or falling stretches of indices, as around Greenwich."""
    rises = np.diff(indices) > 0
    turns = np.flatnonzero(rises != (2 * rises.sum() >= len(rises))) + 1
    return [_stretch(indices[begin:end]) for begin, end in pairwise([0, *turns.tolist(), len(indices)])]


def _stretch(indices: NDArray[np.int64]) -> Stretch:
    """Return what to read for some indices, and where these are in it."""
    low, high, step = int(indices.min()), int(indices.max()), int(indices[-1] > indices[0]) * 2 - 1
    neighbours = high - low == len(indices) - 1 and (np.diff(indices) == step).all()
    return slice(low, high + 1), slice(
        None, None, step if len(indices) > 1 else 1
    ) if neighbours else indices - low
