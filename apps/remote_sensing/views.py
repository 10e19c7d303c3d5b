"""Two views of each scene: two dates where there are several, each cropped and turned at random."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cropped", "two_dates", "two_views"]


def two_views(
    images: Tensor,
    *,
    size: int | None = None,
    scale: tuple[float, float] = (0.2, 1.0),
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Return two views of each scene.

    Args:
        images: `(B, C, H, W)`, or `(B, C, T, H, W)` of which two different dates are drawn.
        size: Side of the views in pixels; None keeps H and W.
        scale: Smallest and largest share of the area that a view shows.
        generator: On the images' device; None is torch's own.

    Returns:
        Two `(B, C, size, size)`.
    """
    first, second = two_dates(images, generator=generator) if images.ndim == 5 else (images, images)
    return (
        cropped(first, size=size, scale=scale, generator=generator),
        cropped(second, size=size, scale=scale, generator=generator),
    )


def two_dates(images: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Return two dates of each sample, or the only one twice, `(B, C, T, H, W)` to twice `(B, C, H, W)`."""
    batch, count = images.shape[0], images.shape[2]
    drawn = torch.rand(batch, count, generator=generator, device=images.device).argsort(dim=1)
    rows = torch.arange(batch, device=images.device)
    return images[rows, :, drawn[:, 0]], images[rows, :, drawn[:, min(1, count - 1)]]


def cropped(
    images: Tensor,
    *,
    size: int | None = None,
    scale: tuple[float, float] = (0.2, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Cut a random square of each image, flip and turn it by quarters, and resize it bilinearly.

    An image from above has no upper side, so all eight positions are equally likely. All samples of a batch
    go through one sampling of the grid.

    Args:
        images: `(B, C, H, W)`.
        size: Side of the result in pixels; None keeps H and W.
        scale: Smallest and largest share of the area.
        generator: On the images' device; None is torch's own.
    """
    batch, device = len(images), images.device

    def draw() -> Tensor:
        return torch.rand(batch, generator=generator, device=device)

    side = (scale[0] + (scale[1] - scale[0]) * draw()).sqrt()
    x, y = ((1 - side) * (2 * draw() - 1) for _ in range(2))
    across, down, swapped = (draw() < 0.5 for _ in range(3))
    columns = torch.where(across, -side, side)
    rows = torch.where(down, -side, side)
    zero = torch.zeros_like(side)
    straight = torch.stack([columns, zero, x, zero, rows, y], dim=1)
    turned = torch.stack([zero, columns, x, rows, zero, y], dim=1)
    where = torch.where(swapped[:, None], turned, straight).view(batch, 2, 3).to(images.dtype)
    to = images.shape[-2:] if size is None else (size, size)
    grid = F.affine_grid(where, [batch, 1, *to], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
