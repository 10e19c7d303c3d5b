"""Fourier series of real periodic fields on the unit square: wavenumbers, padded products, vector calculus,
and steps in time.

Fields are `(..., N, N)` with x before y; their modes `(..., N, N // 2)` hold n_x in FFT order and
n_y = 0 ... N/2 - 1. The Nyquist modes have no odd derivative and are left out. Coefficients are
amplitudes (the forward transform carries 1/N^2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = [
    "advance",
    "divergence",
    "from_modes",
    "from_padded",
    "project",
    "to_modes",
    "to_padded",
    "velocity_from_vorticity",
    "vorticity",
    "wavenumbers",
]


Change = Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, Tensor]]


def wavenumbers(n: int, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return the integer mode numbers n_x `(N, 1)` and n_y `(1, N // 2)`.

    Raises:
        ValueError: If `n` is odd or below 4.
    """
    if n < 4 or n % 2:
        raise ValueError(f"a Fourier grid needs an even number of points, at least 4; it has {n}")
    x = torch.fft.fftfreq(n, 1 / n, dtype=dtype, device=device)
    return x[:, None], torch.arange(n // 2, dtype=dtype, device=device)[None]


def to_modes(field: Tensor) -> Tensor:
    """Map `(..., N, N)` to its modes `(..., N, N // 2)`."""
    half = field.shape[-1] // 2
    modes = torch.fft.rfft2(field, norm="forward")[..., :half].contiguous()
    modes[..., half, :] = 0
    return modes


def from_modes(modes: Tensor) -> Tensor:
    """Map modes `(..., N, N // 2)` to the field `(..., N, N)`."""
    return torch.fft.irfft(torch.fft.ifft(modes, dim=-2, norm="forward"), n=modes.shape[-2], norm="forward")


def to_padded(modes: Tensor) -> Tensor:
    """Map modes `(..., N, N // 2)` to field values on the 3N/2 grid, where products do not alias."""
    n, half = modes.shape[-2:]
    fine = 3 * half
    padded = modes.new_zeros(*modes.shape[:-2], fine, half)
    padded[..., :half, :] = modes[..., :half, :]
    padded[..., fine - half + 1 :, :] = modes[..., n - half + 1 :, :]
    return torch.fft.irfft(torch.fft.ifft(padded, dim=-2, norm="forward"), n=fine, norm="forward")


def from_padded(field: Tensor) -> Tensor:
    """Map values on the 3N/2 grid to the modes `(..., N, N // 2)`, dropping those beyond."""
    fine = field.shape[-1]
    half = fine // 3
    wide = torch.fft.rfft2(field, norm="forward")
    modes = wide.new_zeros(*wide.shape[:-2], 2 * half, half)
    modes[..., :half, :] = wide[..., :half, :half]
    modes[..., half + 1 :, :] = wide[..., fine - half + 1 :, :half]
    return modes


def project(velocity: Tensor) -> Tensor:
    """Return the divergence-free part of `(..., 2, N, N)`, its mean kept (Leray projection)."""
    modes = to_modes(velocity)
    kx, ky = _angular(velocity)
    along = (kx * modes[..., 0, :, :] + ky * modes[..., 1, :, :]) * _inverse_square(kx, ky)
    return from_modes(
        torch.stack([modes[..., 0, :, :] - kx * along, modes[..., 1, :, :] - ky * along], dim=-3)
    )


def vorticity(velocity: Tensor) -> Tensor:
    """Return dv/dx - du/dy `(..., N, N)` of `(..., 2, N, N)`."""
    modes = to_modes(velocity)
    kx, ky = _angular(velocity)
    return from_modes(1j * (kx * modes[..., 1, :, :] - ky * modes[..., 0, :, :]))


def divergence(velocity: Tensor) -> Tensor:
    """Return du/dx + dv/dy `(..., N, N)` of `(..., 2, N, N)`."""
    modes = to_modes(velocity)
    kx, ky = _angular(velocity)
    return from_modes(1j * (kx * modes[..., 0, :, :] + ky * modes[..., 1, :, :]))


def velocity_from_vorticity(field: Tensor) -> Tensor:
    """Return the velocity `(..., 2, N, N)` without mean of vorticity `(..., N, N)`, whose mean is dropped.

    The stream function solves -lap psi = omega; u = dpsi/dy and v = -dpsi/dx.
    """
    kx, ky = _angular(field)
    stream = to_modes(field) * _inverse_square(kx, ky)
    return from_modes(1j * torch.stack([ky * stream, -kx * stream], dim=-3))


def advance(state: Tensor, span: float, change: Change, *, companions: Sequence[Tensor] = ()) -> Tensor:
    """Return the state after `span` by the third-order SSP Runge-Kutta method of Shu and Osher (1988).

    Every step of a sample is the rest of its span divided by the smallest number of steps that are short
    enough at the moment, so that no sample depends on its batch. Those that arrive leave the working batch.

    Args:
        state: `(B, ...)`, real or complex.
        span: Length of time, positive.
        change: `(state, companions)` to the time derivative and each sample's longest stable step `(B,)`.
        companions: Tensors `(B, ...)` that `change` needs and that do not change.

    Raises:
        FloatingPointError: If a sample leaves the range of finite numbers.
    """
    result = torch.empty_like(state)
    rows = torch.arange(len(state), device=state.device)
    left = torch.full((len(state),), span, dtype=torch.float64, device=state.device)
    shape = (-1,) + (1,) * (state.ndim - 1)
    while len(rows):
        rate, longest = change(state, companions)
        steps = torch.ceil(left / longest.double()).clamp(min=1)
        if not bool(torch.isfinite(steps).all()):
            raise FloatingPointError(
                "a solution grew beyond the range of numbers: take a smaller Courant number"
            )
        length = left / steps
        step = length.to(longest.dtype).reshape(shape)
        first = state + step * rate
        second = 0.75 * state + 0.25 * (first + step * change(first, companions)[0])
        state = state / 3 + (2 / 3) * (second + step * change(second, companions)[0])
        left = left - length
        going = steps > 1
        if bool(going.all()):
            continue
        result[rows[~going]] = state[~going]
        state, rows, left = state[going], rows[going], left[going]
        companions = [one[going] for one in companions]
    return result


def _angular(field: Tensor) -> tuple[Tensor, Tensor]:
    nx, ny = wavenumbers(field.shape[-1], dtype=field.dtype, device=field.device)
    return 2 * math.pi * nx, 2 * math.pi * ny


def _inverse_square(kx: Tensor, ky: Tensor) -> Tensor:
    square = kx**2 + ky**2
    square[0, 0] = 1
    inverse = 1 / square
    inverse[0, 0] = 0
    return inverse
