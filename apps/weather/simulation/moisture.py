"""Water in the three-level flow: evaporation, ascent, mixing upwards, condensation, rain.

The flow carries humidity over that of saturated air at a zonal reference temperature, so that dry poles are
resolved as well as the tropics. What the reference's slope and vertical wind change is added once a step.
"""

from __future__ import annotations

import numpy as np

from apps.weather.simulation.flow import DAY, ThreeLevelFlow
from apps.weather.simulation.transforms import Array

__all__ = ["DEPTHS", "GAS", "MEAN_T", "Water", "reference_saturation", "saturation", "temperature"]

GAS = 287.05
DEPTHS = np.log([2.5, 1.6])  # of the two layers, in logarithm of pressure
MEAN_T = np.array([[218.0], [254.0], [278.0]])  # of the globe on each level, in K
_PRESSURE = np.array([[200e2], [500e2], [800e2]], dtype=np.float32)
_MASS = np.array([[350e2], [300e2], [350e2]]) / 9.80665  # of the air of each level, in kg/m2
_WEIGHTS = np.array([[0.4, 0.0], [0.5, 0.5], [0.0, 0.7]])[..., None]  # of the layers' vertical wind on levels
_SEA, _LAND, _MIXING, _RAIN = 4.0, 12.0, (8.0, 6.0), 0.15  # times in days; mixing into 200 and 500 hPa
_MOIST, _TROPICAL = 0.95, 0.35  # relative humidity at which rain sets in, and how much less in the tropics


def temperature(geopotential: Array) -> Array:
    """Return temperature on the levels less its mean `(…, 3, N)`; that at 800 hPa is the lower layer's."""
    depths = (GAS * DEPTHS[:, None]).astype(geopotential.dtype)
    layers = (geopotential[..., :2, :] - geopotential[..., 1:, :]) / depths
    upper, lower = layers[..., :1, :], layers[..., 1:, :]
    middle = (upper + lower) / 2
    return np.concatenate([2 * upper - middle, middle, lower], axis=-2)


def saturation(temperature: Array) -> Array:
    """Return the specific humidity of saturated air `(…, 3, H)` on the levels (Bolton 1980), in kg/kg."""
    celsius = temperature - 273.15
    vapour = 611.2 * np.exp(17.67 * celsius / (celsius + 243.5))
    return 0.622 * vapour / (_PRESSURE - 0.378 * vapour)


def reference_saturation(sine: Array) -> Array:
    """Return the saturated humidity `(3, H)` of a zonal mean climate at sines of latitude."""
    return saturation(MEAN_T + np.array([[4.0], [12.0], [14.0]]) * (1 - 3 * sine**2))


class Water:
    """Sources and sinks of humidity.

    Args:
        flow: What carries it.
        land: `(W, H)` share of land.
        time: Between two calls.
    """

    def __init__(self, flow: ThreeLevelFlow, land: Array, time: float) -> None:
        self.flow, grid, kind = flow, flow.grid, flow.grid.values.dtype

        def share(days: float) -> float:
            return float(1 - np.exp(-time / (days * DAY)))

        reference = reference_saturation(grid.sine)
        slope = np.gradient(np.log(reference), np.radians(grid.latitude), axis=-1) * time / grid.cosine
        lift = _WEIGHTS * flow.descent * 2 / _PRESSURE[..., None]  # humidity falls as pressure squared
        drying = _MOIST - _TROPICAL * grid.cosine**8
        parts = reference, slope, lift, drying, reference * _MASS * 1e-3, time / grid.cosine**2, MEAN_T
        exact = (np.asarray(part, dtype=kind) for part in parts)
        self._reference, self._slope, self._lift, self._limit, self._column, self._turn, self._mean = exact
        self._evaporation = (share(_SEA) + (share(_LAND) - share(_SEA)) * land).astype(kind)
        self._mixing, self._rain = [share(days) for days in _MIXING], share(_RAIN)
        self._pull = time / flow.relaxation

    def step(self, before: Array, after: Array) -> tuple[Array, Array]:
        """Return the state after a step of the flow, with new humidity, and the rain `(B, W, H)` in m."""
        flow, grid = self.flow, self.flow.grid
        stream = flow.stream(after)
        past, thickness = (part[..., :2, :] - part[..., 1:, :] for part in (flow.stream(before), stream))
        change = grid.fields(thickness - past + self._pull * (thickness - flow.equilibrium))
        east, north = grid.wind(stream)
        change += (north[:, :, :2] * east[:, :, 1:] - north[:, :, 1:] * east[:, :, :2]) * self._turn
        full = saturation(grid.fields(temperature(flow.geopotential(stream))) + self._mean) / self._reference
        wet = np.maximum(grid.fields(after[..., 3:, :]), 0.01)
        lift = self._lift[:, 0] * change[:, :, :1] + self._lift[:, 1] * change[:, :, 1:]
        wet *= np.exp(-self._slope * north - lift)
        wet[:, :, 2] += self._evaporation * np.maximum(0.85 * full[:, :, 2] - wet[:, :, 2], 0)
        for level in (1, 0):
            lack = np.maximum(0.8 * wet[:, :, level + 1] - wet[:, :, level], 0)
            wet[:, :, level] += self._mixing[level] * lack
        excess = np.maximum(wet - self._limit * full, 0) * self._rain
        state = np.concatenate([after[..., :3, :], grid.coefficients(wet - excess)], axis=-2)
        return state, (excess * self._column).sum(2)
