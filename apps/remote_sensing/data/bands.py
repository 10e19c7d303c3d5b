"""Names of spectral bands: one word for each part of the spectrum, whatever a sensor calls it.

Files and weights are matched by these words. Sensors number their bands differently: B05 is narrow
near-infrared on Landsat and the first red edge on Sentinel-2, so a number means nothing without its sensor.
"""

from __future__ import annotations

from core.errors import UserError, did_you_mean

__all__ = ["HLS", "NAMES", "SENSORS", "canonical"]

HLS = ("blue", "green", "red", "nir_narrow", "swir_1", "swir_2")
"""The six bands of Harmonized Landsat Sentinel-2, in the order of Prithvi."""

SENSORS: dict[str, dict[str, str]] = {
    "sentinel2": {
        "B01": "coastal_aerosol",
        "B02": "blue",
        "B03": "green",
        "B04": "red",
        "B05": "red_edge_1",
        "B06": "red_edge_2",
        "B07": "red_edge_3",
        "B08": "nir_broad",
        "B8A": "nir_narrow",
        "B09": "water_vapor",
        "B10": "cirrus",
        "B11": "swir_1",
        "B12": "swir_2",
    },
    "landsat": {
        "B01": "coastal_aerosol",
        "B02": "blue",
        "B03": "green",
        "B04": "red",
        "B05": "nir_narrow",
        "B06": "swir_1",
        "B07": "swir_2",
        "B09": "cirrus",
        "B10": "thermal_1",
        "B11": "thermal_2",
    },
    "sentinel1": {"VV": "vv", "VH": "vh"},
}
"""Each sensor's own names to ours; `landsat` are those of Landsat 8, 9 and HLS L30."""

NAMES = tuple(dict.fromkeys(name for table in SENSORS.values() for name in table.values()))
"""Every name of ours."""


def canonical(band: str, *, sensor: str | None = None) -> str:
    """Return our name of a band.

    Args:
        band: Ours in any spelling (`NIR_NARROW`, `swir-1`), a sensor's own (`B8A`, `B2`), or a name of the
            user's own, which stays as it is in lower case.
        sensor: A key of `SENSORS`; needed for a sensor's own names.

    Raises:
        UserError: If the sensor is unknown or has no such band, or a number stands without its sensor.
    """
    word = band.strip().lower().replace("-", "_").replace(" ", "_")
    if word in NAMES:
        return word
    number = word.upper()
    if len(number) == 2 and number[0] == "B" and number[1].isdigit():
        number = f"B0{number[1]}"
    if sensor is not None:
        if sensor not in SENSORS:
            raise UserError(
                f"'{sensor}' is no known sensor ({', '.join(SENSORS)}){did_you_mean(sensor, SENSORS)}"
            )
        if number in SENSORS[sensor]:
            return SENSORS[sensor][number]
    if any(number in table for table in SENSORS.values()):
        known = ", ".join(name for name, table in SENSORS.items() if number in table)
        raise UserError(
            f"band '{band}' is a number that means nothing without its sensor; name the sensor ({known}) or "
            f"the band ({', '.join(HLS)}, …)"
        )
    return word
