"""Figures of language models: bits for each byte beside the baselines, and the loss by place in the row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from core.figures.style import NEUTRAL, PALETTE, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["comparison_figure", "place_figure"]


def comparison_figure(rows: Sequence[Mapping[str, Any]], *, title: str = "") -> Figure:
    """Draw a bar for each model, the best on top, with its value beside it.

    Args:
        rows: Rows of the table of results, the network's first; bits for each byte where they have them, else
            nats for each token.
        title: Above the panel.
    """
    metric = "bits_per_byte" if all("bits_per_byte" in row for row in rows) else "loss"
    network = rows[0]["model"]
    ranked = sorted(rows, key=lambda row: row[metric])
    with style():
        figure, axes = new_figure(width=7.5, height=1.1 + 0.36 * len(rows))
        axis = axes[0, 0]
        values = [float(row[metric]) for row in ranked]
        colours = [PALETTE[0] if row["model"] == network else "#B8C1CB" for row in ranked]
        bars = axis.barh(range(len(values)), values, color=colours, height=0.68)
        labels = axis.bar_label(bars, fmt="{:.3f}", padding=4, fontsize=9)
        labels[ranked.index(rows[0])].set_fontweight("bold")
        axis.set_yticks(range(len(values)), [str(row["model"]) for row in ranked])
        axis.invert_yaxis()
        axis.set_xlim(0, max(values) * 1.15)
        axis.grid(axis="y", visible=False)
        axis.tick_params(axis="y", length=0)
        unit = "bits for each byte of test text" if metric == "bits_per_byte" else "nats for each token"
        axis.set_xlabel(unit)
        axis.set_title(title or "Cost of the test text (lower is better)")
    return figure


def place_figure(
    places: np.ndarray, losses: np.ndarray, *, levels: Mapping[str, float] | None = None, title: str = ""
) -> Figure:
    """Draw the mean loss at each place in the row: how much the network gains from what stands before.

    Args:
        places: From 1, `(N,)`.
        losses: Nats `(N,)`.
        levels: Losses of baselines, drawn as lines.
        title: Above the panel.
    """
    with style():
        figure, axes = new_figure(width=7.5, height=3.6)
        axis = axes[0, 0]
        axis.plot(places, losses, color=PALETTE[0], linewidth=2.0, zorder=5)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xlim(1, max(float(places[-1]), 2.0))
        for name, level in (levels or {}).items():
            axis.axhline(level, color=NEUTRAL, linewidth=1.0, linestyle=(0, (4, 3)))
            axis.annotate(
                name, (1, level), xycoords=("axes fraction", "data"), xytext=(6, 0),
                textcoords="offset points", va="center", color=NEUTRAL, fontsize=9, annotation_clip=False,
            )  # fmt: skip
        axis.set_ylim(bottom=0)
        axis.set_xlabel("place in the row or packed document (tokens before, plus one)")
        axis.set_ylabel("loss [nats for each token]")
        axis.set_title(title or "Loss by place in the row")
    return figure
