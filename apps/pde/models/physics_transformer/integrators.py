"""Explicit one-step integrators of `dx/dt = f(x)`."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

__all__ = ["euler", "heun", "rk4"]

Slope = Callable[[Tensor], Tensor]


def euler(f: Slope, x: Tensor, step: float = 1.0) -> Tensor:
    """Forward Euler, first order: `x + h f(x)`."""
    return x + step * f(x)


def heun(f: Slope, x: Tensor, step: float = 1.0) -> Tensor:
    """Heun's method, second order: the mean of the slopes at both ends of an Euler step."""
    first = f(x)
    return x + step / 2 * (first + f(x + step * first))


def rk4(f: Slope, x: Tensor, step: float = 1.0) -> Tensor:
    """The classical Runge-Kutta method, fourth order."""
    k1 = f(x)
    k2 = f(x + step / 2 * k1)
    k3 = f(x + step / 2 * k2)
    k4 = f(x + step * k3)
    return x + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
