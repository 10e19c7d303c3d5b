"""Allen-Cahn equation u_t = lap u - r u (u^2 - 1) on the unit square with u = 0 on the boundary.

The flows of diffusion (in the sine basis) and of reaction are exact and alternate as in Strang (1968); runs
with m and 2m steps are combined by Richardson's rule to fourth order, which is possible as the splitting is
symmetric and its error a series in even powers of the step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from apps.pde.simulation.solvers.sines import eigenvalues, sine_matrix, sine_transform

__all__ = ["solve_allen_cahn"]


def solve_allen_cahn(
    initial: Tensor, times: Tensor, *, rate: float, longest: float = 0.1, extrapolate: bool = True
) -> Tensor:
    """Return the phase `(B, T, N, N)` at `times`.

    Args:
        initial: `(B, N, N)` at `times[0]`, zero on the boundary; the points are i/(N-1).
        times: `(T,)` increasing.
        rate: r, the square of 220 for the published set.
        longest: Greatest step of the coarse run, in units of 1/r.
        extrapolate: Combine with a run of half the step.
    """
    coarse = _run(initial, times, rate=rate, longest=longest)
    if not extrapolate:
        return coarse
    fine = _run(initial, times, rate=rate, longest=longest, finer=2)
    return (4 * fine - coarse) / 3


def _run(initial: Tensor, times: Tensor, *, rate: float, longest: float, finer: int = 1) -> Tensor:
    n, dtype, device = initial.shape[-1], initial.dtype, initial.device
    matrix = sine_matrix(n - 2, dtype=torch.float64)
    value = torch.diagonal(eigenvalues(n - 2, scheme="spectral", dtype=torch.float64)) / 2
    inner = initial[:, 1:-1, 1:-1]
    frames = initial.new_zeros(len(initial), len(times), n, n)
    frames[:, 0] = initial
    for index, span in enumerate(times.double().diff().tolist()):
        count = max(1, -int(-span * rate // longest)) * finer
        step = span / count
        half = ((matrix * torch.exp(-value * step / 2)) @ matrix).to(dtype=dtype, device=device)
        whole = ((matrix * torch.exp(-value * step)) @ matrix).to(dtype=dtype, device=device)
        decay = torch.exp(torch.tensor(-2 * rate * step, dtype=torch.float64)).item()
        inner = sine_transform(inner, half)
        for left in reversed(range(count)):
            square = inner * inner
            inner = inner * torch.rsqrt(square * (1 - decay) + decay)
            inner = sine_transform(inner, whole if left else half)
        frames[:, index + 1, 1:-1, 1:-1] = inner
    return frames
