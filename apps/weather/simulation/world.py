"""The globe of the three-level flow: continents, mountains, winter jets, and the fields that are observed."""

from __future__ import annotations

from typing import Any

import numpy as np

from apps.weather.simulation.flow import DAY, RADIUS, SPEED, ThreeLevelFlow
from apps.weather.simulation.moisture import (
    DEPTHS,
    GAS,
    MEAN_T,
    Water,
    reference_saturation,
    saturation,
    temperature,
)
from apps.weather.simulation.transforms import Array, GaussGrid, HarmonicBasis

__all__ = ["SPIN_UP", "STEPS_A_DAY", "Observer", "World", "land_and_height"]

STEPS_A_DAY = 12
SPIN_UP = 30  # days until the flow has forgotten its beginning
_GRAVITY = 9.80665
_MEAN_Z = 54900 + GAS * np.array([[DEPTHS[0] * 236.0], [0.0], [-DEPTHS[1] * 266.0]])
_NORTH, _SOUTH, _WIDTH = (42.0, 1.0), (-45.0, 0.8), 30.0  # jets' latitude and strength, half width
_SHEAR = (13.0, 16.0)  # in m/s within each layer, to which the flow relaxes
_COLD = 8.0  # by which northern continents would be colder than the sea, in K
# Latitude and longitude of the centre, half width in both, tilt (latitude by longitude).
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


def land_and_height(latitude: Array, longitude: Array) -> tuple[Array, Array]:
    """Return the share of land (0 to 1) and the height in m, `(W, H)`."""
    row, column = latitude[None, :], longitude[:, None]
    bend = 3 * np.sin(np.radians(7 * row + 5 * column)) + 3 * np.sin(np.radians(11 * column - 6 * row))
    narrow = np.maximum(np.cos(np.radians(row)), 0.6)

    def distance(north: float, east: float, tall: float, wide: float, tilt: float) -> Array:
        x = (column - east + 180) % 360 - 180
        return np.hypot((row - north - tilt * x + bend) / tall, (x + bend) / wide * narrow)

    land = np.max([1 / (1 + np.exp(14 * (distance(*ellipse) - 1))) for ellipse in _CONTINENTS], axis=0)
    rise = np.sum([tall * np.exp(-1.5 * distance(*ellipse) ** 2) for *ellipse, tall in _MOUNTAINS], axis=0)
    return land, land * (rise + 200)


class World:
    """The flow over this globe, and its water, in a perpetual northern winter."""

    def __init__(self, dtype: Any = np.float32) -> None:
        self.grid = grid = GaussGrid(dtype=dtype)
        self.time = DAY / STEPS_A_DAY
        land, height = land_and_height(grid.latitude, grid.longitude)
        roughness = 1 + 0.5 * land + 0.5 * (1 - np.exp(-height / 1000))
        self.flow = ThreeLevelFlow(
            grid, equilibrium=_equilibrium(grid, land), orography=height / 9000, roughness=roughness
        )
        self.water = Water(self.flow, land, self.time)

    def beginning(self, seed: int, members: range) -> Array:
        """Return states `(B, M, 2, 6, N)`: jets with eddies, drawn by the seed and each number."""
        orders, degrees, _ = self.grid.values.shape
        order, degree = np.arange(orders)[:, None, None, None], np.arange(degrees)
        draws = [np.random.default_rng((seed, m)).standard_normal((orders, 2, 6, degrees)) for m in members]
        state = np.array(draws) * np.where((degree >= order) & (degree > 0) & (degree < 12), 0.01, 0.0)
        state[:, 0, 1] = state[..., 3:, :] = 0
        state[..., :3, :] += 0.8 * self.flow.forcing * self.flow.relaxation
        state[:, 0, 0, 3:, 0] = 0.40, 0.65, 0.76
        return state.astype(self.grid.values.dtype)

    def run(self, state: Array, steps: int) -> tuple[Array, Array]:
        """Return the state some steps later, and the rain in between `(B, W, H)` in m."""
        rain: Any = 0.0
        for _ in range(steps):
            state, shower = self.water.step(state, self.flow.step(state, self.time))
            rain = rain + shower
        return state, rain


