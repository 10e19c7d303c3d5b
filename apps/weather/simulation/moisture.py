"""Water in the three-level flow: evaporation, ascent, mixing, condensation, rain.

The flow carries humidity over that of saturated air at the zonal reference temperature, so that the dry poles
are resolved as well as the tropics; what the reference's own slope and the vertical wind change is added here,
once a step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.weather.simulation.flow import DAY, ThreeLevelFlow

__all__ = ["DEPTHS", "GAS", "MEAN_T", "Water", "reference_temperature", "saturation", "temperature"]

Array = NDArray[Any]

GAS = 287.05
DEPTHS = np.log([2.5, 1.6])
"""Of the layers, in logarithm of pressure."""

MEAN_T = np.array([218.0, 254.0, 278.0])
"""Of the globe on each level, in K."""

PRESSURES = np.array([200e2, 500e2, 800e2])
_MASS = np.array([350e2, 300e2, 350e2]) / 9.80665  # of the air of each level, in kg/m2
_THRESHOLD = (0.95, 0.35)  # relative humidity at which condensation sets in, and how much less in the tropics
_CONDENSATION = 0.15  # its time in days
_EVAPORATION = (4.0, 12.0)  # over sea and land, in days
_MIXING = (8.0, 6.0)  # into 200 and 500 hPa from below, in days


def temperature(geopotential: Array) -> Array:
    """Return temperature on the levels less its mean `(…, 3, N)`; that at 800 hPa is the lower layer's."""
    depths = (GAS * DEPTHS[:, None]).astype(geopotential.dtype)
    layers = (geopotential[..., :2, :] - geopotential[..., 1:, :]) / depths
    upper, lower = layers[..., :1, :], layers[..., 1:, :]
    middle = (upper + lower) / 2
    return np.concatenate([2 * upper - middle, middle, lower], axis=-2)


def reference_temperature(sine: Array) -> Array:
    """Return a zonal mean `(3, H)` at sines of latitude, in K."""
    return MEAN_T[:, None] + np.array([[4.0], [12.0], [14.0]]) * (1 - 3 * sine**2)


def saturation(temperature: Array) -> Array:
    """Return the specific humidity of saturated air `(…, 3, H)` on the levels (Bolton 1980), in kg/kg."""
    celsius = temperature - 273.15
    vapour = 611.2 * np.exp(17.67 * celsius / (celsius + 243.5))
    return 0.622 * vapour / (PRESSURES.astype(temperature.dtype)[:, None] - 0.378 * vapour)


class Water:
    """Sources and sinks of humidity.

    Args:
        flow: What carries it.
        land: `(W, H)` share of land.
        time: Between two calls.
    """

    def __init__(self, flow: ThreeLevelFlow, land: Array, time: float) -> None:
        self.flow, grid = flow, flow.grid
        kind = grid.values.dtype
        self.saturated = saturation(reference_temperature(grid.sine))
        slope = np.gradient(np.log(self.saturated), np.radians(grid.latitude), axis=-1)
        self._slope = (slope * time / grid.cosine).astype(kind)
        weights = np.array([[0.4, 0.0], [0.5, 0.5], [0.0, 0.7]])  # of the layers' vertical wind on the levels
        self._lift = (weights[..., None] * flow.lifting * 2 / PRESSURES[:, None, None]).astype(kind)
        self._time, self._pull = kind.type(time), kind.type(time / flow.relaxation)
        sea, ground = (1 - np.exp(-time / (days * DAY)) for days in _EVAPORATION)
        self._evaporation = (sea + (ground - sea) * land).astype(kind)
        self._mixing = [kind.type(1 - np.exp(-time / (days * DAY))) for days in _MIXING]
        self._threshold = (_THRESHOLD[0] - _THRESHOLD[1] * grid.cosine**8).astype(kind)
        self._share = kind.type(1 - np.exp(-time / (_CONDENSATION * DAY)))
        self._column = (self.saturated * _MASS[:, None] * 1e-3).astype(kind)
        self.saturated, self._mean = self.saturated.astype(kind), MEAN_T[:, None].astype(kind)

    def step(self, before: Array, after: Array) -> tuple[Array, Array]:
        """Return the state after a step with its humidity changed, and the rain `(B, W, H)` in m."""
        grid, flow = self.flow.grid, self.flow
        past, stream = flow.stream(before), flow.stream(after)
        east, north = grid.wind(stream)
        thickness = stream[..., :2, :] - stream[..., 1:, :]
        drift = (
            thickness - (past[..., :2, :] - past[..., 1:, :]) + self._pull * (thickness - flow.equilibrium)
        )
        wide = (grid.cosine**2 / self._time).astype(east.dtype)
        turned = north[:, :, 1:] * east[:, :, :2] - north[:, :, :2] * east[:, :, 1:]
        drift = grid.fields(drift) - turned / wide
        warmth = grid.fields(temperature(flow.geopotential(stream))) + self._mean
        full = saturation(warmth) / self.saturated
        wet = np.maximum(grid.fields(after[..., 3:, :]), 0.01)
        lift = self._lift[:, 0] * drift[:, :, :1] + self._lift[:, 1] * drift[:, :, 1:]
        wet *= np.exp(-self._slope * north - lift)
        wet[:, :, 2] += self._evaporation * np.maximum(0.85 * full[:, :, 2] - wet[:, :, 2], 0)
        for upper in (1, 0):
            wet[:, :, upper] += self._mixing[upper] * np.maximum(
                0.8 * wet[:, :, upper + 1] - wet[:, :, upper], 0
            )
        excess = np.maximum(wet - self._threshold * full, 0) * self._share
        state = np.concatenate([after[..., :3, :], grid.coefficients(wet - excess)], axis=-2)
        return state, (excess * self._column).sum(2)
