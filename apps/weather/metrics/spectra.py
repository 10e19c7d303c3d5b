"""Energy of fields by wave number along circles of latitude: a blurred forecast lacks it at small scales."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["zonal_spectrum"]

_RADIUS = 6367.5e3  # metres (WeatherBench 2)


def zonal_spectrum(field: Tensor, latitude: Tensor) -> Tensor:
    """Return `(..., H, W // 2 + 1)`: `S_0 = C |F_0|²`, `S_k = 2 C |F_k|²`, C the circle's metres.

    Args:
        field: `(..., H, W)` on longitudes that reach around the globe.
        latitude: `(H,)` in degrees.
    """
    waves = torch.fft.rfft(field, dim=-1, norm="forward").abs().square()
    twice = torch.full(waves.shape[-1:], 2.0, dtype=waves.dtype, device=waves.device)
    twice[0] = 1.0
    circle = 2 * math.pi * _RADIUS * latitude.deg2rad().cos()
    return waves * twice * circle.to(waves)[:, None]
