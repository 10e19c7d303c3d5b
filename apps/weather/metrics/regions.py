"""Regions of the globe over which scores are averaged (WeatherBench 2), and their land and sea alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from apps.weather.batch import Grid
from apps.weather.metrics.areas import latitude_weights
from core.errors import UserError, did_you_mean

__all__ = ["BOXES", "PARTS", "region_mask", "region_weights"]

_ROUND = (0.0, 360.0)

BOXES: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "global": ((-90, 90, *_ROUND),),
    "tropics": ((-20, 20, *_ROUND),),
    "extra_tropics": ((-90, -20, *_ROUND), (20, 90, *_ROUND)),
    "northern_hemisphere": ((20, 90, *_ROUND),),
    "southern_hemisphere": ((-90, -20, *_ROUND),),
    "europe": ((35, 75, 347.5, 360), (35, 75, 0, 42.5)),
    "north_america": ((25, 60, 240, 285),),
    "north_atlantic": ((25, 65, 290, 350),),
    "north_pacific": ((25, 60, 145, 230),),
    "east_asia": ((25, 60, 102.5, 150),),
    "ausnz": ((-45, -12.5, 120, 175),),
    "arctic": ((60, 90, *_ROUND),),
    "antarctic": ((-90, -60, *_ROUND),),
}
"""Name to boxes `(south, north, west, east)` in degrees, ends included."""

PARTS = ("land", "sea")
"""What may follow a region's name: `europe_land`; alone they are the globe's."""


def region_mask(
    name: str, grid: Grid, land: ArrayLike | None = None, *, threshold: float | None = None
) -> NDArray[np.float64]:
    """Return each point's share `(H, W)` in a region; `all` is the whole of any grid.

    Args:
        name: Of a region, with `_land` or `_sea` behind it for a part.
        grid: The points.
        land: `(H, W)` share of land, from 0 to 1, for the parts.
        threshold: Counts a point with more land than this as land, any other as sea; None takes shares.

    Raises:
        UserError: If there is no such region, or a part is asked for without a land-sea mask.
    """
    spelt = name.lower().replace("-", "_")
    spelt = f"global_{spelt}" if spelt in PARTS else spelt
    whole, _, part = spelt.rpartition("_") if spelt.endswith(("_land", "_sea")) else (spelt, "", "")
    if whole not in BOXES and whole != "all":
        near = did_you_mean(whole, BOXES) or f"; known are {', '.join(BOXES)}, each also with _land or _sea"
        raise UserError(f"the region '{name}' is unknown{near}")
    north = grid.latitude if grid.curvilinear else grid.latitude[:, None]
    east_of = grid.longitude % 360
    inside = np.zeros(grid.shape, dtype=bool)
    for low, high, west, east in BOXES.get(whole, BOXES["global"]):
        inside |= (north >= low) & (north <= high) & (east_of >= west) & (east_of <= east)
    if not part:
        return inside.astype(np.float64)
    if land is None:
        raise UserError(f"the region '{name}' needs a land-sea mask (lsm), and the data have none")
    share = np.asarray(land, dtype=np.float64)
    share = share if threshold is None else (share > threshold).astype(np.float64)
    return inside * (share if part == "land" else 1 - share)


def region_weights(
    grid: Grid,
    names: Sequence[str],
    *,
    kind: str = "area",
    land: ArrayLike | None = None,
    threshold: float | None = None,
    device: torch.device | str = "cpu",
) -> tuple[tuple[str, ...], Tensor]:
    """Return the regions that have points on the grid, and weights `(R, H, W)` of the points in each.

    Weights are those of the whole grid, then cut. They are float64 but on devices that have none.
    """
    rows = latitude_weights(grid.latitude, kind)
    rows = rows if grid.curvilinear else rows[:, None]
    masks = {name: rows * region_mask(name, grid, land, threshold=threshold) for name in names}
    shown = tuple(name for name, mask in masks.items() if mask.sum() > 0)
    if not shown:
        raise UserError(f"no point of the grid lies in {', '.join(names)}; give --regions all")
    weights = torch.from_numpy(np.stack([masks[name] for name in shown]))
    exact = torch.device(device).type not in ("mps", "neuron")
    return shown, weights.to(device, torch.float64 if exact else torch.float32)
