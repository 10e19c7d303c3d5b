"""Our world as a Zarr store in WeatherBench 2's layout, or as netCDF named as the Climate Data Store does.

A run that was broken off goes on where it was, to the same bits; more members are added to those there.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from apps.weather.simulation.transforms import Array
from apps.weather.simulation.world import SPIN_UP, STEPS_A_DAY, Observer, World
from core.data.checks import at_least
from core.data.counting import counted
from core.data.sample_store import settings_digest
from core.errors import UserError
from core.files import data_folder, locked, replacing_folder
from core.inference.netcdf import ArrayFile, LabelledArray
from core.inference.outputs import MARK, maker
from core.inference.resumable import resumed

__all__ = ["COMMAND", "generate", "write_netcdf"]

COMMAND = "dfm data generate weather/three_levels"
_VERSION = 3  # raised whenever a field changes
_BYTES = 64e6  # that are kept in memory before they are written
# Names in Zarr, in netCDF, and units.
_SURFACE = {
    "2t": ("2m_temperature", "t2m", "K"), "10u": ("10m_u_component_of_wind", "u10", "m s**-1"),
    "10v": ("10m_v_component_of_wind", "v10", "m s**-1"), "msl": ("mean_sea_level_pressure", "msl", "Pa"),
    "tp": ("total_precipitation_{}hr", "tp_{}hr", "m"),
}  # fmt: skip
_LEVELS = {
    "z": ("geopotential", "z", "m**2 s**-2"), "u": ("u_component_of_wind", "u", "m s**-1"),
    "v": ("v_component_of_wind", "v", "m s**-1"), "t": ("temperature", "t", "K"),
    "q": ("specific_humidity", "q", "kg kg**-1"),
}  # fmt: skip
_STATIC = {
    "z": ("geopotential_at_surface", "z", "m**2 s**-2"), "lsm": ("land_sea_mask", "lsm", "(0 - 1)"),
    "slt": ("soil_type", "slt", "~"),
}  # fmt: skip


def generate(
    out: str | os.PathLike[str] | None = None,
    *,
    members: int = 1,
    days: int = 240,
    step: int = 6,
    grid: tuple[int, int] = (32, 64),
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Return a Zarr store with at least so many members of our world, making those that it lacks.

    Args:
        out: The store, `NAME.zarr`; None is one in the cache, of just these members.
        members: Independent weathers, along an axis `number` if there are several.
        days: Length of each.
        step: Hours between records: 2, 4, 6, 8, 12 or 24.
        grid: Rows and columns; an odd number of rows has the poles.
        seed: A member depends on it, its number and the other settings alone.
        progress: Show how far it is.

    Raises:
        UserError: If a number is wrong, or what lies there is something else.
    """
    at_least(1, room="simulation", members=members, days=days)
    at_least(0, room="simulation", seed=seed)
    if step not in (2, 4, 6, 8, 12, 24):
        raise UserError(f"simulation.step is {step} hours; it must be 2, 4, 6, 8, 12 or 24")
    if len(grid) != 2 or min(grid) < 4:
        raise UserError(f"simulation.grid is {grid}; give rows and columns, at least 4 each")
    origin = {"version": _VERSION, "days": days, "step": step, "grid": list(grid), "seed": seed}
    name = f"three_levels-{members}x{days}-{settings_digest(origin, size=4)}.zarr"
    path = data_folder() / "weather" / "generated" / name if out is None else Path(out).expanduser()
    if path.suffix != ".zarr":
        raise UserError(f"{path} must end in .zarr; netCDF files are made by --format netcdf")
    if _held(path, origin) < members:
        lock = path.with_name(f"{path.name}.generated.lock")
        with locked(lock):
            if (held := _held(path, origin)) < members:  # no other process has made them meanwhile
                _write(path, origin, range(held, members), progress=progress)
            lock.unlink(missing_ok=True)
    return path


def write_netcdf(store: Path, folder: str | os.PathLike[str]) -> Path:
    """Write a store as single_levels.nc, pressure_levels.nc and static.nc.

    Raises:
        UserError: If the folder is there and no former output.
    """
    import xarray

    out = Path(folder).expanduser()
    if os.path.lexists(out) and maker(out / "static.nc") != COMMAND:
        raise UserError(f"{out} exists and is no output of `{COMMAND}`; name another folder")
    with xarray.open_zarr(store, chunks=None) as whole, replacing_folder(out) as temporary:
        temporary.mkdir()
        groups = {"single_levels": _SURFACE, "pressure_levels": _LEVELS, "static": _STATIC}
        for title, group in groups.items():
            names = {long: short for long, short, _ in group.values()}
            names = {long.format(whole.step): short.format(whole.step) for long, short in names.items()}
            part = whole[list(names)].assign_attrs({MARK: COMMAND})
            axes = {"time": "valid_time", "level": "pressure_level"}
            names |= {axis: other for axis, other in axes.items() if axis in part.dims}
            part.rename(names).to_netcdf(temporary / f"{title}.nc", engine="h5netcdf")
    return out


