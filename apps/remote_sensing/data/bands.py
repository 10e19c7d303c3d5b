"""Names of spectral bands: one word for each part of the spectrum, whatever a sensor calls it.

Files and weights are matched by these words. Sensors number their bands differently: B05 is narrow
near-infrared on Landsat and the first red edge on Sentinel-2, so a number means nothing without its sensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from core.errors import UserError, did_you_mean

__all__ = ["HLS", "NAMES", "SENSORS", "band_numbers", "canonical", "names_that_serve"]

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


def names_that_serve(
    names: Sequence[str | None],
    wanted: Sequence[str],
    *,
    sensor: str | None,
    other_order: Callable[[str, Sequence[str]], UserError],
) -> list[str] | None:
    """Return our names of a file's bands; None where they say nothing and the bands' order counts.

    They say nothing where one is missing, or where as many bands as are wanted have numbers of a sensor that
    is not named, or words that are nobody's.

    Args:
        names: The file's own, None or empty where it has none.
        wanted: Our names of the wanted bands.
        sensor: Whose numbers the names are.
        other_order: What is refused where numbers are the wanted bands on a sensor, in another order.

    Raises:
        UserError: If a number stands without its sensor, or what `other_order` returns.
    """
    fits = len(names) == len(wanted)
    try:
        own = [canonical(name, sensor=sensor) for name in names if name] if all(names) else []
    except UserError:
        if not fits:
            raise
        for known in SENSORS:
            try:
                read = [canonical(str(name), sensor=known) for name in names]
            except UserError:
                continue
            if set(read) == set(wanted) and read != list(wanted):
                raise other_order(known, read) from None
        return None
    foreign = fits and not set(own) & {*wanted, *NAMES}
    return None if not own or foreign else own


def band_numbers(
    descriptions: Sequence[str | None],
    *,
    path: str = "the scene",
    bands: Sequence[str | int] | None = None,
    names: Sequence[str] | None = None,
    sensor: str | None = None,
    dates: int = 1,
) -> list[int]:
    """Return the numbers, from 1, of the wanted bands of a file.

    Args:
        descriptions: The file's own names of its bands, None where it has none.
        path: The file, for messages.
        bands: Wanted bands by name or number; None takes all.
        names: The names of the file's bands where its own are missing or wrong.
        sensor: Whose numbers the names are.
        dates: Dates in the file, the bands of one after those of another; `bands` and `names` are of one.

    Raises:
        UserError: If a band is missing, or named where the file's bands have no names.
    """
    if len(descriptions) % dates:
        raise UserError(
            f"{path} has {len(descriptions)} bands, which are not {dates} dates of the same bands"
        )
    count = len(descriptions) // dates
    descriptions = descriptions[:count]
    if names is not None and len(names) != count:
        raise UserError(
            f"{path} has {count} bands and {len(names)} names are given for them; give "
            "--band_names of every band"
        )
    if bands is None:
        return list(range(1, count * dates + 1))
    given = [canonical(name, sensor=sensor) if name else "" for name in (names or descriptions)]
    numbers = []
    for band in bands:
        if isinstance(band, int):
            if not 1 <= band <= count:
                raise UserError(f"{path} has bands 1 to {count}, and band {band} is wanted")
            numbers.append(band)
            continue
        if not any(given):
            raise UserError(
                f"the {count} bands of {path} have no names, and band '{band}' is wanted; give "
                f"--band_names in their order"
            )
        wanted = canonical(band, sensor=sensor)
        if wanted not in given:
            known = [name for name in given if name]
            raise UserError(
                f"{path} has no band '{band}' but {', '.join(known)}{did_you_mean(wanted, known)}"
            )
        if given.count(wanted) > 1:
            raise UserError(
                f"{path} has {given.count(wanted)} bands called '{band}'; give --bands by their numbers"
            )
        numbers.append(given.index(wanted) + 1)
    return [number + date * count for date in range(dates) for number in numbers]
