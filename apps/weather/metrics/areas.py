"""Weights of the rows of a grid in spatial means; a table of scores names which they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apps.weather.batch import Grid
from core.errors import UserError

__all__ = ["WEIGHTS", "latitude_weights", "usual_weights"]

WEIGHTS = {
    "area": "exact cell areas, outermost cells reach the poles (WeatherBench 2)",
    "bounded_area": "exact cell areas, outermost cells as high as their neighbours (WeatherBench-X)",
    "cos": "cosine of latitude (WeatherBench 1, Aurora): nothing at a pole",
    "none": "every grid point alike",
}
"""Name of each kind of weights and what it is."""


def latitude_weights(latitude: ArrayLike, kind: str = "area") -> NDArray[np.float64]:
    """Return weights with the mean 1 in the shape of `latitude`.

    Args:
        latitude: `(H,)` in degrees, rising or falling; the matrix `(H, W)` of a curvilinear grid has cosines.
        kind: A key of `WEIGHTS`.

    Raises:
        UserError: If there is no such kind, or cells of a curvilinear grid are asked for.
    """
    if kind not in WEIGHTS:
        raise UserError(f"--weights {kind} is unknown; known are {', '.join(WEIGHTS)}")
    degrees = np.asarray(latitude, dtype=np.float64)
    if kind == "none":
        weights = np.ones_like(degrees)
    elif kind == "cos":
        weights = np.cos(np.deg2rad(degrees))
    elif degrees.ndim != 1:
        raise UserError(f"a curvilinear grid has no rows of cells; use --weights cos instead of {kind}")
    else:
        weights = _areas(degrees, to_poles=kind == "area")
    return weights / weights.mean()


def usual_weights(grid: Grid) -> str:
    """Return the kind that suits a grid: `area`, but `bounded_area` where it does not reach the poles."""
    if grid.curvilinear:
        return "cos"
    latitude = grid.latitude
    gap = max(90 - latitude[0], 90 + latitude[-1])
    step = np.abs(np.diff(latitude)).max() if len(latitude) > 1 else 0.0
    return "area" if gap <= step * 1.01 else "bounded_area"


def _areas(latitude: NDArray[np.float64], *, to_poles: bool) -> NDArray[np.float64]:
    order = np.argsort(latitude)
    rising = np.deg2rad(latitude[order])
    middles = (rising[1:] + rising[:-1]) / 2
    half = np.diff(rising) / 2 if len(rising) > 1 else np.full(1, np.pi / 2)
    ends = (-np.pi / 2, np.pi / 2) if to_poles else (rising[0] - half[0], rising[-1] + half[-1])
    bounds = np.clip([ends[0], *middles, ends[1]], -np.pi / 2, np.pi / 2)
    weights = np.empty_like(rising)
    weights[order] = np.diff(np.sin(bounds))
    return weights
