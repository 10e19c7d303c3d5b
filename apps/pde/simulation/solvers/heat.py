"""Heat equation u_t = kappa lap u on the unit square, exact for the series that the grid can hold."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from apps.pde.simulation.solvers.sines import eigenvalues, sine_matrix, sine_transform

__all__ = ["solve_heat"]


def solve_heat(
    initial: Tensor, times: Tensor, *, diffusivity: Tensor | float, boundary: str = "periodic"
) -> Tensor:
    """Return the temperature `(B, T, N, N)` at `times`.

    Args:
        initial: `(B, N, N)` at `times[0]`. With a periodic boundary the points are i/N; with a fixed one they
            are i/(N-1), the boundary included, where the temperature is held at 0.
        times: `(T,)`.
        diffusivity: kappa, one number or `(B,)`.
        boundary: `periodic` or `fixed`.

    Raises:
        ValueError: If the boundary is not known.
    """
    dtype, device, n = initial.dtype, initial.device, initial.shape[-1]
    kappa = torch.as_tensor(diffusivity, dtype=dtype, device=device).expand(len(initial))
    spread = kappa[:, None] * (times - times[0]).to(dtype=dtype, device=device)
    if boundary == "periodic":
        x = torch.fft.fftfreq(n, 1 / n, dtype=dtype, device=device)
        y = torch.arange(n // 2 + 1, dtype=dtype, device=device)
        square = (2 * math.pi) ** 2 * (x[:, None] ** 2 + y**2)
        modes = torch.fft.rfft2(initial)[:, None] * torch.exp(-spread[..., None, None] * square)
        frames = torch.fft.irfft2(modes, s=(n, n))
    elif boundary == "fixed":
        inner = n - 2
        matrix = sine_matrix(inner, dtype=dtype, device=device)
        square = eigenvalues(inner, scheme="spectral", dtype=dtype, device=device)
        modes = sine_transform(initial[:, 1:-1, 1:-1], matrix)[:, None]
        frames = initial.new_zeros(len(initial), len(times), n, n)
        frames[..., 1:-1, 1:-1] = sine_transform(modes * torch.exp(-spread[..., None, None] * square), matrix)
    else:
        raise ValueError(f"the boundary is '{boundary}'; it must be 'periodic' or 'fixed'")
    frames[:, 0] = initial
    return frames
