"""The made world as a Zarr store in WeatherBench 2's layout, or as netCDF files named as the Climate Data Store's.

A run that was broken off goes on where it was, to the same bits; more members are added to those there.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.weather.simulation.world import LEVELS, SPIN_UP, STEPS_A_DAY, Observer, World
from core.data.checks import at_least
from core.data.counting import counted
from core.data.sample_store import settings_digest
from core.errors import UserError
from core.files import data_folder, replacing_folder
from core.inference.netcdf import ArrayFile, LabelledArray
from core.inference.outputs import MARK, maker
from core.inference.resumable import resumed

__all__ = ["COMMAND", "WorldSettings", "generate", "write_netcdf"]

COMMAND = "dfm data generate weather/three_levels"
_VERSION = 2  # raised whenever a field changes
_BLOCK = 32  # records between two savings
_START = np.datetime64("2000-01-01T00", "h")
_NAMES = {
    "2t": ("2m_temperature", "K"), "10u": ("10m_u_component_of_wind", "m s**-1"),
    "10v": ("10m_v_component_of_wind", "m s**-1"), "msl": ("mean_sea_level_pressure", "Pa"),
    "tp": ("total_precipitation_{}hr", "m"), "z": ("geopotential", "m**2 s**-2"),
    "u": ("u_component_of_wind", "m s**-1"), "v": ("v_component_of_wind", "m s**-1"),
    "t": ("temperature", "K"), "q": ("specific_humidity", "kg kg**-1"),
}  # fmt: skip
_LEVELLED = ("z", "u", "v", "t", "q")
_SHORT = {"2t": "t2m", "10u": "u10", "10v": "v10", "tp": "tp_{}hr"}  # in netCDF
_STATIC = {"z": ("geopotential_at_surface", "m**2 s**-2"), "lsm": ("land_sea_mask", "(0 - 1)"),
           "slt": ("soil_type", "~")}  # fmt: skip


@dataclass(frozen=True)
class WorldSettings:
    """What the members of a store have in common.

    Args:
        days: Length.
        step: Hours between records.
        grid: Rows and columns; an odd number of rows has the poles.
        seed: Of the members.

    Raises:
        UserError: If a number is out of range.
    """

    days: int = 240
    step: int = 6
    grid: tuple[int, int] = (32, 64)
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, days=self.days)
        at_least(0, seed=self.seed)
        if self.step not in (2, 4, 6, 8, 12, 24):
            raise UserError(f"step is {self.step!r} hours; it must be 2, 4, 6, 8, 12 or 24")
        if len(self.grid) != 2 or min(self.grid) < 4:
            raise UserError(f"grid is {self.grid}; give rows and columns, at least 4 each")

    @property
    def records(self) -> int:
        """Number of records."""
        return self.days * 24 // self.step

    @property
    def positions(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Latitudes from north to south, and longitudes from 0."""
        rows, columns = self.grid
        edge = 90 if rows % 2 else 90 - 90 / rows
        return np.linspace(edge, -edge, rows), np.arange(columns) * (360 / columns)


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
        out: The store, `NAME.zarr`; None is one in the cache, named by its settings.
        members: Independent weathers, along an axis `number` if there are several.
        days: Length.
        step: Hours between records: 2, 4, 6, 8, 12 or 24.
        grid: Rows and columns; an odd number of rows has the poles.
        seed: A member depends on the settings, the seed and its number alone.
        progress: Show how far it is.

    Raises:
        UserError: If a number is wrong, or what lies there is something else.
    """
    at_least(1, members=members)
    settings = WorldSettings(days, step, tuple(grid), seed)
    origin = {"version": _VERSION, **asdict(settings)}
    name = f"three_levels-{settings_digest(origin, size=4)}.zarr"
    path = data_folder() / "weather" / "generated" / name if out is None else Path(out).expanduser()
    if path.suffix != ".zarr":
        raise UserError(f"{path} must end in .zarr; netCDF files are made by --format netcdf")
    former = _former(path, origin)
    held = 0 if former is None else former["number"].shape[0] if "number" in former else 1
    if former is not None and held >= members:
        return path
    world = World()
    observer = Observer(world, *settings.positions)
    file = _file(settings, members, observer, origin)
    steps = step * STEPS_A_DAY // 24
    label = f"data: three_levels, {members} x {days} days"
    with (
        _fast(),
        resumed(path, file, {**origin, "members": members, "held": held}) as output,
        counted(label, settings.records, done=output.steps, unit="records", shown=progress) as advance,
    ):
        if output.steps:
            state = output.state["state"]
        else:
            state = world.beginning(seed, range(held, members))
            state, _ = world.run(state, SPIN_UP * STEPS_A_DAY - steps)
        for first in range(output.steps, settings.records, _BLOCK):
            block = slice(first, min(first + _BLOCK, settings.records))
            records = []
            for record in range(block.start, block.stop):
                state, rain = world.run(state, steps)
                records.append(observer.fields(state, rain, record * step % 24))
                advance(1)
            for name, (stored, _) in _NAMES.items():
                values = np.stack([record[name] for record in records], axis=1)
                array = stored.format(step)
                if former is not None:
                    old = former[array][:, block] if held > 1 else former[array][block][None]
                    values = np.concatenate([old, values])
                output.arrays[array][(slice(None), block) if members > 1 else block] = (
                    values if members > 1 else values[0]
                )
            output.keep(block.stop, {"state": state})
    return path


@contextmanager
def _fast() -> Iterator[None]:
    """Let zarrs, where it is there, write the chunks of arrays that are opened within: in a quarter of the time."""
    import zarr

    there = importlib.util.find_spec("zarrs") is not None
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"} if there else {}):
        yield


def write_netcdf(store: Path, folder: str | os.PathLike[str]) -> Path:
    """Write a store as single_levels.nc, pressure_levels.nc and static.nc, named as CDS names them.

    Raises:
        UserError: If the folder is no former output, or cannot be written.
    """
    import xarray

    out = Path(folder).expanduser()
    if os.path.lexists(out) and maker(out / "static.nc") != COMMAND:
        raise UserError(f"{out} exists and is no output of `{COMMAND}`; name another folder")
    with xarray.open_zarr(store, chunks=None) as whole, replacing_folder(out) as temporary:
        temporary.mkdir()
        step = int(whole.attrs["step"])
        axes = {"time": "valid_time", "level": "pressure_level"}
        groups = {
            "single_levels": {
                long.format(step): _SHORT.get(ours, ours).format(step)
                for ours, (long, _) in _NAMES.items()
                if ours not in _LEVELLED
            },
            "pressure_levels": {_NAMES[ours][0]: ours for ours in _LEVELLED},
            "static": {long: ours for ours, (long, _) in _STATIC.items()},
        }
        for name, names in groups.items():
            part = whole[list(names)]
            part.attrs = {MARK: COMMAND}
            part.rename(names | {one: other for one, other in axes.items() if one in part.dims}).to_netcdf(
                temporary / f"{name}.nc", engine="h5netcdf"
            )
    return out


def _former(path: Path, origin: Mapping[str, Any]) -> Any:
    """Return the group that is there; None where nothing is.

    Raises:
        UserError: If it is something else, or of other settings.
    """
    import zarr

    if not path.exists():
        return None
    if maker(path) != COMMAND:
        raise UserError(f"{path} exists and is no store of `{COMMAND}`; name another")
    group: Any = zarr.open_group(path, mode="r")
    for name, value in origin.items():
        there = group.attrs.get(name)
        if there != (list(value) if isinstance(value, tuple) else value):
            raise UserError(f"{path} holds a world with {name} {there}, not {value}; name another")
    return group


def _file(settings: WorldSettings, members: int, observer: Observer, origin: Mapping[str, Any]) -> ArrayFile:
    latitude, longitude = settings.positions
    axes = {
        "time": (
            np.arange(settings.records) * settings.step,
            {"units": f"hours since {_START.astype('datetime64[D]')}", "calendar": "proleptic_gregorian"},
        ),
        "level": (np.array(LEVELS), {"units": "hPa"}),
        "latitude": (latitude, {"units": "degrees_north"}),
        "longitude": (longitude, {"units": "degrees_east"}),
    }
    front = ("time",)
    if members > 1:
        axes["number"] = np.arange(members), {"long_name": "ensemble member"}
        front = ("number", "time")
    arrays = {name: LabelledArray((name,), said, values) for name, (values, said) in axes.items()}
    for name, (stored, unit) in _NAMES.items():
        level = ("level",) if name in _LEVELLED else ()
        arrays[stored.format(settings.step)] = LabelledArray(
            (*front, *level, "latitude", "longitude"), {"units": unit}
        )
    for name, values in observer.static.items():
        arrays[_STATIC[name][0]] = LabelledArray(
            ("latitude", "longitude"),
            {"units": _STATIC[name][1]},
            np.ascontiguousarray(values, dtype=np.float32),
        )
    return ArrayFile(arrays, COMMAND, origin, {"number": 1, "time": 1})
