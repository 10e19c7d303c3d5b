"""Random numbers and shapes that several families share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["centred_images", "integer", "nodes", "periodic_points", "uniform"]


def uniform(generator: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Return float64 numbers of the given shape, uniform in `low` to `high`."""
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def integer(generator: torch.Generator, low: int, high: int) -> Tensor:
    """Return a whole number from `low` to `high`, both included, as a float64 scalar."""
    return torch.randint(low, high + 1, (), generator=generator).double()


def periodic_points(n: int, *, device: torch.device | str = "cpu") -> Tensor:
    """Return i/n `(N,)` float64, the points of a periodic axis."""
    return torch.arange(n, dtype=torch.float64, device=device) / n


def nodes(n: int, *, device: torch.device | str = "cpu") -> Tensor:
    """Return i/(n-1) `(N,)` float64, the points of an axis that includes both ends."""
    return torch.linspace(0.0, 1.0, n, dtype=torch.float64, device=device)


def centred_images(points: Tensor, centres: Tensor, widths: Tensor, *, periodic: bool) -> Tensor:
    """Return Gaussians exp(-(x - c)^2 / (2 s^2)) `(B, K, N)` of points `(N,)`, centres and widths `(B, K)`.

    Periodic ones are summed with their neighbouring images, which makes them smooth at the seam.
    """
    distance = points - centres[..., None]
    width = widths[..., None] * math.sqrt(2)
    if not periodic:
        return torch.exp(-((distance / width) ** 2))
    return sum(
        (torch.exp(-(((distance + image) / width) ** 2)) for image in (-1.0, 0.0, 1.0)),
        start=torch.zeros_like(distance),
    )
