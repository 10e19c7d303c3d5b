"""The test of a forecasting task: roll-outs scored beside what needs no learning, as WeatherBench 2 does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from apps.weather.batch import States, WeatherBatch, WeatherFacts
from apps.weather.metrics.baselines import DampedPersistence, SmoothClimatology, persistence
from apps.weather.metrics.scores import BASELINES, WeatherScores, field_name
from apps.weather.metrics.times import valid_times
from apps.weather.metrics.unweighted import UnweightedErrors
from core.metrics.sums import processes

__all__ = ["RollOutScores"]

_HEADLINES = ("z_500", "t_850", "q_700", "2t", "msl", "10u", "tp")
_MOST = 2000  # training windows by which climatology and damping are fitted


class RollOutScores:
    """Scores of a network's forecasts and of persistence, climatology and damped persistence.

    The last two are fitted on training windows, at most 2000 of them, spread evenly; without any they are
    left out. Targets that do not go in, as those of light decoders, have no persistence.

    Args:
        facts: Of the data.
        steps: States of a forecast.
        device: Where the fields are.
    """

    def __init__(self, facts: WeatherFacts, steps: int, *, device: torch.device | str = "cpu") -> None:
        self.facts, self.device = facts, torch.device(device)
        self.leads = [facts.step * (number + 1) for number in range(steps)]
        self.normals: SmoothClimatology | None = None
        self.damped: DampedPersistence | None = None
        self.scores: WeatherScores | None = None
        self.unweighted = UnweightedErrors()
        self.land: NDArray[np.float32] | None = None

    def fit(self, windows: Dataset | None, *, rank: int, batch_size: int) -> None:
        """Fit the baselines on training windows with as many targets as a forecast has states."""
        count = 0 if windows is None else len(windows)  # type: ignore[arg-type]
        rows = torch.linspace(0, count - 1, min(count, _MOST)).round().long().tolist()[rank :: processes()]
        if count < processes():
            return
        batches = [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
        self.normals = SmoothClimatology(self.facts.step, device=self.device)
        for batch in self._read(windows, batches):
            assert batch.targets is not None
            seconds = round(batch.step * 3600)
            offsets = torch.arange(1, batch.targets.steps + 1, device=self.device)
            states, past = batch.targets, _of_targets(batch)
            if past is not None:
                states = past.then(states)
                offsets = torch.arange(1 - past.steps, batch.targets.steps + 1, device=self.device)
            self.normals.update(states, batch.time[:, None] + seconds * offsets)
        self.normals.gather()
        damped = DampedPersistence(self.normals, self.leads)
        for batch in self._read(windows, batches):
            past = _of_targets(batch)
            if past is None:
                return
            assert batch.targets is not None
            damped.update(past.at(slice(-1, None)), batch.targets, batch.time)
        damped.gather()
        self.damped = damped

    def update(self, model: str, forecast: States, batch: WeatherBatch) -> None:
        """Add a network's forecast `(B, K, …)` in physical units, and the baselines' of the same starts."""
        assert batch.targets is not None
        if self.scores is None:
            if "lsm" in batch.variables.static:
                self.land = batch.static[0, batch.variables.static.index("lsm")].cpu().numpy()
            self.scores = WeatherScores(
                batch.grid,
                batch.target_variables,
                self.leads,
                climatology=self.normals,
                land=self.land,
                spectra=True,
                device=self.device,
            )
        others: dict[str, States] = {}
        past = _of_targets(batch)
        if past is not None:
            others["persistence"] = persistence(past, batch.targets.steps)
        normal = None if self.normals is None else self.normals.at(valid_times(batch.time, self.leads))
        if normal is not None:
            others["climatology"] = normal
        if past is not None and self.damped is not None:
            others["damped persistence"] = self.damped.forecast(past.at(slice(-1, None)), batch.time)
        for name, states in ({model: forecast} | others).items():
            self.scores.update(name, states, batch.targets, batch.time, normal=normal)
            self.unweighted.update(name, states, batch.targets, batch.target_variables)

    def headline(self, rows: Sequence[Mapping[str, Any]], model: str) -> dict[str, Tensor]:
        """Return the RMSE of the most quoted fields by lead, over the whole grid, and the mean skill."""
        own = [row for row in rows if row["model"] == model and row["region"] == rows[0]["region"]]
        headlines = {
            f"rmse_{name}_{row['lead']:g}h": torch.tensor(row["rmse"])
            for row in own
            if (name := field_name(row)) in _HEADLINES
        }
        for baseline in BASELINES:
            key = f"skill_{baseline.replace(' ', '_')}"
            skills = [row[key] for row in own if key in row]
            if skills:
                headlines[key] = torch.tensor(skills).nanmean()
        return headlines

    def text(self) -> str:
        """Return a table of the RMSE of the most quoted fields, a line for each model and lead."""
        from core.tables import text_table

        assert self.scores is not None
        shown, lines = self.scores.rmse_lines(_HEADLINES)
        return text_table(lines, head=["RMSE", "lead", *shown], number=".4g")

    def _read(self, windows: Any, batches: Sequence[Sequence[int]]) -> Any:
        for rows in batches:
            yield windows.__getitems__([(0, row) for row in rows]).to(self.device)


def _of_targets(batch: WeatherBatch) -> States | None:
    """Return the target variables of the inputs; None where one of them does not go in."""
    own, asked, inputs = batch.variables, batch.target_variables, batch.inputs
    if (own.surface, own.atmospheric, own.levels) == (asked.surface, asked.atmospheric, asked.levels):
        return inputs
    if not set(asked.names) <= set(own.names):
        return None
    surface = [own.surface.index(name) for name in asked.surface]
    atmospheric = [own.atmospheric.index(name) for name in asked.atmospheric]
    levels = [own.levels.index(level) for level in asked.levels]
    return States(inputs.surface[:, :, surface], inputs.atmospheric[:, :, atmospheric][:, :, :, levels])
