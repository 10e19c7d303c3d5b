"""A GeoTIFF whose pixels are patches or tiles of a scene, on the scene's place with a coarser transform."""

from __future__ import annotations

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

from apps.remote_sensing.predict.header import COG, coarse, read_facts, write_header
from apps.remote_sensing.predict.writing import writing
from core.errors import UserError
from core.files import remove, replacing

__all__ = ["GridTiff"]


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
        if not os.path.lexists(self.path):
            return False
        known = read_facts(self.path)
        if known is None:
            raise UserError(
                f"{self.path} exists and is no map made here; move it away or choose another name"
            )
        if known == json.loads(json.dumps(self.facts)):
            return True
        if not overwrite:
            raise UserError(f"{self.path} was made otherwise; choose another name, or give --overwrite")
        return False

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
                    transform=coarse(like, step),
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
