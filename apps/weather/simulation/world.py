"""The globe of the three-level flow: continents, mountains, sun, water, and the fields that one would observe."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.weather.simulation.flow import DAY, RADIUS, SPEED, FlowSettings, ThreeLevelFlow
from apps.weather.simulation.moisture import (
    DEPTHS,
    GAS,
    MEAN_T,
    Water,
    reference_temperature,
    saturation,
    temperature,
)
from apps.weather.simulation.transforms import GaussGrid, HarmonicBasis

__all__ = ["LEVELS", "STEPS_A_DAY", "Observer", "World", "land_and_height"]

LEVELS = (200, 500, 800)
STEPS_A_DAY = 12
SPIN_UP = 60
"""Days until the flow has forgotten its beginning."""

_JET, _SHEAR, _SOUTH = (42.0, -45.0, 30.0), (13.0, 16.0), 0.8
_COLD = 8.0  # by which northern continents would be colder than the sea, in K
_MEAN_Z = 54900 + GAS * np.array([DEPTHS[0] * 236.0, 0, -DEPTHS[1] * 266.0])
# Latitude and longitude of the centre, half width in both, tilt (degrees of latitude per degree of longitude).
_CONTINENTS = (
    (50, 255, 17, 32, -0.2), (68, 260, 10, 40, 0), (20, 260, 10, 9, -0.6), (-5, 298, 14, 17, 0),
    (-30, 293, 22, 7, 0.8), (73, 318, 10, 16, 0), (12, 15, 18, 27, 0), (-14, 25, 20, 13, 0),
    (55, 65, 15, 50, 0), (62, 110, 13, 50, 0), (35, 95, 14, 30, 0), (18, 78, 13, 7, 0),
    (24, 45, 9, 11, 0), (48, 8, 6, 14, 0), (-25, 134, 10, 18, 0), (-88, 180, 17, 400, 0), (0, 112, 6, 13, 0),
)  # fmt: skip
# The same of mountains, with their height in m.
_MOUNTAINS = (
    (33, 90, 9, 22, 0, 4800), (48, 95, 7, 14, -0.4, 1800), (43, 248, 16, 9, -0.8, 2300),
    (-20, 290, 26, 4, 0, 3000), (73, 320, 8, 13, 0, 2800), (-88, 120, 15, 400, 0, 3200),
    (0, 35, 22, 7, 0, 1300), (46, 10, 4, 9, 0, 1300), (62, 130, 9, 25, 0, 700), (33, 50, 6, 10, 0, 1300),
)  # fmt: skip

Array = NDArray[Any]


def land_and_height(latitude: Array, longitude: Array) -> tuple[Array, Array]:
    """Return the share of land (0 to 1) and the height in m, `(W, H)`."""
    row, column = latitude[None, :], longitude[:, None]
    squeeze = np.maximum(np.cos(np.radians(row)), 0.2)

    def distance(north: float, east: float, tall: float, wide: float, tilt: float) -> Array:
        x = (column - east + 180) % 360 - 180
        bend = 3 * np.sin(np.radians(7 * row + 5 * column)) + 3 * np.sin(np.radians(11 * column - 6 * row))
        return np.hypot((row - north - tilt * x + bend) / tall, (x + bend) / wide * np.maximum(squeeze, 0.6))

    land = np.max([1 / (1 + np.exp(14 * (distance(*one) - 1))) for one in _CONTINENTS], axis=0)
    rise = np.sum([one[5] * np.exp(-1.5 * distance(*one[:5]) ** 2) for one in _MOUNTAINS], axis=0)
    return land, land * (rise + 200)


class World:
    """The flow over this globe and its water.

    Args:
        dtype: Precision.
    """

    def __init__(self, dtype: Any = np.float32) -> None:
        self.grid = grid = GaussGrid(dtype=dtype)
        land, height = land_and_height(grid.latitude, grid.longitude)
        self.flow = ThreeLevelFlow(
            grid,
            FlowSettings(),
            equilibrium=_equilibrium(grid, land),
            orography=height / 9000,
            roughness=1 + 0.5 * land + 0.5 * (1 - np.exp(-height / 1000)),
        )
        self.time = DAY / STEPS_A_DAY
        self.water = Water(self.flow, land, self.time)

    def beginning(self, seed: int, members: range) -> Array:
        """Return states `(B, M, 2, 6, N)` of random eddies; a member's depends on the seed and its number."""
        orders, degrees, _ = self.grid.values.shape
        order, degree = np.arange(orders)[:, None], np.arange(degrees)
        scale = np.where((degree >= order) & (degree > 0) & (degree < 12), 0.01, 0.0)[:, None, None, :]
        draws = [
            np.random.default_rng((seed, member)).standard_normal((orders, 2, 6, degrees))
            for member in members
        ]
        state = (np.array(draws) * scale).astype(self.grid.values.dtype)
        state[:, 0, 1] = state[..., 3:, :] = 0
        state[:, 0, 0, 3:, 0] = 0.6
        return state

    def run(self, state: Array, steps: int) -> tuple[Array, Array]:
        """Return the state some steps later, and the rain in between `(B, W, H)` in m."""
        total = np.zeros((len(state), *self.grid.shape), self.grid.values.dtype)
        for _ in range(steps):
            state, rain = self.water.step(state, self.flow.step(state, self.time))
            total += rain
        return state, total


