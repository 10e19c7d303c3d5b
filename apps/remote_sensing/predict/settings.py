"""How a scene is mapped: bands, tiles and what is written."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from core.errors import UserError
from core.inference.tiles import per_axis

__all__ = ["MapSettings"]

_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


@dataclass(frozen=True)
class MapSettings:
    """How a scene is mapped.

    Args:
        names: What the model's channels are called: the classes in their order, or the scores.
        kind: `classes` writes one band with the number of the class of the highest score; `scores` writes
            every channel. With two classes the model may give one channel, the probability of the second.
        bands: Bands the model takes, by name or number from 1, in its order; None takes the file's.
        band_names: Names of the file's bands in their order; None takes the file's own descriptions.
        sensor: Whose numbers the names are (`B8A`): `sentinel2`, `landsat` or `sentinel1`.
        missing: Number of the files that stands for no data, in place of what they say themselves.
        stored: Whether numbers are taken as stored, whatever scale and offset the files name.
        dates: Dates in the model's input, the bands of one after those of another; in one file, or one file
            for each. `bands` and `band_names` are of one date.
        needs: Whether a pixel is mapped that has data at `all` dates, or at `any`.
        keep: Whether pixels with data keep the files' own numbers: the scores are the bands themselves.
        tags: Scale and offset of each band of a map that keeps the files' numbers, as they name them.
        gaps: A mask on the scene's grid, not zero where the scene is hidden; its bands come last.
        tile: Pixels of a tile, the model's input: height and width, or one number.
        overlap: Pixels that neighbouring tiles share at least.
        batch_size: Tiles the model sees at once.
        fill: What stands at pixels without data, in the file's units: one number, or one for each band; NaN
            leaves it to the model.
        dtype: Of the map; None takes the smallest unsigned integer for classes and float32 for scores.
            Scores are rounded to an integer dtype.
        nodata: What the map holds at pixels without data; None takes NaN in a floating dtype, else the
            largest value of an unsigned and the smallest of a signed one.
        colours: Red, green and blue of each class, 0 to 255, written as a palette into a map of dtype uint8.
        model: Names the weights, for example by a checksum: a map begun with others is not continued.
        cache: Bytes that GDAL may keep of blocks read and written.
    """

    names: tuple[str, ...]
    kind: Literal["classes", "scores"] = "classes"
    bands: tuple[str | int, ...] | None = None
    band_names: tuple[str, ...] | None = None
    sensor: str | None = None
    missing: float | None = None
    stored: bool = False
    dates: int = 1
    needs: Literal["all", "any"] = "all"
    keep: bool = False
    tags: tuple[tuple[float, float], ...] | None = None
    gaps: str | None = None
    tile: int | tuple[int, int] = 512
    overlap: int | tuple[int, int] = 64
    batch_size: int = 4
    fill: float | tuple[float, ...] = 0.0
    dtype: str | None = None
    nodata: float | None = None
    colours: tuple[tuple[int, int, int], ...] | None = None
    model: str = ""
    cache: int = 256 * 2**20

    def __post_init__(self) -> None:
        if self.kind not in ("classes", "scores"):
            raise UserError(f"a map is of 'classes' or 'scores', not of '{self.kind}'")
        if not self.names:
            raise UserError("a map needs the names of its classes or scores; give them in the model's order")
        if self.batch_size < 1:
            raise UserError(f"--batch_size is {self.batch_size}; the model needs at least 1 tile at once")
        for size, common in zip(self.tile_size, self.overlap_size, strict=True):
            if size < 1 or not 0 <= common < size:
                raise UserError(
                    f"tiles of {size} cannot overlap by {common}; --tile must be 1 or more and "
                    "--overlap below it"
                )
        if self.dtype is not None and self.dtype not in _DTYPES:
            raise UserError(f"a map cannot be of dtype '{self.dtype}'; choose one of {', '.join(_DTYPES)}")
        self._check_range()

    @property
    def tile_size(self) -> tuple[int, int]:
        """Height and width of a tile."""
        height, width = per_axis(self.tile, 2)
        return height, width

    @property
    def overlap_size(self) -> tuple[int, int]:
        """Rows and columns that neighbours share."""
        rows, columns = per_axis(self.overlap, 2)
        return rows, columns

    @property
    def count(self) -> int:
        """Bands of the map."""
        return 1 if self.kind == "classes" else len(self.names)

    @property
    def map_dtype(self) -> np.dtype[Any]:
        """Dtype of the map."""
        if self.dtype is not None:
            return np.dtype(self.dtype)
        if self.kind == "scores":
            return np.dtype("float32")
        return np.dtype("uint8" if len(self.names) <= 255 else "uint16")

    @property
    def map_nodata(self) -> float:
        """What the map holds where there is no data."""
        if self.nodata is not None:
            return self.nodata
        if self.map_dtype.kind == "f":
            return math.nan
        limits = np.iinfo(self.map_dtype)
        return limits.max if limits.min == 0 else limits.min

    def facts(self) -> dict[str, Any]:
        """Return all that the map's values depend on, as plain containers."""
        facts = {
            name: value for name, value in asdict(self).items() if name not in ("batch_size", "cache", "gaps")
        }
        facts |= {"dtype": str(self.map_dtype), "nodata": str(self.map_nodata)}
        facts |= {"tile": self.tile_size, "overlap": self.overlap_size}
        return {name: _plain(value) for name, value in facts.items()}

    def _check_range(self) -> None:
        dtype, nodata = self.map_dtype, self.map_nodata
        if dtype.kind != "f":
            limits = np.iinfo(dtype)
            if not (limits.min <= nodata <= limits.max and nodata == int(nodata)):
                raise UserError(
                    f"--map_nodata {nodata} does not fit dtype {dtype}; choose {limits.min} to {limits.max}"
                )
            if self.kind == "classes" and len(self.names) - 1 > limits.max:
                raise UserError(f"{len(self.names)} classes do not fit dtype {dtype}; choose a wider one")
        if self.kind == "classes" and nodata in range(len(self.names)):
            raise UserError(f"--map_nodata {nodata:g} is the number of a class too; choose another")
        if self.colours is not None and (
            self.kind != "classes" or dtype != "uint8" or len(self.colours) != len(self.names)
        ):
            raise UserError("colours need a map of classes of dtype uint8 and one colour for each class")


def _plain(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):  # equal to itself, which NaN is not
        return "nan"
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
