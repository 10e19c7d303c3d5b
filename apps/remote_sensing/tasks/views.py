"""Two views of each scene: two dates where there are several, each cropped and turned at random."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cropped", "draws_of_views", "two_dates", "two_views"]

_DRAWS = 6  # of one view: its side, two coordinates, two mirrors, and whether the axes are swapped


def draws_of_views(images: Tensor) -> int:
    """Return how many random numbers a sample's two views take."""
    return 2 * _DRAWS + (images.shape[2] if images.ndim == 5 else 0)


def two_views(
    images: Tensor,
    *,
    size: int | None = None,
    scale: tuple[float, float] = (0.2, 1.0),
    numbers: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return two views of each scene.

    Args:
        images: `(B, C, H, W)`, or `(B, C, T, H, W)` of which two different dates are drawn.
        size: Side of the views in pixels; None keeps H and W.
        scale: Smallest and largest share of the area that a view shows.
        numbers: `(B, draws_of_views(images))` in [0, 1), all that is drawn; None draws them from torch's own
            stream.

    Returns:
        Two `(B, C, size, size)`.
    """
    numbers = _drawn(images, draws_of_views(images)) if numbers is None else numbers
    both = (images, images)
    if images.ndim == 5:
        both = two_dates(images, numbers=numbers[:, 2 * _DRAWS :])
    first, second = (
        cropped(one, size=size, scale=scale, numbers=part)
        for one, part in zip(both, numbers[:, : 2 * _DRAWS].chunk(2, dim=1), strict=True)
    )
    return first, second


def two_dates(images: Tensor, *, numbers: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return two dates of each sample, or the only one twice, `(B, C, T, H, W)` to twice `(B, C, H, W)`.

    Args:
        images: All dates.
        numbers: `(B, T)`, in whose order dates are taken; None draws them.
    """
    batch, count = images.shape[0], images.shape[2]
    order = (_drawn(images, count) if numbers is None else numbers).argsort(dim=1)
    rows = torch.arange(batch, device=images.device)
    return images[rows, :, order[:, 0]], images[rows, :, order[:, min(1, count - 1)]]


def cropped(
    images: Tensor,
    *,
    size: int | None = None,
    scale: tuple[float, float] = (0.2, 1.0),
    numbers: Tensor | None = None,
) -> Tensor:
    """Cut a random square of each image, flip and turn it by quarters, and resize it bilinearly.

    An image from above has no upper side, so all eight positions are equally likely. All samples of a batch
    go through one sampling of the grid.

    Args:
        images: `(B, C, H, W)`.
        size: Side of the result in pixels; None keeps H and W.
        scale: Smallest and largest share of the area.
        numbers: `(B, 6)` in [0, 1), all that is drawn; None draws them from torch's own stream.
    """
    batch = len(images)
    numbers = _drawn(images, _DRAWS) if numbers is None else numbers
    share, right, low, *turns = numbers.float().unbind(1)
    side = (scale[0] + (scale[1] - scale[0]) * share).sqrt()
    x, y = ((1 - side) * (2 * place - 1) for place in (right, low))
    across, down, swapped = (turn < 0.5 for turn in turns)
    columns = torch.where(across, -side, side)
    rows = torch.where(down, -side, side)
    zero = torch.zeros_like(side)
    straight = torch.stack([columns, zero, x, zero, rows, y], dim=1)
    turned = torch.stack([zero, columns, x, rows, zero, y], dim=1)
    where = torch.where(swapped[:, None], turned, straight).view(batch, 2, 3).to(images.dtype)
    to = images.shape[-2:] if size is None else (size, size)
    grid = F.affine_grid(where, [batch, 1, *to], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _drawn(images: Tensor, count: int) -> Tensor:
    return torch.rand(len(images), count, device=images.device)
