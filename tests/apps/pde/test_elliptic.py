"""Poisson, Darcy and Helmholtz against manufactured solutions and the published Darcy sample."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from apps.pde.simulation.families import family
from apps.pde.simulation.solvers.sine_series import sine_matrix, solve_darcy, solve_helmholtz, solve_poisson

PI = math.pi


def grid(n: int) -> tuple[Tensor, Tensor]:
    points = torch.linspace(0, 1, n, dtype=torch.float64)
    return points[:, None].expand(n, n), points.expand(n, n)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def order(errors: list[float]) -> float:
    return math.log2(errors[0] / errors[1])


def test_sine_matrix_is_its_own_inverse() -> None:
    matrix = sine_matrix(126, dtype=torch.float64)
    torch.testing.assert_close(matrix @ matrix, torch.eye(126, dtype=torch.float64), rtol=0, atol=1e-13)


def test_poisson_is_exact_for_sines_and_of_second_order_by_differences() -> None:
    errors = []
    for n in (33, 65):
        x, y = grid(n)
        exact = (PI * x).sin() * (3 * PI * y).sin()
        source = 10 * PI**2 * exact
        spectral = solve_poisson(source[None], scheme="spectral")[0]
        torch.testing.assert_close(spectral, exact, rtol=0, atol=1e-12)
        errors.append(float((solve_poisson(source[None])[0] - exact).abs().max()))
    assert order(errors) == pytest.approx(2, abs=0.05)


def test_poisson_solves_the_five_point_equations_exactly() -> None:
    source = torch.randn(3, 20, 20, generator=torch.Generator().manual_seed(0)).double()
    u = solve_poisson(source)
    around = u[:, 2:, 1:-1] + u[:, :-2, 1:-1] + u[:, 1:-1, 2:] + u[:, 1:-1, :-2]
    torch.testing.assert_close(
        (4 * u[:, 1:-1, 1:-1] - around) * 19**2, source[:, 1:-1, 1:-1], rtol=0, atol=1e-10
    )


def test_an_unknown_poisson_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="'difference' or 'spectral'"):
        solve_poisson(torch.zeros(1, 8, 8), scheme="exact")


def test_darcy_with_a_smooth_coefficient_is_of_second_order() -> None:
    errors = []
    for n in (33, 65):
        x, y = grid(n)
        a = 2 + torch.sin(3 * x) * torch.cos(2 * y)
        u = (PI * x).sin() * (2 * PI * y).sin()
        slope = torch.stack(
            [PI * (PI * x).cos() * (2 * PI * y).sin(), 2 * PI * (PI * x).sin() * (2 * PI * y).cos()]
        )
        rise = torch.stack(
            [3 * torch.cos(3 * x) * torch.cos(2 * y), -2 * torch.sin(3 * x) * torch.sin(2 * y)]
        )
        source = 5 * PI**2 * a * u - (slope * rise).sum(0)
        errors.append(float((solve_darcy(a[None], source[None])[0] - u).abs().max()))
    assert errors[1] < 1e-3
    assert order(errors) == pytest.approx(2, abs=0.1)


def test_darcy_across_a_jump_between_two_nodes_keeps_the_flux() -> None:
    x, _ = grid(64)
    a = torch.where(x < 0.5, 3.0, 12.0).double()
    u = solve_darcy(a[None], torch.ones(1, 64, 64, dtype=torch.float64))[0]
    middle = u[:, 32]
    left, right = 3 * (middle[31] - middle[30]), 12 * (middle[33] - middle[32])
    face = 2 * 3 * 12 / 15 * (middle[32] - middle[31])
    assert abs(float(left - face)) < 0.05 * float(u.max())
    assert abs(float(right - face)) < 0.05 * float(u.max())


def test_darcy_samples_converge_on_their_own() -> None:
    x, _ = grid(40)
    easy, hard = torch.ones(40, 40).double(), 1 + 50 * (x > 0.37).double()
    source = torch.ones(2, 40, 40, dtype=torch.float64)
    both = solve_darcy(torch.stack([easy, hard]), source)
    for index, a in enumerate((easy, hard)):
        torch.testing.assert_close(both[index], solve_darcy(a[None], source[:1])[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(both[0], solve_poisson(source[:1])[0], rtol=0, atol=1e-10)


def test_darcy_refuses_a_coefficient_of_zero_and_reports_a_failure_to_converge() -> None:
    one = torch.ones(1, 16, 16)
    with pytest.raises(ValueError, match="positive"):
        solve_darcy(0 * one, one)
    with pytest.raises(ArithmeticError, match="more iterations"):
        solve_darcy(
            1 + 9 * torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0)), one, iterations=2
        )


def test_darcy_explains_the_published_sample_up_to_a_constant(shared: Path) -> None:
    """The file holds 0 and 1 for the coefficient; a ratio of 19 between them fits its pressure best."""
    data = torch.load(shared / "data/pde/darcy/darcy_test_32.pt", weights_only=True)
    wet, pressure = data["x"][:16], data["y"][:16].double()
    # Its points are i/32, so the far boundary is one point beyond the last.
    wet = torch.nn.functional.pad(wet[:, None].double(), (0, 1, 0, 1), mode="replicate")[:, 0]
    coefficient = 1 + 18 * wet
    solution = solve_darcy(coefficient, torch.ones_like(coefficient))[:, :-1, :-1]
    solution = solution * (solution * pressure).sum() / (solution * solution).sum()
    error = (solution - pressure).flatten(1).norm(dim=1) / pressure.flatten(1).norm(dim=1)
    assert error.mean() < 0.04


def test_helmholtz_with_a_constant_coefficient_is_of_second_order() -> None:
    frequency, errors = 2.5 * PI, []
    for n in (33, 65):
        x, y = grid(n)
        exact = torch.ones_like(x)
        for j in range(1, 60, 2):
            for k in range(1, 60, 2):
                factor = 16 * frequency**2 / (PI**2 * j * k * (PI**2 * (j * j + k * k) - frequency**2))
                exact = exact + factor * (j * PI * x).sin() * (k * PI * y).sin()
        solution = solve_helmholtz(
            torch.ones(1, n, n, dtype=torch.float64), boundary=torch.ones(1), frequency=frequency
        )[0]
        errors.append(float((solution - exact)[n // 4 : -n // 4, n // 4 : -n // 4].abs().max()))
    assert errors[1] < 0.02
    assert order(errors) == pytest.approx(2, abs=0.3)


def test_helmholtz_satisfies_the_five_point_equations() -> None:
    a = torch.rand(2, 24, 24, generator=torch.Generator().manual_seed(0)).double()
    u = solve_helmholtz(a, boundary=torch.tensor([0.3, 0.5]), frequency=2.5 * PI)
    around = u[:, 2:, 1:-1] + u[:, :-2, 1:-1] + u[:, 1:-1, 2:] + u[:, 1:-1, :-2]
    inner = u[:, 1:-1, 1:-1]
    left = (4 * inner - around) * 23**2 - (2.5 * PI) ** 2 * a[:, 1:-1, 1:-1] * inner
    assert left.abs().max() < 1e-6 * inner.abs().max() * 23**2
    torch.testing.assert_close(u[:, 0, 0], torch.tensor([0.3, 0.5]).double())


@pytest.mark.parametrize("name", ["poisson_gauss", "darcy", "helmholtz"])
def test_sample_does_not_depend_on_its_batch(name: str) -> None:
    known = family(name)
    both = known.sample(generators(3, 4), resolution=32)
    alone = known.sample(generators(4), resolution=32)
    assert both.shape == (2, 1, len(known.channels), 32, 32)
    assert both.isfinite().all()
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["poisson_gauss", "darcy", "helmholtz"])
def test_family_shows_the_same_problem_at_two_resolutions(name: str) -> None:
    coarse = family(name).sample(generators(5), resolution=33)[0, 0]
    fine = family(name).sample(generators(5), resolution=65)[0, 0, :, ::2, ::2]
    torch.testing.assert_close(coarse[:-1], fine[:-1], rtol=0, atol=1e-10)
    assert (coarse[-1] - fine[-1]).norm() < 0.05 * fine[-1].norm()
