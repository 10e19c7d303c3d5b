"""The shallow-water solver against the recorded dam break and what the equations conserve."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from apps.pde.simulation.families import family
from apps.pde.simulation.solvers import shallow_water
from apps.pde.simulation.solvers.finite_volume import centres
from core.errors import UserError


def _dam(cells: int) -> Tensor:
    """Water of depth 2 inside radius 0.5, else 1, at rest `(1, 3, X, X)`."""
    x = centres(cells, (-2.5, 2.5))
    depth = 1.0 + (torch.hypot(x[:, None], x[None, :]) <= 0.5).double()
    return torch.stack([depth, 0 * depth, 0 * depth])[None]


def _noise(samples: int, cells: int) -> Tensor:
    numbers = torch.rand(
        samples, 3, cells, cells, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    return numbers + torch.tensor([0.5, -0.5, -0.5], dtype=torch.float64).view(3, 1, 1)


def test_dam_break_agrees_with_the_recorded_one(shared: Path) -> None:
    xarray = pytest.importorskip("xarray")

    found = shallow_water.solve(
        _dam(150), times=[2.5], extent=(-2.5, 2.5), boundary=[("outflow", "reflecting")] * 2, limiter="mc"
    )[0, 0, 0]

    path = shared / "data" / "pde" / "clawpack" / "shallow_radial_dam_break_t2.5.nc"
    with xarray.open_dataset(path, engine="h5netcdf") as recorded:
        for name in ("depth_classic_roe", "depth_sharpclaw_roe"):
            expected = torch.from_numpy(recorded[name].values).double()
            assert float((found - expected).abs().sum() / expected.abs().sum()) < 0.0025, name


def test_mass_and_momentum_are_conserved() -> None:
    found = shallow_water.solve(_noise(2, 24), times=[0.0, 0.2])

    state = torch.cat([found[:, :, :1], found[:, :, :1] * found[:, :, 1:]], 2)
    change = (state.sum((3, 4))[:, 1] - state.sum((3, 4))[:, 0]).abs() / state.abs().sum((3, 4))[:, 0]
    assert float(change.max()) < 1e-13


def test_the_axes_are_treated_alike() -> None:
    start = _noise(1, 24)

    there = shallow_water.solve(start, times=[0.1])
    turned = shallow_water.solve(start[:, [0, 2, 1]].transpose(2, 3), times=[0.1])

    torch.testing.assert_close(there, turned[:, :, [0, 2, 1]].transpose(3, 4), atol=1e-13, rtol=0)


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    start = _noise(3, 16)
    start[1, 0] *= 9

    together = shallow_water.solve(start, times=[0.05, 0.1])

    assert torch.equal(
        together, torch.cat([shallow_water.solve(one[None], times=[0.05, 0.1]) for one in start])
    )


def test_the_family_spreads_symmetrically_in_float32() -> None:
    found = family("swe_dam_break").sample(
        [torch.Generator().manual_seed(1)], resolution=16, snapshots=3, dtype=torch.float32
    )

    assert found.shape == (1, 3, 3, 16, 16)
    torch.testing.assert_close(found[:, :, 0], found[:, :, 0].flip(2), atol=1e-5, rtol=0)
    assert float(found[:, -1, 0].max()) < float(found[:, 0, 0].max())


def test_dry_ground_is_refused() -> None:
    start = _noise(1, 8)
    start[0, 0, 0, 0] = 0

    with pytest.raises(UserError, match="dry ground"):
        shallow_water.solve(start, times=[0.1])
