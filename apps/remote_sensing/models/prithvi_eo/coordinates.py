"""Codes of a token's position, of the date of its frame and of the place of its image."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from core.backbones.positions import grid_table, resize_table, sincos

__all__ = [
    "LocationEmbed",
    "TimeEmbed",
    "coordinate_codes",
    "position_table",
    "positions_for",
    "write_positions",
]

_KEPT = 32  # tables remembered


@lru_cache(maxsize=_KEPT)
def position_table(
    width: int,
    built: tuple[int, int],
    grid: tuple[int, int, int],
    device: torch.device,
    resized: bool,
) -> Tensor:
    """Return the table of a grid, `(1 + t * h * w, width)` float32 with a row of zeros for the class token.

    Six sixteenths of the features say the column, six the row and four the frame, in this order.

    Args:
        width: Features, a multiple of 16.
        built: Rows and columns of the grid that the weights were trained on.
        grid: Frames, rows and columns wanted.
        device: Where the table lies.
        resized: Whether the rows come from the built grid by interpolation, as they do for every grid but
            the built one; columns and rows keep the meaning of a share of the image.
    """
    parts = (width // 16 * 4, width // 16 * 6, width // 16 * 6)
    source = (grid[0], *built) if resized else grid
    # Kept tables serve training too, and are computed where the network is, not on the meta device.
    with torch.inference_mode(False), torch.no_grad():
        table = grid_table(source, parts, order=(2, 1, 0)).float()
        if resized:
            table = resize_table(table, grid=built, to=grid[1:])
        return torch.cat([table.new_zeros(1, width), table]).to(device)


class _Scaled(nn.Module):
    """A code with one factor for all of its features, learnt from 0.1 or fixed at 1."""

    def __init__(self, width: int, *, learnt: bool) -> None:
        super().__init__()
        self.width, self.learnt = width, learnt
        self.scale: Tensor
        if learnt:
            self.scale = nn.Parameter(torch.empty(1))
        else:
            self.register_buffer("scale", torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the factor to its first value."""
        with torch.no_grad():
            self.scale.fill_(0.1 if self.learnt else 1.0)

    def _pair(self, values: Tensor) -> Tensor:
        """Map `(..., 2)` to `(..., width)`, half of it for each value; zeros where one is NaN."""
        first = self.width // 2
        known = ~values.isnan().any(-1, keepdim=True)
        values = values.nan_to_num()
        # Angles in float32, as the weights were trained: years are large numbers.
        codes = [
            sincos(value, part, dtype=torch.float32)
            for value, part in zip(values.float().unbind(-1), (first, self.width - first), strict=True)
        ]
        return self.scale * (torch.cat(codes, dim=-1) * known).to(self.scale.dtype)


class TimeEmbed(_Scaled):
    """The code of each frame's date, half of it for the year and half for the day of the year.

    Args:
        width: Features.
        learnt: Whether its factor is learnt.
    """

    def forward(self, time: Tensor, per_frame: int) -> Tensor:
        """Map dates `(B, T, 2)`, year and day as they are, to `(B, T * per_frame, D)`."""
        return self._pair(time).repeat_interleave(per_frame, dim=1)


class LocationEmbed(_Scaled):
    """The code of an image's place, half of it for each of its two coordinates.

    Args:
        width: Features.
        learnt: Whether its factor is learnt.
    """

    def forward(self, location: Tensor) -> Tensor:
        """Map places `(B, 2)` in degrees, latitude first, to `(B, 1, D)`."""
        return self._pair(location)[:, None]


def coordinate_codes(
    time_code: nn.Module | None,
    location_code: nn.Module | None,
    grid: tuple[int, int, int],
    time: Tensor | None,
    location: Tensor | None,
) -> Tensor | None:
    """Return what date and place add to tokens, broadcastable to `(B, L, D)`; None if that is nothing."""
    added: Tensor | None = None
    if time_code is not None and time is not None:
        added = time_code(time, grid[1] * grid[2])
    if location_code is not None and location is not None:
        place = location_code(location)
        added = place if added is None else added + place
    return added


def positions_for(table: Tensor, grid: tuple[int, int, int], *, built: tuple[int, int, int]) -> Tensor:
    """Return the position table of a grid, `(1, 1 + L, D)`: the network's own, or one made for the grid."""
    if grid == built:
        return table
    made = position_table(table.shape[-1], built[1:], grid, table.device, True)
    return made[None].to(table.dtype)


def write_positions(table: Tensor, grid: tuple[int, int, int]) -> None:
    """Write the positions of a grid into a buffer `(1, 1 + L, D)`."""
    with torch.no_grad():
        table.copy_(position_table(table.shape[-1], grid[1:], grid, table.device, False)[None])
