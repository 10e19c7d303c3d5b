"""What people in the field look at: forecasts with bands, error by horizon, comparison with baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from core.figures.style import NEUTRAL, PALETTE, new_figure, style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from apps.timeseries.data.store import Track

__all__ = [
    "ForecastPanel",
    "comparison_figure",
    "drawn_times",
    "forecast_figure",
    "window_panel",
]

_MODEL, _BASELINES = PALETTE[0], PALETTE[1:]


@dataclass(frozen=True)
class ForecastPanel:
    """One series' or channel's panel of `forecast_figure`.

    Attributes:
        title: Above the panel.
        past: `(L,)` history.
        prediction: `(H,)` forecast.
        past_times: Stamps of the history; without them steps are counted, with 0 at the last known one.
        times: Stamps of the forecast.
        truth: `(H,)`, where it is known.
        quantiles: Level to `(H,)`.
        baselines: Name to `(H,)`.
        unit: Of the values.
    """

    title: str
    past: np.ndarray
    prediction: np.ndarray
    past_times: np.ndarray | None = None
    times: np.ndarray | None = None
    truth: np.ndarray | None = None
    quantiles: Mapping[float, np.ndarray] = field(default_factory=dict)
    baselines: Mapping[str, np.ndarray] = field(default_factory=dict)
    unit: str = ""


def window_panel(
    track: Track,
    name: str,
    start: int,
    *,
    past: Tensor,
    prediction: Tensor,
    truth: Tensor,
    baselines: Mapping[str, Tensor],
    offsets: Mapping[float, Tensor],
) -> ForecastPanel:
    """Return the panel of a window's first target in the data's own units, with its stamps."""

    def raw(values: Tensor) -> np.ndarray:
        return track.scalers[0].invert(values.detach().double().cpu().numpy())

    stamps = drawn_times(track.stamps(start, len(past) + len(prediction)))
    label = track.channel or ("" if name == "value" else name)
    others = "" if track.channel or len(track.scalers) == 1 else f", first of {len(track.scalers)} channels"
    return ForecastPanel(
        title=f"{track.id}: {label}{others}" if label or others else track.id,
        past=raw(past),
        prediction=raw(prediction),
        past_times=None if stamps is None else stamps[: len(past)],
        times=None if stamps is None else stamps[len(past) :],
        truth=raw(truth),
        quantiles={level: raw(prediction + offsets[level]) for level in (0.1, 0.9) if level in offsets},
        baselines={key: raw(values) for key, values in baselines.items()},
    )


def forecast_figure(
    panels: Sequence[ForecastPanel], *, title: str = "", note: str = "", columns: int = 1
) -> Figure:
    """Draw one panel per series or channel: context, truth, forecast with bands, baselines.

    Args:
        panels: What is drawn.
        title: Above all panels.
        note: Small print above the legend, such as where the bands come from.
        columns: Panels side by side.
    """
    with style():
        columns = min(columns, len(panels))
        rows = -(-len(panels) // columns)
        figure, axes = new_figure(rows, columns, width=8.5, height=0.9 + 2.5 * rows)
        for axis, panel in zip(axes.flat, panels, strict=False):
            _draw_forecast(axis, panel)
        for axis in list(axes.flat)[len(panels) :]:
            axis.set_axis_off()
        entries: dict[str, Any] = {}
        for axis in axes.flat:
            handles, labels = axis.get_legend_handles_labels()
            entries.update(zip(labels, handles, strict=True))
        first = [name for name in ("history", "truth", "forecast") if name in entries]
        names = first + [name for name in entries if name not in first]
        handles = [entries[name] for name in names]
        legend = figure.legend(
            handles, names, loc="outside lower center", ncols=min(len(names), 6), title=note or None
        )
        legend.get_title().set(fontsize=8.5, color=NEUTRAL)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12)
    return figure


def comparison_figure(
    table: pd.DataFrame, *, metrics: Sequence[str] = ("MASE", "MSE"), title: str = ""
) -> Figure:
    """Draw a bar per forecaster and metric with its value beside it: a table that shows its sizes.

    Args:
        table: Rows are forecasters, the first of them the model; columns hold the metrics.
        metrics: Columns to draw.
        title: Above all panels.
    """
    shown = [metric for metric in metrics if metric in table.columns]
    with style():
        figure, axes = new_figure(
            1, len(shown), width=4.2 * max(len(shown), 1) + 0.6, height=1.2 + 0.34 * len(table)
        )
        names = [str(name) for name in table.index]
        for position, metric in enumerate(shown):
            axis = axes[0, position]
            values = table[metric].to_numpy(dtype=float)
            finite = values[np.isfinite(values)]
            top = float(finite.max()) if len(finite) else 1.0
            best = int(np.nanargmin(values)) if len(finite) else -1
            colours = [_MODEL if row == 0 else "#B8C1CB" for row in range(len(values))]
            axis.barh(range(len(values)), np.nan_to_num(values), color=colours, height=0.68)
            for row, value in enumerate(values):
                text = f"{value:#.3g}".rstrip(".") if np.isfinite(value) else "not evaluated"
                axis.text(
                    (value if np.isfinite(value) else 0) + 0.015 * top, row, text, va="center", fontsize=9,
                    fontweight="bold" if row == best else "normal",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
                )  # fmt: skip
            axis.set_xlim(0, top * 1.2)
            axis.set_yticks(range(len(values)), names if position == 0 else [""] * len(names))
            axis.invert_yaxis()
            axis.grid(axis="y", visible=False)
            axis.tick_params(axis="y", length=0)
            axis.set_title(f"{metric} (lower is better)")
            if metric == "MASE":
                axis.axvline(1, color=NEUTRAL, linewidth=1, linestyle=(0, (4, 3)))
                axis.set_xlabel("1 = seasonal naive within the history")
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12)
    return figure


def drawn_times(stamps: pd.Index | None) -> np.ndarray | None:
    """Return stamps for an axis, on their zone's clock; None for counts, which are drawn as steps."""
    dates = stamps.to_timestamp() if hasattr(stamps, "to_timestamp") else stamps
    return dates.tz_localize(None).to_numpy() if hasattr(dates, "tz_localize") else None


