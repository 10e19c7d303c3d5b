"""Curves: errors over a rollout or a horizon, efficiency, profiles, bands, the search for a learning rate."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.figures.style import PALETTE, new_figure, style, write_powers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "INK",
    "MARKERS",
    "as_array",
    "band_figure",
    "efficiency_figure",
    "error_figure",
    "heading",
    "labelled",
    "learning_rate_figure",
    "line_colour",
    "line_dash",
    "profile_figure",
    "shared_legend",
    "shown_times",
    "widen_limits",
]

INK = "#1F2933"
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
_DASHES = ((0, ()), (0, (5, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)))


def error_figure(
    errors: Mapping[str, ArrayLike],
    *,
    times: Sequence[float] | None = None,
    time_name: str = "time",
    metric: str = "relative L1",
    unit: str = "%",
    title: str = "",
) -> Figure:
    """Draw how the error grows along a rollout, a line a model; the first is the one looked at.

    Args:
        errors: Model to `(K,)`; in a model's `(N, K)` the median is the line and the middle half a band.
        times: `(K,)` times of the steps; by default they are counted from 1.
        time_name: What they are.
        metric: Name of the error.
        unit: Of the error.
        title: Above the panel.
    """
    with style():
        figure, axes = new_figure(width=7.5, height=3.6)
        axis = axes[0, 0]
        ends = []
        for number, (model, values) in enumerate(errors.items()):
            data = np.atleast_2d(as_array(values))
            where = np.arange(1, data.shape[1] + 1) if times is None else np.asarray(times, dtype=float)
            colour = line_colour(number)
            with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # where all diverged
                line, low, high = np.nanpercentile(data, [50, 25, 75], axis=0)
            if len(data) > 1:
                axis.fill_between(where, low, high, color=colour, alpha=0.15, linewidth=0)
            strong = number == 0
            axis.plot(
                where, line, color=colour, marker=MARKERS[number % len(MARKERS)],
                markevery=1 + len(line) // 24, linewidth=2.2 if strong else 1.4, zorder=5 if strong else 3,
            )  # fmt: skip
            ends.append((float(line[-1]), model, colour, strong))
        axis.set_ylim(bottom=0)
        axis.margins(x=0.01)
        axis.set_xlabel("step" if times is None else time_name)
        axis.set_ylabel(f"{metric} [{unit}]" if unit else metric)
        axis.set_title(title or f"{metric} along the rollout")
        _label_ends(axis, ends)
    return figure


def efficiency_figure(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    metric: str = "relative_l1",
    unit: str = "",
    amount: str = "trajectories",
) -> Figure:
    """Draw the error against the amount of training data, both logarithmic, a line a model.

    Args:
        curves: Model to (amounts, errors); the first is the one looked at. Errors that are
            not finite are not drawn.
        metric: Name of the error; `_` is written as a blank.
        unit: Of the error.
        amount: What the data are counted in.
    """
    from matplotlib.ticker import (
        FixedLocator,
        FuncFormatter,
        LogLocator,
        MaxNLocator,
        NullFormatter,
        NullLocator,
    )

    with style():
        figure, axes = new_figure(width=7.5, height=4.2)
        axis = axes[0, 0]
        ends, errors = [], []
        sizes: set[float] = set()
        for number, (model, (counts, curve)) in enumerate(curves.items()):
            colour, strong = line_colour(number), number == 0
            values = [value if np.isfinite(value) and value > 0 else np.nan for value in map(float, curve)]
            axis.plot(
                counts, values, color=colour, marker=MARKERS[number % len(MARKERS)], markersize=6,
                linestyle=line_dash(number), linewidth=2.4 if strong else 1.6, zorder=5 if strong else 3,
            )  # fmt: skip
            drawn = [value for value in values if value > 0]
            ends.append((drawn[-1] if drawn else np.nan, model, colour, strong))
            sizes.update(counts)
            errors += drawn
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        if not errors:  # an axis of logarithms cannot be empty
            axis.set_ylim(0.1, 1.0)
            axis.set_xlim(0.9 * min(sizes, default=1), 1.1 * max(sizes, default=1))
        axis.xaxis.set_major_locator(FixedLocator(sorted(sizes)))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        spread = max(errors) / min(errors) if errors else 1.0
        if spread < 3:  # decades alone, or parts of them, would leave an axis without numbers
            axis.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
        elif spread < 30:
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.margins(x=0.03, y=0.08)
        words = metric.replace("_", " ").replace(" l1", " L1").replace(" l2", " L2")
        axis.set_xlabel(f"training {amount}")
        axis.set_ylabel(f"{words} [{unit}]" if unit else words)
        axis.set_title(f"Error against the number of training {amount}")
        _label_ends(axis, ends)
    return figure


def profile_figure(
    x: ArrayLike,
    fields: Mapping[str, ArrayLike],
    *,
    channels: Sequence[str] = ("u",),
    times: Sequence[float],
    units: Mapping[str, str] | None = None,
    shown: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Draw fields of one space axis at several times: a row a field, a column a time.

    Args:
        x: `(X,)` positions.
        fields: Model to `(T, C, X)`; `truth` is drawn in black, below the others.
        channels: Names of the C fields.
        times: `(T,)`.
        units: Field or `x` to unit.
        shown: Fields to draw; all by default.
        title: Above everything.
    """
    names = list(shown or channels)
    data = {model: as_array(values) for model, values in fields.items()}
    others = [model for model in data if model != "truth"]
    with style():
        figure, axes = new_figure(
            len(names), len(times), width=8.5, height=1.9 * len(names) + 1.1, share_x=True, share_y=False
        )
        for row, name in enumerate(names):
            channel = list(channels).index(name)
            limits = _limits(
                [values[:, channel] for model, values in data.items() if model == "truth" or not others]
            )
            for column, time in enumerate(times):
                axis = axes[row, column]
                for model, values in data.items():
                    is_truth = model == "truth"
                    axis.plot(
                        np.asarray(x), values[column, channel], label=model,
                        color=INK if is_truth else line_colour(others.index(model)),
                        linestyle="-" if is_truth else line_dash(others.index(model) + 1),
                        linewidth=2.0 if is_truth else 1.5,
                    )  # fmt: skip
                axis.set_ylim(*limits)
                if column:
                    axis.set_yticklabels([])
                if row == 0:
                    axis.set_title(f"t = {time:.3g}", fontsize=10)
                if row == len(names) - 1:
                    axis.set_xlabel(labelled("x", units))
            axes[row, 0].set_ylabel(labelled(name, units))
        shared_legend(figure, axes)
        heading(figure, title)
    return figure


