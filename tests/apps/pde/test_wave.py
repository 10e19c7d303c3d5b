"""The wave equation against standing and travelling waves."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from apps.pde.simulation.families import family
from apps.pde.simulation.solvers.wave import solve_wave

PI = math.pi


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def standing(n: int, boundary: str) -> tuple[Tensor, float]:
    """Return a standing wave `(1, N, N)` and its frequency over c."""
    if boundary == "periodic":
        x = torch.arange(n, dtype=torch.float64) / n
        return ((2 * PI * x).sin()[:, None] * (4 * PI * x).cos())[None], math.sqrt(20) * PI
    x = torch.linspace(0, 1, n, dtype=torch.float64)
    wave = torch.sin if boundary == "fixed" else torch.cos
    return (wave(PI * x)[:, None] * wave(2 * PI * x))[None], math.sqrt(5) * PI


@pytest.mark.parametrize("boundary", ["periodic", "fixed", "reflecting"])
def test_standing_waves_are_of_second_order(boundary: str) -> None:
    times = torch.tensor([0.0, 0.13, 0.4], dtype=torch.float64)
    errors = []
    for n in (32, 64):
        points = n if boundary == "periodic" else n + 1
        start, frequency = standing(points, boundary)
        frames = solve_wave(start, times, speed=torch.full_like(start, 2.0), boundary=boundary)
        exact = start[:, None] * torch.cos(2 * frequency * times)[:, None, None]
        errors.append(float((frames - exact).abs().max()))
    assert errors[1] < 0.01
    assert 3.5 < errors[0] / errors[1] < 4.6


def test_a_pulse_splits_as_d_alembert_says_and_leaves_through_the_edge() -> None:
    x = torch.linspace(0, 1, 201, dtype=torch.float64)

    def pulse(centre: float) -> Tensor:
        return torch.exp(-(((x - centre) / 0.06) ** 2))

    start = pulse(0.5)[:, None].expand(201, 201)[None].contiguous()
    frames = solve_wave(start, torch.tensor([0.0, 0.1, 0.5]), speed=torch.full_like(start, 2.0))
    halves = (pulse(0.3) + pulse(0.7)) / 2
    middle = frames[0, :, :, 100]
    assert (middle[1] - halves).abs().max() < 0.01
    # The far edges in y touch the pulse from the start; the middle line has not heard of them at t = 0.1.
    assert frames[0, 2].abs().max() < 0.12


def test_an_absorbing_box_empties() -> None:
    x = torch.linspace(0, 1, 65, dtype=torch.float64)
    bump = torch.exp(-(((x - 0.5) / 0.1) ** 2))
    start = (bump[:, None] * bump)[None]
    speed = 1 + 0.5 * torch.sin(3 * x)[:, None].expand(65, 65)[None].contiguous()
    times = torch.linspace(0, 3, 13, dtype=torch.float64)
    size = solve_wave(start, times, speed=speed, curvature=2.0).square().mean(dim=(-2, -1))[0].sqrt()
    assert size[4:].max() < 0.1 * size[0]
    assert size[-1] < 0.002 * size[0]


def test_frames_do_not_depend_on_the_frames_between() -> None:
    start, _ = standing(33, "fixed")
    speed = 1 + start.abs()
    sparse = solve_wave(start, torch.tensor([0.0, 0.4]), speed=speed, cfl=0.1)[:, -1]
    dense = solve_wave(start, torch.linspace(0, 0.4, 5), speed=speed, cfl=0.1)[:, -1]
    torch.testing.assert_close(sparse, dense, rtol=0, atol=1e-3)


def test_an_unknown_boundary_and_a_large_courant_number_are_refused() -> None:
    start, _ = standing(16, "fixed")
    times = torch.tensor([0.0, 1.0])
    with pytest.raises(ValueError, match="absorbing, reflecting, fixed, periodic"):
        solve_wave(start, times, speed=torch.ones_like(start), boundary="open")
    with pytest.raises(ValueError, match="Courant"):
        solve_wave(start, times, speed=torch.ones_like(start), cfl=0.9)


@pytest.mark.parametrize(("name", "frames"), [("wave_gauss", 15), ("wave_layer", 21)])
def test_family_keeps_the_medium_and_the_same_sample_in_every_batch(name: str, frames: int) -> None:
    both = family(name).sample(generators(3, 4), resolution=32)
    alone = family(name).sample(generators(4), resolution=32)
    assert both.shape == (2, frames, 2, 32, 32)
    assert (both[:, :, 1] == both[:, :1, 1]).all()
    assert both[:, :, 1].min() >= 1500
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("name", "tolerance"), [("wave_gauss", 0.05), ("wave_layer", 0.1)])
def test_family_shows_the_same_sample_at_two_resolutions(name: str, tolerance: float) -> None:
    coarse = family(name).sample(generators(5), resolution=33, snapshots=3)
    fine = family(name).sample(generators(5), resolution=65, snapshots=3)[..., ::2, ::2]
    torch.testing.assert_close(coarse[:, 0], fine[:, 0], rtol=0, atol=1e-10)
    assert (coarse[:, 1:, 0] - fine[:, 1:, 0]).norm() < tolerance * fine[:, 1:, 0].norm()


def test_an_absorbing_box_is_stable_from_a_rough_start_in_a_rough_medium() -> None:
    start = torch.rand(2, 24, 24, generator=torch.Generator().manual_seed(0)).double()
    speed = 1 + torch.rand(2, 24, 24, generator=torch.Generator().manual_seed(1)).double()
    frames = solve_wave(start, torch.linspace(0, 20, 5), speed=speed, curvature=1.0)
    assert frames.isfinite().all()
    assert frames[:, -1].square().mean() < 0.05 * start.square().mean()
