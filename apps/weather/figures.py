"""Figures of weather forecasts: score card, errors by lead, maps with coasts, spectra, a moving picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apps.weather.batch import Grid, States
from apps.weather.metrics.scores import BASELINES, HEADLINES, WeatherScores, field_name
from core.figures.curves import INK, as_array, heading, line_colour, line_dash, shared_legend
from core.figures.movies import rollout_frames
from core.figures.pictures import colour_scale, gap_scale
from core.figures.style import new_figure, style, write_powers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["drawings", "lead_figure", "map_figure", "movie", "score_card", "zonal_figure"]

Rows = Sequence[Mapping[str, Any]]
Example = tuple[States, States]  # forecast and truth `(1, K, ...)` of the last K leads, on the CPU


def drawings(
    scores: WeatherScores,
    model: str,
    *,
    example: Example | None = None,
    land: ArrayLike | None = None,
    units: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, Figure]]:
    """Yield name and figure of what scores are worth looking at.

    Args:
        scores: Gathered.
        model: The one looked at.
        example: Of it, whose last state is drawn as a map.
        land: `(H, W)` share of land, for coasts.
        units: By variable.
    """
    rows, spectra = scores.table(), [row for row in scores.spectra() if row["model"] == model]
    if baseline := next(
        (name for name in reversed(BASELINES[:2]) if name in {*scores.models} - {model}), None
    ):
        yield "score_card", score_card(rows, model, baseline)
    yield "by_lead", lead_figure(rows)
    if spectra:
        yield "spectra", zonal_figure(spectra)
    if example is not None:
        name, unit, forecast, truth = _shown(scores, example, units)
        title = f"{model}, {scores.leads[-1]:g} h after the start"
        drawn = {"name": name, "unit": unit, "land": land, "title": title}
        yield "map", map_figure(scores.grid, forecast[-1], truth[-1], **drawn)


def movie(
    scores: WeatherScores, example: Example, units: Mapping[str, str] | None = None
) -> list[NDArray[np.uint8]]:
    """Return the pictures of an example's most quoted field by day: truth, forecast and difference."""
    name, unit, *fields = _shown(scores, example, units)
    days = [lead / 24 for lead in scores.leads[-len(fields[0]) :]]
    forecast, truth = (np.flip(x, axis=1).transpose(0, 2, 1) for x in fields)  # T H W -> T x y, y upwards
    return rollout_frames(truth, forecast, times=days, name=name, unit=unit, side=320)


