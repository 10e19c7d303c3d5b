"""Sine series on the unit interval and square: fields that vanish on the boundary."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["eigenvalues", "sine_matrix", "sine_transform"]


def sine_matrix(n: int, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """Return the orthogonal, symmetric matrix `(n, n)` of sines sqrt(2/(n+1)) sin(pi j k / (n+1)).

    It maps values on `n` inner points to sine coefficients and back. As a product of matrices the transform
    is exact for every `n`, also where n + 1 is prime, and at the sizes used as fast as a Fourier transform.
    """
    index = torch.arange(1, n + 1, dtype=torch.int64)
    turns = torch.remainder(index[:, None] * index, 2 * (n + 1)).double()
    matrix = math.sqrt(2 / (n + 1)) * torch.sin(math.pi / (n + 1) * turns)
    return matrix.to(dtype=dtype, device=device)


def sine_transform(field: Tensor, matrix: Tensor) -> Tensor:
    """Map values `(..., n, n)` to coefficients, or back."""
    return matrix @ field @ matrix


def eigenvalues(
    n: int, *, scheme: str = "difference", dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Tensor:
    """Return the eigenvalues `(n, n)` of minus the Laplace operator for the sine modes.

    Args:
        n: Number of inner points along each axis; the spacing is 1/(n+1).
        scheme: `difference` for the five-point operator, `spectral` for pi^2 |k|^2.
        dtype: Type of the result.
        device: Its device.

    Raises:
        ValueError: If the scheme is not known.
    """
    k = torch.arange(1, n + 1, dtype=torch.float64)
    if scheme == "spectral":
        one = (math.pi * k) ** 2
    elif scheme == "difference":
        one = (2 * (n + 1) * torch.sin(math.pi * k / (2 * (n + 1)))) ** 2
    else:
        raise ValueError(f"the scheme is '{scheme}'; it must be 'difference' or 'spectral'")
    return (one[:, None] + one).to(dtype=dtype, device=device)
