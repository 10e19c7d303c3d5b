"""Fixed sine and cosine codes of positions on grids, and tables resized to another grid.

The codes are those of Vaswani et al. 2017 (arXiv 1706.03762) with all sines before all cosines; each axis of
a grid has its own part of the features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["grid_table", "resize_table", "sincos"]


def sincos(
    positions: Tensor, width: int, *, base: float = 10000.0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return `sin(p w_k)` for all `k` and then `cos(p w_k)` of each position, `(*positions.shape, width)`.

    `w_k = base ** (-k / (width / 2))` for `k = 0 .. width / 2 - 1`. Angles are computed, and given, in
    `dtype`, which is part of the code where positions are large.

    Raises:
        ValueError: If the width is odd.
    """
    if width % 2:
        raise ValueError(f"width is {width}; a code of sines and cosines must be even")
    steps = torch.arange(width // 2, dtype=dtype, device=positions.device)
    frequencies = 1.0 / base ** (steps / (width / 2.0))
    angles = positions.to(dtype)[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def grid_table(grid: Sequence[int], widths: Sequence[int], *, order: Sequence[int] | None = None) -> Tensor:
    """Return the codes of all places of a grid, `(prod(grid), sum(widths))` float64, row-major.

    Each axis has `widths` features; `order` names the axes in the order of their parts within a row.
    """
    axes = torch.meshgrid(*(torch.arange(n, device="cpu") for n in grid), indexing="ij")
    codes = [sincos(positions.flatten(), width) for positions, width in zip(axes, widths, strict=True)]
    return torch.cat([codes[axis] for axis in order or range(len(codes))], dim=-1)


def resize_table(
    table: Tensor,
    *,
    grid: tuple[int, int],
    to: tuple[int, int],
    align_corners: bool = True,
    antialias: bool = False,
) -> Tensor:
    """Return the rows `(T * h * w, D)` of a position table, each of T frames row-major over `grid`, on the
    grid `to`, bicubic.

    `align_corners` leaves the centres of the corner places, not their edges, where they are; with `antialias`
    a smaller grid averages over the places it leaves out.
    """
    frames = table.reshape(-1, *grid, table.shape[-1]).movedim(-1, 1)  # T h w D -> T D h w
    resized = F.interpolate(frames, to, mode="bicubic", align_corners=align_corners, antialias=antialias)
    return resized.movedim(1, -1).reshape(-1, table.shape[-1])
