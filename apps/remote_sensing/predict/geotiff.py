"""GeoTIFFs of ours: what they say of themselves and of their place, and coarse images with a pixel a tile."""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from core.files import remove, replacing

__all__ = ["COG", "GridTiff", "is_finished", "read_facts", "unwritable", "write_header", "writing"]

_TAG = "DOMAINFM_MAP"

COG: dict[str, Any] = {"driver": "COG", "COMPRESS": "DEFLATE", "BLOCKSIZE": 512, "BIGTIFF": "IF_SAFER"}
"""How a finished raster is copied into a cloud-optimised one."""


def read_facts(path: Path) -> Any:
    """Return what a raster of ours says its values depend on, None for any other file."""
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(path) as dataset:
            return json.loads(dataset.tags().get(_TAG, "null"))
    except (RasterioError, OSError, ValueError):
        return None


def is_finished(path: Path, facts: dict[str, Any], *, overwrite: bool) -> bool:
    """Return whether the very raster is there already.

    Raises:
        UserError: If something else is there: a file that is no map of ours, or, unless `overwrite`, a map
            made otherwise.
    """
    if not os.path.lexists(path):
        return False
    known = read_facts(path)
    if known is None:
        raise UserError(f"{path} exists and is no map made here; move it away or choose another name")
    if known == facts:
        return True
    if not overwrite:
        raise UserError(
            f"{path} is a map made with other {differing(known, facts)}; choose another name, or give "
            "--overwrite"
        )
    return False


def differing(had: Any, have: dict[str, Any]) -> str:
    """Return the names of what differs between two records of facts."""
    keys = [key for key in have if not isinstance(had, dict) or had.get(key) != have[key]]
    return ", ".join(keys) or "settings"


