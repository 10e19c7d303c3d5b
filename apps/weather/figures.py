"""Figures of weather forecasts: score card, errors by lead, maps with coasts, spectra, a moving picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apps.weather.batch import Grid
from apps.weather.metrics.scores import field_name
from core.figures.curves import INK, as_array, heading, line_colour, line_dash, shared_legend
from core.figures.movies import rollout_frames
from core.figures.pictures import colour_scale, gap_scale
from core.figures.style import new_figure, style, write_powers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from apps.weather.metrics.verification import Verification

__all__ = ["drawings", "lead_figure", "map_figure", "map_frames", "score_card", "zonal_figure"]

Rows = Sequence[Mapping[str, Any]]

HEADLINES = ("z_500", "t_850", "q_700", "wind_vector_850", "2t", "msl", "10m_wind_vector", "tp")
"""Most quoted fields, which curves show."""


def drawings(result: Verification, rows: Rows, spectra: Rows) -> Iterator[tuple[str, Figure]]:
    """Yield name and figure of what a scoring is worth looking at; see the functions below."""
    model = result.models[0] if result.models else result.scores.models[0]
    baseline = next(
        (b for b in ("climatology", "persistence") if b in result.scores.models and b != model), None
    )
    if baseline is not None:
        yield "score_card", score_card(rows, model, baseline)
    yield "by_lead", lead_figure(rows)
    if spectra:
        yield "spectra", zonal_figure([row for row in spectra if row["model"] == model])
    if result.example is not None:
        names = result.scores.names
        place = next((names.index(name) for name in HEADLINES if name in names), 0)
        forecast, truth = (
            np.concatenate([s.surface[0, 0].numpy(), s.atmospheric[0, 0].flatten(0, 1).numpy()])[place]
            for s in result.example
        )
        unit = result.units.get(result.scores.fields[place][0], "1")
        title = f"{model}, {result.scores.leads[-1]:g} h after the first start"
        yield (
            "map",
            map_figure(
                result.scores.grid,
                forecast,
                truth,
                name=names[place],
                unit=unit,
                land=result.land,
                title=title,
            ),
        )


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
    shown = list(fields) or [name for name in HEADLINES if name in curves] or list(curves)[:8]
    models = list(dict.fromkeys(row["model"] for row in rows))
    columns = min(len(shown), 3)
    with style():
        lines = -(-len(shown) // columns)
        figure, axes = new_figure(lines, columns, width=max(3.0 * columns, 5.0), height=2.3 * lines + 0.9)
        for axis, name in zip(axes.flat, shown, strict=False):
            for number, model in enumerate(models):
                if points := curves[name].get(model):
                    leads, values = np.array(points).T
                    marker = "o" if len(leads) < 12 else None
                    how = {"color": line_colour(number), "linestyle": line_dash(number), "marker": marker}
                    axis.plot(leads / 24, values, label=model, **how)
            axis.set_title(name, fontsize=10)
            axis.set_xlabel("days")
            if metric != "bias":
                axis.set_ylim(bottom=0)
        for axis in list(axes.flat)[len(shown) :]:
            axis.set_axis_off()
        shared_legend(figure, axes)
        heading(
            figure, f"{metric.upper()} by lead time, {region.replace('_', ' ')}, weights {rows[0]['weights']}"
        )
    return figure


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
    """Draw energy by zonal wave number, a panel a field: the truth in black, the forecast at a few leads."""
    names = dict.fromkeys(map(field_name, rows))
    fields = list(fields) or [name for name in HEADLINES if name in names] or list(names)[:6]
    with style():
        columns = min(len(fields), 3)
        lines = -(-len(fields) // columns)
        figure, axes = new_figure(lines, columns, width=max(3.2 * columns, 5.0), height=2.5 * lines + 0.9)
        for axis, name in zip(axes.flat, fields, strict=False):
            mine = [row for row in rows if field_name(row) == name and row["wavenumber"] > 0]
            leads = sorted({row["lead"] for row in mine})
            picked = [leads[k] for k in sorted({0, len(leads) // 2, len(leads) - 1})]
            for number, lead in enumerate(picked):
                points = np.array(
                    [(r["wavenumber"], r["energy"], r["truth"]) for r in mine if r["lead"] == lead]
                ).T
                if number == 0:
                    axis.loglog(points[0], points[2], color=INK, linewidth=2.0, label="truth")
                axis.loglog(points[0], points[1], color=line_colour(number), linestyle=line_dash(number + 1),
                            label=_lead(lead))  # fmt: skip
            write_powers(axis.xaxis, axis.yaxis)
            axis.set_title(name, fontsize=10)
            axis.set_xlabel("zonal wave number")
        for axis in list(axes.flat)[len(fields) :]:
            axis.set_axis_off()
        axes[0, 0].set_ylabel("energy")
        shared_legend(figure, axes)
        heading(figure, "Zonal energy spectra, 30-60 degrees north and south")
    return figure


def map_frames(
    truth: ArrayLike, forecast: ArrayLike | None = None, *, hours: Sequence[float], name: str, unit: str
) -> list[NDArray[np.uint8]]:
    """Return the pictures of a roll-out's field `(T, H, W)`, north above: truth, forecast and difference."""

    def upright(values: ArrayLike) -> NDArray[np.float64]:  # T H W, north first -> T x y, y upwards
        return np.flip(as_array(values), axis=1).transpose(0, 2, 1)

    shown = None if forecast is None else upright(forecast)
    days = [hour / 24 for hour in hours]
    return list(rollout_frames(upright(truth), shown, times=days, name=name, unit=unit, side=320))


def _lead(hours: float) -> str:
    return f"{hours / 24:g} d" if hours >= 24 and hours % 24 == 0 else f"{hours:g} h"