def _equilibrium(grid: GaussGrid, land: Array) -> Array:
    """Return the thickness of the winter's jets and cold continents as stream functions `(M, 2, 2, N)`."""
    north, south, width = _JET
    fine = np.linspace(-90, 90, 1441)
    wind = np.exp(-(((fine - north) / width) ** 2)) + _SOUTH * np.exp(-(((fine - south) / width) ** 2))
    stream = -np.cumsum(wind) * np.radians(fine[1] - fine[0]) / SPEED
    zonal = np.interp(grid.latitude, fine, stream)
    cold = -_COLD * land * np.exp(-(((grid.latitude - 50) / 20) ** 2)) * GAS / (1e-4 * SPEED * RADIUS)
    both = [shear * zonal + depth * cold for shear, depth in zip(_SHEAR, DEPTHS, strict=True)]
    thickness = grid.coefficients(np.stack(both, axis=1)[None].astype(grid.values.dtype))[0]
    thickness[0, 0, :, 0] = 0
    return thickness


class Observer:
    """What is observed of a world on a grid, in SI units.

    Args:
        world: The world.
        latitude: `(H,)` in degrees.
        longitude: `(W,)` in degrees.
    """

    def __init__(self, world: World, latitude: Array, longitude: Array) -> None:
        inner = np.clip(latitude, -89.9, 89.9)  # where winds have directions
        self._world, kind = world, world.grid.values.dtype
        self._basis = HarmonicBasis(inner, longitude, dtype=kind)
        land, height = land_and_height(latitude, longitude)
        self._land, self._height, self._longitude = land.astype(kind), height.astype(kind), longitude
        self._sine = self._basis.sine.astype(kind)
        self._saturated = saturation(reference_temperature(self._basis.sine)).astype(kind)
        rows = _between(world.grid.latitude[::-1], inner, None)[:, ::-1]
        self._rows, self._columns = (
            rows.T.astype(kind),
            _between(world.grid.longitude, longitude, 360).astype(kind),
        )

    @property
    def static(self) -> dict[str, Array]:
        """Fields `(H, W)` that do not change: z in m2/s2, lsm, slt."""
        kind = np.where(np.abs(np.degrees(np.arcsin(self._sine))) > 50, 6, 2) * np.ones_like(self._land)
        slt = np.where(self._land >= 0.5, kind, 0)
        return {"z": self._height.T * 9.80665, "lsm": self._land.T, "slt": slt.T}

    def fields(self, state: Array, rain: Array, hour: float) -> dict[str, Array]:
        """Return fields at an hour UTC: on levels `(B, 3, H, W)`, others `(B, H, W)`; tp is the rain's."""
        flow, basis, land, sine = self._world.flow, self._basis, self._land, self._sine
        stream = flow.stream(state)
        heights = flow.geopotential(stream)
        east, north = basis.wind(stream)
        u, v = (
            east * (SPEED / basis.cosine).astype(east.dtype),
            north * (SPEED / basis.cosine).astype(east.dtype),
        )
        z = basis.fields(heights) + _MEAN_Z[:, None].astype(u.dtype)
        t = basis.fields(temperature(heights)) + MEAN_T[:, None].astype(u.dtype)
        q = np.clip(basis.fields(state[..., 3:, :]) * self._saturated, 1e-7, saturation(t))
        low = t[:, :, 2] + 5.0  # at 900 hPa
        bottom = z[:, :, 2] - GAS * np.log(1.25) * low
        # Below 800 hPa the shear goes on, and friction slows the wind and turns it to the low.
        shift = np.log(1.25) / DEPTHS[1]
        wind = [field[:, :, 2] + shift * (field[:, :, 2] - field[:, :, 1]) for field in (u, v)]
        turn = np.tanh(5 * sine) * np.radians(15 + 10 * land)
        slow = 0.65 - 0.25 * land
        sun = np.cos(2 * np.pi * (hour + self._longitude[:, None] / 15 - 14) / 24) * basis.cosine
        ground = t[:, :, 2] + 10.5 + land * 4 * sun - self._height * 0.0065
        sea = np.maximum(300 - 30 * sine**2 - 8 * sine**4, 271.5)
        kept = {
            "2t": ground + (1 - land) * 0.7 * (sea - ground),
            "10u": slow * (wind[0] * np.cos(turn) - wind[1] * np.sin(turn)),
            "10v": slow * (wind[1] * np.cos(turn) + wind[0] * np.sin(turn)),
            "msl": 1e5 * np.exp(bottom / (GAS * 288.0)),
            "tp": np.matmul(np.matmul(self._columns, rain), self._rows),
        }
        surface = {name: field.swapaxes(1, 2) for name, field in kept.items()}
        levels = {"z": z, "u": u, "v": v, "t": t, "q": q}
        every = surface | {name: field.transpose(0, 2, 3, 1) for name, field in levels.items()}
        return {name: np.ascontiguousarray(field, dtype=np.float32) for name, field in every.items()}


def _between(known: Array, wanted: Array, period: float | None) -> Array:
    """Return the matrix of linear interpolation between positions, `(len(wanted), len(known))`."""
    return np.stack([np.interp(wanted, known, unit, period=period) for unit in np.eye(len(known))], axis=1)
