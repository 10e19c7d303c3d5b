"""Burgers' equation against the recorded data, exact solutions and its conservation law."""

from __future__ import annotations

from math import exp, pi
from pathlib import Path

import pytest
import torch
from torch import Tensor

from apps.pde.simulation.families import family
from apps.pde.simulation.solvers import burgers
from core.errors import UserError


def _columns(path: Path) -> Tensor:
    lines = path.read_text().splitlines()[1:]
    return torch.tensor([[float(part) for part in line.split(",")] for line in lines], dtype=torch.float64).T


def _refined(values: Tensor, points: int) -> Tensor:
    modes = torch.fft.rfft(values)
    modes[..., -1] /= 2
    return torch.fft.irfft(modes, n=points) * (points / values.shape[-1])


@pytest.fixture
def recorded(shared: Path) -> Tensor:
    h5py = pytest.importorskip("h5py")
    with h5py.File(shared / "data" / "pde" / "burgers" / "burgers_test_16.hdf5") as file:
        return torch.from_numpy(file["tensor"][:]).double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_recorded_viscous_trajectories_are_reproduced(recorded: Tensor, dtype: torch.dtype) -> None:
    times = 0.06 * torch.arange(17, dtype=torch.float64)

    found = burgers.viscous(_refined(recorded[:, 0], 256).to(dtype), times=times, viscosity=0.01)[..., ::16]

    error = (found - recorded).norm(dim=2) / recorded.norm(dim=2)
    assert float(error[:, 1:].mean(0).max()) < 5e-4  # measured 3.8e-4 at the first frame, 1.7e-4 at the last
    assert float(error.max()) < 4e-3  # measured 2.7e-3
    assert float(error[:, 0].max()) < 1e-6


def test_recorded_frames_are_six_hundredths_apart_and_not_a_sixteenth(recorded: Tensor) -> None:
    """The file's t-coordinate ends at 1; read so, the same solution is 2.4 % off at the last frame."""
    moments = torch.linspace(0.9, 1.05, 151, dtype=torch.float64)

    found = burgers.viscous(_refined(recorded[:40, 0], 256), times=moments, viscosity=0.01)[..., ::16]

    last = recorded[:40, 16:]
    error = ((found - last).norm(dim=2) / last.norm(dim=2)).mean(0)
    assert float(moments[error.argmin()]) == pytest.approx(0.96, abs=2e-3)
    assert float(error[100]) == pytest.approx(0.024, abs=2e-3)


def test_the_family_has_the_spectrum_of_the_recorded_data(recorded: Tensor) -> None:
    generators = [torch.Generator().manual_seed(i) for i in range(400)]

    ours = family("burgers").sample(generators, resolution=16, snapshots=2)[:, 0, 0]

    theirs = torch.fft.rfft(recorded[:, 0])[:, 1:8].abs().square().mean(0).sqrt()
    ratio = torch.fft.rfft(ours)[:, 1:8].abs().square().mean(0).sqrt() / theirs
    torch.testing.assert_close(ratio, torch.ones(7, dtype=torch.float64), atol=0.15, rtol=0)


def test_the_family_is_the_same_physical_sample_at_two_resolutions() -> None:
    coarse, fine = (
        family("burgers").sample([torch.Generator().manual_seed(3)], resolution=n, snapshots=5)
        for n in (32, 128)
    )

    torch.testing.assert_close(coarse, fine[..., ::4], atol=1e-9, rtol=0)


def test_a_wave_follows_the_cole_hopf_solution() -> None:
    nu, wave = 0.01, 2 * pi
    x = torch.arange(512, dtype=torch.float64) / 512

    def exact(t: float) -> Tensor:
        # u = -2 nu phi_x / phi, with phi = 1 + 0.5 exp(-nu k^2 t) cos(k x) a solution of the heat equation
        decay = 0.5 * exp(-nu * wave**2 * t)
        return 2 * nu * wave * decay * torch.sin(wave * x) / (1 + decay * torch.cos(wave * x))

    found = burgers.viscous(exact(0.0)[None], times=[0.0, 0.7, 2.0], viscosity=nu)[0]

    torch.testing.assert_close(found, torch.stack([exact(t) for t in (0.0, 0.7, 2.0)]), atol=1e-10, rtol=0)


def test_inviscid_solution_agrees_with_the_recorded_one(shared: Path) -> None:
    x, recorded = _columns(shared / "data" / "pde" / "clawpack" / "burgers_inviscid_t0.5.csv")

    found = burgers.inviscid((torch.sin(2 * pi * x) + 0.5)[None], times=[0.5])[0, 0]

    assert float((found - recorded).abs().sum() / recorded.abs().sum()) < 2e-4  # measured 5.2e-5


def test_shock_moves_at_the_mean_of_its_sides() -> None:
    x = (torch.arange(400, dtype=torch.float64) + 0.5) / 400

    found = burgers.inviscid((0.25 + 0.75 * (x < 0.25))[None], times=[0.5], boundary="outflow")[0, 0]

    speed = (1.0 + 0.25) / 2
    expected = (0.25 + 0.75 * (0.25 + 0.5 * speed)) * 400
    assert float(found.sum()) == pytest.approx(expected, rel=1e-12)
    assert int(((found > 0.26) & (found < 0.99)).sum()) <= 4


@pytest.mark.parametrize("limiter", ["minmod", "mc", "van_leer"])
def test_inviscid_mass_is_conserved_and_no_extremum_arises(limiter: str) -> None:
    start = torch.rand(3, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.4

    found = burgers.inviscid(start, times=[0.0, 0.1, 0.3], limiter=limiter)

    torch.testing.assert_close(found.mean(2), start.mean(1, keepdim=True).expand(3, 3), atol=1e-14, rtol=0)
    assert float(found.max()) <= float(start.max())
    assert float(found.min()) >= float(start.min())


@pytest.mark.parametrize("solver", [burgers.inviscid, burgers.viscous])
def test_a_sample_does_not_depend_on_its_neighbours(solver) -> None:  # type: ignore[no-untyped-def]
    start = torch.rand(4, 64, generator=torch.Generator().manual_seed(1)) * torch.tensor(
        [[1.0], [3.0], [0.2], [9.0]]
    )
    times = [0.0, 0.05, 0.2]

    together = solver(start, times=times)

    alone = torch.cat([solver(one[None], times=times) for one in start])
    torch.testing.assert_close(together, alone, atol=2e-6, rtol=0)


def test_wrong_arguments_are_explained() -> None:
    with pytest.raises(UserError, match="viscosity is 0"):
        burgers.viscous(torch.zeros(1, 16), times=[1.0], viscosity=0.0)
    with pytest.raises(UserError, match="no limiter 'mcc'; did you mean 'mc'"):
        burgers.inviscid(torch.zeros(1, 16), times=[1.0], limiter="mcc")
    with pytest.raises(UserError, match="do not tile"):
        burgers.inviscid(torch.zeros(1, 16), times=[1.0], average=3)
