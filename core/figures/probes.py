"""Figures of probes: scores by share of the labels, confusion of classes, precision of each label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from core.figures.lettering import headline, named, text_width
from core.figures.style import PALETTE, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["confusion_figure", "precision_figure", "share_figure"]

_NAMES = {"accuracy": "accuracy", "map_macro": "mean average precision (macro)"}
_WRITTEN = 20  # classes up to which the numbers stand in the squares


def share_figure(rows: Sequence[Mapping[str, Any]], *, metric: str, title: str) -> Figure:
    """Draw a score against the share of the training labels, a line for each method and scaling.

    Args:
        rows: With `method`, `features`, `share`, `samples`, the metric, and its `_std` where seeds differ.
        metric: Column that is drawn.
        title: Above the panel.
    """
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        lines.setdefault(f"{row['method']}, {row['features']} features", []).append(row)
    with style():
        figure, axes = new_figure(width=7.0, height=3.6)
        axis = axes[0, 0]
        for number, (label, members) in enumerate(lines.items()):
            members = sorted(members, key=lambda row: row["share"])
            x = [row["samples"] for row in members]
            y = np.array([row[metric] for row in members])
            colour = PALETTE[number % len(PALETTE)]
            axis.plot(x, y, marker="os^D"[number % 4], color=colour, label=label)
            spread = np.array([row.get(f"{metric}_std", 0.0) for row in members])
            if spread.any():
                axis.fill_between(x, y - spread, y + spread, color=colour, alpha=0.15, linewidth=0)
        axis.set_xscale("log")
        counts = sorted({row["samples"] for row in rows})
        axis.set_xticks(counts, [str(count) for count in counts])
        axis.set_xticks([], minor=True)
        axis.set_xlabel("labelled training scenes")
        axis.set_ylabel(_NAMES.get(metric, metric))
        headline(figure, title)
        axis.legend()
    return figure


def confusion_figure(counts: NDArray[Any], *, classes: Sequence[str], title: str) -> Figure:
    """Draw what each class was taken for, rows summing to 1.

    Args:
        counts: `(C, C)`, true class by predicted class.
        classes: Names of the C classes.
        title: Above the panel.
    """
    present = (counts.sum(0) + counts.sum(1)) > 0
    names = [name for name, there in zip(named(classes), present, strict=True) if there]
    counts = counts[np.ix_(present, present)]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    count = len(names)
    with style():
        figure, axes = new_figure()
        axis = axes[0, 0]
        beside = max((text_width(figure, name, size=9) for name in names), default=0.0)
        side = min(max(0.42 * count, 1.8), 10.0)
        upright = beside > side / max(count, 1)
        below = beside if upright else 0.2
        figure.set_size_inches(side + beside + 1.9, side + below + 1.2)
        axis.grid(False)
        drawn = axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
        axis.set_xticks(range(count), names, rotation=90 if upright else 0)
        axis.set_yticks(range(count), names)
        axis.set_xlabel("predicted")
        axis.set_ylabel("true")
        headline(figure, title)
        if count <= _WRITTEN:
            for row, column in np.argwhere(shares >= 0.005):
                share = shares[row, column]
                axis.text(
                    column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7,
                    color="white" if share > 0.55 else "#1F2933",
                )  # fmt: skip
        figure.colorbar(drawn, ax=axis, shrink=0.8, label="share of the true class")
    return figure


def precision_figure(rows: Sequence[Mapping[str, Any]], *, scenes: int, title: str) -> Figure:
    """Draw each label's average precision beside its share of the scenes, which a guess would reach.

    Args:
        rows: With `class`, `samples`, `map`, one for each label; those without a scene are left out.
        scenes: How many there are.
        title: Above the panel.
    """
    there = sorted((row for row in rows if row["samples"]), key=lambda row: row["map"])
    names = [
        f"{name} ({row['samples']})"
        for name, row in zip(named([row["class"] for row in there]), there, strict=True)
    ]
    with style():
        figure, axes = new_figure(width=7.5, height=max(0.28 * len(there) + 1.2, 2.4))
        axis = axes[0, 0]
        axis.barh(range(len(there)), [row["map"] for row in there], color=PALETTE[0], height=0.7)
        guessed = [row["samples"] / scenes for row in there]
        axis.plot(
            guessed,
            range(len(there)),
            "|",
            color=PALETTE[1],
            markersize=12,
            markeredgewidth=2,
            label="a guess",
        )
        axis.set_yticks(range(len(there)), names)
        axis.set_xlim(0, 1.02)
        axis.legend(loc="lower right")
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("average precision (in brackets: scenes that have the label)")
        headline(figure, title)
    return figure
