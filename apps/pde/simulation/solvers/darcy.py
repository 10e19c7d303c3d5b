"""Darcy flow -div(a grad u) = f on the unit square with u = 0 on the boundary, by finite volumes."""

from __future__ import annotations

import torch
from torch import Tensor

from apps.pde.simulation.solvers.sines import eigenvalues, sine_matrix, sine_transform

__all__ = ["solve_darcy"]


def solve_darcy(
    coefficient: Tensor, source: Tensor, *, tolerance: float | None = None, iterations: int = 500
) -> Tensor:
    """Return u `(B, N, N)` at the points i/(N-1), the boundary included.

    Five-point equations with harmonic means of `a` on the faces, solved by conjugate gradients with the
    Poisson equation as preconditioner: the number of iterations grows with the contrast of `a`, not with the
    grid. Each sample stops at its own residual.

    Args:
        coefficient: a `(B, N, N)`, positive.
        source: f `(B, N, N)`; its values on the boundary have no effect.
        tolerance: Relative residual; by default 1e-10 in float64 and 1e-5 in float32.
        iterations: Greatest number of iterations.

    Raises:
        ValueError: If a coefficient is not positive.
        ArithmeticError: If a sample has not converged.
    """
    if not bool((coefficient > 0).all()):
        raise ValueError("the coefficient of the Darcy equation must be positive everywhere")
    n, dtype, device = coefficient.shape[-1], coefficient.dtype, coefficient.device
    goal = tolerance or (1e-10 if dtype == torch.float64 else 1e-5)
    matrix = sine_matrix(n - 2, dtype=dtype, device=device)
    values = eigenvalues(n - 2, dtype=dtype, device=device)
    flow_x, flow_y = ((n - 1) ** 2 * face for face in _faces(coefficient))

    def operator(u: Tensor) -> Tensor:
        wide = torch.nn.functional.pad(u, (1, 1, 1, 1))
        x = flow_x * wide[:, :, 1:-1].diff(dim=1)
        y = flow_y * wide[:, 1:-1].diff(dim=2)
        return -x.diff(dim=1) - y.diff(dim=2)

    residual = source[:, 1:-1, 1:-1].clone()
    inner = torch.zeros_like(residual)
    limit = goal * _norm(residual)
    better = sine_transform(sine_transform(residual, matrix) / values, matrix)
    direction = better
    product = _dot(residual, better)
    for _ in range(iterations):
        going = _norm(residual) > limit
        if not bool(going.any()):
            break
        image = operator(direction)
        length = torch.where(going, product / _dot(direction, image), 0.0)
        inner = inner + length * direction
        residual = residual - length * image
        better = sine_transform(sine_transform(residual, matrix) / values, matrix)
        following = _dot(residual, better)
        direction = torch.where(going, better + following / product * direction, direction)
        product = torch.where(going, following, product)
    else:
        raise ArithmeticError(
            f"Darcy flow has not converged to a relative residual of {goal:g} in {iterations} iterations: "
            "allow more iterations or a larger tolerance"
        )
    return torch.nn.functional.pad(inner, (1, 1, 1, 1))


def _faces(coefficient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the harmonic means on faces normal to x `(B, N-1, N-2)` and to y `(B, N-2, N-1)`."""
    rows, columns = coefficient[:, :, 1:-1], coefficient[:, 1:-1]
    x = 2 * rows[:, 1:] * rows[:, :-1] / (rows[:, 1:] + rows[:, :-1])
    y = 2 * columns[:, :, 1:] * columns[:, :, :-1] / (columns[:, :, 1:] + columns[:, :, :-1])
    return x, y


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(1, 2), keepdim=True)


def _norm(a: Tensor) -> Tensor:
    return _dot(a, a).sqrt()
