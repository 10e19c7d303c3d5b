"""Fields of a small globe as a user would have them, and facts of a network that was trained on them."""

from __future__ import annotations

import numpy as np
import torch
import xarray

from apps.weather.batch import Variables, WeatherFacts

LEVELS = (500.0, 850.0)
VARIABLES = Variables(("2t", "10u", "10v", "tcc"), ("z", "q"), LEVELS, ("lsm",))
STATISTICS = {
    "2t": (280.0, 10.0), "10u": (0.0, 5.0), "10v": (0.0, 5.0), "tcc": (0.5, 0.3), "z_500": (5e4, 3e3),
    "z_850": (1e4, 1e3), "q_500": (1e-3, 1e-3), "q_850": (5e-3, 4e-3), "static_lsm": (0.0, 1.0),
}  # fmt: skip


def fields(*, rows: int = 9, times: int = 6) -> xarray.Dataset:
    """Fields of 6-hourly states on 9 x 16 points with poles, in WeatherBench 2's names."""
    latitude, longitude = np.linspace(90, -90, rows), np.arange(16) * 22.5
    rng = np.random.default_rng(5)
    surface, upper = ("time", "latitude", "longitude"), ("time", "level", "latitude", "longitude")

    def drawn(name: str, *shape: int) -> np.ndarray:
        mean, deviation = STATISTICS[name]
        return np.float32(mean + deviation * rng.normal(size=(times, *shape, rows, 16)))

    return xarray.Dataset(
        {
            "2m_temperature": (surface, drawn("2t"), {"units": "K"}),
            "10m_u_component_of_wind": (surface, drawn("10u"), {"units": "m s**-1"}),
            "10m_v_component_of_wind": (surface, drawn("10v"), {"units": "m s**-1"}),
            "total_cloud_cover": (surface, np.clip(drawn("tcc"), 0, 1), {"units": "(0 - 1)"}),
            "geopotential": (upper, drawn("z_500", 2), {"units": "m**2 s**-2"}),
            "specific_humidity": (upper, np.abs(drawn("q_500", 2)), {"units": "kg kg**-1"}),
            "land_sea_mask": (surface[1:], np.float32(rng.integers(0, 2, (rows, 16))), {"units": "(0 - 1)"}),
        },
        coords={
            "time": np.datetime64("2020-01-01T00", "ns") + np.arange(times) * np.timedelta64(6, "h"),
            "level": [500, 850], "latitude": latitude, "longitude": longitude,
        },
    )  # fmt: skip


FACTS = WeatherFacts(
    variables=VARIABLES,
    target_variables=VARIABLES,
    statistics=STATISTICS,
    units={"2t": "K", "10u": "m/s", "10v": "m/s", "tcc": "1", "z": "m2/s2", "q": "kg/kg"},
    latitude=tuple(np.linspace(90, -90, 9)[:-1]),
    longitude=tuple(np.arange(16) * 22.5),
    static=torch.from_numpy(fields()["land_sea_mask"].values[None, :8]),
    bounds={"tcc": (0.0, 1.0), "q": (0.0, None)},
    patch=4,
    sources=("test fields",),
    licences=("CC0-1.0",),
)
