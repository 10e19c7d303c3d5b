"""Figures of an ensemble's spread: series with their bands, maps, and errors with their bars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from core.figures.curves import INK, band_figure
from core.figures.style import PALETTE, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from apps.pde.batch import DatasetFacts

__all__ = ["error_bars_figure", "series_figure", "spread_figures"]


def series_figure(
    example: Mapping[str, Any], names: Sequence[str], dataset: DatasetFacts, *, title: str
) -> Figure:
    """Draw one test trajectory of series: truth and prediction, and an ensemble's band, a panel a field.

    Args:
        example: As `Evaluation.example` gives it, one label frame whose only axis is time.
        names: Of its fields.
        dataset: The facts of its data set.
        title: Above everything.
    """
    first, last, count = dataset.coordinates["x"]
    interval = (last - first) / max(count - 1, 1)
    points = example["truth"].shape[-1]
    times = first + interval * np.arange(1, points + 1)  # labels follow the sample that is known
    units = dataset.units
    panels = [
        {
            "title": name.replace("_", " "),
            "unit": units.get(name, "1"),
            "mean": example["prediction"][0, place],
            "std": None if example.get("std") is None else example["std"][0, place],
            "truth": example["truth"][0, place],
        }
        for place, name in enumerate(names)
    ]
    return band_figure(times, panels, time_unit=units.get("time", "s"), title=title)


def spread_figures(
    number: int,
    example: Mapping[str, Any],
    names: Sequence[str],
    dataset: DatasetFacts,
    *,
    title: str,
) -> Iterator[tuple[str, Figure]]:
    """Yield the figure of an ensemble's spread on one trajectory at its last time: on a line the band, else
    maps.

    Args:
        number: Of the figure.
        example: With `std`.
        names: Fields of it that may be drawn.
        dataset: The facts of its data set.
        title: Above everything.
    """
    from core.figures.pictures import uncertainty_figure

    interest = [name for name in dataset.interest or names if name in names] or list(names)
    times = dataset.times
    when = f", t = {times[example['snapshots'][-1]]:.3g}" if len(example["snapshots"]) > 2 else ""
    truth, mean, std = (example[key][-1] for key in ("truth", "prediction", "std"))
    if truth.ndim == 2:
        panels = [
            {"title": name.replace("_", " "), "unit": dataset.units.get(name, "1")}
            | {"mean": mean[place], "std": std[place], "truth": truth[place]}
            for place, name in enumerate(names)
            if name in interest
        ]
        first, last, _ = dataset.coordinates["x"]
        x = np.linspace(first, last, truth.shape[-1])
        yield f"uncertainty-{number}", band_figure(x, panels, x_label="x", title=title + when)
        return
    name = interest[0]
    place = list(names).index(name)
    yield (
        f"uncertainty-{number}",
        uncertainty_figure(
            mean[place],
            std[place],
            truth[place],
            name=name,
            unit=dataset.units.get(name, "1"),
            title=title + when,
        ),
    )


def error_bars_figure(rows: Sequence[Mapping[str, Any]], *, title: str = "") -> Figure:
    """Draw, for every field, the relative L2 error of a member on average and on its worst trajectory, with
    bars of two standard deviations over the members, and the part of the truth within them.

    Args:
        rows: Of `Uncertainty.results`, one data set and time.
        title: Above everything.
    """
    names = [str(row["channel"]).replace("_", " ") for row in rows]
    at = np.arange(len(rows))
    with style():
        figure, axes = new_figure(1, 2, width=8.5, height=0.42 * len(rows) + 1.9)
        left, right = axes[0]
        for shift, key, colour, words in (
            (-0.19, "members", PALETTE[0], "mean over trajectories"),
            (0.19, "worst", PALETTE[1], "worst trajectory"),
        ):
            heights = np.array([100 * row[key] for row in rows])
            bars = np.array([100 * row[f"{key}_2_sigma"] for row in rows])
            low = np.minimum(bars, heights)  # an error is not negative
            left.barh(
                at + shift, heights, 0.36, color=colour, label=words,
                xerr=[low, bars], error_kw={"ecolor": INK, "capsize": 2.5, "linewidth": 1.1},
            )  # fmt: skip
        left.set_yticks(at, names)
        left.invert_yaxis()
        left.set_xlim(left=0)
        left.set_xlabel("relative L2 [%], bars ± 2σ over the members")
        left.set_title("Error", fontsize=11)
        right.barh(at, [100 * row["coverage_2_sigma"] for row in rows], 0.6, color=PALETTE[0])
        right.axvline(95.4, color=INK, linewidth=1.1, linestyle=(0, (4, 2)), label="normal: 95.4 %")
        right.set_yticks([])
        right.invert_yaxis()
        right.set_xlim(0, 100)
        right.set_xlabel("truth within mean ± 2σ [% of the points]")
        right.set_title("Coverage", fontsize=11)
        for axis in (left, right):
            axis.grid(visible=False, axis="y")
        handles, words = [], []
        for axis in (left, right):
            more, said = axis.get_legend_handles_labels()
            handles, words = handles + more, words + said
        figure.legend(handles, words, loc="outside lower center", ncols=len(words))
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12)
    return figure
