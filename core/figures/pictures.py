"""Fields as pictures: roll-outs beside the truth, galleries, uncertainty.

Fields are `(X, Y)` with x to the right and y upwards; of three space axes the middle of the last is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.figures.curves import as_array, heading, labelled, profile_figure, shown_times
from core.figures.style import new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["colour_scale", "gallery_figure", "gap_scale", "plane", "rollout_figure", "uncertainty_figure"]

SIGNED, POSITIVE, SPREAD = "RdBu_r", "viridis", "magma"


def rollout_figure(
    truth: ArrayLike,
    prediction: ArrayLike,
    *,
    channels: Sequence[str],
    times: Sequence[float],
    units: Mapping[str, str] | None = None,
    shown: Sequence[str] | None = None,
    coordinates: Sequence[ArrayLike] | None = None,
    columns: int = 6,
    title: str = "",
) -> Figure:
    """Draw truth, prediction and their difference (rows) over time (columns), a block a field.

    Truth and prediction share one colour scale, taken from the truth; the difference has its own, symmetric
    about 0. Below each difference stands the relative L1 error. Fields of one space axis are drawn as
    profiles.

    Args:
        truth: `(T, C, *space)` in physical units.
        prediction: The same shape.
        channels: Names of the C fields.
        times: `(T,)` times of the frames.
        units: Field name to unit.
        shown: Fields to draw; all by default.
        coordinates: Positions along the axes, for profiles.
        columns: Most frames side by side; first and last are always among them.
        title: Above everything.
    """
    known, made = as_array(truth), as_array(prediction)
    if known.shape != made.shape or known.shape[:2] != (len(times), len(channels)):
        raise ValueError(
            f"truth {known.shape} and prediction {made.shape} must be (T, C, *space) with {len(times)} times "
            f"and {len(channels)} channels"
        )
    names = list(shown or channels)
    picked = shown_times(len(times), columns)
    if known.ndim == 3:
        x = coordinates[0] if coordinates else np.arange(known.shape[-1]) / known.shape[-1]
        return profile_figure(
            x,
            {"truth": known[picked], "prediction": made[picked]},
            channels=channels,
            times=[times[k] for k in picked],
            units=units,
            shown=names,
            title=title,
        )
    known, made = known[picked], made[picked]
    if known.ndim == 5:
        middle = known.shape[-1] // 2
        known, made = known[..., middle], made[..., middle]
    with style():
        ratio = known.shape[-1] / known.shape[-2]
        cell = min(6.4 / len(picked), 1.9)
        height = len(names) * (3 * cell * min(max(ratio, 0.4), 1.6) + 0.75) + (0.4 if title else 0.1)
        figure, axes = new_figure(3 * len(names), len(picked), width=cell * len(picked) + 1.6, height=height)
        layout: Any = figure.get_layout_engine()
        layout.set(w_pad=0.015, h_pad=0.02, wspace=0.01, hspace=0.01)
        for block, name in enumerate(names):
            place = list(channels).index(name)
            _block(
                figure,
                axes[3 * block : 3 * block + 3],
                known[:, place],
                made[:, place],
                times=[times[k] for k in picked],
                label=labelled(name, units),
            )
        heading(figure, title)
    return figure


def gallery_figure(fields: Sequence[tuple[str, ArrayLike]], *, columns: int = 6, title: str = "") -> Figure:
    """Draw fields `(X, Y)` of a corpus side by side, each with its title (two lines at most) above it and a
    colour scale of its own.
    """
    with style():
        columns = min(columns, len(fields))
        rows = -(-len(fields) // columns)
        lines = max((name.count("\n") for name, _ in fields), default=0) + 1
        cell = 8.0 / columns
        figure, axes = new_figure(
            rows, columns, width=8.0, height=rows * (cell + 0.17 * lines) + (0.45 if title else 0.1)
        )
        for axis, (name, values) in zip(axes.flat, fields, strict=False):
            field = plane(values)
            _picture(axis, field, **colour_scale(field))
            axis.set_title(name, fontsize=8.5, fontweight="normal", pad=4)
        for axis in list(axes.flat)[len(fields) :]:
            axis.set_axis_off()
        heading(figure, title)
    return figure


def uncertainty_figure(
    mean: ArrayLike,
    std: ArrayLike,
    truth: ArrayLike | None = None,
    *,
    name: str = "",
    unit: str = "",
    title: str = "",
) -> Figure:
    """Draw an ensemble's mean and standard deviation, and beside the truth the size of the error.

    Spread and error share one colour scale: a good ensemble is unsure where it is wrong.

    Args:
        mean: `(X, Y)`.
        std: `(X, Y)`.
        truth: `(X, Y)`, where known.
        name: Of the field.
        unit: Of the field.
        title: Above everything.
    """
    middle, spread = plane(mean), plane(std)
    panels = [("mean", middle, colour_scale(middle))]
    error = None
    if truth is not None:
        known = plane(truth)
        error = np.abs(middle - known)
        panels = [
            ("truth", known, colour_scale(known)),
            ("mean of the ensemble", middle, colour_scale(known)),
        ]
    top = float(np.nanmax(spread if error is None else np.maximum(spread, error))) or 1.0
    last = {"cmap": SPREAD, "vmin": 0.0, "vmax": top}
    panels.append(("standard deviation", spread, last))
    if error is not None:
        panels.append(("|error|", error, last))
    with style():
        figure, axes = new_figure(1, len(panels), width=2.05 * len(panels) + 0.3, height=3.3)
        pictures = []
        for axis, (head, values, scale) in zip(axes.flat, panels, strict=True):
            pictures.append(_picture(axis, values, **scale))
            axis.set_title(head, fontsize=10)
        label = labelled(name, {name: unit})
        half = len(panels) - (1 if error is None else 2)
        for first, end in ((0, half), (half, len(panels))):
            bar = figure.colorbar(
                pictures[first], ax=list(axes[0, first:end]), location="bottom", aspect=26, shrink=0.9
            )
            _plain(bar, label)
        heading(figure, title)
    return figure


def colour_scale(values: ArrayLike) -> dict[str, Any]:
    """Return `cmap`, `vmin` and `vmax`: diverging about 0 where the values have both signs, else sequential.

    A field that is negative only in its rounding or its overshoots (2 % of its largest value) is positive.
    """
    data = np.asarray(values, dtype=float)
    finite = data[np.isfinite(data)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low < -0.02 * max(abs(high), 1e-300) and high > 0.02 * abs(low):
        top = max(abs(low), abs(high))
        return {"cmap": SIGNED, "vmin": -top, "vmax": top}
    return {"cmap": POSITIVE, "vmin": low, "vmax": high if high > low else low + 1.0}


def gap_scale(gap: NDArray[np.float64]) -> dict[str, Any]:
    """Return `cmap`, `vmin` and `vmax` of a difference: symmetric about 0."""
    finite = np.abs(gap[np.isfinite(gap)])
    top = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    return {"cmap": SIGNED, "vmin": -top, "vmax": top}


def plane(values: ArrayLike) -> NDArray[np.float64]:
    """Return `(X, Y)` of one field on one to three axes: a line becomes a stripe, a box its middle layer."""
    field = as_array(values)
    if field.ndim == 1:
        return np.repeat(field[:, None], max(len(field) // 4, 1), axis=1)
    return field if field.ndim == 2 else field[..., field.shape[-1] // 2]


def _block(
    figure: Figure,
    axes: NDArray[Any],
    truth: NDArray[np.float64],
    prediction: NDArray[np.float64],
    *,
    times: Sequence[float],
    label: str,
) -> None:
    scale = colour_scale(truth)
    gap = prediction - truth
    apart = gap_scale(gap)
    for column, time in enumerate(times):
        pictures = [
            _picture(axis, values[column], **how)
            for axis, values, how in zip(
                axes[:, column], (truth, prediction, gap), (scale, scale, apart), strict=True
            )
        ]
        head = f"{'t = ' if column == 0 else ''}{time:.3g}"
        if len(times) > 1 or time != 0:  # a steady problem has no time
            axes[0, column].set_title(head, fontsize=9, fontweight="normal", loc="center", pad=3)
        size = float(np.abs(truth[column]).sum()) or 1e-10
        error = 100 * float(np.abs(gap[column]).sum()) / size
        told = f"{error:.0f} %" if error >= 10 else f"{error:.2g} %" if not error < 0.01 else "0 %"
        axes[2, column].set_xlabel(f"{'rel. L1 ' if column == 0 else ''}{told}", fontsize=8.5)
    for axis, word in zip(axes[:, 0], ("truth", "prediction", "difference"), strict=True):
        axis.set_ylabel(word, fontsize=9)
    shared = figure.colorbar(pictures[0], ax=list(axes[:2].flat), aspect=24, pad=0.01, fraction=0.05)
    _plain(shared, label)
    _plain(figure.colorbar(pictures[2], ax=list(axes[2]), aspect=11, pad=0.01, fraction=0.05), "")


def _picture(axis: Any, values: NDArray[np.float64], *, cmap: str, vmin: float, vmax: float) -> Any:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.set_facecolor("#B8C1CB")  # where a prediction is not finite
    return axis.imshow(values.T, origin="lower", cmap=cmap, vmin=vmin, vmax=vmax, interpolation="nearest")


def _plain(bar: Any, label: str) -> None:
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.locator = MaxNLocator(nbins=5)
    form = ScalarFormatter()
    form.set_powerlimits((-2, 3))
    bar.formatter = form
    bar.update_ticks()
    bar.set_label(label, fontsize=9)
