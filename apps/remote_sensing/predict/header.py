"""What results say of themselves and of their place, as GeoTIFF tags."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["COG", "coarse", "read_facts", "write_header"]

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


def coarse(like: Any, step: tuple[int, int]) -> Any:
    """Return the transform of a grid with a pixel for so many rows and columns, None where there is none."""
    from rasterio import Affine

    a, b, c, d, e, f = tuple(like.transform)[:6]
    if like.transform == Affine.identity():  # points or nothing say where the scene is
        return None
    return Affine(a * step[1], b * step[0], c, d * step[1], e * step[0], f)


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
