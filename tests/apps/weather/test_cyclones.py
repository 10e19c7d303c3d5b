"""The cyclone tracker, on vortices whose centres are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from apps.weather.batch import Grid, States, Variables
from apps.weather.metrics.cyclones import follow_cyclone
from core.errors import UserError

GRID = Grid(np.arange(40, -0.25, -0.5), np.arange(0, 360, 0.5))
VARIABLES = Variables(("10u", "10v", "msl"), ("z",), (500.0, 700.0))
SEA = np.zeros(GRID.shape)


def vortex(latitude: float, longitude: float, *, pressure: float = 5000.0, height: float = 3000.0) -> States:
    """A state at rest but for a vortex, its wind 40 m/s at 0.5 degrees from the centre."""
    y = torch.from_numpy(GRID.latitude[:, None] - latitude)
    x = torch.from_numpy((GRID.longitude[None] - longitude + 180) % 360 - 180)
    bell = torch.exp(-(x**2 + y**2) / 4)
    swirl = 40 * torch.exp(0.5 - 2 * (x**2 + y**2)) / 0.5
    surface = torch.stack([-swirl * y, swirl * x, 101300 - pressure * bell])
    levels = torch.stack([torch.zeros_like(bell), 30000 - height * bell])
    return States(surface[None, None].float(), levels[None, None, None].float())


def test_a_vortex_is_followed_across_greenwich() -> None:
    centres = [(20 + 0.5 * step, (355 + 1.5 * step) % 360) for step in range(6)]

    track = follow_cyclone((vortex(*centre) for centre in centres), VARIABLES, GRID, SEA, start=(19.5, 353.5))

    assert [(point.latitude, point.longitude) for point in track] == centres
    assert all(point.found for point in track)
    np.testing.assert_allclose([point.pressure for point in track], 96300, rtol=1e-6)
    np.testing.assert_allclose([point.wind for point in track], 40, rtol=1e-3)


def test_the_nearest_of_two_vortices_is_followed() -> None:
    one, other = vortex(20, 60), vortex(23, 64)
    both = States(one.surface + other.surface - 101300 * torch.eye(3)[2].view(3, 1, 1), one.atmospheric)

    (point,) = follow_cyclone([both], VARIABLES, GRID, SEA, start=(22.5, 63))

    assert abs(point.latitude - 23) <= 0.5 and abs(point.longitude - 64) <= 0.5


def test_over_land_the_height_of_700_hpa_leads() -> None:
    land = np.where(np.abs(GRID.longitude - 60) < 10, 1.0, 0.0) * np.ones(GRID.shape)

    (point,) = follow_cyclone([vortex(20, 60)], VARIABLES, GRID, land, start=(19, 59))

    assert (point.latitude, point.longitude) == (20, 60)


def test_a_vanished_vortex_goes_on_in_a_straight_line() -> None:
    calm = vortex(21, 62, pressure=-5000, height=-3000)

    track = follow_cyclone([vortex(20, 60), vortex(20.5, 61), calm], VARIABLES, GRID, SEA, start=(19.5, 59))

    assert [point.found for point in track] == [True, True, False]
    assert track[-1].latitude == pytest.approx(21) and track[-1].longitude == pytest.approx(62)


def test_no_minimum_near_the_start_is_refused() -> None:
    with pytest.raises(UserError, match="no minimum of pressure lies near"):
        follow_cyclone([vortex(20, 60, pressure=-5000, height=-3000)], VARIABLES, GRID, SEA, start=(20, 60))
    with pytest.raises(UserError, match="without msl in the forecast"):
        follow_cyclone(
            [],
            Variables(
                ("10u", "10v"),
            ),
            GRID,
            SEA,
            start=(0, 0),
        )
