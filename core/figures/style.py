"""Figures drawn once, readable and the same to the byte, in one style for every domain.

No pyplot: a `matplotlib.figure.Figure` of its own has no global state and can be drawn in any thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from core.files import replacing

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["NEUTRAL", "PALETTE", "figure_path", "new_figure", "save_figure", "style", "write_powers"]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#5B6770")
"""Told apart by every kind of colour vision (Okabe and Ito 2008, less the yellow that vanishes on white)."""

NEUTRAL = "#5B6770"
"""Grey for what is known: the past, the observed, the baseline."""

DPI = 160


def _settings() -> dict[str, Any]:
    from cycler import cycler

    ink, faint = "#1F2933", "#D9DEE4"
    return {
        "font.family": "DejaVu Sans",  # ships with matplotlib, so that figures are the same on every machine
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 8,
        "axes.labelsize": 10,
        "axes.labelcolor": ink,
        "axes.edgecolor": "#9AA5B1",
        "axes.linewidth": 0.8,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=list(PALETTE)),
        "grid.color": faint,
        "grid.linewidth": 0.6,
        "image.cmap": "viridis",
        "text.color": ink,
        "text.parse_math": False,  # a name with dollar signs is drawn as it stands
        "xtick.color": ink,
        "ytick.color": ink,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "lines.linewidth": 1.6,
        "lines.markersize": 4,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "figure.facecolor": "white",
        "figure.dpi": DPI,
        "savefig.dpi": DPI,
        "savefig.facecolor": "white",
        "figure.constrained_layout.use": True,
    }


@contextmanager
def style() -> Iterator[None]:
    """Draw in the suite's style within the block; matplotlib's settings are put back after it."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change what a run leaves behind
        matplotlib.rcParams.update(cast(Any, _settings()))
        yield


def new_figure(
    rows: int = 1,
    columns: int = 1,
    *,
    width: float = 8.0,
    height: float | None = None,
    share_x: bool = False,
    share_y: bool = False,
) -> tuple[Figure, NDArray[Any]]:
    """Return a figure and its axes as an array `(rows, columns)`; call it, and draw, within `style()`.

    `height` is by default 3.2 in for one row and 2.4 in for each of several; 8 in at 160 dots per inch are
    1280 pixels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height or (3.2 if rows == 1 else 2.4 * rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, sharex=share_x, sharey=share_y, squeeze=False)
    return figure, axes


def write_powers(*axes: Axis) -> None:
    """Label logarithmic axes `10⁻³`: as text, since figures draw no formulas."""
    from matplotlib.ticker import LogFormatterSciNotation

    class Powers(LogFormatterSciNotation):
        def __call__(self, x: float, pos: int | None = None) -> str:
            base, _, power = super().__call__(x, pos).replace(r"\times", "×").partition("^")
            small = str.maketrans("−-0123456789", "⁻⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "{}$")
            return re.sub(r"\$?\\mathdefault|[{}$]", "", base) + power.translate(small)

    for axis in axes:
        axis.set_major_formatter(Powers())
        axis.set_minor_formatter(Powers(labelOnlyBase=False))


def save_figure(figure: Figure, folder: str | os.PathLike[str], name: str, step: int) -> Path:
    """Render `figure` once to `<folder>/figures/<name>-<step>.png`, whole or not at all, and return the path.

    The bytes depend on the figure alone: no date and no version goes in.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if not hasattr(figure.canvas, "print_png"):
        FigureCanvasAgg(figure)
    path = figure_path(folder, name, step, ".png")
    with style(), replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
    return path


def figure_path(folder: str | os.PathLike[str], name: str, step: int, suffix: str) -> Path:
    """Return `<folder>/figures/<name>-<step><suffix>`.

    Letters, digits, `.`, `_` and `-` of the name are kept; anything else becomes `-`.
    """
    safe = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "figure"
    return Path(folder) / "figures" / f"{safe}-{int(step)}{suffix}"
