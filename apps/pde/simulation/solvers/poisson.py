"""Poisson equation -lap u = f on the unit square with u = 0 on the boundary, by sine transforms."""

from __future__ import annotations

import torch
from torch import Tensor

from apps.pde.simulation.solvers.sines import eigenvalues, sine_matrix, sine_transform

__all__ = ["solve_poisson"]


def solve_poisson(source: Tensor, *, scheme: str = "difference") -> Tensor:
    """Return u `(B, N, N)` of `source` `(B, N, N)` at the points i/(N-1), the boundary included.

    Args:
        source: f; its values on the boundary have no effect.
        scheme: `difference` solves the five-point equations exactly (second order); `spectral` solves the
            sine series, which is better only where f vanishes on the boundary.

    Raises:
        ValueError: If the scheme is not known.
    """
    inner = source.shape[-1] - 2
    matrix = sine_matrix(inner, dtype=source.dtype, device=source.device)
    values = eigenvalues(inner, scheme=scheme, dtype=source.dtype, device=source.device)
    solution = torch.zeros_like(source)
    modes = sine_transform(source[:, 1:-1, 1:-1], matrix)
    solution[:, 1:-1, 1:-1] = sine_transform(modes / values, matrix)
    return solution
