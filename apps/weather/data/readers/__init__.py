"""Readers of weather fields: CDS netCDF old and new, WeatherBench folders and stores, GRIB."""

from apps.weather.data.readers.archive import Archive
from apps.weather.data.readers.opening import open_archive

__all__ = ["Archive", "open_archive"]
