"""Blocks over tokens, with codes of a token's position, of its frame's date and of its image's place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from core.backbones.positions import grid_table, resize_table, sincos
from core.backbones.vit import EncoderBlock, reset_parts

__all__ = ["CodedBlocks", "LocationEmbed", "TimeEmbed", "position_table"]

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


class CodedBlocks(nn.Module):
    """Base of encoder and decoder: blocks over tokens whose positions, dates and places are coded.

    Attributes:
        grid: Frames, rows and columns of patches that the weights were trained on.
    """

    computed_buffers = ("pos_embed",)
    grid: tuple[int, int, int]
    pos_embed: Tensor

    def add_blocks(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        coordinates: Sequence[str],
        learn_scale: bool,
        eps: float,
        drop_path: float = 0.0,
    ) -> None:
        """Build the codes, the blocks and their norm; for the arguments see `Prithvi`."""
        self.register_buffer("pos_embed", torch.empty(1, 1 + math.prod(self.grid), width))
        self.time_code = TimeEmbed(width, learnt=learn_scale) if "time" in coordinates else None
        self.location_code = LocationEmbed(width, learnt=learn_scale) if "location" in coordinates else None
        self.layers = nn.ModuleList(
            EncoderBlock(width, heads, mlp_ratio, drop_path=drop_path, eps=eps) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=eps)

    def reset_parameters(self) -> None:
        """Draw every weight and compute every buffer anew, as a network built on the meta device needs."""
        reset_parts(self)
        self.write_own()

    def write_own(self) -> None:
        """Draw what no layer holds, and compute the table of positions."""
        with torch.no_grad():
            width, device = self.pos_embed.shape[-1], self.pos_embed.device
            self.pos_embed.copy_(position_table(width, self.grid[1:], self.grid, device, False)[None])

    def positions(self, grid: tuple[int, int, int]) -> Tensor:
        """Return the position table of a grid, `(1, 1 + L, D)`: the network's own, or one made for it."""
        own = self.pos_embed
        if grid == self.grid:
            return own
        return position_table(own.shape[-1], self.grid[1:], grid, own.device, True)[None].to(own.dtype)

    def codes(self, grid: tuple[int, int, int], time: Tensor | None, location: Tensor | None) -> Tensor:
        """Return what position, date and place add to the tokens of patches, broadcastable to `(B, L, D)`."""
        coded: Tensor | None = None
        if self.time_code is not None and time is not None:
            coded = self.time_code(time, grid[1] * grid[2])
        if self.location_code is not None and location is not None:
            place = self.location_code(location)
            coded = place if coded is None else coded + place
        positions = self.positions(grid)[:, 1:]
        return positions if coded is None else positions + coded
