"""Heat, advection and Allen-Cahn against exact solutions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from apps.pde.simulation.families import family
from apps.pde.simulation.solvers.incompressible import solve_advection
from apps.pde.simulation.solvers.sine_series import solve_allen_cahn, solve_heat

PI = math.pi


def periodic(n: int) -> tuple[Tensor, Tensor]:
    points = torch.arange(n, dtype=torch.float64) / n
    return points[:, None].expand(n, n), points.expand(n, n)


def bounded(n: int) -> tuple[Tensor, Tensor]:
    points = torch.linspace(0, 1, n, dtype=torch.float64)
    return points[:, None].expand(n, n), points.expand(n, n)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_modes_of_the_periodic_heat_equation_decay_at_their_own_rate() -> None:
    x, y = periodic(32)
    low, high = (2 * PI * x).sin() * (4 * PI * y).cos(), (2 * PI * (3 * x - y)).cos()
    times = torch.tensor([0.0, 0.1, 0.7])
    frames = solve_heat((low + high)[None], times, diffusivity=torch.tensor([0.03]))[0]
    for time, frame in zip(times.tolist(), frames, strict=True):
        exact = low * math.exp(-20 * PI**2 * 0.03 * time) + high * math.exp(-40 * PI**2 * 0.03 * time)
        torch.testing.assert_close(frame, exact, rtol=0, atol=1e-7)


def test_modes_of_the_heat_equation_with_a_cold_boundary_decay_at_their_own_rate() -> None:
    x, y = bounded(24)
    mode = (PI * x).sin() * (3 * PI * y).sin()
    times = torch.tensor([0.0, 0.5], dtype=torch.float64)
    frames = solve_heat(mode[None], times, diffusivity=0.02, boundary="fixed")[0]
    torch.testing.assert_close(frames[1], mode * math.exp(-10 * PI**2 * 0.02 * 0.5), rtol=0, atol=1e-12)


def test_an_unknown_heat_boundary_is_refused() -> None:
    with pytest.raises(ValueError, match="'periodic' or 'fixed'"):
        solve_heat(torch.zeros(1, 8, 8), torch.tensor([0.0, 1.0]), diffusivity=1.0, boundary="open")


def test_uniform_advection_returns_after_one_period_and_moves_by_whole_cells_exactly() -> None:
    start = torch.exp((2 * PI * periodic(32)[0]).cos() + (2 * PI * periodic(32)[1]).sin())[None]
    velocity = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    times = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    frames = solve_advection(start, times, velocity=velocity)
    torch.testing.assert_close(frames[:, 2], start, rtol=0, atol=1e-12)
    torch.testing.assert_close(frames[:, 1], start.roll((8, -16), (1, 2)), rtol=0, atol=1e-12)


def test_advection_by_a_field_agrees_with_the_exact_solution_for_a_uniform_field() -> None:
    start = torch.exp((2 * PI * periodic(32)[0]).cos() + (2 * PI * periodic(32)[1]).sin())[None]
    velocity = torch.tensor([[0.7, -0.4]], dtype=torch.float64)
    times = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    exact = solve_advection(start, times, velocity=velocity, diffusivity=0.01)
    stepped = solve_advection(
        start, times, velocity=velocity[..., None, None].expand(1, 2, 32, 32), diffusivity=0.01, cfl=0.1
    )
    torch.testing.assert_close(stepped, exact, rtol=0, atol=1e-5)


def test_advection_by_a_shear_flow_agrees_with_the_characteristics() -> None:
    x, y = periodic(64)
    shear = 0.5 * (2 * PI * y).sin()
    times = torch.tensor([0.0, 0.6], dtype=torch.float64)
    frames = solve_advection(
        (2 * PI * x).cos()[None], times, velocity=torch.stack([shear, torch.zeros_like(shear)])[None], cfl=0.1
    )
    exact = (2 * PI * (x - 0.6 * shear)).cos()
    torch.testing.assert_close(frames[0, 1], exact, rtol=0, atol=1e-6)


def test_allen_cahn_stays_at_rest_between_its_phases() -> None:
    zero = torch.zeros(1, 16, 16, dtype=torch.float64)
    frames = solve_allen_cahn(zero, torch.tensor([0.0, 2e-4]), rate=220.0**2)
    assert (frames == 0).all()


def test_allen_cahn_converges_to_a_run_of_small_steps_at_fourth_order() -> None:
    x, y = bounded(48)
    start = (0.9 * (PI * x).sin() * (2 * PI * y).sin())[None]
    times = torch.tensor([0.0, 1e-4], dtype=torch.float64)
    fine = solve_allen_cahn(start, times, rate=220.0**2, longest=0.025)
    errors = [
        float((solve_allen_cahn(start, times, rate=220.0**2, longest=step) - fine).abs().max())
        for step in (0.4, 0.2)
    ]
    assert errors[1] < 1e-4
    assert errors[0] / errors[1] > 10


def test_an_allen_cahn_front_moves_at_the_exact_speed() -> None:
    # Between a phase near 1 and 0 the front u = 1/(1 + exp(k (x - s t))) with k = sqrt(r/2) moves at
    # s = 3 sqrt(r/2); the boundary and the strip's ends are far from the part compared.
    rate = 80.0**2
    k = math.sqrt(rate / 2)
    x, y = bounded(161)
    time = 0.15 / (3 * k)
    start = (torch.sigmoid(-k * (x - 0.4)))[None]
    frames = solve_allen_cahn(start, torch.tensor([0.0, time], dtype=torch.float64), rate=rate)
    exact = torch.sigmoid(-k * (x - 0.55))
    inside = (y - 0.5).abs().lt(0.2) & x.gt(0.25) & x.lt(0.85)
    assert (frames[0, 1] - exact)[inside].abs().max() < 2e-3


def test_allen_cahn_separates_into_its_phases_and_does_not_overshoot() -> None:
    frames = family("ace").sample(generators(0, 1), resolution=33)
    assert frames.shape == (2, 20, 1, 33, 33)
    assert frames.abs().max() < 1 + 1e-4
    assert frames[:, -1].std() > 0.5
    assert (frames[..., 0] == 0).all()


@pytest.mark.parametrize("name", ["heat", "advection", "advection_diffusion", "ace"])
def test_sample_does_not_depend_on_its_batch(name: str) -> None:
    both = family(name).sample(generators(3, 4), resolution=26, snapshots=4)
    alone = family(name).sample(generators(4), resolution=26, snapshots=4)
    assert both.isfinite().all()
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["heat", "advection", "advection_diffusion"])
def test_family_shows_the_same_sample_at_two_resolutions(name: str) -> None:
    coarse = family(name).sample(generators(5), resolution=32, snapshots=2)[:, 0]
    fine = family(name).sample(generators(5), resolution=64, snapshots=2)[:, 0, :, ::2, ::2]
    torch.testing.assert_close(coarse, fine, rtol=0, atol=1e-10)


def test_mass_is_conserved_by_heat_and_advection() -> None:
    for name in ("heat", "advection", "advection_diffusion"):
        mass = family(name).sample(generators(0), resolution=32, snapshots=5)[:, :, 0].mean(dim=(-2, -1))
        assert mass.diff(dim=1).abs().max() < 1e-12
