"""Maps on disk: tiled GeoTIFFs that grow beside a progress file, then are made cloud-optimised.

GDAL's COG driver only copies, so the map grows in `<map>.part`, uncompressed and of its full size from the
start: rows are written in place, and a process killed at any moment leaves at worst rows that
`<map>.part.json` does not count yet.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.remote_sensing.predict.geotiff import (
    COG,
    differing,
    is_finished,
    read_facts,
    unwritable,
    write_header,
)
from apps.remote_sensing.predict.settings import MapSettings
from core.errors import UserError
from core.files import remove, replacing

__all__ = ["GrowingMap", "MapPair"]

_GROWN = 256  # pixels of a block's side in the growing map
_COPY = {"classes": 0.3, "scores": 1.4}  # room for the compressed copy with overviews, of the part's size


class GrowingMap:
    """The map of one scene.

    Args:
        path: Where the finished map goes.
        like: The open rasterio data set whose grid the map shares.
        settings: How the scene is mapped.
        facts: All that the map's values depend on, as plain containers.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, like: Any, settings: MapSettings, facts: dict[str, Any]
    ) -> None:
        self.path = Path(path)
        self.part = self.path.with_name(f"{self.path.name}.part")
        self.progress = self.path.with_name(f"{self.path.name}.part.json")
        self.lock = self.path.with_name(f"{self.path.name}.part.lock")
        self._like, self._settings = like, settings
        self._facts = json.loads(json.dumps(facts))

    def finished(self, *, overwrite: bool = False) -> bool:
        """Return whether the very map is there already.

        Raises:
            UserError: If something else is there: a file that is no map of ours, or, unless `overwrite`, a
                map made otherwise.
        """
        return is_finished(self.path, self._facts, overwrite=overwrite)

    def begin(self, *, restart: bool = False) -> dict[str, int]:
        """Make the growing map, or find it where an earlier process left it.

        Args:
            restart: True drops what an earlier process left.

        Returns:
            `rows`, of tiles that are written, and `valid`, their pixels with data.

        Raises:
            UserError: If what was left was begun otherwise, or there is no room.
        """
        left = None if restart else self._left()
        if left is not None:
            return left
        self._make()
        self.note(rows=0, valid=0)
        return {"rows": 0, "valid": 0}

    def write(self, top: int, values: NDArray) -> None:
        """Write `(K, rows, W)` at row `top`."""
        import rasterio
        from rasterio.errors import RasterioError
        from rasterio.windows import Window

        window = Window(0, top, values.shape[2], values.shape[1])
        try:
            with rasterio.open(self.part, "r+") as growing:
                growing.write(values, window=window)
            _flush(self.part)
        except (RasterioError, OSError) as error:
            raise unwritable(self.part, error) from error

    def note(self, *, rows: int, valid: int) -> None:
        """Record how many rows of tiles are written, and their pixels with data."""
        try:
            with replacing(self.progress) as temporary:
                temporary.write_text(json.dumps({"facts": self._facts, "rows": rows, "valid": valid}))
        except OSError as error:
            raise unwritable(self.progress, error) from error

    def finish(self) -> None:
        """Copy the map into a cloud-optimised GeoTIFF, give it its name and remove what it grew in."""
        from rasterio.errors import RasterioError
        from rasterio.shutil import copy

        classes = self._settings.kind == "classes"
        try:
            with replacing(self.path) as temporary:
                copy(
                    str(self.part),
                    str(temporary),
                    PREDICTOR="NO" if classes else "YES",
                    OVERVIEW_RESAMPLING="NEAREST" if classes else "AVERAGE",
                    **COG,
                )
                if _checksums(temporary) != _checksums(self.part):
                    raise OSError(errno.EIO, "the copy is incomplete")
        except (RasterioError, OSError) as error:
            raise unwritable(self.path, error) from error
        self.discard()

    def discard(self) -> None:
        """Remove what the map grew in, and the lock that its process holds."""
        self._clear()
        remove(self.lock)

    def _clear(self) -> None:
        for name in (self.progress, self.part):
            remove(name)
        for stale in self.path.parent.glob(f"{self.path.name}.*.tmp*"):
            remove(stale)

    def _left(self) -> dict[str, int] | None:
        try:
            noted = json.loads(self.progress.read_text())
            facts, left = noted["facts"], {"rows": int(noted["rows"]), "valid": int(noted["valid"])}
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if facts != self._facts:
            raise UserError(
                f"{self.part} was begun with other {differing(facts, self._facts)}; give --restart, or go "
                f"on as it was begun"
            )
        return left if read_facts(self.part) == self._facts else None

    def _make(self) -> None:
        import rasterio
        from rasterio.errors import RasterioError

        settings, like = self._settings, self._like
        blocks = -(-like.width // _GROWN) * -(-like.height // _GROWN)
        size = blocks * _GROWN**2 * settings.count * settings.map_dtype.itemsize
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._clear()
            free = shutil.disk_usage(self.path.parent).free
        except OSError as error:
            raise unwritable(self.path, error) from error
        needed = size * (1 + _COPY[settings.kind])
        if free < needed:
            self.discard()
            raise UserError(
                f"the map {self.path} needs {_size(needed)} while it is made, and {_size(free)} are free; "
                "make room or choose another folder"
            )
        try:
            with rasterio.open(
                self.part,
                "w",
                driver="GTiff",
                width=like.width,
                height=like.height,
                count=settings.count,
                dtype=str(settings.map_dtype),
                crs=like.crs,
                transform=like.transform,
                nodata=settings.map_nodata,
                tiled=True,
                blockxsize=_GROWN,
                blockysize=_GROWN,
                interleave="band",
                BIGTIFF="IF_SAFER",
            ) as made:
                classes = settings.names if settings.kind == "classes" else ()
                write_header(
                    made, like, self._facts, names=("class",) if classes else settings.names, classes=classes,
                    colours=settings.colours,
                )  # fmt: skip
                if settings.tags:
                    made.scales, made.offsets = zip(*settings.tags, strict=True)
            with open(self.part, "r+b") as file:
                # GDAL leaves holes and is silent where it cannot extend a file: known now, not after hours
                if os.fstat(file.fileno()).st_size < size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.posix_fallocate(file.fileno(), 0, size)
        except (RasterioError, OSError) as error:
            self.discard()
            raise unwritable(self.part, error) from error


class MapPair:
    """The map of a scene and, if wanted, a second one of its uncertainty; both grow and resume together.

    Args:
        path: As of `GrowingMap`.
        uncertainty: Where the second map goes, or None.
        like: As of `GrowingMap`.
        settings: As of `GrowingMap`.
        facts: As of `GrowingMap`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        uncertainty: str | os.PathLike[str] | None,
        *,
        like: Any,
        settings: MapSettings,
        facts: dict[str, Any],
    ) -> None:
        self._map = GrowingMap(path, like=like, settings=settings, facts=facts)
        self.path, self.lock = self._map.path, self._map.lock
        self._second: GrowingMap | None = None
        self.beside: tuple[Path, ...] = ()
        if uncertainty is not None:
            how = replace(
                settings, kind="scores", names=("uncertainty",), dtype="float32", nodata=None, colours=None
            )
            self._second = GrowingMap(
                uncertainty, like=like, settings=how, facts={**facts, "of": "uncertainty"}
            )
            self.beside = (self._second.path,)
        self._needed = False  # whether the second one is still to be made
        self.rows = 0  # of tiles that are written

    def finished(self, *, overwrite: bool = False) -> bool:
        """Return whether all is there already; see `GrowingMap.finished`."""
        first = self._map.finished(overwrite=overwrite)
        self._needed = self._second is not None and not self._second.finished(overwrite=overwrite)
        return first and not self._needed

    def begin(self, *, restart: bool = False) -> dict[str, int]:
        """Begin or go on; see `GrowingMap.begin`."""
        left = self._map.begin(restart=restart)
        if self._needed and self._second is not None:
            known = self._second.begin(restart=restart)
            if known["rows"] < left["rows"]:  # its half is lost: it is noted before the map
                left = self._map.begin(restart=True)
        self.rows = left["rows"]
        return left

    def write(self, top: int, values: NDArray, entropy: NDArray[np.float32] | None) -> None:
        """Write rows of the map and of its uncertainty."""
        if self._needed and self._second is not None and entropy is not None:
            self._second.write(top, entropy)
        self._map.write(top, values)

    def note(self, *, rows: int, valid: int) -> None:
        """Record how far both are."""
        if self._needed and self._second is not None:
            self._second.note(rows=rows, valid=valid)
        self._map.note(rows=rows, valid=valid)
        self.rows = rows

    def finish(self) -> None:
        """Finish both, the map last."""
        if self._needed and self._second is not None:
            self._second.finish()
        self._map.finish()

    def discard(self) -> None:
        """Remove what both grew in."""
        if self._second is not None:
            self._second.discard()
        self._map.discard()


def _checksums(path: Path) -> list[int]:
    import rasterio

    with rasterio.open(path) as dataset:
        return [dataset.checksum(band) for band in dataset.indexes]


def _size(count: float) -> str:
    unit, name = (2**30, "GiB") if count >= 2**30 else (2**20, "MiB")
    return f"{count / unit:.1f} {name}"


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
