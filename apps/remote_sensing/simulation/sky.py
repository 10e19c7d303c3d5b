"""The sky and the sensor: sun on slopes, clouds and their shadows, haze, blur and noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.remote_sensing.simulation.fields import fractal
from apps.remote_sensing.simulation.ground import PIXEL
from apps.remote_sensing.simulation.spectra import CLOUD, DIFFUSE, HAZE

__all__ = ["Sky", "seen", "sky", "sun"]

Array = NDArray[np.floating[Any]]
_MARGIN = 32  # pixels beyond the scene whose clouds throw shadows into it


@dataclass(frozen=True)
class Sky:
    """Clouds of a date.

    Args:
        cloud: How much of the ground each pixel's cloud hides, `(size, size)` from 0 to 1.
        shadow: How much of the sun is taken by a cloud elsewhere, the same.
    """

    cloud: Array
    shadow: Array

    @property
    def mask(self) -> NDArray[np.uint8]:
        """0 clear, 1 cloud, 2 shadow."""
        found = np.where(self.shadow > 0.4, 2, 0)
        return np.where(self.cloud > 0.25, 1, found).astype(np.uint8)


def sun(latitude: float, day: float) -> tuple[float, float]:
    """Return the sun's elevation and azimuth (from north, clockwise) in radians at 10:30 solar time."""
    declination = np.radians(23.44) * np.sin(2 * np.pi * (day - 80) / 365.25)
    place, hour = np.radians(latitude), np.radians(-22.5)
    height = np.sin(place) * np.sin(declination) + np.cos(place) * np.cos(declination) * np.cos(hour)
    azimuth = np.arctan2(
        -np.cos(declination) * np.sin(hour),
        np.cos(place) * np.sin(declination) - np.sin(place) * np.cos(declination) * np.cos(hour),
    )
    return float(np.arcsin(height)), float(azimuth % (2 * np.pi))


def sky(drawn: np.random.Generator, size: int, *, cover: float, elevation: float, azimuth: float) -> Sky:
    """Return the clouds of a date and their shadows, which fall away from the sun.

    Args:
        drawn: Where randomness comes from.
        size: Pixels along an edge.
        cover: Share of the sky that is cloudy.
        elevation: Of the sun in radians.
        azimuth: Of the sun.
    """
    field = fractal(
        drawn, 1, size + 2 * _MARGIN, slope=drawn.uniform(3.0, 4.0), longest=drawn.uniform(25, 70)
    )[0]
    base = drawn.uniform(400, 1300)
    if cover <= 0:
        return Sky(np.zeros((size, size)), np.zeros((size, size)))
    dense = np.clip((field - np.quantile(field, 1 - cover)) / 0.45 + 0.25, 0, 1)
    reach = min(base / np.tan(max(elevation, 0.2)) / PIXEL, _MARGIN)
    shift = (
        round(reach * np.cos(azimuth)),
        round(-reach * np.sin(azimuth)),
    )  # north is up: rows grow southwards
    inner = slice(_MARGIN, _MARGIN + size)
    shadow = np.roll(dense, shift, (0, 1))[inner, inner]
    cloud = dense[inner, inner]
    return Sky(cloud, shadow * (1 - cloud))


def seen(
    drawn: np.random.Generator,
    reflectance: Array,
    height: Array,
    above: Sky,
    *,
    elevation: float,
    azimuth: float,
) -> NDArray[np.float32]:
    """Return what the sensor measures, `(6, size, size)` reflectance.

    A slope gets the sun by its cosine to it and the light of the sky whole; a cloud hides the ground and its
    shadow takes the sun; haze adds light, most of it blue. Then comes the point spread of the sensor, and
    noise.

    Args:
        drawn: Where randomness comes from.
        reflectance: Of the ground, `(6, size, size)`.
        height: Of the surface in metres.
        above: The clouds.
        elevation: Of the sun in radians.
        azimuth: Of the sun.
    """
    from scipy.ndimage import gaussian_filter

    south, east = (slope / PIXEL for slope in np.gradient(height))
    # the surface's normal is (-east, south, 1): rows grow southwards
    facing = np.sin(elevation) + np.cos(elevation) * (south * np.cos(azimuth) - east * np.sin(azimuth))
    lit = facing / np.sqrt(1 + south**2 + east**2) / np.sin(elevation)
    direct = np.clip(lit, 0, 1.8) * (1 - 0.97 * above.shadow)
    diffuse = np.array(DIFFUSE, np.float32)[:, None, None]
    image = reflectance * (diffuse + (1 - diffuse) * direct)
    thick = above.cloud**0.8
    image = image * (1 - thick) + np.array(CLOUD, np.float32)[:, None, None] * (
        thick * (0.85 + 0.25 * above.cloud)
    )
    haze = drawn.gamma(1.5, 0.25) * np.exp(0.25 * fractal(drawn, 1, height.shape[0], longest=200)[0])
    image = image + np.array(HAZE, np.float32)[:, None, None] * haze.clip(0, 2)
    image = gaussian_filter(image.astype(np.float32, copy=False), (0, 0.55, 0.55), mode="nearest", truncate=3)
    spread = drawn.standard_normal(image.shape, dtype=np.float32)
    return image + spread * (0.0018 + 0.008 * image)
