"""Scores of forecasts, summed over starts and processes: memory does not grow with their number."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from apps.weather.batch import Grid, States, Variables, level_name
from apps.weather.metrics.areas import WEIGHTS, latitude_weights, usual_weights
from apps.weather.metrics.ensembles import ensemble_errors
from apps.weather.metrics.errors import by_rows, openstl_errors, spatial_errors, spatial_means, vector_mse
from apps.weather.metrics.precipitation import seeps
from apps.weather.metrics.regions import BOXES, PARTS, region_weights
from apps.weather.metrics.spectra import zonal_spectrum
from apps.weather.metrics.times import valid_times
from core.metrics.sums import gathered, summed

__all__ = ["BASELINES", "COLUMNS", "HEADLINES", "Blocks", "Normals", "WeatherScores", "field_name"]

BASELINES = ("persistence", "climatology", "damped persistence")
"""Names of models against which the table has a skill, `1 - RMSE / RMSE of the baseline`."""

COLUMNS = (
    "rmse", "rmse_per_start", "mae", "bias", "acc", "seeps", "crps", "crps_skill", "crps_spread", "variance",
    "spread_skill", "energy_score", *(f"skill_{name.replace(' ', '_')}" for name in BASELINES),
)  # fmt: skip
"""Scores in the order of the table."""

HEADLINES = ("z_500", "t_850", "q_700", "wind_vector_850", "2t", "msl", "10m_wind_vector", "tp")
"""Most quoted fields, which texts and figures show."""

_APART, _OPENSTL = ("missing", "spectrum", "openstl"), ("mse", "mae", "rmse")
_BAND = (30.0, 60.0)  # degrees of latitude, in both hemispheres, over which spectra are averaged


class Normals(Protocol):
    """A climatology: what is normal at a time of year and of day."""

    def at(self, valid: Tensor) -> States:
        """Return states `(B, K, ...)`, where the times are, for `(B, K)` int64 seconds since 1970."""
        ...


@dataclass(frozen=True)
class Blocks:
    """Starts that lie near each other, kept apart from others for the bootstrap.

    Attributes:
        days: Length of a block, longer than the weather remembers.
        most: Blocks that are kept; further ones are added to the first, the second and so on.
    """

    days: float = 10.0
    most: int = 64


class WeatherScores:
    """RMSE, MAE, bias, ACC, the wind vector's RMSE, and of ensembles CRPS, spread and energy score, for every
    variable, level, lead time and region. Points that are NaN are left out, counted and told (`missing`).

    `sums` holds by model and score `(2, blocks, K, F, R)`: sums over starts, and their numbers.

    Args:
        grid: Of the fields.
        variables: Of the fields.
        leads: Hours from the start of each of the K states.
        climatology: For ACC; has `rain_at` where there is SEEPS. None leaves both out.
        regions: Names of `apps.weather.metrics.regions`; None takes all that have points, with land and sea
            where there is `land`.
        land: `(H, W)` share of land.
        weights: A key of `apps.weather.metrics.areas.WEIGHTS`; None takes what suits the grid.
        blocks: For `apps.weather.metrics.comparison`; None keeps one sum.
        spectra: Whether zonal spectra of 30-60 degrees are kept too.
        openstl: Whether the errors of OpenSTL are kept too, whose batches are those of `update`.
        device: Where the fields are.
    """

    def __init__(
        self,
        grid: Grid,
        variables: Variables,
        leads: Sequence[float],
        *,
        climatology: Normals | None = None,
        regions: Sequence[str] | None = None,
        land: ArrayLike | None = None,
        weights: str | None = None,
        blocks: Blocks | None = None,
        spectra: bool = False,
        openstl: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.grid, self.variables, self.leads = grid, variables, tuple(leads)
        self.climatology, self.blocks, self.device = climatology, blocks, device
        self.openstl, self.kind = openstl, weights or usual_weights(grid)
        if regions is None:
            parts = () if land is None else tuple(f"{name}_{part}" for name in BOXES for part in PARTS)
            regions = (*BOXES, *parts) if grid.periodic else ("all", *(f"all_{p}" for p in PARTS if parts))
        self.regions, self.weights = region_weights(grid, regions, kind=self.kind, land=land, device=device)
        self.fields: list[tuple[str, float | None]] = [
            *((name, None) for name in variables.surface),
            *((name, level) for name in variables.atmospheric for level in variables.levels),
        ]
        places = {field: number for number, field in enumerate(self.fields)}
        self._winds = {  # name and level to the fields of both components
            (f"{name[:-1]}m_wind_vector" if name[:-1] else "wind_vector", level): (place, across)
            for (name, level), place in places.items()
            if re.fullmatch(r"\d*u", name) and (across := places.get((f"{name[:-1]}v", level))) is not None
        }
        rows = [*self.fields, *self._winds]
        self.names = [v if level is None else level_name(v, level) for v, level in rows]
        self.sums: dict[tuple[str, str], Tensor] = {}
        band = torch.from_numpy(grid.latitude.copy())
        inside = (band.abs() >= _BAND[0]) & (band.abs() <= _BAND[1]) & (spectra and grid.periodic)
        self._band = inside.nonzero()[:, 0]

    @property
    def models(self) -> list[str]:
        """Names in the order in which they came."""
        return list(dict.fromkeys(model for model, _ in self.sums))

    @torch.no_grad()
    def update(
        self,
        model: str,
        forecast: States | Sequence[States],
        truth: States,
        time: Tensor,
        *,
        first: int = 0,
        available: Tensor | None = None,
        normal: States | None = None,
    ) -> None:
        """Add forecasts from B starts.

        Args:
            model: Whose they are.
            forecast: `(B, K, ...)` of K leads, physical; or those of an ensemble's members.
            truth: `(B, K, ...)`.
            time: `(B,)` int64, seconds since 1970-01-01 UTC of the starts.
            first: Which of the leads is the first of these K.
            available: `(B, K)`, False where there is no truth: such states are neither scored nor missed.
            normal: `(B, K, ...)` of the climatology, where the caller has it already; None asks for it.
        """
        valid = valid_times(time, self.leads[first : first + truth.steps])
        members = None if isinstance(forecast, States) else _stacked(forecast)
        means = [x.mean(dim=3) for x in members] if members else _groups(forecast)  # type: ignore[arg-type]
        truths = _groups(truth)
        if normal is None and self.climatology is not None:
            normal = self.climatology.at(valid)
        normals = [None, None] if normal is None else _groups(normal)
        errors: list[dict[str, Tensor]] = []
        for number in (number for number in (0, 1) if truths[number].shape[2]):
            target = truths[number]
            part = by_rows(self._errors, means[number], target, normals[number])
            errors.append(part | (by_rows(self._ensemble, members[number], target) if members else {}))
        values = {name: torch.cat([part[name] for part in errors], dim=2) for name in errors[0]}
        if self._winds:
            values["mse"] = torch.cat([values["mse"], self._vector(means, truths)], dim=2)
        values["rmse_per_start"] = values["mse"].sqrt()
        rain_at = getattr(self.climatology, "rain_at", None)
        if rain_at is not None and not members and (rain := rain_at(valid)) is not None:
            values["seeps"] = self._rain(means[0], truths[0], rain)
        kept = torch.ones_like(valid, dtype=torch.bool) if available is None else available
        for name, value in values.items():
            known = value.isfinite() & kept[..., None, None]
            pair = torch.stack([torch.where(known, value, 0), known.to(value)])
            self._keep(model, name, self._blocked(pair, time), first, axis=2)
        lost = torch.stack([torch.cat([_missing(x) for x in groups], dim=2) for groups in (means, truths)])
        lost = (lost * kept[..., None]).sum(1)  # 2 B K F -> 2 K F
        self._keep(model, "missing", lost.to(self.weights.dtype), first, axis=1)
        if len(self._band):
            self._keep(model, "spectrum", self._spectra(means, truths, kept), first, axis=1)
        if self.openstl:
            self._keep(model, "openstl", self._batch(means, truths), 0, axis=0)

    def gather(self) -> None:
        """Add up the sums of all processes; call it once, on every rank."""
        shapes: dict[tuple[str, str], torch.Size] = {}
        for part in gathered({key: values.shape for key, values in self.sums.items()}):
            shapes |= part
        for key, shape in shapes.items():
            self.sums.setdefault(key, self.weights.new_zeros(shape))
        total = summed({"\t".join(key): self.sums[key] for key in shapes}, self.device)
        self.sums = {key: total["\t".join(key)] for key in shapes}

    def heads(self, shape: Sequence[int]) -> Iterator[tuple[dict[str, Any], tuple[int, int, int]]]:
        """Yield what each of scores `(K, F, R)` is of, the head of its row, and its place."""
        for (f, (variable, level)), (k, lead), (r, region) in product(
            enumerate((*self.fields, *self._winds)[: shape[1]]),
            enumerate(self.leads[: shape[0]]),
            enumerate(self.regions),
        ):
            head = {"variable": variable, "level": level, "lead": lead, "region": region}
            yield head | {"weights": self.kind}, (k, f, r)

    def means(self, model: str) -> dict[str, Tensor]:
        """Return each score's mean over starts `(K, F, R)`, on the CPU, and `starts`, the number of them."""
        means = {}
        for name in (name for key, name in self.sums if key == model and name not in _APART):
            total, count = self.sums[model, name].sum(1).cpu()
            means[name] = total / count
            means |= {"starts": count} if name == "mse" else {}
        means["rmse"] = means["mse"].sqrt()
        if "variance" in means:
            spread = means["variance"].sqrt()
            means["spread_skill"] = spread / means["rmse"][:, : spread.shape[1]]
        return means

    def table(self) -> list[dict[str, Any]]:
        """Return one row per model, field, lead and region that has starts, without scores that it lacks.

        `rmse` is the root of the mean over starts (WeatherBench 2), `rmse_per_start` the mean of the roots
        (WeatherBench 1, Aurora). `weights` names the weights.
        """
        means = {model: self.means(model) for model in self.models}
        rows = []
        for model, scores in means.items():
            for reference in (name for name in BASELINES if name in means and name != model):
                name = f"skill_{reference.replace(' ', '_')}"
                scores[name] = 1 - scores["rmse"] / means[reference]["rmse"]
            columns = {name: values.tolist() for name, values in scores.items()}
            missing = self.sums[model, "missing"].sum(0).tolist()
            for head, (k, f, r) in self.heads(scores["rmse"].shape):
                starts = int(columns["starts"][k][f][r])
                if not starts:
                    continue
                row = {"model": model, **head, "starts": starts}
                values = {name: kept[k][f][r] for name, kept in columns.items() if f < len(kept[k])}
                row |= {name: values[name] for name in COLUMNS if values.get(name, math.nan) >= -math.inf}
                rows.append(row | ({"missing": int(missing[k][f])} if f < len(self.fields) else {}))
        return rows

    def dataset(self, **attributes: str) -> Any:
        """Return the table as an `xarray.Dataset`: each score on the axes model, field, lead and region."""
        import pandas

        rows = [{"field": field_name(row), **row} for row in self.table()]
        axes = ["model", "field", "lead", "region"]
        frame = pandas.DataFrame(rows).drop(columns=["variable", "level", "weights"]).set_index(axes)
        order = {axis: list(dict.fromkeys(row[axis] for row in rows)) for axis in axes}
        table = frame.to_xarray().reindex(order)
        table["lead"].attrs["units"] = "hours"
        return table.assign_attrs(weights=f"{self.kind}: {WEIGHTS[self.kind]}", **attributes)

    def rmse_lines(self, quoted: Sequence[str] = HEADLINES) -> tuple[list[str], list[list[Any]]]:
        """Return the quoted fields that there are, else the first seven, and a line for each model and lead:
        their RMSE in the first region.
        """
        shown = [name for name in quoted if name in self.names] or self.names[:7]
        places = [self.names.index(name) for name in shown]
        means = {model: self.means(model)["rmse"][..., 0].tolist() for model in self.models}
        return shown, [
            [model, f"{lead:g} h", *(line[place] for place in places)]
            for model, lines in means.items()
            for lead, line in zip(self.leads, lines, strict=True)
        ]

    def missing(self) -> list[str]:
        """Return a sentence for each model and field with values that are not finite."""
        sentences = []
        for model in self.models:
            lost = self.sums[model, "missing"].sum(1).long().tolist()  # forecast or truth, F
            for which, counts in zip(("the forecast", "the truth"), lost, strict=True):
                for name, count in zip(self.names, counts, strict=False):
                    sentence = f"{model}: {count} values of {name} in {which} are NaN; they are left out"
                    sentences += [sentence] if count else []
        return sentences

    def spectra(self) -> list[dict[str, Any]]:
        """Return one row per model, field, wave number and three of the leads: both mean energies."""
        rows = []
        for model in (model for model, name in self.sums if name == "spectrum"):
            total, count = self.sums[model, "spectrum"].cpu().split([2, 1])
            forecast, truth = (total / count).tolist()
            shown = sorted({0, len(self.leads) // 2, len(self.leads) - 1})
            for (f, (variable, level)), k in product(enumerate(self.fields), shown):
                row = {"model": model, "variable": variable, "level": level, "lead": self.leads[k]}
                pairs = zip(forecast[k][f], truth[k][f], strict=True)
                rows += [row | {"wavenumber": n, "energy": e, "truth": t} for n, (e, t) in enumerate(pairs)]
        return rows

    def openstl_rows(self) -> list[dict[str, Any]]:
        """Return one row per model and field: OpenSTL's errors over all leads, means over batches."""
        rows = []
        for model in (model for model, name in self.sums if name == "openstl"):
            *errors, count = self.sums[model, "openstl"].sum(0).cpu()  # F each
            for f, (variable, level) in enumerate(self.fields):
                row = {"model": model, "variable": variable, "level": level, "batches": int(count[f])}
                rows.append(row | {n: float(e[f] / count[f]) for n, e in zip(_OPENSTL, errors, strict=True)})
        return rows

    def _errors(self, forecast: Tensor, truth: Tensor, normal: Tensor | None) -> dict[str, Tensor]:
        return spatial_errors(forecast, truth, self.weights, normal)

    def _ensemble(self, members: Tensor, truth: Tensor) -> dict[str, Tensor]:
        return ensemble_errors(members, truth, self.weights)

    def _vector(self, forecasts: Sequence[Tensor], truths: Sequence[Tensor]) -> Tensor:
        surface = len(self.variables.surface)
        parts = []
        for (_, level), (u, v) in self._winds.items():
            group, first = (0, 0) if level is None else (1, surface)
            components = [x[group][:, :, i - first, None] for x in (forecasts, truths) for i in (u, v)]
            parts.append(by_rows(lambda *x: {"mse": vector_mse(*x, self.weights)}, *components)["mse"])
        return torch.cat(parts, dim=2)

    def _rain(self, forecast: Tensor, truth: Tensor, rain: tuple[str, float, Tensor, Tensor]) -> Tensor:
        """Return SEEPS `(B, K, F, R)`, NaN for all fields but precipitation."""
        name, dry, share, heavy = rain
        place = self.fields.index((name, None))
        points = seeps(forecast[:, :, place], truth[:, :, place], share, heavy, dry=dry)
        scores = self.weights.new_full((*points.shape[:2], len(self.fields), len(self.regions)), math.nan)
        scores[:, :, place] = spatial_means(self.weights, points)[0]
        return scores

    def _spectra(self, forecasts: Sequence[Tensor], truths: Sequence[Tensor], kept: Tensor) -> Tensor:
        """Return sums over starts of both energies and their number, `(3, K, F, wave numbers)`."""
        latitude = torch.from_numpy(self.grid.latitude)[self._band]
        rows = torch.from_numpy(latitude_weights(self.grid.latitude, "area"))[self._band].to(self.weights)
        pair = []
        for groups in (forecasts, truths):
            spectra = [zonal_spectrum(x[..., self._band, :], latitude) for x in groups if x.shape[2]]
            pair.append(torch.einsum("...hk,h->...k", torch.cat(spectra, 2).to(rows), rows / rows.sum()))
        known = pair[0].isfinite() & pair[1].isfinite() & kept[..., None, None]
        sums = [torch.where(known, values, 0).sum(0) for values in pair]
        return torch.stack([*sums, known.to(rows).sum(0)])

    def _batch(self, forecasts: Sequence[Tensor], truths: Sequence[Tensor]) -> Tensor:
        """Return OpenSTL's errors of this batch by field and a count, `(1, 4, F)`; 0 where a value is NaN."""
        parts = []
        for forecast, truth in zip(forecasts, truths, strict=True):
            pairs = zip(forecast.split(1, dim=2), truth.split(1, dim=2), strict=True)
            parts += [torch.stack([*openstl_errors(*pair).values()]) for pair in pairs if pair[0].shape[2]]
        errors = torch.stack(parts, dim=-1).to(self.weights.dtype)
        known = errors.isfinite().all(0)
        return torch.cat([torch.where(known, errors, 0), known.to(errors)[None]])[None]

    def _blocked(self, values: Tensor, time: Tensor) -> Tensor:
        """Return values `(2, B, K, F, R)` added up within the block of each start."""
        blocks = self.blocks or Blocks(days=1.0, most=1)
        place = torch.div(time, round(blocks.days * 86400), rounding_mode="floor") % blocks.most
        return values.new_zeros(2, blocks.most, *values.shape[2:]).index_add_(1, place, values)

    def _keep(self, model: str, name: str, values: Tensor, first: int, *, axis: int) -> None:
        """Add values of the leads from `first` on, which lie on `axis`."""
        length = len(self.leads) if axis else 1
        shape = (*values.shape[:axis], length, *values.shape[axis + 1 :])
        total = self.sums.setdefault((model, name), values.new_zeros(shape))
        total.narrow(axis, first, values.shape[axis]).add_(values)


def field_name(row: Mapping[str, Any]) -> str:
    """Return the name of a row's field, such as `2t` or `z_500`."""
    return row["variable"] if row["level"] is None else level_name(row["variable"], row["level"])


def _groups(states: States) -> list[Tensor]:
    """Return surface and atmospheric fields as `(B, K, F, H, W)`."""
    return [states.surface, states.atmospheric.flatten(2, 3)]


def _stacked(members: Sequence[States]) -> list[Tensor]:
    """Return members' fields as `(B, K, F, M, H, W)`."""
    return [torch.stack(parts, dim=3) for parts in zip(*map(_groups, members), strict=True)]


def _missing(fields: Tensor) -> Tensor:
    """Return the number of values `(B, K, F)` that are not finite."""
    return (~fields.isfinite()).sum((-1, -2))
