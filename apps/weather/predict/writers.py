"""Forecasts as WeatherBench 2 lays them out, with CF's names and units: to netCDF, Zarr, or in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from apps.weather.batch import States, Variables, WeatherBatch
from apps.weather.data.readers.names import published_name, unit_of
from apps.weather.data.windows import ForecastWindows
from core.data.counting import counted
from core.errors import UserError
from core.inference.netcdf import ArrayFile, LabelledArray
from core.inference.resumable import ResumableArrays, resumed

if TYPE_CHECKING:
    import xarray

    from apps.weather.predict.model import WeatherForecaster

__all__ = ["COMMAND", "ForecastJob"]

COMMAND = "dfm weather predict"

_AXES: dict[str, dict[str, str]] = {
    "time": {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian",
             "standard_name": "forecast_reference_time"},
    "number": {"units": "1", "standard_name": "realization"},
    "prediction_timedelta": {"units": "hours", "dtype": "timedelta64[ns]",
                             "standard_name": "forecast_period"},
    "level": {"units": "hPa", "standard_name": "air_pressure", "positive": "down"},
    "latitude": {"units": "degrees_north", "standard_name": "latitude"},
    "longitude": {"units": "degrees_east", "standard_name": "longitude"},
}  # fmt: skip
_STANDARD = {
    "2t": "air_temperature", "t": "air_temperature", "10u": "eastward_wind", "10v": "northward_wind",
    "u": "eastward_wind", "v": "northward_wind", "w": "lagrangian_tendency_of_air_pressure",
    "z": "geopotential", "q": "specific_humidity", "msl": "air_pressure_at_mean_sea_level",
    "tp": "lwe_thickness_of_precipitation_amount", "e": "lwe_thickness_of_water_evaporation_amount",
    "tcc": "cloud_area_fraction", "swh": "sea_surface_wave_significant_height",
    "sst": "sea_surface_temperature",
}  # fmt: skip
_WINDS = (("10u", "10v"), ("u", "v"))
Index = tuple[int | slice, ...]


@dataclass(frozen=True, eq=False)
class ForecastJob:
    """Forecasts from some starts, by every member.

    Attributes:
        forecaster: One network, or several members.
        windows: Histories in the data.
        rows: Those that forecasts start from.
        steps: States to forecast.
        south_pole: Whether the row that whole patches leave out is appended: the mean of the row beside it,
            of winds as vectors.
        say: Is given lines for the user.
        progress: Whether a bar is drawn.

    Raises:
        UserError: If `steps` is below 1, or no row was left out.
    """

    forecaster: WeatherForecaster
    windows: ForecastWindows
    rows: Sequence[int]
    steps: int
    south_pole: bool = False
    say: Callable[[str], None] = lambda line: None
    progress: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"--steps is {self.steps}; it must be at least 1")
        own, every = self.windows.source.area.grid, self.windows.source.archive.grid
        left_out = not own.curvilinear and len(every.latitude) == len(own.latitude) + 1
        if self.south_pole and not (left_out and abs(every.latitude[-1] + 90) < 1e-3):
            raise UserError("no row of the south pole was left out of the data; leave --south_pole away")

    def write(self, out: str | Path, origin: Mapping[str, Any] | None = None) -> Path:
        """Write each step to a `.zarr` folder or a `.nc` file and return it; go on with a killed process's.

        Args:
            out: The file.
            origin: What the result depends on beside the job, such as the digests of files: what was begun
                from another is thrown away.

        Raises:
            UserError: If an initial state has missing values, or the file cannot be written.
        """
        settings = {
            "starts": self._seconds.tolist(), "members": self.windows.members[self.rows].tolist(),
            "steps": self.steps, "south_pole": self.south_pole, "networks": self.forecaster.names,
            "batch_size": self.forecaster.batch_size, "grid": repr(self.windows.source.area.grid),
        }  # fmt: skip
        with resumed(out, self.file, settings | dict(origin or {})) as output:
            if output.steps:
                every = len(self._turns) * self.steps
                self.say(f"{output.steps} of {every} steps were written before; going on")
            self._fill(output.arrays, output)
        return Path(out)

    def dataset(self) -> xarray.Dataset:
        """Return the forecasts in memory."""
        import xarray

        lengths, arrays = self.file.lengths, self.file.arrays
        values = {
            name: np.full([lengths[axis] for axis in array.axes], np.nan, dtype=np.float32)
            for name, array in arrays.items()
            if array.values is None
        }
        self._fill(values)
        held = {
            name: (array.axes, values.get(name, array.values), array.attributes)
            for name, array in arrays.items()
        }
        return xarray.decode_cf(xarray.Dataset(held, attrs=dict(self.file.attributes)), decode_timedelta=True)

    @cached_property
    def variables(self) -> Variables:
        """What a forecast holds."""
        return self.forecaster.outputs(self.forecaster.initial(self.windows, self.rows[:1]))

    @cached_property
    def file(self) -> ArrayFile:
        """The arrays, on `(time[, number], prediction_timedelta[, level], latitude, longitude)`."""
        source, forecaster, grid = self.windows.source, self.forecaster, self.windows.source.area.grid
        seconds = source.stride * np.arange(1, self.steps + 1)
        unit = {} if not (seconds % 3600).any() else {"units": "seconds"}
        axes = {
            "time": self._seconds,
            "number": np.arange(len(forecaster.networks)),
            "prediction_timedelta": seconds if unit else seconds // 3600,
            "level": np.array(self.variables.levels, dtype=np.float64),
            "latitude": np.append(grid.latitude, -90.0) if self.south_pole else grid.latitude,
            "longitude": grid.longitude,
        }
        if len(forecaster.networks) == 1:
            del axes["number"]
        if not self.variables.atmospheric:
            del axes["level"]
        place = ("y", "x") if grid.curvilinear else ("latitude", "longitude")
        arrays = {
            name: LabelledArray(place if values.ndim == 2 else (name,), said, values)
            for name, values in axes.items()
            for said in [_AXES[name] | (unit if name == "prediction_timedelta" else {})]
        }
        before = tuple(name for name in ("time", "number", "prediction_timedelta") if name in axes)
        for (name, levelled), stored in self._stored.items():
            said = {
                "units": forecaster.facts.units.get(name) or unit_of(name, levelled=levelled),
                "short_name": name,
                **({"standard_name": _STANDARD[name]} if name in _STANDARD else {}),
                **({"coordinates": "latitude longitude"} if grid.curvilinear else {}),
            }
            arrays[stored] = LabelledArray((*before, *(("level",) if levelled else ()), *place), said)
        licences = dict.fromkeys([*forecaster.licences, *source.archive.licences])
        attributes = {
            "Conventions": "CF-1.11", "checkpoint": ", ".join(forecaster.names),
            "initial_states": source.archive.name, "licences": ", ".join(licences),
            "sources": ", ".join(forecaster.sources),
        }  # fmt: skip
        return ArrayFile(arrays, COMMAND, attributes, dict.fromkeys(before, 1))

    @cached_property
    def _seconds(self) -> NDArray[np.int64]:
        return self.windows.current[list(self.rows)]

    @cached_property
    def _stored(self) -> dict[tuple[str, bool], str]:
        """Our name, and whether it lies on levels, to the name in the file."""
        every = [(name, False) for name in self.variables.surface]
        every += [(name, True) for name in self.variables.atmospheric]
        return {key: published_name(key[0], levelled=key[1], hours=self.windows.source.step) for key in every}

    @property
    def _turns(self) -> list[tuple[range, int]]:
        """Places of the starts that are computed together, by each member."""
        count, size = len(self.rows), self.forecaster.batch_size
        groups = [range(first, min(first + size, count)) for first in range(0, count, size)]
        return [(group, member) for group in groups for member in range(len(self.forecaster.networks))]

    def _fill(self, arrays: Mapping[str, Any], output: ResumableArrays | None = None) -> None:
        """Assign each step of every turn to the arrays, after the steps that are there."""
        done, turns, forecaster = output.steps if output else 0, self._turns, self.forecaster
        total = len(turns) * self.steps
        with counted("forecasting", total, done=done, unit="steps", shown=self.progress) as advance:
            for number in range(done // self.steps, len(turns)):
                (places, member), step = turns[number], max(done - number * self.steps, 0)
                batch = forecaster.initial(self.windows, [self.rows[place] for place in places])
                if step and output:
                    batch = _restored(batch, output.state)
                starts = slice(places[0], places[-1] + 1)
                where: Index = (starts, member) if len(forecaster.networks) > 1 else (starts,)
                finite = not hasattr(forecaster.networks[member], "prepare")  # else NaN says: no waves
                for states, after in forecaster.states(batch, member):
                    states = states.at(slice(self.steps - step))
                    if finite and not (
                        states.surface.isfinite().all() and states.atmospheric.isfinite().all()
                    ):
                        finite = False
                        self.say(f"{forecaster.names[member]}: not finite from step {step + 1} on")
                    self._assign(arrays, states, (*where, slice(step, step + states.steps)))
                    step += states.steps
                    if output:
                        output.keep(number * self.steps + step, _kept(after))
                    advance(states.steps)
                    if step == self.steps:
                        break

    def _assign(self, arrays: Mapping[str, Any], states: States, where: Index) -> None:
        for group, names, levelled in (
            (states.surface, self.variables.surface, False),
            (states.atmospheric, self.variables.atmospheric, True),
        ):
            fields = {name: group[:, :, place].numpy() for place, name in enumerate(names)}
            if self.south_pole:
                fields = _with_pole(fields, np.radians(self.windows.source.area.grid.longitude))
            for name, values in fields.items():
                arrays[self._stored[name, levelled]][where] = values


def _kept(batch: WeatherBatch) -> dict[str, NDArray[Any]]:
    inputs = batch.inputs.to("cpu")
    return {
        "surface": inputs.surface.numpy(),
        "atmospheric": inputs.atmospheric.numpy(),
        "time": batch.time.cpu().numpy(),
        "rollout_step": np.array([batch.rollout_step]),
    }


def _restored(batch: WeatherBatch, state: Mapping[str, NDArray[Any]]) -> WeatherBatch:
    """Return the batch that a killed process would have gone on with."""
    surface, atmospheric, time = map(torch.from_numpy, map(state.get, ("surface", "atmospheric", "time")))
    step = int(state["rollout_step"][0])
    return replace(batch, inputs=States(surface, atmospheric), time=time, rollout_step=step)


def _with_pole(
    fields: Mapping[str, NDArray[Any]], longitude: NDArray[np.float64]
) -> dict[str, NDArray[np.float32]]:
    """Return fields `(..., H, W)` with the row of the south pole."""
    last = {name: field[..., -1:, :].astype(np.float64) for name, field in fields.items()}
    rows = {name: row.mean(axis=-1, keepdims=True) + np.zeros_like(row) for name, row in last.items()}
    sine, cosine = np.sin(longitude), np.cos(longitude)
    for east, north in (pair for pair in _WINDS if set(pair) <= fields.keys()):
        # The unit vectors there: east (-sin, cos), north, away from the pole, (cos, sin).
        x = (last[north] * cosine - last[east] * sine).mean(axis=-1, keepdims=True)
        y = (last[north] * sine + last[east] * cosine).mean(axis=-1, keepdims=True)
        rows |= {east: y * cosine - x * sine, north: x * cosine + y * sine}
    return {name: np.concatenate([field, rows[name]], axis=-2, dtype=np.float32, casting="same_kind")
            for name, field in fields.items()}  # fmt: skip
