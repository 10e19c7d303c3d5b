"""Figures that only PDEs have: energy spectra and conserved totals.

Arrays and tensors alike are taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.figures.style import NEUTRAL, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

from core.figures.curves import (
    INK,
    as_array,
    heading,
    labelled,
    line_colour,
    line_dash,
    shared_legend,
    shown_times,
    widen_limits,
)

__all__ = [
    "conserved_figure",
    "spectra_figure",
]


def spectra_figure(
    truth: ArrayLike,
    predictions: Mapping[str, ArrayLike],
    *,
    times: Sequence[float],
    time_unit: str = "",
    name: str = "energy",
    slope: float | None = -3.0,
    columns: int = 3,
    title: str = "",
) -> Figure:
    """Draw the energy of every wave number at several times: what a network smooths away, or makes up.

    Args:
        truth: `(T, C, X, Y)`: the fields whose squares are summed, such as both velocities.
        predictions: Model to the same shape.
        times: `(T,)`.
        time_unit: Unit of the times.
        name: What is summed, for the axis.
        slope: Power of a guide line, -5/3 or -3; None draws none.
        columns: Most times shown; the last is among them.
        title: Above everything.
    """
    known = _spectra(truth)
    made = {model: _spectra(values) for model, values in predictions.items()}
    picked = shown_times(len(times), columns + 1)[1:] if len(times) > columns else list(range(len(times)))
    with style():
        figure, axes = new_figure(1, len(picked), width=8.5, height=3.4, share_y=True)
        lowest, highest = np.inf, 0.0
        for axis, step in zip(axes[0], picked, strict=True):
            energy = known[step]
            k = np.arange(1, len(energy) + 1, dtype=np.float64)
            axis.loglog(k, energy, color=INK, linewidth=2.0, label="truth")
            floor = _floor(energy, [values[step] for values in made.values()])
            lowest, highest = min(lowest, floor), max(highest, float(energy.max()))
            for number, (model, values) in enumerate(made.items()):
                axis.loglog(
                    k, values[step], color=line_colour(number), linestyle=line_dash(number), label=model
                )
            if slope is not None:
                _guide(axis, k, energy, slope)
            axis.set_title(f"t = {times[step]:.3g}{' ' + time_unit if time_unit else ''}")
            axis.set_xlabel("wave number")
        axes[0, 0].set_ylabel(f"{name} per wave number")
        axes[0, 0].set_ylim(lowest, 10 * highest)
        handles, names = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 6))
        heading(figure, title)
    return figure


def conserved_figure(
    quantities: Mapping[str, Mapping[str, ArrayLike]],
    *,
    times: Sequence[float],
    time_unit: str = "",
    units: Mapping[str, str] | None = None,
    title: str = "",
) -> Figure:
    """Draw sums that the equation keeps, or lets fall, over time: a panel a quantity.

    Args:
        quantities: Name (mass, momentum, energy) to model to `(T,)`; the model `truth` is drawn in black.
        times: `(T,)`.
        time_unit: Unit of the times.
        units: Quantity to unit.
        title: Above everything.
    """
    with style():
        columns = 2 if len(quantities) == 4 else min(len(quantities), 3)
        rows = -(-len(quantities) // columns)
        figure, axes = new_figure(rows, columns, width=8.5, height=2.7 * rows + 0.6, share_x=True)
        for axis, (name, models) in zip(axes.flat, quantities.items(), strict=False):
            others = [model for model in models if model != "truth"]
            for model, values in models.items():
                known = model == "truth"
                axis.plot(
                    times, as_array(values), label=model,
                    color=INK if known else line_colour(others.index(model)),
                    linestyle="-" if known else line_dash(others.index(model)),
                    linewidth=2.2 if known else 1.5,
                )  # fmt: skip
            widen_limits(axis, [as_array(values) for values in models.values()])
            axis.set_title(labelled(name, units))
        for axis in list(axes.flat)[len(quantities) :]:
            axis.set_axis_off()
        for axis in list(axes.flat)[max(len(quantities) - columns, 0) : len(quantities)]:
            axis.set_xlabel(f"time [{time_unit}]" if time_unit else "time")
            axis.tick_params(labelbottom=True)
        shared_legend(figure, axes)
        heading(figure, title)
    return figure


def _spectra(fields: Any) -> NDArray[np.float64]:
    """Return the energies `(T, K)` of the complete shells 1, 2, … of `(T, C, *space)`."""
    import torch

    from apps.pde.metrics.diagnostics import energy_spectrum

    values = as_array(fields)
    return energy_spectrum(torch.from_numpy(values)).numpy()[:, 1 : min(values.shape[2:]) // 2 + 1]


def _floor(truth: NDArray[np.float64], others: Sequence[NDArray[np.float64]]) -> float:
    """Return the lower end of an axis of spectra: below all that is drawn, but no more than three decades
    below the truth, and above rounding errors.
    """
    if not (truth > 0).any():
        return 1e-12
    least = float(truth[truth > 0].min())
    low = min([least, *(float(one[one > 0].min()) for one in others if (one > 0).any())])
    return max(0.4 * low, 1e-3 * least, 1e-16 * float(truth.max()))


def _guide(axis: Axes, k: NDArray[np.float64], energy: NDArray[np.float64], slope: float) -> None:
    """Draw a line of the slope above the middle of the spectrum."""
    if len(k) < 8:
        return
    part = k[(k >= 0.15 * k[-1]) & (k <= 0.6 * k[-1])]
    near = energy[(k >= part[0]) & (k <= part[-1])]
    level = 4.0 * float(np.max(near / part**slope))
    if level <= 0:
        return
    axis.loglog(part, level * part**slope, color=NEUTRAL, linewidth=1.0, linestyle=(0, (1, 1)))
    power = {-5 / 3: "-5/3"}.get(slope, f"{slope:g}")
    middle = len(part) // 2
    axis.annotate(
        f"$k^{{{power}}}$", (part[middle], level * part[middle] ** slope), xytext=(3, 3),
        textcoords="offset points", color=NEUTRAL, fontsize=9,
    )  # fmt: skip
