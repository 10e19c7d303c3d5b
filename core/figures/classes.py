"""Charts of scores: bars and precision of classes, confusion, calibration, scores by share of the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from core.figures.lettering import headline, named, text_width, unlike
from core.figures.style import NEUTRAL, PALETTE, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["bars_figure", "calibration_figure", "confusion_figure", "precision_figure", "share_figure"]

_MOST = 40  # classes whose names are still readable side by side
_SCORES = {"accuracy": "accuracy", "map_macro": "mean average precision (macro)"}


def bars_figure(values: Sequence[float], names: Sequence[str], *, what: str, title: str = "") -> Figure:
    """Draw one bar for each class's score in [0, 1], the best at the top; NaN (never met) has none."""
    numbers = np.asarray(values, dtype=float)
    order, written = np.argsort(np.nan_to_num(numbers, nan=-1.0)), named(names)
    with style():
        figure, axes = new_figure(width=7, height=max(1.4 + 0.28 * len(names), 2.4))
        axis = axes[0, 0]
        axis.barh(range(len(names)), np.nan_to_num(numbers[order]), color=PALETTE[0], height=0.7)
        axis.set_yticks(range(len(names)), [written[place] for place in order])
        for place, value in enumerate(numbers[order]):
            text = "not in the set" if np.isnan(value) else f"{value:.3f}"
            axis.text(np.nan_to_num(value) + 0.01, place, text, va="center", fontsize=8)
        axis.set_xlim(0, 1.12)
        axis.set_xlabel(what)
        axis.grid(axis="y", visible=False)
        headline(figure, f"{title}: {what} of each class" if title else f"{what} of each class")
    return figure


def confusion_figure(counts: Sequence[Sequence[int]], names: Sequence[str], *, title: str = "") -> Figure:
    """Draw what each class was taken for, as shares of its labels; classes that stand nowhere are left out.

    Rows of `counts` are labels, columns predictions.
    """
    table = np.asarray(counts, dtype=float)
    present = (table.sum(0) + table.sum(1) > 0) | (table.sum() == 0)
    names = [name for name, there in zip(unlike(names), present, strict=True) if there]
    table = table[np.ix_(present, present)]
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    with style():
        figure, axes = new_figure()
        axis = axes[0, 0]
        written = named(names) if len(names) <= _MOST else [""]
        beside = max(text_width(figure, name, size=9) for name in written)
        side = min(max(1.8, 0.55 * len(names)), 9)
        figure.set_size_inches(side + beside + 1.9, side + 0.75 * beside + 1.4)
        picture = axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
        axis.grid(visible=False)
        if len(names) <= _MOST:
            axis.set_xticks(range(len(names)), written, rotation=45, ha="right", rotation_mode="anchor")
            axis.set_yticks(range(len(names)), written)
        if len(names) <= 15:
            for (row, column), value in np.ndenumerate(shares):
                shade = "white" if value > 0.5 else "#1F2933"
                axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=shade, fontsize=8)
        axis.set_xlabel("predicted")
        axis.set_ylabel("label")
        headline(figure, f"{title}: share of each label" if title else "share of each label")
        figure.colorbar(picture, ax=axis, shrink=0.8)
    return figure


def calibration_figure(
    rows: Sequence[Mapping[str, Any]], errors: Mapping[str, float], *, title: str = ""
) -> Figure:
    """Draw how often predictions are right at each confidence; on the diagonal they keep their word.

    `rows` have `probabilities` (calibrated or plain), `confidence`, `accuracy` and `share`; `errors` are the
    expected calibration errors of each kind.
    """
    colours = {"calibrated": PALETTE[0], "plain": PALETTE[1]}
    with style():
        figure, axes = new_figure(width=4.6, height=4.2)
        axis = axes[0, 0]
        axis.plot([0, 1], [0, 1], color=NEUTRAL, linewidth=1, linestyle="--")
        for name, error in errors.items():
            own = [row for row in rows if row["probabilities"] == name]
            axis.plot(
                [row["confidence"] for row in own],
                [row["accuracy"] for row in own],
                marker="o",
                color=colours.get(name),
                label=f"{name}, error {100 * error:.1f} %",
            )
        axis.set_xlim(0, 1.02)
        axis.set_ylim(0, 1.02)
        axis.set_xlabel("probability given")
        axis.set_ylabel("share that is right")
        axis.legend(loc="upper left")
        headline(figure, f"{title}: calibration" if title else "calibration")
    return figure


def share_figure(rows: Sequence[Mapping[str, Any]], *, metric: str, title: str) -> Figure:
    """Draw `metric` against the share of the training labels, a line for each method and scaling.

    `rows` have `method`, `features`, `share`, `samples`, the metric, and its `_std` where seeds differ.
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
        axis.set_ylabel(_SCORES.get(metric, metric))
        headline(figure, title)
        axis.legend()
    return figure


def precision_figure(rows: Sequence[Mapping[str, Any]], *, scenes: int, title: str) -> Figure:
    """Draw each label's average precision beside its share of the scenes, which a guess would reach.

    `rows` have `class`, `samples` and `map`, one for each label; those without a scene are left out.
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
