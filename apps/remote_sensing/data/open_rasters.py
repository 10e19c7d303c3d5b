"""Open rasters: files, members of archives and addresses, kept open within bounds of files and of memory.

Opening a GeoTIFF and decoding its tiles take longer than all that is done to a window afterwards. Files
opened while `quick` holds stay open in their process and thread, after it too, for the next time it holds,
and GDAL keeps decoded tiles; both are given up, the longest unused first, before they exceed a share of the
memory. A file that is called a GeoTIFF is opened as one, so that none of another format reads what it names.
"""

from __future__ import annotations

import os
import re
import resource
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, tostring

from core.errors import UserError

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

__all__ = ["as_path", "as_text", "is_address", "memory", "open_raster", "opened", "quick", "share_of_memory"]

_FILES = 512
_SMALL = 64 * 2**20
_HANDLE = 2**17  # bytes of an open raster apart from its buffer
_INSIDE = re.compile(r"(zip|tar)://(?P<archive>[^!]+)!/?(?P<file>.+)")
_GDAL = re.compile(r"/vsi(zip|tar)/(?P<archive>/[^{}]+?\.(?:zip|tar|tgz|tar\.gz|kmz))/(?P<file>.+)", re.I)

_PART = re.compile(r"(netcdf|hdf5|gpkg|zarr|sentinel2_\w+):.+", re.I)

_State = tuple[int, int, int]


class _Kept(threading.local):
    """Rasters that stay open in this thread; a forked process begins with none, for it may not share them."""

    def __init__(self) -> None:
        self.owner, self.depth, self.limit, self.held = os.getpid(), 0, 0, 0
        self.files: OrderedDict[str, tuple[_State, int, DatasetReader]] = OrderedDict()

    def own(self) -> None:
        """Forget what a parent process had opened."""
        if self.owner != os.getpid():
            self.files = OrderedDict()
            self.owner, self.depth, self.held = os.getpid(), 0, 0

    def get(self, path: str) -> DatasetReader:
        """Return the raster, opened anew where the file is another than before.

        Raises:
            rasterio.errors.RasterioError: If there is no such file or it is no raster.
        """
        state = _state(path)
        found = self.files.get(path)
        if found is not None and found[0] == state:
            self.files.move_to_end(path)
            return found[2]
        self.drop(path)
        raster = open_raster(path)
        size = _buffer(raster)
        while self.files and (len(self.files) >= _most_files() or self.held + size > self.limit):
            self.drop(next(iter(self.files)))
        self.files[path] = (state, size, raster)
        self.held += size
        return raster

    def drop(self, path: str) -> None:
        """Close a raster if it is open."""
        found = self.files.pop(path, None)
        if found is not None:
            self.held -= found[1]
            found[2].close()


_kept = _Kept()


@contextmanager
def quick(memory: int = _SMALL) -> Iterator[None]:
    """Keep rasters open, and do not list their folders: side files are asked for by their names.

    Args:
        memory: Bytes of decoded tiles that are kept for the next windows; the environment's GDAL_CACHEMAX,
            where it is set, comes first. Buffers of open files take up to a quarter of it besides.
    """
    import rasterio

    cache = {} if "GDAL_CACHEMAX" in os.environ else {"GDAL_CACHEMAX": memory}
    _kept.own()
    _kept.limit = memory // 4
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="TRUE", **cache):
        _kept.depth += 1
        try:
            yield
        finally:
            _kept.depth -= 1


@contextmanager
def opened(path: Path) -> Iterator[DatasetReader]:
    """Open a raster, or take it from those that `quick` keeps.

    Raises:
        UserError: If there is no such file, it is no raster, or reading it fails inside the block.
    """
    from rasterio.errors import RasterioError

    _kept.own()
    name = as_text(path)
    try:
        if _kept.depth:
            yield _kept.get(name)
        else:
            with open_raster(name) as raster:
                yield raster
    except RasterioError as error:
        _kept.drop(name)
        if not is_address(path) and not Path(path).exists():
            raise UserError(
                f"there is no file {path}; check data.source.path and the list of names"
            ) from error
        why = str(error.__cause__ or error).split("\n")[0].removeprefix(f"{name}: ").rstrip(".")
        raise UserError(
            f"{name} cannot be read ({why}); it is damaged or no raster, so replace it or leave it out"
        ) from error


