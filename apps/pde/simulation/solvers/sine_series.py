"""Equations on the unit square by sine series: Poisson, Darcy, Helmholtz, heat and Allen-Cahn.

Fields vanish (Helmholtz: are constant) on the boundary; the points are i/(N-1), the boundary included. As a
product of matrices the sine transform is exact for every size, also where N - 1 is prime, and at the sizes
used as fast as a Fourier transform.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["sine_matrix", "solve_allen_cahn", "solve_darcy", "solve_heat", "solve_helmholtz", "solve_poisson"]

_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def solve_poisson(source: Tensor, *, scheme: str = "difference") -> Tensor:
    """Return u `(B, N, N)` of -lap u = f, u = 0 on the boundary.

    Args:
        source: f `(B, N, N)`; its values on the boundary have no effect.
        scheme: `difference` solves the five-point equations exactly (second order); `spectral` solves the
            sine series, which is better only where f vanishes on the boundary.

    Raises:
        ValueError: If the scheme is not known.
    """
    inner = source.shape[-1] - 2
    matrix = sine_matrix(inner, dtype=source.dtype, device=source.device)
    values = _eigenvalues(inner, scheme=scheme, dtype=source.dtype, device=source.device)
    solution = torch.zeros_like(source)
    modes = _transform(source[:, 1:-1, 1:-1], matrix)
    solution[:, 1:-1, 1:-1] = _transform(modes / values, matrix)
    return solution


def solve_darcy(
    coefficient: Tensor, source: Tensor, *, tolerance: float | None = None, iterations: int = 500
) -> Tensor:
    """Return u `(B, N, N)` of -div(a grad u) = f, u = 0 on the boundary, by finite volumes.

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
    goal = tolerance or _TOLERANCE[dtype]
    matrix = sine_matrix(n - 2, dtype=dtype, device=device)
    values = _eigenvalues(n - 2, dtype=dtype, device=device)
    flow_x, flow_y = ((n - 1) ** 2 * face for face in _faces(coefficient))

    def operator(u: Tensor) -> Tensor:
        wide = torch.nn.functional.pad(u, (1, 1, 1, 1))
        x = flow_x * wide[:, :, 1:-1].diff(dim=1)
        y = flow_y * wide[:, 1:-1].diff(dim=2)
        return -x.diff(dim=1) - y.diff(dim=2)

    def precondition(residual: Tensor) -> Tensor:
        return _transform(_transform(residual, matrix) / values, matrix)

    inner = _conjugate_gradients(
        source[:, 1:-1, 1:-1].clone(), operator, precondition, goal=goal, iterations=iterations,
        failure="Darcy flow has not converged {}: allow more iterations or a larger tolerance",
    )  # fmt: skip
    return torch.nn.functional.pad(inner, (1, 1, 1, 1))


def solve_helmholtz(
    coefficient: Tensor,
    *,
    boundary: Tensor,
    frequency: float,
    tolerance: float | None = None,
    iterations: int = 500,
) -> Tensor:
    """Return u `(B, N, N)` of -lap u - w^2 a u = 0 with a constant value on the boundary.

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
    goal = tolerance or _TOLERANCE[dtype]
    matrix = sine_matrix(n - 2, dtype=dtype, device=device)
    root = _eigenvalues(n - 2, dtype=dtype, device=device).rsqrt()
    weight = frequency**2 * coefficient[:, 1:-1, 1:-1]
    edge = boundary.to(dtype)[:, None, None]

    def operator(z: Tensor) -> Tensor:
        inner = _transform(root * z, matrix)
        return z - root * _transform(weight * inner, matrix)

    z = _conjugate_gradients(
        root * _transform(weight * edge, matrix), operator, operator, goal=goal, iterations=iterations,
        normal=True, failure="the Helmholtz equation has not converged {}: the frequency is near a "
        "resonance, or the tolerance is too small",
    )  # fmt: skip
    solution = edge.expand(-1, n, n).clone()
    solution[:, 1:-1, 1:-1] += _transform(root * z, matrix)
    return solution


def solve_heat(
    initial: Tensor, times: Tensor, *, diffusivity: Tensor | float, boundary: str = "periodic"
) -> Tensor:
    """Return the temperature `(B, T, N, N)` of u_t = kappa lap u at `times`, exact for the grid's series.

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
        square = _eigenvalues(inner, scheme="spectral", dtype=dtype, device=device)
        modes = _transform(initial[:, 1:-1, 1:-1], matrix)[:, None]
        frames = initial.new_zeros(len(initial), len(times), n, n)
        frames[..., 1:-1, 1:-1] = _transform(modes * torch.exp(-spread[..., None, None] * square), matrix)
    else:
        raise ValueError(f"the boundary is '{boundary}'; it must be 'periodic' or 'fixed'")
    frames[:, 0] = initial
    return frames


def solve_allen_cahn(
    initial: Tensor, times: Tensor, *, rate: float, longest: float = 0.1, extrapolate: bool = True
) -> Tensor:
    """Return the phase `(B, T, N, N)` of u_t = lap u - r u (u^2 - 1) at `times`.

    The flows of diffusion (in the sine basis) and of reaction are exact and alternate as in Strang (1968);
    runs with m and 2m steps are combined by Richardson's rule to fourth order, which is possible as the
    splitting is symmetric and its error a series in even powers of the step.

    Args:
        initial: `(B, N, N)` at `times[0]`, zero on the boundary; the points are i/(N-1).
        times: `(T,)` increasing.
        rate: r, the square of 220 for the published set.
        longest: Greatest step of the coarse run, in units of 1/r.
        extrapolate: Combine with a run of half the step.
    """
    coarse = _split_steps(initial, times, rate=rate, longest=longest)
    if not extrapolate:
        return coarse
    fine = _split_steps(initial, times, rate=rate, longest=longest, finer=2)
    return (4 * fine - coarse) / 3


