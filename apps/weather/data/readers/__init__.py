"""Readers of weather fields: CDS netCDF old and new, WeatherBench folders and stores, GRIB; forecasts."""

from apps.weather.data.readers.archive import Archive
from apps.weather.data.readers.forecasts import ForecastArchive, open_forecast
from apps.weather.data.readers.opening import open_archive

__all__ = ["Archive", "ForecastArchive", "open_archive", "open_forecast"]
