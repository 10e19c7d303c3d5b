"""Small weather files as CDS, WeatherBench, ECMWF and others write them, and a web server for stores."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

xr = pytest.importorskip("xarray")
for package in ("zarr", "h5netcdf", "h5py", "cfgrib", "aiohttp"):
    pytest.importorskip(package)

LEVELS = (500, 850)
LATITUDE = np.array([60.0, 30.0, 0.0, -30.0, -60.0])
LONGITUDE = np.arange(0.0, 360.0, 45.0)


def hours(count: int, step: int = 6, start: str = "2020-01-01") -> np.ndarray:
    return np.datetime64(start, "ns") + np.arange(count) * np.timedelta64(step, "h")


def weather(count: int = 4, *, step: int = 6, seed: int = 0, start: str = "2020-01-01") -> xr.Dataset:
    """Return fields under WeatherBench 2's names, in its order of axes but with latitude falling."""
    rng = np.random.default_rng(seed)
    shape, level = (count, len(LATITUDE), len(LONGITUDE)), (count, len(LEVELS), len(LATITUDE), len(LONGITUDE))
    surface, deep = ("time", "latitude", "longitude"), ("time", "level", "latitude", "longitude")

    def field(dims: Sequence[str], size: Sequence[int], mean: float, unit: str) -> Any:
        return dims, (mean + rng.random(size)).astype(np.float32), {"units": unit}

    return xr.Dataset(
        {
            "2m_temperature": field(surface, shape, 280, "K"),
            "mean_sea_level_pressure": field(surface, shape, 101000, "Pa"),
            "total_precipitation_6hr": field(surface, shape, 0, "m"),
            "geopotential": field(deep, level, 50000, "m**2 s**-2"),
            "temperature": field(deep, level, 260, "K"),
            "land_sea_mask": field(surface[1:], shape[1:], 0, "(0 - 1)"),
        },
        coords={
            "time": hours(count, step, start),
            "level": ("level", list(LEVELS), {"units": "hPa"}),
            "latitude": ("latitude", LATITUDE, {"units": "degrees_north"}),
            "longitude": ("longitude", LONGITUDE, {"units": "degrees_east"}),
        },
    )


def store(path: Path, dataset: xr.Dataset, *, form: int = 2, **options: Any) -> Path:
    """Write a Zarr store of one time a chunk."""
    one = {
        str(name): {"chunks": tuple(1 if dim == "time" else dataset.sizes[dim] for dim in array.dims)}
        for name, array in dataset.data_vars.items()
    }
    dataset.to_zarr(path, zarr_format=form, encoding=options.pop("encoding", one), **options)
    return path


def netcdf(path: Path, dataset: xr.Dataset, *, old: bool = False, **options: Any) -> Path:
    """Write netCDF 4, or 3."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if old:
        dataset.to_netcdf(path, engine="scipy", format="NETCDF3_64BIT", **options)
    else:
        dataset.to_netcdf(path, engine="h5netcdf", **options)
    return path


def cds(dataset: xr.Dataset) -> xr.Dataset:
    """Return fields under CDS's short names."""
    names = {
        "2m_temperature": "t2m",
        "mean_sea_level_pressure": "msl",
        "total_precipitation_6hr": "tp",
        "geopotential": "z",
        "temperature": "t",
        "land_sea_mask": "lsm",
    }
    return dataset.rename({name: short for name, short in names.items() if name in dataset})


def packed(scale: float, offset: float) -> dict[str, Any]:
    return {
        "dtype": "int16", "scale_factor": scale, "add_offset": offset, "_FillValue": np.int16(-32767),
        "missing_value": np.int16(-32767),
    }  # fmt: skip


def grib(path: Path, messages: Sequence[dict[str, Any]], edition: int = 1) -> Path:
    """Write messages, each given by its keys and `values` on the grid of this module."""
    import eccodes

    with open(path, "wb") as file:
        for message in messages:
            handle = eccodes.codes_grib_new_from_samples(f"regular_ll_pl_grib{edition}")
            keys = {
                "Ni": 8, "Nj": 5, "iDirectionIncrementInDegrees": 45, "jDirectionIncrementInDegrees": 30,
                "latitudeOfFirstGridPointInDegrees": 60, "latitudeOfLastGridPointInDegrees": -60,
                "longitudeOfFirstGridPointInDegrees": 0, "longitudeOfLastGridPointInDegrees": 315,
                "typeOfLevel": "isobaricInhPa",
            }  # fmt: skip
            for key, value in (keys | {k: v for k, v in message.items() if k != "values"}).items():
                eccodes.codes_set(handle, key, value)
            eccodes.codes_set_values(handle, np.asarray(message["values"], dtype=np.float64).ravel())
            eccodes.codes_write(handle, file)
            eccodes.codes_release(handle)
    return path


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder over HTTP and yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