def band_figure(
    times: ArrayLike,
    panels: Sequence[Mapping[str, Any]],
    *,
    time_unit: str = "s",
    x_label: str = "",
    title: str = "",
) -> Figure:
    """Draw series with an ensemble's mean and two standard deviations on either side, a panel each.

    Args:
        times: `(T,)`.
        panels: Each with `title`, `mean` `(T,)`, `std` `(T,)` or None (one network), and where known `truth`
            `(T,)` and `unit`.
        time_unit: Unit of the times.
        x_label: What is to the right; by default the time and its unit.
        title: Above everything.
    """
    where = np.asarray(times, dtype=float)
    with style():
        columns = 1 if len(panels) == 1 else 2
        rows = -(-len(panels) // columns)
        figure, axes = new_figure(rows, columns, width=8.5, height=1.75 * rows + 0.9, share_x=True)
        for axis, panel in zip(axes.flat, panels, strict=False):
            mean, alone = as_array(panel["mean"]), panel.get("std") is None
            if not alone:
                width = 2 * as_array(panel["std"])
                axis.fill_between(
                    where, mean - width, mean + width, color=PALETTE[0], alpha=0.22, linewidth=0,
                    label="mean ± 2σ",
                )  # fmt: skip
            if panel.get("truth") is not None:
                axis.plot(where, as_array(panel["truth"]), color=INK, linewidth=1.3, label="truth")
            axis.plot(
                where, mean, color=PALETTE[0], linestyle=(0, (5, 2)),
                label="prediction" if alone else "mean of the ensemble",
            )  # fmt: skip
            axis.set_title(str(panel["title"]), fontsize=10)
            axis.set_ylabel("" if panel.get("unit", "1") in ("", "1") else f"[{panel['unit']}]", fontsize=9)
            axis.ticklabel_format(axis="y", scilimits=(-3, 4))
            axis.margins(x=0)
        empty = list(axes.flat)[len(panels) :]
        for axis in empty:
            axis.set_axis_off()
        for axis in list(axes.flat)[max(len(panels) - columns, 0) : len(panels)]:
            axis.set_xlabel(x_label or (f"time [{time_unit}]" if time_unit else "time"))
            axis.tick_params(labelbottom=True)
        shared_legend(figure, axes)
        heading(figure, title)
    return figure


def learning_rate_figure(rates: ArrayLike, losses: ArrayLike, chosen: float | None = None) -> Figure:
    """Draw the search for a learning rate: smoothed loss over the rate, and the one that was chosen."""
    rates, losses = as_array(rates), as_array(losses)
    with style():
        figure, axes = new_figure(width=6.5, height=3.4)
        axis = axes[0, 0]
        axis.plot(rates, losses, color=PALETTE[0])
        axis.set_xscale("log")
        write_powers(axis.xaxis)
        finite = losses[np.isfinite(losses)]
        if len(finite):
            # a search ends where the loss explodes: the valley, not the explosion, is what is looked at
            low = float(finite.min())
            usual = float(np.median(finite[: max(len(finite) // 2, 1)]))
            axis.set_ylim(low - 0.1 * max(usual - low, 1e-12), usual + 1.2 * max(usual - low, 1e-12))
        if chosen is not None:
            axis.axvline(chosen, color=PALETTE[1], linewidth=1.2, linestyle=(0, (4, 3)))
            nearest = int(np.argmin(np.abs(np.log(rates) - np.log(chosen))))
            axis.plot([chosen], [losses[nearest]], "o", color=PALETTE[1], markersize=6)
            axis.annotate(
                f"chosen: {chosen:.2g}", (chosen, 0.94), xycoords=("data", "axes fraction"), xytext=(6, 0),
                textcoords="offset points", color=PALETTE[1], fontsize=9,
            )  # fmt: skip
        axis.set_xlabel("learning rate")
        axis.set_ylabel("smoothed training loss")
        axis.set_title("Learning-rate finder")
    return figure


def labelled(name: str, units: Mapping[str, str] | None) -> str:
    """Return `name [unit]` with blanks for `_`; a unit of 1 is left out."""
    words = name.replace("_", " ")
    unit = (units or {}).get(name, "1")
    return words if unit in ("", "1") else f"{words} [{unit}]"


def shown_times(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers below `count`, evenly spread, the first and the last with them."""
    if count <= most:
        return list(range(count))
    return sorted({round(k * (count - 1) / (max(most, 2) - 1)) for k in range(max(most, 2))})


def as_array(data: Any) -> NDArray[np.float64]:
    """Return a tensor or an array as float64 on the CPU."""
    if hasattr(data, "detach"):
        data = data.detach().cpu().double()
    return np.asarray(data, dtype=np.float64)


def line_colour(number: int) -> str:
    """Return the colour of the line of that number."""
    return PALETTE[number % len(PALETTE)]


def line_dash(number: int) -> Any:
    """Return the dashes of the line of that number, so that lines differ in grey too."""
    return _DASHES[number % len(_DASHES)]


def _limits(values: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    finite = np.concatenate([one[np.isfinite(one)].ravel() for one in values])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    room = 0.08 * (high - low) or 0.5
    return low - room, high + room


def widen_limits(axis: Axes, values: Sequence[NDArray[np.float64]]) -> None:
    """Show at least 1 % of the values' size: rounding errors of a conserved sum must not fill the panel."""
    low, high = _limits(values)
    size = max(abs(low), abs(high))
    if high - low < 0.01 * size:
        middle = (low + high) / 2
        low, high = middle - 0.005 * size, middle + 0.005 * size
    axis.set_ylim(low, high)
    axis.ticklabel_format(axis="y", useOffset=False)


def shared_legend(figure: Figure, axes: NDArray[Any]) -> None:
    """Draw one legend of all axes below a figure."""
    entries: dict[str, Any] = {}
    for axis in axes.flat:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    figure.legend(
        list(entries.values()), list(entries), loc="outside lower center", ncols=min(len(entries), 6)
    )


def heading(figure: Figure, title: str) -> None:
    """Set a figure's title where there is one."""
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12)


def _label_ends(axis: Axes, ends: list[tuple[float, str, str, bool]]) -> None:
    """Write the lines' names at their right ends, moved apart where they would overlap."""
    flat, back = axis.transData.transform, axis.transAxes.inverted().transform
    placed: list[float] = []
    for value, name, colour, strong in sorted(ends, key=lambda end: (np.isnan(end[0]), end[0])):
        at = float(back(flat((axis.get_xlim()[1], value)))[1]) if np.isfinite(value) else 1.0
        at = max(at, placed[-1] + 0.065) if placed else max(at, 0.0)
        placed.append(at)
        axis.annotate(
            name, (1, at), xycoords="axes fraction", xytext=(6, 0), textcoords="offset points",
            va="center", color=colour, fontsize=9, fontweight="bold" if strong else "normal",
            annotation_clip=False,
        )  # fmt: skip