class Observer:
    """Observations of a world at latitudes `(H,)` and longitudes `(W,)`, in SI units."""

    def __init__(self, world: World, latitude: Array, longitude: Array) -> None:
        inner = np.clip(latitude, -89.9, 89.9)  # where winds have directions
        self._flow, grid, kind = world.flow, world.grid, world.grid.values.dtype
        self._basis = basis = HarmonicBasis(inner, longitude, dtype=kind)
        land, height = land_and_height(latitude, longitude)
        soil = np.where(land >= 0.5, np.where(np.abs(latitude) > 50, 6, 2), 0)
        self.static = {"z": height.T * _GRAVITY, "lsm": land.T, "slt": soil.T}
        wide, high = (np.eye(count) for count in grid.shape)  # rain is interpolated: it must not be negative
        rows = [np.interp(inner, grid.latitude[::-1], unit[::-1]) for unit in high]
        columns = [np.interp(longitude, grid.longitude, unit, period=360) for unit in wide]
        turn = np.tanh(5 * basis.sine) * np.radians(15 + 10 * land)  # of the surface wind, to the low
        slow = 0.65 - 0.25 * land
        sea = np.maximum(300 - 30 * basis.sine**2 - 8 * basis.sine**4, 271.5)
        climate = SPEED / basis.cosine, MEAN_T, _MEAN_Z, reference_saturation(basis.sine), sea
        ground = land, height * 0.0065, slow * np.cos(turn), slow * np.sin(turn)
        exact = [part.astype(kind) for part in (*climate, *ground, np.stack(rows), np.stack(columns, axis=1))]
        self._speed, self._mean_t, self._mean_z, self._reference, self._sea, *others = exact
        self._land, self._lapse, self._along, self._across, self._rows, self._columns = others

    def fields(self, state: Array, rain: Array, hour: float) -> dict[str, Array]:
        """Return fields at an hour UTC: on levels `(B, 3, H, W)`, others `(B, H, W)`; tp is the rain's."""
        flow, basis, land = self._flow, self._basis, self._land
        stream = flow.stream(state)
        heights = flow.geopotential(stream)
        u, v = (part * self._speed for part in basis.wind(stream))
        z, t = basis.fields(heights) + self._mean_z, basis.fields(temperature(heights)) + self._mean_t
        q = np.clip(basis.fields(state[..., 3:, :]) * self._reference, 1e-7, saturation(t))
        # At 1000 hPa: the lower layer's shear goes on, and its temperature, 5 K warmer in between.
        east, north = (w[:, :, 2] + np.log(1.25) / DEPTHS[1] * (w[:, :, 2] - w[:, :, 1]) for w in (u, v))
        bottom = z[:, :, 2] - GAS * np.log(1.25) * (t[:, :, 2] + 5)
        solar = 2 * np.pi * (hour + basis.longitude[:, None] / 15 - 14) / 24
        ground = t[:, :, 2] + 10.5 - self._lapse + land * 4 * np.cos(solar) * basis.cosine
        surface = {
            "2t": ground + (1 - land) * 0.7 * (self._sea - ground),
            "10u": self._along * east - self._across * north,
            "10v": self._along * north + self._across * east,
            "msl": 1e5 * np.exp(bottom / (GAS * 288.0)),
            "tp": self._columns @ rain @ self._rows,
        }
        every = {name: field.swapaxes(1, 2) for name, field in surface.items()}
        levels = {"z": z, "u": u, "v": v, "t": t, "q": q}
        every |= {name: field.transpose(0, 2, 3, 1) for name, field in levels.items()}
        return {name: np.ascontiguousarray(field, dtype=np.float32) for name, field in every.items()}


def _equilibrium(grid: GaussGrid, land: Array) -> Array:
    """Return the thickness of winter jets and cold continents as stream functions `(M, 2, 2, N)`."""
    fine = np.linspace(-90, 90, 1441)
    wind = sum(strong * np.exp(-(((fine - north) / _WIDTH) ** 2)) for north, strong in (_NORTH, _SOUTH))
    zonal = np.interp(grid.latitude, fine, -np.cumsum(wind)) * np.radians(fine[1] - fine[0]) / SPEED
    cold = -_COLD * land * np.exp(-(((grid.latitude - 50) / 20) ** 2)) * GAS / (1e-4 * SPEED * RADIUS)
    both = [shear * zonal + depth * cold for shear, depth in zip(_SHEAR, DEPTHS, strict=True)]
    thickness = grid.coefficients(np.stack(both, axis=1)[None].astype(grid.values.dtype))[0]
    thickness[0, 0, :, 0] = 0
    return thickness
