"""Bands and statistics of SSL4EO-S12, on which SoftCon was trained (Wang et al. 2023, arXiv 2211.07044)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from apps.remote_sensing.data.bands import SENSORS, canonical
from apps.remote_sensing.models.frames import SingleImageEncoder
from core.errors import UserError

__all__ = ["S1", "S2", "Sensor", "SensorNetwork", "sensor_of"]


@dataclass(frozen=True)
class Sensor:
    """Bands in the order that a network reads them, and their statistics.

    Args:
        bands: Names, those of `apps.remote_sensing.data.bands`.
        mean: Of each band, in the data's units.
        std: As `mean`.
        scale: What a reflectance of 1 is in these units; 1 where there are no reflectances.
    """

    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1.0


# fmt: off
_S2_MEAN = (
    1612.9, 1397.6, 1322.3, 1373.1, 1561.0, 2108.4, 2390.7, 2318.7, 2581.0, 837.7, 22.0, 2195.2, 1537.4
)
_S2_STD = (791.0, 854.3, 878.7, 1144.9, 1127.5, 1164.2, 1276.0, 1249.5, 1345.9, 577.5, 47.5, 1340.0, 1142.9)
# fmt: on

S2 = Sensor(tuple(SENSORS["sentinel2"].values()), _S2_MEAN, _S2_STD, scale=10000.0)
"""Sentinel-2, top of the atmosphere (L1C), B1 to B8, B8A, B9 to B12, reflectance x 10000."""

S1 = Sensor(tuple(SENSORS["sentinel1"].values()), (-12.59, -20.26), (5.26, 5.91))
"""Sentinel-1, VV and VH, decibels."""


def sensor_of(bands: Sequence[str] | int) -> Sensor:
    """Return the statistics of some bands by their names.

    Args:
        bands: Names of Sentinel-2 bands or of Sentinel-1 polarisations (`B8A`, `nir_narrow`, `VV`) in any
            order, of anything else too (then the mean is 0 and the deviation 1); or a number of bands, where
            13 and 2 are the sensors' and others are nameless.

    Raises:
        UserError: If there is none, or one comes twice.
    """
    for sensor in (S2, S1):
        if bands == len(sensor.bands):
            return sensor
    if isinstance(bands, int):
        names = tuple(f"band_{i}" for i in range(1, bands + 1))
    else:
        words = [str(band).upper() for band in bands]
        kinds = ["sentinel1" if word in SENSORS["sentinel1"] else "sentinel2" for word in words]
        names = tuple(canonical(band, sensor=kind) for band, kind in zip(bands, kinds, strict=True))
    if not names or len(set(names)) != len(names):
        raise UserError(f"bands is {bands!r}; it must name at least one band, and none twice")
    for sensor in (S2, S1):
        numbers = dict(zip(sensor.bands, zip(sensor.mean, sensor.std, strict=True), strict=True))
        if set(names) <= set(numbers):
            mean, std = zip(*(numbers[name] for name in names), strict=True)
            return Sensor(names, tuple(mean), tuple(std), scale=sensor.scale)
    return Sensor(names, (0.0,) * len(names), (1.0,) * len(names))


class SensorNetwork(SingleImageEncoder):
    """A network that knows which bands it reads, and how they were normalised.

    Args:
        bands: As in `sensor_of`.

    Attributes:
        bands: Of the input in their order.
        mean: Of each band in the data that the published weights saw, in the units of `scale`.
        std: As `mean`.
        scale: What a reflectance of 1 is in these units; 1 for a sensor without reflectances.
    """

    normalisation = "eight_bit"  # of the published weights; see apps.remote_sensing.models.frozen.resizing

    def __init__(self, bands: Sequence[str] | int) -> None:
        super().__init__()
        sensor = sensor_of(bands)
        self.bands, self.mean, self.std, self.scale = sensor.bands, sensor.mean, sensor.std, sensor.scale

    def our_bands(self, named: Sequence[str]) -> tuple[str, ...]:
        """Return our names of the bands that a checkpoint names."""
        return sensor_of(named).bands
