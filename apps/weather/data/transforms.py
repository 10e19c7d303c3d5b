"""Transforms of skewed variables before they are scaled (arXiv 2506.19088), and bounds of others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["BOUNDS", "TRANSFORMS"]

Pair = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]

_AMOUNT = 1e-5  # metres of water that count as one
_EVAPORATION = -5000.0
_ENERGY = 1e-6

TRANSFORMS: dict[str, Pair] = {
    "log_amount": (lambda x: torch.log1p(x / _AMOUNT), lambda y: torch.expm1(y) * _AMOUNT),
    "evaporation": (lambda x: x * _EVAPORATION, lambda y: y / _EVAPORATION),
    "energy": (lambda x: x * _ENERGY, lambda y: y / _ENERGY),
}
"""Name to the function and its inverse: precipitation and runoff in m, evaporation in m (negative where water
leaves the ground), radiation and heat in J/m².
"""

_AMOUNTS = (
    "q tp r ro tcw tcwv swvl1 swvl2 swvl3 swvl4 pm1 pm2p5 pm10 tcco tc_no tcno2 tcso2 gtco3 co no no2 so2 go3"
)
BOUNDS: dict[str, tuple[float | None, float | None]] = {
    **dict.fromkeys(_AMOUNTS.split(), (0.0, None)), "tcc": (0.0, 1.0)
}  # fmt: skip
"""Least and greatest value that a variable can have."""
