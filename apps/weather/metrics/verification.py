"""Forecasts of a store held against an archive, start by start: opening both, what they share, the sums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apps.weather.batch import States, Variables
from apps.weather.data.readers import Archive, ForecastArchive, open_archive, open_forecast
from apps.weather.metrics.areas import WEIGHTS
from apps.weather.metrics.baselines import persistence
from apps.weather.metrics.climatology import Climatology
from apps.weather.metrics.comparison import differences
from apps.weather.metrics.points import places_of, shared_points
from apps.weather.metrics.scores import BASELINES, Blocks, WeatherScores
from apps.weather.metrics.times import calendar, valid_times
from core.errors import UserError, listed
from core.figures.lettering import unlike
from core.tables import text_table

__all__ = ["ScoreChoice", "Verification", "verify"]

Points = tuple[NDArray[np.int64], NDArray[np.int64]]  # rows and columns

_BYTES = 2**23  # of one forecast's fields that are worked on at once
_DAYS = 10  # leads of a baseline where none are asked for


@dataclass(frozen=True)
class ScoreChoice:
    """What is scored; empty means all that forecast and truth share.

    Attributes:
        variables: Names.
        levels: In hPa.
        leads: In hours.
        first: First start, as `2020-01-01T00`.
        last: Last start.
        regions: See `apps.weather.metrics.regions`.
        weights: See `apps.weather.metrics.areas`.
        spectra: Whether spectra are kept.
        block_days: Length of the bootstrap's blocks.
        openstl: Starts of a batch of OpenSTL's errors; 0 leaves them out.
    """

    variables: tuple[str, ...] = ()
    levels: tuple[float, ...] = ()
    leads: tuple[float, ...] = ()
    first: str | None = None
    last: str | None = None
    regions: tuple[str, ...] = ()
    weights: str | None = None
    spectra: bool = True
    block_days: float = 10.0
    openstl: int = 0


@dataclass(eq=False)
class Verification:
    """Results.

    Attributes:
        scores: Of all models.
        models: Names of the forecasts, without baselines.
        notes: What was decided, and where values are missing.
        land: `(H, W)` share of land, where the truth has it.
        example: Forecast and truth of one start and the last lead.
        units: By variable.
    """

    scores: WeatherScores
    models: list[str]
    notes: list[str]
    land: NDArray[np.float32] | None = None
    example: tuple[States, States] | None = None
    units: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """Return the RMSE of the most quoted fields in the first region, a line a model and lead."""
        shown, rows = self.scores.rmse_lines()
        head = (f"RMSE, {self.scores.regions[0]}", "lead", *shown)
        return f"{text_table(rows, head=head)}\nweights: {self.scores.kind}, {WEIGHTS[self.scores.kind]}"

    def differences(self) -> list[dict[str, Any]]:
        """Return the first forecast less the second, where there are two."""
        return differences(self.scores, *self.models) if len(self.models) == 2 else []


def verify(
    forecasts: Sequence[str],
    truth: str,
    *,
    climatology: str | None = None,
    choice: ScoreChoice | None = None,
    device: torch.device | str = "cpu",
) -> Verification:
    """Score forecasts, persistence and, with a climatology, that.

    Args:
        forecasts: Files or stores in the layout of WeatherBench 2, or `persistence`, `climatology`.
        truth: An archive.
        climatology: A file as `dfm weather climatology` writes it.
        choice: Of fields, times and scores.
        device: Where sums are computed.

    Raises:
        UserError: If they share no time, level or point.
    """
    choice = choice or ScoreChoice()
    paths = [path for path in forecasts if path not in BASELINES[:2]]
    if "climatology" in forecasts and climatology is None:
        raise UserError("--forecast climatology needs --climatology clim.zarr")
    archive, notes = open_archive(truth, fill="keep"), []
    stores = [open_forecast(path) for path in paths]
    names = unlike([*BASELINES, *(Path(path.rstrip("/")).stem for path in paths)])[len(BASELINES) :]
    grid = archive.grid
    for store in stores:
        grid = shared_points(grid, store.grid, (archive.name, store.name))
    variables, said = _variables(archive, stores, choice)
    notes += said
    land = archive.static.get("lsm")
    archive = archive.narrowed(variables)
    starts, leads = _times(archive, stores, choice)
    if any(grid != other for other in (archive.grid, *(store.grid for store in stores))):
        notes.append(f"scored on the points that all have: {grid}")
    rain = archive.accumulated.get("tp", 0.0)
    normals = None if climatology is None else Climatology(climatology, variables, grid, rain=rain)
    if normals is not None:
        valid = starts[:, None] + np.array([round(3600 * lead) for lead in leads]).astype("timedelta64[s]")
        if lacks := sorted({*calendar(valid.ravel())[0].tolist()} - {*normals.hours}):
            notes.append(f"{climatology} lacks the hours of day {_list(lacks)}: no ACC then")
    points = [places_of(each.grid, grid, each.name) for each in (archive, *stores)]
    land = None if land is None else land[np.ix_(*points[0])]
    scores = WeatherScores(
        grid,
        variables,
        leads,
        climatology=normals,
        regions=choice.regions or None,
        land=land,
        weights=choice.weights,
        blocks=Blocks(days=choice.block_days) if len(stores) == 2 else None,
        spectra=choice.spectra,
        openstl=choice.openstl > 0,
        device=device,
    )
    result = Verification(scores, names, notes, land, units=archive.units)
    fields = len(variables.surface) + len(variables.atmospheric) * len(variables.levels)
    state = 4 * fields * grid.shape[0] * grid.shape[1]
    members = max([1, *(store.members for store in stores)])
    steps = max(min(len(leads), _BYTES // (state * members)), 1)
    batch = max(_BYTES // (state * members * steps), 1)
    if choice.openstl:
        steps, batch = len(leads), choice.openstl
    for at in range(0, len(starts), batch):
        for first in range(0, len(leads), steps):
            part = slice(first, first + steps)
            _update(result, archive, stores, normals, points, starts[at : at + batch], part)
    scores.gather()
    notes += [note for note in scores.missing() if not note.startswith("climatology:")]
    return result


def _update(
    result: Verification,
    archive: Archive,
    stores: Sequence[ForecastArchive],
    normals: Climatology | None,
    points: Sequence[Points],
    starts: NDArray[np.datetime64],
    part: slice,
) -> None:
    """Add the forecasts of some starts and leads."""
    scores, variables = result.scores, result.scores.variables
    time = torch.from_numpy(starts.astype(np.int64)).to(scores.device)
    leads = scores.leads[part]
    valid = valid_times(time, leads)
    wanted = torch.cat([time[:, None], valid], dim=1)  # B 1+K
    moments, back = np.unique(wanted.cpu().numpy(), return_inverse=True)
    known = np.isin(moments.astype("datetime64[s]"), archive.times)
    if not known.any():
        return
    fields = archive.read(moments[known].tolist(), variables, *points[0])
    places = np.where(known, known.cumsum() - 1, 0)[back].reshape(wanted.shape)
    kept = torch.from_numpy(known[back].reshape(wanted.shape)).to(scores.device)
    states = States(*(torch.from_numpy(x).to(scores.device)[torch.from_numpy(places)] for x in fields))
    truth, available = states.at(slice(1, None)), kept[:, 1:]

    normal = None if normals is None else normals.at(valid)

    def add(model: str, forecast: States | list[States], there: Tensor) -> None:
        scores.update(model, forecast, truth, time, first=part.start, available=there, normal=normal)

    for name, store, where in zip(result.models, stores, points[1:], strict=True):
        forecast = list(_forecasts(store, variables, starts, leads, where, scores.device))
        add(name, forecast if len(forecast) > 1 else forecast[0], available)
        if result.example is None and part.start + len(leads) == len(scores.leads) and available[0, -1]:
            result.example = (_last(forecast[0]), _last(truth))
    add("persistence", persistence(states.at(slice(0, 1)), len(leads)), available & kept[:, :1])
    if normal is not None:
        add("climatology", normal, available)


def _forecasts(
    store: ForecastArchive,
    variables: Variables,
    starts: NDArray[np.datetime64],
    leads: Sequence[float],
    points: Points,
    device: torch.device | str,
) -> Iterator[States]:
    """Yield the forecast of each member `(B, K, ...)`."""
    seconds = np.array([round(3600 * lead) for lead in leads])
    runs = [(store.at(start), (start.astype(np.int64) + seconds).tolist()) for start in starts]
    for member in range(max(store.members, 1)):
        parts = [run.read(times, variables, *points, member=member) for run, times in runs]
        yield States(*(torch.from_numpy(np.stack(group)).to(device) for group in zip(*parts, strict=True)))


def _last(states: States) -> States:
    """Return the last state of the first start, on the CPU."""
    return States(states.surface[:1, -1:].cpu(), states.atmospheric[:1, -1:].cpu())


def _variables(
    archive: Archive, stores: Sequence[ForecastArchive], choice: ScoreChoice
) -> tuple[Variables, list[str]]:
    """Return what truth and forecasts share, of what was asked for, and what was left out.

    Raises:
        UserError: If that is nothing.
    """
    every = [archive.variables, *(store.variables for store in stores)]
    names = [(*each.surface, *each.atmospheric) for each in every]
    notes = []

    def shared(kind: str, chosen: Sequence[Any]) -> tuple[Any, ...]:
        both = [x for x in getattr(every[0], kind) if all(x in getattr(other, kind) for other in every)]
        return tuple(x for x in both if not chosen or x in chosen)

    surface, atmospheric = shared("surface", choice.variables), shared("atmospheric", choice.variables)
    for name in surface:
        sums = {each.accumulated.get(name, 0.0) for each in (archive, *stores)}
        hours = sorted(sums - {0.0})
        if len(hours) > 1:
            notes.append(f"{name} is left out: truth and forecast are sums of {_list(hours)} hours")
            surface = tuple(other for other in surface if other != name)
    levels = shared("levels", choice.levels)
    if missing := [name for name in choice.variables if name not in (*surface, *atmospheric)]:
        both = [name for name in names[0] if all(name in other for other in names)]
        raise UserError(f"--variables {missing[0]} is not in truth and forecast, which share {_list(both)}")
    if (choice.levels and len(levels) < len(choice.levels)) or (atmospheric and not levels):
        have = " and ".join(f"{_list(each.levels)} hPa" for each in every)
        raise UserError(f"truth and forecast share no such levels: they have {have}; give --levels of both")
    if not surface and not atmospheric:
        raise UserError(f"truth and forecast share no variable: they have {' and '.join(map(_list, names))}")
    return Variables(surface, atmospheric, levels if atmospheric else ()), notes


def _list(values: Sequence[Any]) -> str:
    words = [f"{x:g}" if isinstance(x, float) else str(x) for x in values]
    return listed(words, 12) or "none"


def _times(
    archive: Archive, stores: Sequence[ForecastArchive], choice: ScoreChoice
) -> tuple[NDArray[np.datetime64], list[float]]:
    """Return starts and leads that all forecasts have, and whose truth is known.

    Raises:
        UserError: If there are none.
    """
    step = archive.step or 6.0
    leads = list(choice.leads) or [step * n for n in range(1, int(_DAYS * 24 / step) + 1)]
    starts = archive.times
    if stores:
        both = sorted(set.intersection(*({*store.leads} for store in stores)))
        if missing := [lead for lead in choice.leads if lead not in both]:
            raise UserError(
                f"--leads {missing[0]:g} is no lead of the forecast, which has {_list(both)} hours"
            )
        leads = list(choice.leads) or both
        starts = reduce(np.intersect1d, [store.starts for store in stores])
    inside = starts[_between(starts, choice.first, choice.last)] if len(starts) else starts
    offsets = np.array([round(lead * 3600) for lead in leads]).astype("timedelta64[s]")
    scored = inside[np.isin(inside[:, None] + offsets, archive.times).any(1)]
    if not len(scored):
        spans = f"starts {_span(starts)}, truth {_span(archive.times)}"
        raise UserError(
            f"no forecast is valid at a time of the truth ({spans}); give other --starts, --leads or truth"
        )
    return scored, leads


def _between(starts: NDArray[np.datetime64], first: str | None, last: str | None) -> NDArray[np.bool_]:
    """Say which starts lie from a moment to the end of another: `2020-12` ends with its last second."""
    try:
        least, most = (np.datetime64(text or str(starts[end])) for text, end in ((first, 0), (last, -1)))
        return (starts >= least) & (starts < (most + 1).astype("datetime64[s]"))
    except ValueError:
        raise UserError(f"--starts {first} {last} are no times; write them as 2020-01-31T12") from None


def _span(values: Any) -> str:
    ends = [str(x) for x in (values[0], values[-1])] if len(values) else ["none"]
    return " to ".join(dict.fromkeys(end.removesuffix(":00") for end in ends))
