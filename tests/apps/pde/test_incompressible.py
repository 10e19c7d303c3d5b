"""Incompressible flows: exact solutions, invariants, and samples that do not depend on their batch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from apps.pde.simulation.families import family
from apps.pde.simulation.solvers.fourier import (
    divergence,
    from_modes,
    from_padded,
    project,
    to_modes,
    to_padded,
    velocity_from_vorticity,
    vorticity,
)
from apps.pde.simulation.solvers.incompressible import Damping, solve_incompressible

FAMILIES = ("ns_sines", "ns_gauss", "ns_pwc", "ns_tracer_pwc", "ns_sl", "ns_svs", "ns_bb", "fns_kf")


def grid(n: int) -> tuple[Tensor, Tensor]:
    """Return the angles 2 pi x and 2 pi y `(N, N)`."""
    points = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    return points[:, None].expand(n, n), points.expand(n, n)


def taylor_green(n: int) -> Tensor:
    x, y = grid(n)
    return torch.stack([x.sin() * y.cos(), -x.cos() * y.sin()])[None]


def smooth(n: int) -> Tensor:
    """Return a velocity `(2, 2, N, N)` of a few modes, with a mean."""
    x, y = grid(n)
    curl = torch.stack([(x + y.sin()).sin() * 4 + (2 * y).cos() * 3, (2 * x - y).cos() * 5 + y.sin() * 2])
    return velocity_from_vorticity(curl) + torch.tensor([0.1, -0.2], dtype=torch.float64)[:, None, None]


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_taylor_green_vortices_are_steady_under_the_spectral_viscosity() -> None:
    start = taylor_green(64)
    frames = solve_incompressible(start, torch.tensor([0.0, 1.0]))
    assert (frames[:, 1] - start).abs().max() < 1e-12


def test_taylor_green_vortices_decay_exactly_under_plain_viscosity() -> None:
    start = taylor_green(64)
    damping = Damping(kind="none", viscosity=0.01)
    frames = solve_incompressible(start, torch.tensor([0.0, 0.5]), damping=damping, cfl=0.1)
    assert (frames[:, 1] - start * math.exp(-8 * math.pi**2 * 0.01 * 0.5)).abs().max() < 1e-9


def test_a_taylor_green_vortex_in_a_uniform_stream_is_carried_along() -> None:
    x, y = grid(32)
    start = taylor_green(32) + torch.tensor([1.0, 0.5], dtype=torch.float64)[:, None, None]
    frames = solve_incompressible(start, torch.tensor([0.0, 0.25]), damping=Damping(kind="none"), cfl=0.05)
    x, y = x - 2 * math.pi * 0.25, y - 2 * math.pi * 0.125
    moved = torch.stack([1 + x.sin() * y.cos(), 0.5 - x.cos() * y.sin()])
    assert (frames[0, 1] - moved).abs().max() < 1e-6


def test_flow_keeps_its_invariants() -> None:
    start = smooth(32)
    tracer = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frames = solve_incompressible(start, torch.linspace(0, 1, 6), tracer=tracer)
    velocity = frames[:, :, :2]
    energy = velocity.square().sum(dim=2).mean(dim=(-2, -1))
    assert divergence(velocity).abs().max() < 1e-10 * vorticity(velocity).abs().max()
    assert (energy.diff(dim=1) <= 1e-14).all()
    assert (frames.mean(dim=(-2, -1)).diff(dim=1).abs() < 1e-13).all()


def test_an_undamped_flow_keeps_its_energy() -> None:
    frames = solve_incompressible(smooth(32), torch.tensor([0.0, 0.2]), damping=Damping(kind="none"), cfl=0.1)
    energy = frames.square().sum(dim=2).mean(dim=(-2, -1))
    torch.testing.assert_close(energy[:, 1], energy[:, 0], rtol=1e-6, atol=0)


def test_an_undamped_flow_and_a_fluid_at_rest_are_solved_in_single_precision() -> None:
    times, damping = torch.tensor([0.0, 0.1]), Damping(strength=0.0)
    start = torch.cat([smooth(16), torch.zeros(1, 2, 16, 16, dtype=torch.float64)])

    single = solve_incompressible(start.float(), times, damping=damping)

    double = solve_incompressible(start, times, damping=damping)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-4)


def test_a_smooth_flow_converges_faster_than_any_power() -> None:
    times = torch.tensor([0.0, 0.15])
    damping = Damping(kind="none")
    fine = solve_incompressible(smooth(128), times, damping=damping, cfl=0.25)[:, 1]
    errors = []
    for n in (32, 64):
        coarse = solve_incompressible(smooth(n), times, damping=damping, cfl=0.25 * n / 128)[:, 1]
        errors.append(float((coarse - fine[..., :: 128 // n, :: 128 // n]).abs().max()))
    assert errors[1] < 1e-7
    assert errors[1] < errors[0] / 30


def test_time_steps_are_of_third_order() -> None:
    times = torch.tensor([0.0, 0.1])
    fine = solve_incompressible(smooth(32), times, cfl=0.04)
    errors = [float((solve_incompressible(smooth(32), times, cfl=c) - fine).abs().max()) for c in (0.4, 0.2)]
    assert 6 < errors[0] / errors[1] < 11


def test_a_gradient_forcing_has_no_effect_and_a_solenoidal_one_adds_momentum_only_to_its_modes() -> None:
    x, y = grid(16)
    wave = (x + y).sin()
    rest = torch.zeros(1, 2, 16, 16, dtype=torch.float64)
    times = torch.tensor([0.0, 0.1], dtype=torch.float64)
    gradient = solve_incompressible(rest, times, forcing=torch.stack([wave, wave]))
    turning = solve_incompressible(rest, times, forcing=torch.stack([wave, -wave]))
    assert gradient.abs().max() < 1e-15
    torch.testing.assert_close(turning[0, 1], 0.1 * torch.stack([wave, -wave]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["quadratic", "smooth", "step", "none"])
def test_damping_spares_the_large_scales(kind: str) -> None:
    rates = Damping(kind=kind).rates(64, dtype=torch.float64)
    assert (rates >= 0).all()
    assert rates[:3, :3].max() < 1e-3
    assert bool(rates[31, 31] > 0.5) == (kind != "none")


def test_quadratic_damping_has_the_published_rate() -> None:
    rates = Damping().rates(128, dtype=torch.float64)
    assert rates[8, 8] == 0
    assert float(rates[30, 40]) == pytest.approx(0.05 / 128 * (2500 - 128))


def test_an_unknown_damping_is_refused() -> None:
    with pytest.raises(ValueError, match="quadratic, smooth, step, none"):
        Damping(kind="cubic")


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), half=st.integers(4, 12))
def test_projection_is_idempotent_and_padding_loses_nothing(seed: int, half: int) -> None:
    velocity = torch.randn(2, 2 * half, 2 * half, generator=torch.Generator().manual_seed(seed)).double()
    modes = to_modes(velocity)
    flow = project(velocity)
    torch.testing.assert_close(project(flow), flow)
    torch.testing.assert_close(from_padded(to_padded(modes)), modes)
    torch.testing.assert_close(to_modes(from_modes(modes)), modes)
    assert divergence(flow).abs().max() < 1e-10


@pytest.mark.parametrize("name", FAMILIES)
def test_family_is_divergence_free_finite_and_the_same_in_every_batch(name: str) -> None:
    known = family(name)
    both = known.sample(generators(3, 4), resolution=32, snapshots=3)
    alone = known.sample(generators(4), resolution=32, snapshots=3)
    velocity = both[:, :, :2]
    assert both.shape == (2, 3, len(known.channels), 32, 32)
    assert both.isfinite().all()
    assert divergence(velocity).abs().max() < 1e-10 * vorticity(velocity).abs().max()
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["ns_sines", "ns_gauss", "ns_sl"])
def test_family_starts_from_the_same_flow_at_two_resolutions(name: str) -> None:
    coarse = family(name).sample(generators(1), resolution=64, snapshots=1)[:, 0, :2]
    fine = family(name).sample(generators(1), resolution=128, snapshots=1)[:, 0, :2, ::2, ::2]
    assert (coarse - fine).norm() < 0.02 * fine.norm()


def test_single_precision_follows_double_precision() -> None:
    double = family("ns_sines").sample(generators(0), resolution=32, snapshots=3)
    single = family("ns_sines").sample(generators(0), resolution=32, snapshots=3, dtype=torch.float32)
    assert single.dtype == torch.float32
    assert (single - double).abs().max() < 1e-4


def test_forced_family_carries_its_forcing_as_a_constant_field() -> None:
    frames = family("fns_kf").sample(generators(0), resolution=16, snapshots=2)
    x, y = grid(16)
    torch.testing.assert_close(frames[0, 1, 2], 0.1 * (x + y).sin())
