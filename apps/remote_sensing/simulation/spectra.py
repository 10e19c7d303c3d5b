"""Reflectance of surfaces in the six HLS bands, and the green share of the ground on a day of the year.

The reflectances are rounded typical values of open libraries and papers: plants, soils, char and town from
the USGS Spectral Library 7 (Kokaly et al. 2017, doi:10.3133/ds1035) and Bowker et al. 1985 (NASA RP-1139),
clear and turbid water from Bowker et al. and Doxaran et al. 2002 (doi:10.1016/S0034-4257(01)00341-8), wet
soil from Lobell and Asner 2002 (doi:10.2136/sssaj2002.7220). Seasons are double logistic curves (Zhang et al.
2003, doi:10.1016/S0034-4257(02)00135-9).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLOUD", "DIFFUSE", "HAZE", "SEASONS", "SURFACES", "Season", "spectra"]

SURFACES: dict[str, tuple[float, ...]] = {
    #               blue   green  red    nir    swir1  swir2
    "clear_water": (0.040, 0.038, 0.022, 0.010, 0.005, 0.004),
    "turbid_water": (0.075, 0.110, 0.118, 0.070, 0.015, 0.010),
    "broadleaf": (0.028, 0.056, 0.032, 0.440, 0.210, 0.090),
    "needleleaf": (0.018, 0.034, 0.023, 0.260, 0.110, 0.048),
    "crop": (0.032, 0.070, 0.036, 0.450, 0.230, 0.110),
    "grass": (0.038, 0.078, 0.050, 0.380, 0.250, 0.135),
    "straw": (0.085, 0.125, 0.175, 0.290, 0.370, 0.290),
    "dry_soil": (0.105, 0.145, 0.195, 0.265, 0.340, 0.300),
    "wet_soil": (0.048, 0.066, 0.085, 0.120, 0.135, 0.100),
    "sand": (0.165, 0.215, 0.265, 0.320, 0.385, 0.350),
    "asphalt": (0.085, 0.100, 0.110, 0.130, 0.145, 0.135),
    "roofs": (0.135, 0.165, 0.200, 0.250, 0.275, 0.255),
    "char": (0.034, 0.041, 0.050, 0.082, 0.135, 0.150),
}
"""Reflectance (0 to 1) of blue, green, red, narrow near-infrared and the two short-wave infrared bands."""

CLOUD = (0.62, 0.61, 0.62, 0.66, 0.48, 0.36)
"""Of a thick cloud; its drops absorb in the short-wave infrared."""

HAZE = (0.050, 0.033, 0.021, 0.010, 0.003, 0.001)
"""Light that a hazy sky adds: scattering falls with the wavelength."""

DIFFUSE = (0.26, 0.19, 0.14, 0.09, 0.04, 0.03)
"""Share of the light that comes from the sky and not from the sun, which is all that a shadow gets."""


@dataclass(frozen=True)
class Season:
    """Green cover over the year, in days of the northern year.

    Args:
        low: Share of the ground that is green outside the season.
        high: The share within it.
        start: Middle of greening up.
        end: Middle of turning brown, or of the harvest.
        pace: Days of the rise; the fall takes as long.
    """

    low: float
    high: float
    start: float
    end: float
    pace: float = 10.0

    def cover(self, day: float, *, shift: NDArray[Any] | float = 0.0) -> NDArray[np.float32]:
        """Return the green share on a day of the northern year; `shift` are days that the season is late."""
        late = np.asarray(shift, np.float32)
        rise = 1 / (1 + np.exp(-(day - self.start - late) / self.pace))
        fall = 1 / (1 + np.exp((day - self.end - late) / self.pace))
        return self.low + (self.high - self.low) * rise * fall


SEASONS: dict[str, Season] = {
    "broadleaf": Season(0.15, 0.95, start=115, end=293),
    "needleleaf": Season(0.85, 0.92, start=120, end=290),
    "grass": Season(0.35, 0.90, start=88, end=270, pace=16),
    "dry_grass": Season(0.08, 0.60, start=75, end=150, pace=12),
    "winter_crop": Season(0.05, 0.93, start=78, end=178, pace=9),
    "summer_crop": Season(0.03, 0.94, start=162, end=262, pace=9),
    "fallow": Season(0.05, 0.20, start=100, end=260, pace=20),
    "reed": Season(0.20, 0.75, start=128, end=285, pace=14),
}
"""By kind of plant."""


def spectra() -> NDArray[np.float32]:
    """Return the table, `(surfaces, 6)` in the order of `SURFACES`."""
    return np.array(list(SURFACES.values()), np.float32)