def _draw_forecast(axis: Axes, panel: ForecastPanel) -> None:
    past, prediction = np.asarray(panel.past, dtype=float), np.asarray(panel.prediction, dtype=float)
    dated = panel.times is not None and panel.past_times is not None
    before = np.asarray(panel.past_times) if dated else np.arange(1 - len(past), 1)
    after = np.asarray(panel.times) if dated else np.arange(1, len(prediction) + 1)
    low = sorted((level, values) for level, values in panel.quantiles.items() if level < 0.5)
    for number, (level, values) in enumerate(low):
        upper = next((v for other, v in panel.quantiles.items() if abs(other + level - 1) < 1e-9), None)
        if upper is not None and number in (0, len(low) // 2):  # an outer and an inner band are enough
            label = f"{round(100 * (1 - 2 * level))} % band"
            alpha = 0.16 if number == 0 else 0.24
            axis.fill_between(after, values, upper, color=_MODEL, alpha=alpha, linewidth=0, label=label)
    axis.plot(before, past, color=NEUTRAL, linewidth=1.1, label="history")
    joined, start = np.concatenate([before[-1:], after]), past[-1:]
    for number, (name, values) in enumerate(panel.baselines.items()):
        colour = _BASELINES[number % len(_BASELINES)]
        axis.plot(after, values, color=colour, linewidth=1.1, linestyle=(0, (4, 2)), label=name)
    if panel.truth is not None:
        truth = np.concatenate([start, np.asarray(panel.truth, dtype=float)])
        axis.plot(joined[: len(truth)], truth, color="#1F2933", linewidth=1.2, label="truth")
    axis.plot(after, prediction, color=_MODEL, linewidth=1.8, label="forecast")
    axis.axvline(before[-1], color=NEUTRAL, linewidth=0.8, linestyle=(0, (1, 2)))
    axis.set_title(panel.title)
    axis.set_ylabel(panel.unit)
    axis.margins(x=0.01)
    if dated:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(minticks=4, maxticks=9)
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    else:
        axis.set_xlabel("steps from the last observation")