def share_of_memory(processes: int) -> int:
    """Return the bytes of decoded tiles for each of so many processes of this machine.

    A tenth of the memory, of the container where one is limited, is shared, and nobody takes more than half
    of that: a twentieth is what GDAL takes in a process by itself.

    Args:
        processes: That read at the same time.
    """
    return max(memory() // 10 // max(processes, 2), _SMALL)


def memory() -> int:
    """Return the bytes of memory of this machine, or of the container where one is limited."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(limit).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return total


def open_raster(path: str) -> DatasetReader:
    """Return a raster that the caller closes.

    Raises:
        rasterio.errors.RasterioError: If there is no such file or it is no raster.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        geotiff = {"driver": "GTiff"} if path.lower().endswith((".tif", ".tiff")) else {}
        raster = rasterio.open(path, **geotiff)
        if raster.count or raster.driver not in ("netCDF", "HDF5"):
            return raster
        with raster:
            return _joined(raster.subdatasets) or rasterio.open(path)


def _joined(parts: Sequence[str]) -> DatasetReader | None:
    """Return the variables of a file as bands that are named after them; None if they are not on one grid.

    Of variables of several dates, one date's follow another's. Smaller ones, such as edges of pixels, are not
    among them.
    """
    import rasterio
    from rasterio.dtypes import _gdal_typename

    with ExitStack() as stack:
        variables = [stack.enter_context(rasterio.open(part)) for part in parts]
        largest = max((one.width * one.height for one in variables), default=0)
        variables = [one for one in variables if one.width * one.height == largest]
        if len({(one.shape, one.transform, one.count) for one in variables}) != 1:
            return None
        first = variables[0]
        root = Element("VRTDataset", rasterXSize=str(first.width), rasterYSize=str(first.height))
        SubElement(root, "SRS").text = first.crs.to_wkt() if first.crs else ""
        SubElement(root, "GeoTransform").text = ",".join(map(repr, first.transform.to_gdal()))
        for number in range(1, first.count + 1):
            for one in variables:
                band = SubElement(root, "VRTRasterBand", dataType=_gdal_typename(one.dtypes[number - 1]))
                name = one.tags(number).get("NETCDF_VARNAME") or one.name.rsplit("/", 1)[-1]
                tags = {
                    "Description": name,
                    "Scale": one.scales[number - 1],
                    "Offset": one.offsets[number - 1],
                }
                if one.nodatavals[number - 1] is not None:
                    tags["NoDataValue"] = one.nodatavals[number - 1]
                for tag, value in tags.items():
                    SubElement(band, tag).text = str(value)
                source = SubElement(band, "SimpleSource")
                SubElement(source, "SourceFilename", relativeToVRT="0").text = one.name
                SubElement(source, "SourceBand").text = str(number)
        return rasterio.open(tostring(root, encoding="unicode"))


def _state(path: str) -> _State:
    """Return what changes when a file is written anew; a path that is no file of the disk never changes."""
    try:
        state = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return state.st_ino, state.st_size, state.st_mtime_ns


def _buffer(raster: DatasetReader) -> int:
    """Return the bytes an open raster holds beside GDAL's cache: a tile of all bands where they are mixed."""
    if raster.count < 2 or raster.interleaving is None or raster.interleaving.name != "pixel":
        return _HANDLE
    rows, columns = raster.block_shapes[0]
    return _HANDLE + rows * columns * raster.count * _bytes(raster.dtypes[0])


def _bytes(kind: str) -> int:
    import numpy as np

    return np.dtype(kind).itemsize


def _most_files() -> int:
    """Return how many files may stay open: a quarter of what the system lets a process open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _FILES if limit < 0 else max(1, min(_FILES, limit // 4))


def as_path(word: str) -> Path:
    """Return a scene as the user wrote it, as a path that `as_text` reads.

    Args:
        word: A file or folder, `zip://ARCHIVE!FILE`, an address such as `https://…`, or a name of GDAL's such
            as `/vsizip/ARCHIVE/FILE` or `NETCDF:"FILE":VARIABLE`.
    """
    for known in (_INSIDE, _GDAL):
        if found := known.fullmatch(word):
            # in braces the archive's path is clear to GDAL, whatever slashes it has
            archive = os.path.abspath(os.path.expanduser(found["archive"]))
            return Path(f"/vsi{found[1].lower()}/{{{archive}}}/{found['file']}")
    return Path(word).expanduser()


def as_text(path: str | os.PathLike[str]) -> str:
    """Return what GDAL is given for a scene: paths have no double slashes, which addresses need."""
    text = re.sub(r'":/(?=[^/])', '"://', os.fspath(path))  # of a variable of HDF5
    return re.sub(r"(^|/)([a-z][a-z0-9+]+):/(?=[^/])", r"\1\2://", text)


def is_address(path: str | os.PathLike[str]) -> bool:
    """Return whether a scene is none of this disk's files."""
    text = as_text(path)
    return text.startswith("/vsi") or "://" in text or bool(_PART.fullmatch(text))