def write_header(
    made: Any,
    like: Any,
    facts: dict[str, Any],
    *,
    names: Sequence[str],
    classes: Sequence[str] = (),
    colours: Sequence[tuple[int, int, int]] | None = None,
    step: tuple[int, int] = (1, 1),
) -> None:
    """Write all of a new raster but its grid and values.

    Args:
        made: Open for writing.
        like: The scene's, whose ground control points and the like are kept.
        facts: What the values depend on.
        names: Of the bands.
        classes: Of the numbers in the first band.
        colours: Of each class.
        step: Rows and columns of the scene for each pixel.
    """
    points, crs = like.gcps
    if points:
        made.gcps = ([_moved(point, step) for point in points], crs)
    if like.rpcs:
        made.rpcs = _scaled(like.rpcs, step)
    if point := like.tags().get("AREA_OR_POINT"):
        made.update_tags(AREA_OR_POINT=point)
    made.update_tags(**{_TAG: json.dumps(facts)})
    made.descriptions = tuple(names)
    if classes:
        made.update_tags(1, **{f"class_{number}": name for number, name in enumerate(classes)})
    if colours is not None:
        made.write_colormap(1, dict(enumerate(colours)))


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the system says against writing `path` within the block into a mistake of the user.

    Raises:
        UserError: If the disk is full, the folder cannot be written to, or the like.
    """
    from rasterio.errors import RasterioError

    try:
        yield
    except BrokenPipeError:  # of a reader of stdout that left
        raise
    except (OSError, RasterioError) as error:
        raise unwritable(path, error) from error


def unwritable(path: str | os.PathLike[str], error: Exception) -> UserError:
    """Return the sentence that `path` cannot be written, and why."""
    told = error.strerror if isinstance(error, OSError) else None
    reason = told or (str(error) or type(error).__name__).splitlines()[0].strip(" .")
    return UserError(
        f"{os.fspath(path)} cannot be written ({reason}); make room or choose another folder, then run again"
    )


@dataclass(frozen=True)
class GridTiff:
    """How the coarse image is written.

    Args:
        path: Where it goes.
        names: Of its bands.
        facts: What its values depend on.
        dtype: Of its values.
        nodata: Where there is no data.
        classes: Of the numbers in its one band.
        colours: Of each class, as a palette for one band of uint8.
        cloud: Whether it is copied into a cloud-optimised file at the end, which holds all bands of a block
            in memory.
    """

    path: Path
    names: Sequence[str]
    facts: dict[str, Any]
    dtype: str = "float32"
    nodata: float = math.nan
    classes: Sequence[str] = ()
    colours: Sequence[tuple[int, int, int]] | None = None
    cloud: bool = False

    def finished(self, *, overwrite: bool = False) -> bool:
        """Return whether the very file is there already.

        Raises:
            UserError: If another one is there that may not be replaced.
        """
        return is_finished(self.path, json.loads(json.dumps(self.facts)), overwrite=overwrite)

    @contextmanager
    def written(self, like: Any, step: tuple[int, int], *, rows: int = 1) -> Iterator[_Grid]:
        """Give what is to be filled within the block; the file appears at the end, if no error leaves it.

        Args:
            like: The open rasterio data set of the scene.
            step: Rows and columns of the scene for each pixel.
            rows: Of the pieces that are put in, row of pieces by row; so many are in memory.

        Raises:
            UserError: If it cannot be written.
        """
        import rasterio
        from rasterio.shutil import copy

        height, width = -(-like.height // step[0]), -(-like.width // step[1])
        with writing(self.path), replacing(self.path) as temporary:
            grown = temporary.with_name(f"{temporary.name}.grown.tmp") if self.cloud else temporary
            try:
                with rasterio.open(
                    grown,
                    "w",
                    driver="GTiff",
                    height=height,
                    width=width,
                    count=len(self.names),
                    dtype=self.dtype,
                    crs=like.crs,
                    transform=_coarse(like, step),
                    nodata=self.nodata,
                    compress="deflate",
                    interleave="band",
                    blockysize=min(rows, height),  # each strip is compressed and written once
                    BIGTIFF="IF_SAFER",
                ) as made:
                    header = {"names": self.names, "classes": self.classes, "colours": self.colours}
                    write_header(made, like, self.facts, step=step, **header)
                    grid = _Grid(made, rows=rows, empty=self.nodata)
                    yield grid
                    grid.flush()
                if self.cloud:
                    how = "NEAREST" if self.classes else "AVERAGE"
                    copy(str(grown), str(temporary), OVERVIEW_RESAMPLING=how, **COG)
            finally:
                if self.cloud:
                    remove(grown)


class _Grid:
    """The open image; where nothing is put it holds no data."""

    def __init__(self, made: Any, *, rows: int, empty: float) -> None:
        self._made, self._empty, self._top = made, empty, 0
        self._rows = np.full((made.count, rows, made.width), empty, dtype=made.dtypes[0])

    def put(self, row: int, column: int, values: NDArray[Any]) -> None:
        """Put in a piece `(K, rows, columns)`, never above an earlier one; what lies beyond is cut."""
        if row != self._top:
            self.flush()
            self._top = row
        room = self._rows[:, : values.shape[1], column : column + values.shape[2]]
        room[:] = values[:, :, : room.shape[2]]

    def flush(self) -> None:
        """Write the rows that are in memory."""
        from rasterio.windows import Window

        rows = min(self._rows.shape[1], self._made.height - self._top)
        self._made.write(self._rows[:, :rows], window=Window(0, self._top, self._made.width, rows))
        self._rows[:] = self._empty


def _coarse(like: Any, step: tuple[int, int]) -> Any:
    """Return the transform of a grid with a pixel for so many rows and columns, None where there is none."""
    from rasterio import Affine

    a, b, c, d, e, f = tuple(like.transform)[:6]
    if like.transform == Affine.identity():  # points or nothing say where the scene is
        return None
    return Affine(a * step[1], b * step[0], c, d * step[1], e * step[0], f)


def _moved(point: Any, step: tuple[int, int]) -> Any:
    moved = copy.copy(point)
    moved.row, moved.col = point.row / step[0], point.col / step[1]
    return moved


def _scaled(found: Any, step: tuple[int, int]) -> Any:
    """Return rational polynomials for a coarser grid; their offsets count from the middle of a pixel."""
    scaled = copy.copy(found)
    for axis, factor in zip(("line", "samp"), step, strict=True):
        setattr(scaled, f"{axis}_off", (getattr(found, f"{axis}_off") + 0.5) / factor - 0.5)
        setattr(scaled, f"{axis}_scale", getattr(found, f"{axis}_scale") / factor)
    return scaled
