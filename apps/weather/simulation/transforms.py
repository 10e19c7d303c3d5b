"""Spherical harmonics with triangular truncation, as matrix products that take every member alike.

Coefficients are real, `(B, M, 2, K, N)`: member, zonal wave number m, cosine and negative sine, field, degree
n; those of a degree below m are zero. The functions are orthonormal: a field's mean square is the sum of its
coefficients' squares. Values on a grid are `(B, W, K, H)`, so that no product needs a transposed copy. Each
member is a matrix of its own, so that its bits do not depend on how many there are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import assoc_legendre_p_all

__all__ = ["Array", "GaussGrid", "HarmonicBasis"]

Array = NDArray[Any]


class HarmonicBasis:
    """Harmonics on the rows and columns of a grid, latitudes `(H,)` and longitudes `(W,)` in degrees.

    Attributes:
        values: `(M, N, H)` normalised associated Legendre functions P.
        slopes: `(M, N, H)` cos²(latitude) dP / d sin(latitude).
    """

    def __init__(
        self, latitude: ArrayLike, longitude: ArrayLike, truncation: int = 21, dtype: Any = np.float32
    ) -> None:
        self.latitude, self.longitude = np.asarray(latitude, np.float64), np.asarray(longitude, np.float64)
        self.shape = len(self.longitude), len(self.latitude)
        self.sine, self.cosine = np.sin(np.radians(self.latitude)), np.cos(np.radians(self.latitude))
        both = assoc_legendre_p_all(truncation, truncation, self.sine, norm=True, diff_n=1) * np.sqrt(2)
        exact = both[:, :, : truncation + 1].swapaxes(1, 2)
        exact[1] *= self.cosine**2
        orders = np.arange(truncation + 1)
        phase = np.radians(self.longitude)[:, None] * orders
        scale = np.where(orders > 0, np.sqrt(2), 1)[:, None]
        waves = np.stack([np.cos(phase), -np.sin(phase)], axis=-1) * scale
        turned = np.stack([-np.sin(phase), -np.cos(phase)], axis=-1) * scale * orders[:, None]
        self._exact = exact
        self.values, self.slopes = exact.astype(dtype)
        self._falls = -self.slopes
        self._waves, self._turned = (part.reshape(len(phase), -1).astype(dtype) for part in (waves, turned))

    def fields(self, coefficients: Array) -> Array:
        """Return the values `(B, W, K, H)`."""
        return _product(self._waves, coefficients, self.values)

    def wind(self, stream: Array) -> tuple[Array, Array]:
        """Return cos(latitude) times the wind to the east and to the north, on a sphere of radius 1."""
        return _product(self._waves, stream, self._falls), _product(self._turned, stream, self.values)


class GaussGrid(HarmonicBasis):
    """Harmonics on the Gauss grid on which products of three fields are integrated exactly."""

    def __init__(self, truncation: int = 21, dtype: Any = np.float32) -> None:
        rows = (3 * truncation + 2) // 2
        sines, weights = np.polynomial.legendre.leggauss(rows)
        longitude = np.arange(2 * rows) * (180 / rows)
        super().__init__(np.degrees(np.arcsin(sines[::-1])), longitude, truncation, dtype)
        self.weights = weights[::-1] / 2  # shares of the sphere
        values, slopes = self._exact.swapaxes(2, 3) * (self.weights / (2 * rows))[:, None]
        flat = 1 / self.cosine[:, None] ** 2
        parts = values, values * flat, slopes * flat
        self._analysis, self._east, self._north = (part.astype(dtype) for part in parts)
        self._columns, self._turned_columns = (np.ascontiguousarray(w.T) for w in (self._waves, self._turned))

    def coefficients(self, fields: Array) -> Array:
        """Return the coefficients of values `(B, W, K, H)`."""
        return _analysis(self._columns, fields, self._analysis)

    def convergence(self, east: Array, north: Array) -> Array:
        """Return coefficients of what a flux times cos(latitude) brings in, on a sphere of radius 1."""
        whole = _analysis(self._turned_columns, east, self._east)
        whole += _analysis(self._columns, north, self._north)
        return whole


def _product(waves: Array, coefficients: Array, polynomials: Array) -> Array:
    members, orders, _, fields, degrees = coefficients.shape
    rows = np.matmul(coefficients.reshape(members, orders, 2 * fields, degrees), polynomials)
    return np.matmul(waves, rows.reshape(members, 2 * orders, -1)).reshape(members, len(waves), fields, -1)


def _analysis(waves: Array, fields: Array, polynomials: Array) -> Array:
    members, columns, count, rows = fields.shape
    turned = np.matmul(waves, fields.reshape(members, columns, -1))
    whole = np.matmul(turned.reshape(members, len(polynomials), 2 * count, rows), polynomials)
    return whole.reshape(members, len(polynomials), 2, count, -1)
