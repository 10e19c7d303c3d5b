"""Three-level quasi-geostrophic flow on the sphere (Marshall and Molteni 1993) that carries tracers.

Length is counted in radii of the earth and time in 1 / (2 Omega), a day over 4 pi: the Coriolis parameter is
the sine of latitude. A state `(B, M, 2, 3 + S, N)` holds potential vorticity at 200, 500 and 800 hPa without
its constant part (planetary vorticity, orography), then tracers of these levels.
"""

from __future__ import annotations

import numpy as np

from apps.weather.simulation.transforms import Array, GaussGrid

__all__ = ["DAY", "RADIUS", "SPEED", "ThreeLevelFlow"]

RADIUS = 6.371e6
SPEED = 2 * 7.292e-5 * RADIUS  # unit in m/s
DAY = 86400 * SPEED / RADIUS  # in units of time


class ThreeLevelFlow:
    """The equations of motion on a Gauss grid. Times are in days, infinite where a process is off.

    Args:
        grid: Transforms.
        equilibrium: `(M, 2, 2, N)` stream function at 200 less that at 500, and at 500 less that at 800 hPa,
            to which these relax.
        orography: `(W, H)` height over the scale height.
        roughness: `(W, H)` drag over that of the sea.
        deformation: Rossby radii in m between 200 and 500, and between 500 and 800 hPa.
        relaxation: Time in which temperature goes to its equilibrium.
        drag: Time in which friction stops the wind at 800 hPa over sea.
        diffusion: Times in which the shortest waves of vorticity and of tracers are damped, by the eighth
            power of the wave number.
    """

    def __init__(
        self,
        grid: GaussGrid,
        *,
        equilibrium: Array | float = 0.0,
        orography: Array | float = 0.0,
        roughness: Array | float = 1.0,
        deformation: tuple[float, float] = (600e3, 380e3),
        relaxation: float = 8.0,
        drag: float = 3.0,
        diffusion: tuple[float, float] = (2.0, 0.5),
    ) -> None:
        self.grid, kind = grid, grid.values.dtype
        orders, degrees, rows = grid.values.shape
        laplace = np.arange(degrees) * np.arange(1.0, degrees + 1)
        upper, lower = ((RADIUS / radius) ** 2 for radius in deformation)
        layers = np.array([[-upper, 0], [upper, -lower], [0, lower]])  # of thickness in potential vorticity
        stretching = layers @ np.array([[1, -1, 0], [0, 1, -1]])
        matrices = stretching - np.eye(3) * np.maximum(laplace, 1)[:, None, None]
        inverse = np.linalg.inv(matrices).transpose(1, 2, 0) * (laplace > 0)
        self.equilibrium, self.relaxation = equilibrium, relaxation * DAY
        damping = (laplace / laplace[-1]) ** 4 / DAY
        linear = -np.einsum("ij,jkn->ikn", stretching, inverse) / self.relaxation
        linear -= np.eye(3)[..., None] * damping / diffusion[0]
        self._spread = (damping / diffusion[1]).astype(kind)
        both = np.concatenate([inverse, linear])  # 6 3 N, as one matrix of (level, degree) by (field, degree)
        matrix = np.einsum("ijn,nk->jnik", both, np.eye(degrees))
        self._matrix = matrix.reshape(3 * degrees, 6 * degrees).astype(kind)
        forcing = np.einsum("ij,mcjn->mcin", layers, np.broadcast_to(equilibrium, (orders, 2, 2, degrees)))
        self.forcing = (forcing / self.relaxation).astype(kind)
        self._constant = np.broadcast_to(grid.sine, (len(grid.longitude), 3, rows)).astype(kind)
        self._constant[:, 2] += grid.sine * orography
        self._drag = np.asarray(roughness / (drag * DAY), dtype=kind)
        # Of the layers, 300 hPa each: descent in Pa for a material change of thickness.
        self.descent = 600e2 * np.array([[upper], [lower]]) * grid.sine
        tilt = laplace[:, None] * grid.sine * grid.values - grid.slopes
        balance = (grid.values * grid.weights) @ tilt.swapaxes(1, 2) / np.maximum(laplace, 1)[:, None]
        self._balance = (balance * SPEED**2).swapaxes(1, 2)[:, None].astype(kind)

    def stream(self, state: Array) -> Array:
        """Return the stream function `(B, M, 2, 3, N)` of a state."""
        return self._inverted(state)[..., :3, :]

    def geopotential(self, stream: Array) -> Array:
        """Return that in linear balance with a stream function, less its mean, in m2/s2, both `(…, K, N)`."""
        return stream @ self._balance

    def tendency(self, state: Array) -> Array:
        """Return the state's derivative by time."""
        inverted = self._inverted(state)
        east, north = self.grid.wind(inverted[..., :3, :])
        carried = self.grid.fields(state)
        carried[:, :, :3] += self._constant
        levels = carried.reshape(*east.shape[:2], -1, *east.shape[2:])
        fluxes = [(speed[:, :, None] * levels).reshape(carried.shape) for speed in (east, north)]
        fluxes[0][:, :, 2] += self._drag * north[:, :, 2]
        fluxes[1][:, :, 2] -= self._drag * east[:, :, 2]
        change = self.grid.convergence(*fluxes)
        change[..., :3, :] += inverted[..., 3:, :]
        change[..., :3, :] += self.forcing
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

    def _inverted(self, state: Array) -> Array:
        """Return the stream function and what is linear of the tendency, `(B, M, 2, 6, N)`."""
        members, orders, _, _, degrees = state.shape
        vorticity = state[..., :3, :].reshape(members, 2 * orders, 3 * degrees)
        return np.matmul(vorticity, self._matrix).reshape(members, orders, 2, 6, degrees)
