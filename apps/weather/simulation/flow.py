"""Three-level quasi-geostrophic flow on the sphere (Marshall and Molteni 1993) that carries tracers.

Length is counted in radii of the earth and time in 1 / (2 Omega), a day over 4 pi; the Coriolis parameter is
then the sine of latitude. A state `(B, M, 2, 3 + S, N)` holds potential vorticity at 200, 500 and 800 hPa less
its constant part (planetary vorticity, orography), then tracers of these levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.weather.simulation.transforms import GaussGrid

__all__ = ["DAY", "RADIUS", "SPEED", "FlowSettings", "ThreeLevelFlow"]

RADIUS = 6.371e6
SPEED = 2 * 7.292e-5 * RADIUS
"""Unit of speed in m/s."""

DAY = 86400 * SPEED / RADIUS
"""A day in units of time."""

Array = NDArray[Any]


@dataclass(frozen=True)
class FlowSettings:
    """Numbers of the equations; times in days, infinite where a process is off.

    Attributes:
        deformation: Rossby radii in m between 200 and 500, and between 500 and 800 hPa.
        relaxation: Time in which temperature goes to its equilibrium.
        drag: Time in which friction stops the wind at 800 hPa over sea.
        diffusion: Time in which the shortest waves are damped, by the eighth power of the wave number.
        tracer_diffusion: The same for tracers.
    """

    deformation: tuple[float, float] = (600e3, 380e3)
    relaxation: float = 8.0
    drag: float = 3.0
    diffusion: float = 2.0
    tracer_diffusion: float = 0.5


class ThreeLevelFlow:
    """The equations of motion on a Gauss grid.

    Args:
        grid: Transforms.
        settings: Numbers.
        equilibrium: `(M, 2, 2, N)` stream function at 200 less that at 500, and at 500 less that at 800 hPa,
            to which these relax.
        orography: `(W, H)` height over the scale height.
        roughness: `(W, H)` drag over that of the sea.
    """

    def __init__(
        self,
        grid: GaussGrid,
        settings: FlowSettings,
        *,
        equilibrium: Array | float = 0.0,
        orography: Array | float = 0.0,
        roughness: Array | float = 1.0,
    ) -> None:
        self.grid, kind = grid, grid.values.dtype
        orders, degrees, rows = grid.values.shape
        laplace = np.arange(degrees) * np.arange(1.0, degrees + 1)
        upper, lower = ((RADIUS / radius) ** 2 for radius in settings.deformation)
        layers = np.array([[-upper, 0], [upper, -lower], [0, lower]])  # of thickness in potential vorticity
        stretching = layers @ np.array([[1, -1, 0], [0, 1, -1]])
        matrices = stretching - np.eye(3) * np.maximum(laplace, 1)[:, None, None]
        inverse = np.linalg.inv(matrices).transpose(1, 2, 0) * (laplace > 0)
        damping = (laplace / laplace[-1]) ** 4 / DAY
        linear = -np.einsum("ij,jkn->ikn", stretching, inverse) / (settings.relaxation * DAY)
        linear -= np.eye(3)[..., None] * damping / settings.diffusion
        self._inverse, self._linear = inverse.astype(kind), linear.astype(kind)
        self._spread = (damping / settings.tracer_diffusion).astype(kind)
        forcing = np.einsum("ij,mcjn->mcin", layers, np.broadcast_to(equilibrium, (orders, 2, 2, degrees)))
        self._forcing = (forcing / (settings.relaxation * DAY)).astype(kind)
        constant = np.broadcast_to(grid.sine, (len(grid.waves), 3, rows)).astype(kind)
        constant[:, 2] += grid.sine * orography
        self._constant = constant
        self.equilibrium, self.relaxation = equilibrium, settings.relaxation * DAY
        self.lifting = 600e2 * np.array([[upper], [lower]]) * grid.sine
        weights = grid.values @ (grid.sine * grid.weights * grid.values).swapaxes(1, 2)
        slopes = grid.values @ (grid.weights * grid.slopes).swapaxes(1, 2)
        balance = (weights * laplace - slopes) / np.maximum(laplace, 1)[:, None] * SPEED**2
        self._balance = balance.swapaxes(1, 2)[:, None].astype(kind)
        self._drag = np.asarray(roughness / (settings.drag * DAY), dtype=kind)

    def stream(self, state: Array) -> Array:
        """Return the stream function `(B, M, 2, 3, N)` of a state."""
        return _mixed(self._inverse, state)

    def geopotential(self, stream: Array) -> Array:
        """Return that in linear balance with a stream function, less its mean, in m2/s2, both `(…, K, N)`."""
        return stream @ self._balance

    def tendency(self, state: Array) -> Array:
        """Return the state's derivative by time; fluxes are of second order, without aliasing."""
        stream = self.stream(state)
        north, east = self.grid.gradient(stream)
        np.negative(east, out=east)
        carried = self.grid.fields(state)
        carried[:, :, :3] += self._constant
        fluxes = []
        for speed, across in ((east, north), (north, -east)):
            flux = np.concatenate(
                [speed * carried[:, :, k : k + 3] for k in range(0, carried.shape[2], 3)], 2
            )
            flux[:, :, 2] += self._drag * across[:, :, 2]
            fluxes.append(flux)
        change = -self.grid.divergence(*fluxes)
        change[..., :3, :] += _mixed(self._linear, state)
        change[..., :3, :] += self._forcing
        change[..., 3:, :] -= self._spread * state[..., 3:, :]
        return change

    def step(self, state: Array, time: float) -> Array:
        """Return the state a time later, by the classical Runge-Kutta method."""
        half = state.dtype.type(time / 2)
        first = self.tendency(state)
        second = self.tendency(state + half * first)
        third = self.tendency(state + half * second)
        fourth = self.tendency(state + 2 * half * third)
        return state + (first + fourth + 2 * (second + third)) * (half / 3)


def _mixed(matrices: Array, state: Array) -> Array:
    """Return the product of `(3, 3, N)` matrices and the three levels of potential vorticity."""
    mixed = matrices[:, 0] * state[..., :1, :]
    for level in (1, 2):
        mixed += matrices[:, level] * state[..., level : level + 1, :]
    return mixed
