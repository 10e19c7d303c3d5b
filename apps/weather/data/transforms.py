"""Transforms of skewed variables before they are scaled (arXiv 2506.19088); each has an inverse."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["TRANSFORMS"]

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