def score_card(rows: Rows, model: str, baseline: str = "persistence", *, region: str | None = None) -> Figure:
    """Draw the skill `1 - RMSE / RMSE of the baseline` of every field and lead: blue is better.

    Args:
        rows: A table of `WeatherScores`.
        model: Whose skill.
        baseline: Held against; the table has `skill_<baseline>`.
        region: One of the table's; None takes its first.
    """
    key = f"skill_{baseline.replace(' ', '_')}"
    region = region or rows[0]["region"]
    cells = {(field_name(row), row["lead"]): row.get(key, np.nan) for row in rows
             if row["model"] == model and row["region"] == region}  # fmt: skip
    fields, leads = (list(dict.fromkeys(pair[side] for pair in cells)) for side in (0, 1))
    skill = np.array([[cells.get((name, lead), np.nan) for lead in leads] for name in fields])
    with style():
        figure, axes = new_figure(width=min(2.6 + 0.55 * len(leads), 16), height=1.5 + 0.26 * len(fields))
        axis = axes[0, 0]
        axis.set_facecolor("#B8C1CB")
        drawn = axis.imshow(skill, cmap="RdBu", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
        axis.grid(visible=False)
        axis.set_yticks(range(len(fields)), fields)
        axis.set_xticks(range(len(leads)), [_lead(lead) for lead in leads])
        axis.set_xlabel("lead time")
        if skill.size <= 400:
            for (row, column), value in np.ndenumerate(skill):
                dark = abs(value) > 0.6
                axis.text(column, row, "" if np.isnan(value) else f"{value:.2f}", ha="center", va="center",
                          fontsize=7, color="white" if dark else INK)  # fmt: skip
        figure.colorbar(drawn, ax=axis, extend="min", label=f"skill against {baseline}")
        heading(figure, f"{model}: {region.replace('_', ' ')}, weights {rows[0]['weights']}")
    return figure


def lead_figure(
    rows: Rows, fields: Sequence[str] = (), *, metric: str = "rmse", region: str | None = None
) -> Figure:
    """Draw a score by lead, a panel a field and a line a model; without names the most quoted fields."""
    region = region or rows[0]["region"]
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        if row["region"] == region and metric in row:
            panel = curves.setdefault(field_name(row), {})
            panel.setdefault(row["model"], []).append((row["lead"], row[metric]))
    models = list(dict.fromkeys(row["model"] for row in rows))
    title = f"{metric.upper()} by lead time, {region.replace('_', ' ')}, weights {rows[0]['weights']}"
    with _panels(list(fields) or _headlines(curves), title, "days") as panels:
        for name, axis in panels.items():
            for number, model in enumerate(models):
                if points := curves[name].get(model):
                    leads, values = np.array(points).T
                    marker = "o" if len(leads) < 12 else None
                    how = {"color": line_colour(number), "linestyle": line_dash(number), "marker": marker}
                    axis.plot(leads / 24, values, label=model, **how)
            if metric != "bias":
                axis.set_ylim(bottom=0)
    return next(iter(panels.values())).figure


def map_figure(
    grid: Grid,
    forecast: ArrayLike,
    truth: ArrayLike,
    *,
    name: str,
    unit: str = "",
    land: ArrayLike | None = None,
    title: str = "",
) -> Figure:
    """Draw truth, forecast and error `(H, W)`; coasts are where half of `land` `(H, W)` is land."""
    fields = {"truth": as_array(truth), "forecast": as_array(forecast)}
    fields["error"] = fields["forecast"] - fields["truth"]
    scale = colour_scale(fields["truth"])
    wide = grid.shape[1] > grid.shape[0] * 1.2
    with style():
        figure, axes = new_figure(1, 3, width=11.0, height=2.9 if wide else 4.3, share_y=True)
        east, north = np.broadcast_arrays(grid.longitude, grid.latitude.reshape(grid.shape[0], -1))
        for axis, (head, values) in zip(axes.flat, fields.items(), strict=True):
            how = gap_scale(values) if head == "error" else scale
            drawn = axis.pcolormesh(east, north, values, shading="nearest", rasterized=True, **how)
            if land is not None:
                axis.contour(east, north, as_array(land), levels=[0.5], colors=INK, linewidths=0.6)
            axis.set_facecolor("#B8C1CB")
            axis.grid(visible=False)
            axis.set_title(head, fontsize=10)
            axis.set_xlabel("° east")
            figure.colorbar(
                drawn, ax=axis, location="bottom", aspect=30, label=f"{name} [{unit}]" if unit else name
            )
        axes[0, 0].set_ylabel("° north")
        heading(figure, title)
    return figure


def zonal_figure(rows: Rows, fields: Sequence[str] = ()) -> Figure:
    """Draw energy by zonal wave number, a panel a field: the truth in black, the forecast at its leads."""
    names = list(fields) or _headlines(dict.fromkeys(map(field_name, rows)))
    title = "Zonal energy spectra, 30-60 degrees north and south"
    with _panels(names, title, "zonal wave number") as panels:
        for name, axis in panels.items():
            curves: dict[float, list[tuple[float, ...]]] = {}
            for row in (row for row in rows if field_name(row) == name and row["wavenumber"] > 0):
                point = (row["wavenumber"], row["energy"], row["truth"])
                curves.setdefault(row["lead"], []).append(point)
            for number, (lead, points) in enumerate(curves.items()):
                waves, energy, truth = np.array(points).T
                if number == 0:
                    axis.loglog(waves, truth, color=INK, linewidth=2.0, label="truth")
                how = {"color": line_colour(number), "linestyle": line_dash(number + 1)}
                axis.loglog(waves, energy, label=_lead(lead), **how)
            write_powers(axis.xaxis, axis.yaxis)
    return next(iter(panels.values())).figure


@contextmanager
def _panels(names: Sequence[str], title: str, x_label: str) -> Iterator[dict[str, Any]]:
    """Yield name to axes, three side by side, to draw in; legend and heading are set behind."""
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    with style():
        figure, axes = new_figure(rows, columns, width=max(3.1 * columns, 5.0), height=2.4 * rows + 0.9)
        for axis in axes.flat[len(names) :]:
            axis.set_axis_off()
        yield dict(zip(names, axes.flat, strict=False))
        for name, axis in zip(names, axes.flat, strict=False):
            axis.set_title(name, fontsize=10)
            axis.set_xlabel(x_label)
        shared_legend(figure, axes)
        heading(figure, title)


def _headlines(names: Iterable[str]) -> list[str]:
    return [name for name in HEADLINES if name in names] or list(names)[:6]


def _shown(
    scores: WeatherScores, example: Example, units: Mapping[str, str] | None
) -> tuple[str, str, NDArray[np.float32], NDArray[np.float32]]:
    """Return the most quoted field of an example: name, unit, and forecast and truth `(K, H, W)`."""
    names = scores.names[: len(scores.fields)]
    place = next((names.index(name) for name in HEADLINES if name in names), 0)
    forecast, truth = (states.fields[0, :, place].numpy() for states in example)
    return names[place], (units or {}).get(scores.fields[place][0], ""), forecast, truth


def _lead(hours: float) -> str:
    return f"{hours / 24:g} d" if hours >= 24 and hours % 24 == 0 else f"{hours:g} h"
