"""Spherical harmonics with triangular truncation, as matrix products that take every member alike.

Coefficients are real, `(B, M, 2, K, N)`: member, zonal wave number m, cosine and negative sine, field, degree n;
those of a degree below m are zero. The functions are orthonormal: a field's mean square is the sum of its
coefficients' squares. Values on a grid are `(B, W, K, H)`, so that no product needs a transposed copy. Each
member is a matrix of its own, so that its bits do not depend on how many there are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["GaussGrid", "HarmonicBasis"]

Array = NDArray[Any]


class HarmonicBasis:
    """Harmonics on the rows and columns of a grid.

    Args:
        latitude: `(H,)` in degrees.
        longitude: `(W,)` in degrees.
        truncation: Greatest degree.
        dtype: Precision of the products.
    """

    def __init__(
        self, latitude: ArrayLike, longitude: ArrayLike, truncation: int = 21, dtype: Any = np.float32
    ) -> None:
        self.shape = np.size(longitude), np.size(latitude)
        self.sine = np.sin(np.radians(np.asarray(latitude, dtype=np.float64)))
        self.cosine = np.sqrt(1 - self.sine**2)
        angle = np.radians(np.asarray(longitude, dtype=np.float64))
        numbers = np.arange(truncation + 1)
        values, slopes = _legendre(self.sine, truncation)
        scale = np.where(numbers > 0, np.sqrt(2), 1)
        phase = angle[:, None] * numbers
        waves = np.stack([np.cos(phase), -np.sin(phase)], axis=-1) * scale[:, None]
        turned = np.stack([-np.sin(phase), -np.cos(phase)], axis=-1) * (scale * numbers)[:, None]
        self.values, self.slopes = values.astype(dtype), slopes.astype(dtype)
        self._falls = -self.slopes
        self.waves = waves.reshape(len(angle), -1).astype(dtype)
        self.wave_slopes = turned.reshape(len(angle), -1).astype(dtype)

    def fields(self, coefficients: Array) -> Array:
        """Return the values `(B, W, K, H)`."""
        return _product(self.waves, coefficients, self.values)

    def wind(self, stream: Array) -> tuple[Array, Array]:
        """Return cos(latitude) times the wind to the east and to the north, on a sphere of radius 1."""
        return _product(self.waves, stream, self._falls), _product(self.wave_slopes, stream, self.values)


class GaussGrid(HarmonicBasis):
    """Harmonics on the Gauss grid on which products of three fields are integrated exactly."""

    def __init__(self, truncation: int = 21, dtype: Any = np.float32) -> None:
        rows = (3 * truncation + 2) // 2
        sines, weights = np.polynomial.legendre.leggauss(rows)
        self.latitude = np.degrees(np.arcsin(sines[::-1]))
        self.longitude = np.arange(2 * rows) * (180 / rows)
        super().__init__(self.latitude, self.longitude, truncation, dtype)
        self.weights = weights[::-1] / 2
        weight = self.weights[:, None] / (2 * rows)
        flat = weight / (1 - self.sine[:, None] ** 2)
        values, slopes = _legendre(self.sine, truncation)
        self._analysis = (values.swapaxes(1, 2) * weight).astype(dtype)
        self._east = (values.swapaxes(1, 2) * flat).astype(dtype)
        self._north = (slopes.swapaxes(1, 2) * flat).astype(dtype)
        self._columns = np.ascontiguousarray(self.waves.T)
        self._column_slopes = np.ascontiguousarray(self.wave_slopes.T)

    def coefficients(self, fields: Array) -> Array:
        """Return the coefficients of values `(B, W, K, H)`."""
        return _analysis(self._columns, fields, self._analysis)

    def convergence(self, east: Array, north: Array) -> Array:
        """Return the coefficients of what a flux, times cos(latitude), brings in; on a sphere of radius 1."""
        whole = _analysis(self._column_slopes, east, self._east)
        whole += _analysis(self._columns, north, self._north)
        return whole


def _product(waves: Array, coefficients: Array, polynomials: Array) -> Array:
    members, orders, _, fields, degrees = coefficients.shape
    rows = np.matmul(coefficients.reshape(members, orders, 2 * fields, degrees), polynomials)
    return np.matmul(waves, rows.reshape(members, 2 * orders, -1)).reshape(members, len(waves), fields, -1)


def _analysis(waves: Array, fields: Array, polynomials: Array) -> Array:
    members, columns, count, rows = fields.shape
    turned = np.matmul(waves, fields.reshape(members, columns, -1))
    return np.matmul(turned.reshape(members, len(polynomials), 2 * count, rows), polynomials).reshape(
        members, len(polynomials), 2, count, -1
    )


def _legendre(sine: Array, truncation: int) -> tuple[Array, Array]:
    """Return normalised associated Legendre functions P and (1 - sine²) dP/dsine, both `(M, N, H)`."""
    count, degree = truncation + 2, np.arange(truncation + 2.0)
    p = np.zeros((truncation + 1, count, len(sine)))
    epsilon = np.zeros((truncation + 1, count + 1))
    for m in range(truncation + 1):
        n = np.arange(m, count + 1)
        epsilon[m, m:] = np.sqrt((n**2 - m**2) / (4 * n**2 - 1.0))
        p[m, m] = 1 if m == 0 else p[m - 1, m - 1] * np.sqrt((2 * m + 1) / (2 * m) * (1 - sine**2))
        for k in range(m + 1, count):
            below = epsilon[m, k - 1] * p[m, k - 2] if k > m + 1 else 0
            p[m, k] = (sine * p[m, k - 1] - below) / epsilon[m, k]
    slopes = -degree[:-1, None] * epsilon[:, 1:count, None] * p[:, 1:]
    slopes[:, 1:] += (degree[1:-1, None] + 1) * epsilon[:, 1 : count - 1, None] * p[:, : count - 2]
    return p[:, :-1], slopes
