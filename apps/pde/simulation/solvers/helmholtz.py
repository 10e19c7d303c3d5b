"""Helmholtz equation -lap u - w^2 a u = 0 on the unit square with a constant value on the boundary."""

from __future__ import annotations

import torch
from torch import Tensor

from apps.pde.simulation.solvers.sines import eigenvalues, sine_matrix, sine_transform

__all__ = ["solve_helmholtz"]


def solve_helmholtz(
    coefficient: Tensor,
    *,
    boundary: Tensor,
    frequency: float,
    tolerance: float | None = None,
    iterations: int = 500,
) -> Tensor:
    """Return u `(B, N, N)` at the points i/(N-1), the boundary included.

    With L the five-point operator of -lap and u = b + L^(-1/2) z the problem is
    (I - w^2 L^(-1/2) a L^(-1/2)) z = w^2 L^(-1/2) a b: the identity less an operator of quickly falling
    eigenvalues. It is indefinite above the first resonance; conjugate gradients on the normal equations
    solve it in few steps.

    Args:
        coefficient: a `(B, N, N)`.
        boundary: b `(B,)`.
        frequency: w.
        tolerance: Relative residual; by default 1e-10 in float64 and 1e-5 in float32.
        iterations: Greatest number of iterations.

    Raises:
        ArithmeticError: If a sample has not converged, as at a resonance.
    """
    n, dtype, device = coefficient.shape[-1], coefficient.dtype, coefficient.device
    goal = tolerance or (1e-10 if dtype == torch.float64 else 1e-5)
    matrix = sine_matrix(n - 2, dtype=dtype, device=device)
    root = eigenvalues(n - 2, dtype=dtype, device=device).rsqrt()
    weight = frequency**2 * coefficient[:, 1:-1, 1:-1]
    edge = boundary.to(dtype)[:, None, None]

    def operator(z: Tensor) -> Tensor:
        inner = sine_transform(root * z, matrix)
        return z - root * sine_transform(weight * inner, matrix)

    residual = root * sine_transform(weight * edge, matrix)
    z = torch.zeros_like(residual)
    limit = goal**2 * _square(residual)
    gradient = operator(residual)
    direction, size = gradient, _square(gradient)
    for _ in range(iterations):
        going = _square(residual) > limit
        if not bool(going.any()):
            break
        image = operator(direction)
        length = torch.where(going, size / _square(image), 0.0)
        z = z + length * direction
        residual = residual - length * image
        gradient = operator(residual)
        following = _square(gradient)
        direction = torch.where(going, gradient + following / size * direction, direction)
        size = torch.where(going, following, size)
    else:
        raise ArithmeticError(
            f"the Helmholtz equation has not converged to a relative residual of {goal:g} in {iterations} "
            "iterations: the frequency is near a resonance, or the tolerance is too small"
        )
    solution = edge.expand(-1, n, n).clone()
    solution[:, 1:-1, 1:-1] += sine_transform(root * z, matrix)
    return solution


def _square(a: Tensor) -> Tensor:
    return (a * a).sum(dim=(1, 2), keepdim=True)