def _split_steps(initial: Tensor, times: Tensor, *, rate: float, longest: float, finer: int = 1) -> Tensor:
    n, dtype, device = initial.shape[-1], initial.dtype, initial.device
    matrix = sine_matrix(n - 2, dtype=torch.float64)
    value = torch.diagonal(_eigenvalues(n - 2, scheme="spectral", dtype=torch.float64)) / 2
    inner = initial[:, 1:-1, 1:-1]
    frames = initial.new_zeros(len(initial), len(times), n, n)
    frames[:, 0] = initial
    for index, span in enumerate(times.double().diff().tolist()):
        count = max(1, -int(-span * rate // longest)) * finer
        step = span / count
        half = ((matrix * torch.exp(-value * step / 2)) @ matrix).to(dtype=dtype, device=device)
        whole = ((matrix * torch.exp(-value * step)) @ matrix).to(dtype=dtype, device=device)
        decay = torch.exp(torch.tensor(-2 * rate * step, dtype=torch.float64)).item()
        inner = _transform(inner, half)
        for left in reversed(range(count)):
            square = inner * inner
            inner = inner * torch.rsqrt(square * (1 - decay) + decay)
            inner = _transform(inner, whole if left else half)
        frames[:, index + 1, 1:-1, 1:-1] = inner
    return frames


def sine_matrix(n: int, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """Return the orthogonal, symmetric matrix `(n, n)` of sines sqrt(2/(n+1)) sin(pi j k / (n+1)).

    It maps values on `n` inner points to sine coefficients and back.
    """
    index = torch.arange(1, n + 1, dtype=torch.int64)
    turns = torch.remainder(index[:, None] * index, 2 * (n + 1)).double()
    matrix = math.sqrt(2 / (n + 1)) * torch.sin(math.pi / (n + 1) * turns)
    return matrix.to(dtype=dtype, device=device)


def _transform(field: Tensor, matrix: Tensor) -> Tensor:
    """Map values `(..., n, n)` to coefficients, or back."""
    return matrix @ field @ matrix


def _eigenvalues(
    n: int, *, scheme: str = "difference", dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Tensor:
    """Return the eigenvalues `(n, n)` of minus the Laplace operator for the sine modes on n inner points.

    `difference` are those of the five-point operator, `spectral` pi^2 |k|^2.
    """
    k = torch.arange(1, n + 1, dtype=torch.float64)
    if scheme == "spectral":
        one = (math.pi * k) ** 2
    elif scheme == "difference":
        one = (2 * (n + 1) * torch.sin(math.pi * k / (2 * (n + 1)))) ** 2
    else:
        raise ValueError(f"the scheme is '{scheme}'; it must be 'difference' or 'spectral'")
    return (one[:, None] + one).to(dtype=dtype, device=device)


def _faces(coefficient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the harmonic means on faces normal to x `(B, N-1, N-2)` and to y `(B, N-2, N-1)`."""
    rows, columns = coefficient[:, :, 1:-1], coefficient[:, 1:-1]
    x = 2 * rows[:, 1:] * rows[:, :-1] / (rows[:, 1:] + rows[:, :-1])
    y = 2 * columns[:, :, 1:] * columns[:, :, :-1] / (columns[:, :, 1:] + columns[:, :, :-1])
    return x, y


def _conjugate_gradients(
    residual: Tensor,
    operator: Callable[[Tensor], Tensor],
    turn: Callable[[Tensor], Tensor],
    *,
    goal: float,
    iterations: int,
    failure: str,
    normal: bool = False,
) -> Tensor:
    """Return z with `operator(z) = residual`, all `(B, n, n)`; each sample stops at its own residual.

    Args:
        residual: The right side.
        operator: Linear.
        turn: The preconditioner, or the adjoint operator of the normal equations.
        goal: Relative residual.
        iterations: Greatest number of them.
        failure: The sentence, with `{}` for the goal and the iterations.
        normal: Whether the normal equations are solved.

    Raises:
        ArithmeticError: If a sample has not converged.
    """
    z = torch.zeros_like(residual)
    limit = goal * _norm(residual)
    gradient = turn(residual)
    direction = gradient
    size = _dot(gradient if normal else residual, gradient)
    for _ in range(iterations):
        going = _norm(residual) > limit
        if not bool(going.any()):
            return z
        image = operator(direction)
        length = torch.where(going, size / _dot(image if normal else direction, image), 0.0)
        z = z + length * direction
        residual = residual - length * image
        gradient = turn(residual)
        following = _dot(gradient if normal else residual, gradient)
        direction = torch.where(going, gradient + following / size * direction, direction)
        size = torch.where(going, following, size)
    raise ArithmeticError(failure.format(f"to a relative residual of {goal:g} in {iterations} iterations"))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(1, 2), keepdim=True)


def _norm(a: Tensor) -> Tensor:
    return _dot(a, a).sqrt()
