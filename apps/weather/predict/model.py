"""From fields to forecasts without Lightning: `WeatherForecaster.from_checkpoint(path).forecast(dataset)`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from apps.weather.batch import Grid, States, Variables, WeatherBatch, WeatherFacts
from apps.weather.data.published import LEVELS, TENTH_DEGREE, published_scaling
from apps.weather.data.readers import open_archive
from apps.weather.data.scaling import Scaling
from apps.weather.data.settings import ArchiveSource, VariableChoice
from apps.weather.data.sources import open_source
from apps.weather.data.transforms import BOUNDS
from apps.weather.data.windows import ForecastWindows
from apps.weather.models.forecast import forecast, next_batch, prepared
from core.checkpoints.cards import card_names, card_of_file, load_weights_card
from core.errors import UserError
from core.inference.predictor import Predictor

if TYPE_CHECKING:
    import xarray

    from apps.weather.data.readers import Archive

__all__ = ["Forecaster", "WeatherForecaster"]


class WeatherForecaster(Predictor[WeatherFacts]):
    """Trained networks with everything that they need to forecast fields in physical units.

    Args:
        networks: One, or the members of an ensemble; each has `advance` (see `apps.weather.models.forecast`).
        facts: Of each; None of published weights, which have Aurora's statistics.
        **settings: See `core.inference.predictor.Predictor`; `batch_size` counts starts in a call.

    Raises:
        UserError: If the members do not take the same fields.
    """

    facts_type = WeatherFacts

    def __init__(
        self,
        networks: nn.Module | Sequence[nn.Module],
        facts: WeatherFacts | Sequence[WeatherFacts | None] | None,
        *,
        batch_size: int = 1,
        **settings: Any,
    ) -> None:
        members = [networks] if isinstance(networks, nn.Module) else list(networks)
        known = list(facts) if isinstance(facts, Sequence) else [facts]
        known = [one or published_facts(network) for one, network in zip(known, members, strict=True)]
        super().__init__(members, known, batch_size=batch_size, **settings)
        for name, one in zip(self.names, self.all_facts, strict=True):
            for key in ("variables", "target_variables", "history", "step"):
                if getattr(one, key) != getattr(self.facts, key):
                    raise UserError(
                        f"{name} has {key} {getattr(one, key)} and {self.name} has "
                        f"{getattr(self.facts, key)}; an ensemble needs checkpoints of the same fields"
                    )

    def histories(
        self,
        data: str | Sequence[str] | xarray.Dataset,
        *,
        region: Sequence[float] | None = None,
        fill: str | None = None,
        names: Mapping[str, str] | None = None,
        static: str | None = None,
    ) -> tuple[ForecastWindows, list[str]]:
        """Return the histories that forecasts can start from, by the code that training uses, and what was
        mended in the data.

        Args:
            data: A file, a folder, several files, a Zarr store (also at `http(s)://` or `gs://`), or a
                data set in memory.
            region: `[south, north, west, east]`; None takes the region of the training where the data hold
                it, else all of the data.
            fill: How missing values are filled, as in training; None refuses them.
            names: Names in the files to ours, where they are none of the known ones.
            static: A file of static fields, where the data and the checkpoint lack them.

        Raises:
            UserError: If the data lack a variable, level or static field, or their grid is no multiple of a
                patch.
        """
        archive, own = open_archive(data, fill=fill, names=names), self.facts.variables
        choice = VariableChoice(
            *map(list, (own.surface, own.atmospheric, own.levels, own.static)), static_path=static
        )
        place = list(region) if region is not None else self._trained_region(archive)
        named = ArchiveSource(path=archive.name, variables=choice, region=place, step=self.facts.step)
        patch = math.lcm(*(facts.patch for facts in self.all_facts))
        source, notes = open_source(
            named, patch, self.facts, archive=archive, room="the checkpoint's variables"
        )
        windows = ForecastWindows(source, None, history=self.facts.history, horizon=0)
        if not len(windows):
            raise UserError(
                f"{archive.name} has no {self.facts.history} states {source.step:g} hours apart, which "
                "the network starts from"
            )
        return windows, notes

    def starts(
        self, windows: ForecastWindows, asked: Sequence[str] | None = None, *, member: int = 0
    ) -> list[int]:
        """Return the rows of `windows` that forecasts start from, by time; None takes the last.

        Args:
            windows: Of `histories`.
            asked: Times, as `2020-01-01T00`, in UTC.
            member: Of the data, where they are an ensemble.

        Raises:
            UserError: If one is not in the data or lacks its history, with the nearest that has.
        """
        rows, source = np.flatnonzero(windows.members == member), windows.source
        if not len(rows):
            count = max(source.archive.members, 1)
            raise UserError(f"--member is {member} and {source.archive.name} has {count}; they count from 0")
        every = windows.current[rows]
        seconds = every[-1:] if asked is None else np.unique([_seconds(text) for text in asked])
        for moment in seconds[~np.isin(seconds, every)]:
            why = f"has no state at {_text(moment)}"
            if moment in source.seconds:
                before = f"{windows.history - 1} states {source.step:g} hours apart before {_text(moment)}"
                why = f"does not have the {before}"
            nearest = _text(every[np.abs(every - moment).argmin()])
            raise UserError(f"{source.archive.name} {why}; the nearest start is {nearest}")
        return rows[np.searchsorted(every, seconds)].tolist()

    def initial(self, windows: ForecastWindows, rows: Sequence[int]) -> WeatherBatch:
        """Return some of the histories, in physical units and as the network takes them."""
        return prepared(self.network, windows.__getitems__([(0, row) for row in rows]))

    def outputs(self, batch: WeatherBatch) -> Variables:
        """Return what a forecast from a batch of `initial` holds, with what light decoders add."""
        own, extra = batch.variables, getattr(self.network, "decoded_variables", Variables())
        return Variables((*own.surface, *extra.surface), own.atmospheric, own.levels)

    @torch.inference_mode()
    def states(self, batch: WeatherBatch, member: int = 0) -> Iterator[tuple[States, WeatherBatch]]:
        """Yield the next states `(B, 1 or more, …)` of `outputs`, and the batch that the ones after start
        from, without end; bounded variables are clipped in what is yielded, not in what is fed back.
        """
        network, scaling = self.networks[member], Scaling.of(self.all_facts[member])
        batch, outputs = batch.to(self.device), self.outputs(batch)
        while True:
            states, decoded = _next(network, batch, scaling)
            batch = next_batch(batch, states)  # a copy
            shown = States(torch.cat([states.surface, *decoded], dim=2), states.atmospheric).to("cpu")
            for group, names in ((shown.surface, outputs.surface), (shown.atmospheric, outputs.atmospheric)):
                for place, name in enumerate(names):
                    if name in self.facts.bounds:
                        group[:, :, place].clamp_(*self.facts.bounds[name])
            yield shown, batch

    def forecast(
        self,
        data: str | Sequence[str] | xarray.Dataset,
        *,
        start: str | Sequence[str] | None = None,
        steps: int = 1,
        south_pole: bool = False,
        **reading: Any,
    ) -> xarray.Dataset:
        """Return forecasts of `steps` states, as WeatherBench 2 lays them out, all in memory.

        Args:
            data: As for `histories`.
            start: One time or several; None takes the last.
            steps: States to forecast.
            south_pole: Whether the row that whole patches leave out is appended.
            **reading: As for `histories`.

        Raises:
            UserError: As `histories` and `starts` do.
        """
        from apps.weather.predict.writers import ForecastJob

        windows, _ = self.histories(data, **reading)
        rows = self.starts(windows, [start] if isinstance(start, str) else start)
        return ForecastJob(self, windows, rows, steps, south_pole).dataset()

    @classmethod
    def _read(cls, path: str) -> tuple[Any, Mapping[str, Any]]:
        card = load_weights_card(path) if path in card_names() else card_of_file(Path(path).name)
        if card is None or card.domain != "weather":
            return super()._read(path)
        return None, {"licences": [card.licence], "sources": [card.hub]}

    def _trained_region(self, archive: Archive) -> list[float] | None:
        """Return the region of the training grid, if it is not the globe and the data hold it."""
        if not self.facts.latitude or archive.grid.curvilinear:
            return None
        grid = Grid(self.facts.latitude, self.facts.longitude)
        north, south = grid.latitude[0], grid.latitude[-1]
        whole = north - south >= 180 - 2.5 * abs(grid.latitude[0] - grid.latitude[1])
        if whole and grid.periodic:
            return None
        west, east = (0.0, 360.0) if grid.periodic else (grid.longitude[0], grid.longitude[-1])
        own = archive.grid.longitude
        around = archive.grid.periodic or (own[0] <= west and east <= own[-1])
        inside = archive.grid.latitude[-1] <= south and north <= archive.grid.latitude[0]
        return [float(south), float(north), float(west), float(east)] if inside and around else None


def published_facts(network: nn.Module) -> WeatherFacts:
    """Return the facts of an Aurora with published weights: its variables on the standard levels."""
    own: Variables = network.variables  # type: ignore[assignment]
    taken = getattr(network, "taken", own)  # which `prepare` makes the network's own of
    variables = replace(taken, levels=own.levels or tuple(map(float, LEVELS)))
    every = replace(variables, surface=tuple(dict.fromkeys((*own.surface, *taken.surface))))
    scaling = published_scaling(every, TENTH_DEGREE if network.patch == 10 else None)
    names = (*every.surface, *every.atmospheric)
    return WeatherFacts(
        variables=variables,
        target_variables=variables,
        statistics=scaling.statistics,
        transforms=scaling.transforms,
        history=network.history,  # type: ignore[arg-type]
        step=network.step,  # type: ignore[arg-type]
        bounds={name: BOUNDS[name] for name in names if name in BOUNDS},
        patch=network.patch,  # type: ignore[arg-type]
    )


Forecaster = WeatherForecaster  # the name in `from apps.weather import Forecaster`


def _next(network: nn.Module, batch: WeatherBatch, scaling: Scaling) -> tuple[States, list[Tensor]]:
    """Return the next states, and the surface variables that light decoders read off latents."""
    if not hasattr(network, "decoded_variables"):
        return forecast(network, batch, scaling), []
    scaled = scaling.normalised(batch)
    normalised, latents = network.advance_with_latents(scaled)  # type: ignore[operator]
    states = scaling.physical(normalised, batch.variables)
    if hasattr(network, "finish"):
        states = network.finish(batch, states)  # type: ignore[operator]
    decoded = network.decode(latents, scaled)  # type: ignore[operator]
    return states, [scaling.physical(decoded, network.decoded_variables).surface]  # type: ignore[arg-type]


def _seconds(text: str) -> int:
    try:
        return int(np.datetime64(text.removesuffix("Z"), "s").astype(np.int64))
    except ValueError as error:
        raise UserError(f"--start {text} is no time; give it in UTC, as in 2020-01-01T00") from error


def _text(seconds: int) -> str:
    return str(np.datetime64(int(seconds), "s").astype("datetime64[m]")).removesuffix(":00")
