"""Expansions of numbers in sines and cosines, and encodings of a grid by them.

Aurora's (Bodnar et al. 2024, arXiv 2405.13063, supplement B) are computed in float64 and rounded at the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from apps.weather.batch import Grid
from core.errors import UserError

__all__ = [
    "LEAD_TIME",
    "LEVEL",
    "POSITION",
    "RADIUS",
    "SCALE",
    "TIME",
    "Expansion",
    "expanded",
    "grid_encodings",
    "patch_geometry",
]

RADIUS = 6378.137
"""Of the sphere whose cells bound the scales, in km."""


@dataclass(frozen=True)
class Expansion:
    """Sines, then cosines, of a number at wavelengths spaced evenly by logarithm.

    Attributes:
        what: Name of the number, for errors.
        lower: Shortest wavelength.
        upper: Longest wavelength.
        checked: Whether numbers beyond the wavelengths are refused.
    """

    what: str
    lower: float
    upper: float
    checked: bool = True

    def __call__(self, x: Tensor, width: int) -> Tensor:
        """Expand `(…)` to `(…, width)` float32.

        Raises:
            UserError: If a number that is not 0 lies beyond the wavelengths.
        """
        if self.checked:  # in the numbers' own precision, of which the bounds are part
            size = x.abs()
            beyond = (x != 0) & ((size < self.lower) | (size > self.upper))
            if bool(beyond.any()):
                raise UserError(
                    f"a {self.what} is {x[beyond].flatten()[0].item():g}; Aurora encodes {self.lower:.3g} to "
                    f"{self.upper:.3g}"
                )
        phase = x.to(torch.float64)[..., None] * _frequencies(self.lower, self.upper, width // 2, x.device)
        return torch.cat([phase.sin(), phase.cos()], -1).float()


POSITION = Expansion("position in degrees", 0.01, 720.0)
# From a cell of 0.01 by 0.01 degrees at the pole to the whole sphere, in km²; yet a root is encoded.
SCALE = Expansion("root of a patch's area in km", 1.0814085263058073e-4, 511207893.39581096)
LEAD_TIME = Expansion("step in hours", 1 / 60, 504.0)
LEVEL = Expansion("pressure level in hPa", 0.01, 1e5)
TIME = Expansion("time in hours", 1.0, 8766.0, checked=False)


@lru_cache(maxsize=64)
def _frequencies(lower: float, upper: float, count: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        wavelengths = np.logspace(math.log10(lower), math.log10(upper), count)
        return torch.from_numpy(2 * math.pi / wavelengths).to(device)


@lru_cache(maxsize=64)
def expanded(expansion: Expansion, values: tuple[float, ...], width: int, device: torch.device) -> Tensor:
    """Return `(n, width)` of n numbers, on a device, where it is kept."""
    with torch.inference_mode(False):
        return expansion(torch.tensor(values, dtype=torch.float64, device="cpu"), width).to(device)


@lru_cache(maxsize=16)
def grid_encodings(grid: Grid, patch: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return encodings of the patches' positions and sizes, `(L, width)`, on a device, where they are kept.

    Half of a position's width is the latitude's, half the longitude's.
    """
    with torch.inference_mode(False):
        latitude, longitude, root = (x.flatten() for x in patch_geometry(grid, patch))
        position = torch.cat([POSITION(latitude, width // 2), POSITION(longitude, width // 2)], -1)
        return position.to(device), SCALE(root, width).to(device)


def patch_geometry(grid: Grid, patch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return latitude and longitude of the patches' centres, and roots of their areas in km, `(h, w)`.

    As the released networks were trained, areas have a factor π too many and reach from the first to the last
    cell's centre. All is in float32, whose rounding the shortest wavelengths tell, in the original's order.
    """
    latitude, longitude = torch.from_numpy(grid.latitude).float(), torch.from_numpy(grid.longitude).float()
    if not grid.curvilinear:
        latitude, longitude = torch.meshgrid(latitude, longitude, indexing="ij")
    cells = torch.stack([latitude, longitude])[:, None]  # 2 1 H W
    centre = F.avg_pool2d(cells, patch)
    north, east = F.max_pool2d(cells, patch)
    south, west = -F.max_pool2d(-cells, patch)
    area = (
        6371**2
        * torch.pi
        * (torch.sin(torch.deg2rad(north)) - torch.sin(torch.deg2rad(south)))
        * (torch.deg2rad(east) - torch.deg2rad(west))
    )
    # A region's longitudes go on beyond 360 east of Greenwich; its patches lie where they do on the globe.
    return centre[0, 0], centre[1, 0] % 360, area.sqrt()[0]
