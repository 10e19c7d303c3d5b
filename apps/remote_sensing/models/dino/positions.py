"""Resizing a learned table of positions to another grid, as DINOv2 does (Oquab 2023, arXiv 2304.07193)."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from core.errors import UserError

__all__ = ["resize_grid", "side_of"]


def resize_grid(table: Tensor, grid: tuple[int, int], *, antialias: bool, offset: float) -> Tensor:
    """Resize the positions of a square grid bicubically.

    Args:
        table: `(1, N, D)`, row by row, N a square number; computed in float32 at least.
        grid: Rows and columns wanted.
        antialias: Whether to smooth first where the grid shrinks.
        offset: Added to both counts before they become scale factors. Published weights were trained with
            0.1, which shifts every sampling point a little; 0 samples exactly.

    Returns:
        `(1, rows * columns, D)` in the table's type.

    Raises:
        UserError: If N is no square number.
    """
    side = side_of(table.shape[1])
    image = table.float().unflatten(1, (side, side)).permute(0, 3, 1, 2)  # B N D -> B D h w
    if offset:
        factors = tuple((count + offset) / side for count in grid)
        resized = F.interpolate(image, scale_factor=factors, mode="bicubic", antialias=antialias)
    else:
        resized = F.interpolate(image, size=grid, mode="bicubic", antialias=antialias)
    if tuple(resized.shape[-2:]) != grid:
        raise UserError(
            f"a grid of {side}x{side} positions with the offset {offset} gives "
            f"{resized.shape[-2]}x{resized.shape[-1]} instead of {grid[0]}x{grid[1]}; keep the offset below 1"
        )
    return resized.flatten(2).transpose(1, 2).to(table.dtype)


def side_of(count: int) -> int:
    """Return the side of a square grid of `count` positions.

    Raises:
        UserError: If `count` is no square number.
    """
    side = math.isqrt(count)
    if side * side != count:
        raise UserError(f"{count} positions are no square grid, and nothing says what else they are")
    return side
