"""The exact Riemann solver against published star states and the jump conditions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from tests.helpers import riemann

positive, speeds = st.floats(0.05, 20.0), st.floats(-2.0, 2.0)


@pytest.mark.parametrize(
    ("left", "right", "pressure", "velocity", "density_left", "density_right"),
    [
        # Toro 2009, table 4.3
        ((1.0, 0.0, 1.0), (0.125, 0.0, 0.1), 0.30313, 0.92745, 0.42632, 0.26557),
        ((1.0, -2.0, 0.4), (1.0, 2.0, 0.4), 0.00189, 0.0, 0.02185, 0.02185),
        ((1.0, 0.0, 1000.0), (1.0, 0.0, 0.01), 460.894, 19.5975, 0.57506, 5.99924),
        ((1.0, 0.0, 0.01), (1.0, 0.0, 100.0), 46.0950, -6.19633, 5.99242, 0.57511),
        ((5.99924, 19.5975, 460.894), (5.99242, -6.19633, 46.0950), 1691.64, 8.68975, 14.2823, 31.0426),
    ],
)
def test_star_states_agree_with_toros_table(
    left: tuple[float, ...],
    right: tuple[float, ...],
    pressure: float,
    velocity: float,
    density_left: float,
    density_right: float,
) -> None:
    found = riemann.star(left, right)

    assert float(found.pressure) == pytest.approx(pressure, rel=1e-3, abs=5e-6)
    assert float(found.velocity) == pytest.approx(velocity, rel=1e-5, abs=1e-9)
    assert float(found.density_left) == pytest.approx(density_left, rel=1e-3)
    assert float(found.density_right) == pytest.approx(density_right, rel=1e-3)


def test_sods_waves_lie_where_the_sheet_says() -> None:
    speed = torch.tensor([-1.1833, -1.1831, -0.0704, -0.0702, 0.9274, 0.9275, 1.7521, 1.7523])

    density = riemann.sample([1.0, 0.0, 1.0], [0.125, 0.0, 0.1], speed)[:, 0]

    expected = torch.tensor([1.0, 0.99993, 0.42638, 0.42632, 0.42632, 0.26557, 0.26557, 0.125])
    torch.testing.assert_close(density.float(), expected, atol=1e-4, rtol=0)


@settings(max_examples=60, deadline=None)
@given(positive, speeds, positive, positive, speeds, positive)
def test_mirrored_problem_has_the_mirrored_solution(
    rho_l: float, u_l: float, p_l: float, rho_r: float, u_r: float, p_r: float
) -> None:
    speed = torch.linspace(-3.0, 3.0, 12, dtype=torch.float64) + 0.0123

    there = riemann.sample([rho_l, u_l, p_l], [rho_r, u_r, p_r], speed)
    back = riemann.sample([rho_r, -u_r, p_r], [rho_l, -u_l, p_l], -speed)

    torch.testing.assert_close(
        there, back * torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64), atol=1e-9, rtol=1e-9
    )


def test_a_shock_fulfils_the_jump_conditions() -> None:
    left, right = torch.tensor([1.0, 0.0, 1000.0]), torch.tensor([1.0, 0.0, 0.01])
    found = riemann.star(left, right)
    shock = float(found.density_right * found.velocity / (found.density_right - right[0]))

    assert float(found.density_right) * (float(found.velocity) - shock) == pytest.approx(-shock, rel=1e-9)
    momentum = float(found.density_right) * (float(found.velocity) - shock) ** 2 + float(found.pressure)
    assert momentum == pytest.approx(shock**2 + 0.01, rel=1e-9)


def test_a_vacuum_opens_between_states_that_part_fast() -> None:
    found = riemann.sample([1.0, -6.0, 0.4], [1.0, 6.0, 0.4], torch.tensor([-8.0, 0.0, 8.0]))

    assert bool(found.isfinite().all())
    assert found[1, 0] == 0
    assert found[1, 2] == 0
    torch.testing.assert_close(found[[0, 2], 0], torch.ones(2, dtype=torch.float64))


def test_batched_states_equal_single_ones() -> None:
    left = torch.tensor([[1.0, 0.0, 1.0], [1.0, -2.0, 0.4]])
    right = torch.tensor([[0.125, 0.0, 0.1], [1.0, 2.0, 0.4]])
    speed = torch.linspace(-2.0, 2.0, 9)

    both = riemann.sample(left, right, speed)

    torch.testing.assert_close(both[0], riemann.sample(left[0], right[0], speed))
    torch.testing.assert_close(both[1], riemann.sample(left[1], right[1], speed))


def test_a_negative_pressure_is_refused() -> None:
    with pytest.raises(UserError, match="positive density and pressure"):
        riemann.star([1.0, 0.0, -1.0], [1.0, 0.0, 1.0])
