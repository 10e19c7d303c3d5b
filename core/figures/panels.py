"""Grids of pictures and maps with captions and a legend, as high as their panels need and no higher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from core.figures.lettering import headline, named, text_width, wrapped
from core.figures.style import new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["GREY", "Panel", "class_legend", "panels_figure"]

GREY = (0.85, 0.85, 0.85)
"""Colour of what nobody knows."""

_SIDE = 2.3  # inches of a panel
_SMALL = 7  # points below panels


@dataclass(frozen=True)
class Panel:
    """A picture, or numbers with a colour bar.

    Args:
        head: Above it, in the first row.
        image: `(H, W, 3)` in [0, 1], or numbers `(H, W)`, grey where NaN.
        colours: Name of the colour map of numbers.
        limits: Numbers at its ends.
    """

    head: str
    image: NDArray[Any]
    colours: str = "viridis"
    limits: tuple[float, float] = (0.0, 1.0)


def panels_figure(
    samples: Sequence[Sequence[Panel]],
    captions: Sequence[str],
    *,
    across: int = 1,
    classes: Sequence[str] = (),
    palette: Sequence[tuple[int, int, int]] = (),
    title: str = "",
) -> Figure:
    """Draw the panels of each sample in a row, with its caption below the first.

    Args:
        samples: Panels of each; a sample with fewer than the others leaves room.
        captions: One for each sample.
        across: Samples side by side in a row.
        classes: Names for a legend; none leaves it out.
        palette: Their colours, 0 to 255.
        title: Above everything.
    """
    columns = max(len(row) for row in samples)
    rows = -(-len(samples) // across)
    with style():
        figure, axes = new_figure(rows, across * columns, width=max(_SIDE * across * columns + 0.4, 3.2))
        for axis in axes.ravel():
            axis.set_axis_off()
        for place, (panels, caption) in enumerate(zip(samples, captions, strict=True)):
            row, first = place // across, place % across * columns
            for axis, panel in zip(axes[row, first:], panels, strict=False):
                _draw(figure, axis, panel, heading=row == 0)
            text = wrapped(figure, caption, inches=_SIDE - 0.15, size=_SMALL)
            axes[row, first].annotate(text, (0, 0), (0, -4), xycoords="axes fraction",
                textcoords="offset points", fontsize=_SMALL, va="top", annotation_clip=False)  # fmt: skip
        if classes:
            class_legend(figure, classes, palette)
        headline(figure, title)
        shapes = [panel.image.shape for row in samples for panel in row]
        _fit(figure, axes, max(min(max(height / width, 0.4), 2.5) for height, width, *_ in shapes))
    return figure


def class_legend(
    figure: Figure, names: Sequence[str], colours: Sequence[tuple[int, int, int]], *, unknown: str = "unknown"
) -> None:
    """Set the colours of classes, 0 to 255, below everything, in as many columns as there is room for.

    The figure's width is final; `unknown` is the meaning of grey.
    """
    from matplotlib.patches import Patch

    parts = [*((red / 255, green / 255, blue / 255) for red, green, blue in colours), GREY]
    labels = [*named(names), unknown]
    patches = [Patch(color=part, label=label) for part, label in zip(parts, labels, strict=True)]
    widest = max(text_width(figure, label, size=9) for label in labels)
    columns = max(1, min(int((figure.get_figwidth() - 0.3) / (widest + 0.65)), len(patches), 7))
    figure.legend(handles=patches, loc="outside lower center", ncols=columns)


def _draw(figure: Figure, axis: Any, panel: Panel, *, heading: bool) -> None:
    from matplotlib import colormaps

    if panel.image.ndim == 3:
        axis.imshow(panel.image, interpolation="nearest")
    else:
        (low, high), colours = panel.limits, colormaps[panel.colours].with_extremes(bad=GREY)
        drawn = axis.imshow(panel.image, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
        figure.colorbar(drawn, ax=axis, shrink=0.7, pad=0.02, anchor=(0.0, 0.5), panchor=False)
    if heading:
        axis.set_title(panel.head)


def _fit(figure: Figure, axes: NDArray[Any], tall: float) -> None:
    """Make the figure as high as panels `tall` times their width need, so that no cell has gaps."""
    for axis in axes.ravel():
        axis.set_aspect("auto")
    # first so high that all margins fit, which do not change with the height
    figure.set_figheight(figure.get_figheight() + 10.0 + len(axes) * 3.0)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    box = axes[0, 0].get_position()
    width, height = box.width * figure.get_figwidth(), box.height * figure.get_figheight()
    figure.set_figheight(figure.get_figheight() + len(axes) * (tall * width - height))
    for axis in axes.ravel():
        axis.set_aspect("equal", anchor="S")