def _held(path: Path, origin: Mapping[str, Any]) -> int:
    """Return the number of members that are there.

    Raises:
        UserError: If there is something else, or members of other settings.
    """
    import zarr

    if not path.exists():
        return 0
    if maker(path) != COMMAND:
        raise UserError(f"{path} exists and is no store of `{COMMAND}`; name another")
    group: Any = zarr.open_group(path, mode="r")
    for name, value in origin.items():
        if (held := group.attrs.get(name)) != value:
            raise UserError(f"{path} holds a world with {name} {held}, not {value}; name another")
    return group["number"].shape[0] if "number" in group else 1


def _write(path: Path, origin: Mapping[str, Any], added: range, *, progress: bool) -> None:
    """Write a store of the members that are there and those that are added."""
    import zarr

    (rows, columns), step, held, members = origin["grid"], origin["step"], added.start, added.stop
    edge = 90 if rows % 2 else 90 - 90 / rows
    latitude, longitude = np.linspace(edge, -edge, rows), np.arange(columns) * (360 / columns)
    world, records, steps = World(), origin["days"] * 24 // step, step * STEPS_A_DAY // 24
    observer = Observer(world, latitude, longitude)
    file = _file(observer.static, origin, members, latitude, longitude)
    size = int(np.clip(_BYTES // (members * 80 * rows * columns), 1, 32))
    quick = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"} if importlib.util.find_spec("zarrs") else {}
    with (
        zarr.config.set(quick),
        resumed(path, file, {**origin, "members": members, "held": held}) as output,
        counted("data: three_levels", records, done=output.steps, unit="records", shown=progress) as advance,
    ):
        former: Any = zarr.open_group(path, mode="r") if held else None
        if output.steps:
            state = output.state["state"]
        else:
            state, _ = world.run(world.beginning(origin["seed"], added), SPIN_UP * STEPS_A_DAY - steps)
        for first in range(output.steps, records, size):
            block = slice(first, min(first + size, records))
            fields = []
            for record in range(block.start, block.stop):
                state, rain = world.run(state, steps)
                fields.append(observer.fields(state, rain, record * step % 24))
                advance(1)
            for name, (stored, *_) in (_SURFACE | _LEVELS).items():
                values, array = np.stack([each[name] for each in fields], axis=1), stored.format(step)
                if held:
                    earlier = former[array][:, block] if held > 1 else former[array][block][None]
                    values = np.concatenate([earlier, values])
                if members > 1:
                    output.arrays[array][:, block] = values
                else:
                    output.arrays[array][block] = values[0]
            output.keep(block.stop, {"state": state})


def _file(
    static: Mapping[str, Array], origin: Mapping[str, Any], members: int, latitude: Array, longitude: Array
) -> ArrayFile:
    hours = np.arange(origin["days"] * 24 // origin["step"]) * origin["step"]
    since = {"units": "hours since 2000-01-01", "calendar": "proleptic_gregorian"}
    arrays = {
        "time": LabelledArray(("time",), since, hours),
        "level": LabelledArray(("level",), {"units": "hPa"}, np.array([200, 500, 800])),
        "latitude": LabelledArray(("latitude",), {"units": "degrees_north"}, latitude),
        "longitude": LabelledArray(("longitude",), {"units": "degrees_east"}, longitude),
    }
    front: tuple[str, ...] = ("time",)
    if members > 1:
        arrays["number"] = LabelledArray(("number",), {"units": "1"}, np.arange(members))
        front = ("number", "time")
    for group, axes in ((_SURFACE, front), (_LEVELS, (*front, "level"))):
        for stored, _, unit in group.values():
            name = stored.format(origin["step"])
            arrays[name] = LabelledArray((*axes, "latitude", "longitude"), {"units": unit})
    for name, (stored, _, unit) in _STATIC.items():
        values = np.ascontiguousarray(static[name], dtype=np.float32)
        arrays[stored] = LabelledArray(("latitude", "longitude"), {"units": unit}, values)
    return ArrayFile(arrays, COMMAND, origin, {"number": 1, "time": 1})
