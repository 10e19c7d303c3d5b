"""Figures that a test of an operator leaves: rollouts, error growth, energy spectra, conserved totals, and
the spread of an ensemble.

Arrays and tensors alike are taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.figures.curves import (
    INK,
    as_array,
    band_figure,
    error_figure,
    heading,
    labelled,
    line_colour,
    line_dash,
    shared_legend,
    shown_times,
    widen_limits,
)
from core.figures.movies import rollout_frames
from core.figures.pictures import rollout_figure, uncertainty_figure
from core.figures.style import NEUTRAL, PALETTE, new_figure, style, write_powers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from apps.pde.batch import DatasetFacts
    from apps.pde.metrics.evaluation import Evaluation
    from apps.pde.metrics.physics import Physics
    from apps.pde.metrics.uncertainty import Uncertainty

__all__ = ["band_panels", "conserved_figure", "drawings", "error_bars_figure", "movie", "spectra_figure"]


def drawings(
    evaluation: Evaluation,
    examples: Sequence[Mapping[str, Any]],
    *,
    title: str,
    spread: Uncertainty | None = None,
) -> Iterator[tuple[str, Figure]]:
    """Yield name and figure of everything worth looking at after a test.

    Args:
        evaluation: Its scores.
        examples: Trajectories as `Evaluation.example` gives them.
        title: What the network is called.
        spread: An ensemble's scores.
    """
    for number, example in enumerate(examples):
        dataset = evaluation.datasets[example["source"]]
        names = [name for name in evaluation.outputs if name not in dataset.masked]
        places = [evaluation.outputs.index(name) for name in names]
        times = [dataset.times[snapshot] for snapshot in example["snapshots"][1:]]
        truth, guess = example["truth"][:, places], example["prediction"][:, places]
        what = f"{title} on {example['dataset']}, trajectory {example['trajectory']}"
        shown = {**example, "truth": truth, "prediction": guess}
        if example.get("std") is not None:
            shown["std"] = example["std"][:, places]
        if dataset.is_series:
            yield f"rollout-{number + 1}", _series_figure(shown, names, dataset, title=what)
            continue
        rollout = rollout_figure(
            truth,
            guess,
            channels=names,
            times=times,
            units=dataset.units,
            coordinates=_coordinates(dataset, truth.shape[2:]),
            title=what,
        )
        yield f"rollout-{number + 1}", rollout
        if example.get("std") is not None:
            yield f"uncertainty-{number + 1}", _spread_figure(shown, names, dataset, title=what)
        if number == 0:
            physics = evaluation.physics[example["source"]]
            yield from _physics(dataset, names, times, truth, guess, title=title, physics=physics)
    for source, dataset in enumerate(evaluation.datasets):
        curves = evaluation.curves("relative_l1", source)
        lengths = {len(times) for times, _ in curves.values()}
        if lengths and max(lengths) > 1:
            leads = _after(dataset, next(iter(curves.values()))[0])
            errors = {model: values for model, (_, values) in curves.items()}
            caption = f"Relative L1 error on {dataset.name} (median)"
            suffix = "" if len(evaluation.datasets) == 1 else f"-{dataset.name}"
            by_time = error_figure(errors, times=leads, time_name="time after the start", title=caption)
            yield f"error_by_time{suffix}", by_time
    if spread is not None:
        rows = spread.results()
        for name in dict.fromkeys(row["dataset"] for row in rows):
            rows_of_set = [row for row in rows if row["dataset"] == name]
            last = [row for row in rows_of_set if row["step"] == rows_of_set[-1]["step"]]
            suffix = "" if len(evaluation.datasets) == 1 else f"-{name}"
            when = " at the last time" if last[0]["step"] > 1 else ""
            bars = error_bars_figure(last, title=f"{title} on {name}: errors and spread{when}")
            yield f"uncertainty_by_field{suffix}", bars


def movie(evaluation: Evaluation, example: Mapping[str, Any]) -> list[NDArray[np.uint8]]:
    """Return the pictures of an example's first field of interest: truth, prediction and difference."""
    dataset = evaluation.datasets[example["source"]]
    name = (dataset.interest or evaluation.outputs)[0]
    channel = evaluation.outputs.index(name)
    times = [dataset.times[snapshot] for snapshot in example["snapshots"][1:]]
    return list(
        rollout_frames(
            example["truth"][:, channel],
            example["prediction"][:, channel],
            times=times,
            name=name,
            unit=dataset.units.get(name, "1"),
        )
    )


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
    true_spectra = _spectra(truth)
    spectra = {model: _spectra(values) for model, values in predictions.items()}
    picked = shown_times(len(times), columns + 1)[1:] if len(times) > columns else list(range(len(times)))
    with style():
        figure, axes = new_figure(1, len(picked), width=8.5, height=3.4, share_y=True)
        lowest, highest = np.inf, 0.0
        for axis, step in zip(axes[0], picked, strict=True):
            energy = true_spectra[step]
            k = np.arange(1, len(energy) + 1, dtype=np.float64)
            axis.loglog(k, energy, color=INK, linewidth=2.0, label="truth")
            floor = _floor(energy, [values[step] for values in spectra.values()])
            lowest, highest = min(lowest, floor), max(highest, float(energy.max()))
            for number, (model, values) in enumerate(spectra.items()):
                axis.loglog(
                    k, values[step], color=line_colour(number), linestyle=line_dash(number), label=model
                )
            if slope is not None:
                _guide(axis, k, energy, slope)
            axis.set_title(f"t = {times[step]:.3g}{' ' + time_unit if time_unit else ''}")
            axis.set_xlabel("wave number")
            write_powers(axis.xaxis, axis.yaxis)
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
                is_truth = model == "truth"
                axis.plot(
                    times, as_array(values), label=model,
                    color=INK if is_truth else line_colour(others.index(model)),
                    linestyle="-" if is_truth else line_dash(others.index(model)),
                    linewidth=2.2 if is_truth else 1.5,
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


def _series_figure(
    example: Mapping[str, Any], names: Sequence[str], dataset: DatasetFacts, *, title: str
) -> Figure:
    """Draw one test trajectory of series, whose only frame's only axis is time: a panel a field."""
    first, last, count = dataset.coordinates["x"]
    interval = (last - first) / max(count - 1, 1)
    times = first + interval * np.arange(1, example["truth"].shape[-1] + 1)  # labels follow the known sample
    std = None if example.get("std") is None else example["std"][0]
    panels = band_panels(names, dataset.units, example["prediction"][0], std, example["truth"][0])
    return band_figure(times, panels, time_unit=dataset.units.get("time", "s"), title=title)


def _spread_figure(
    example: Mapping[str, Any], names: Sequence[str], dataset: DatasetFacts, *, title: str
) -> Figure:
    """Draw an ensemble's spread on one trajectory at its last time: on a line the band, else maps."""
    interest = [name for name in dataset.interest or names if name in names] or list(names)
    if len(example["snapshots"]) > 2:
        title += f", t = {dataset.times[example['snapshots'][-1]]:.3g}"
    truth, mean, std = (example[key][-1] for key in ("truth", "prediction", "std"))
    if truth.ndim == 2:
        panels = band_panels(names, dataset.units, mean, std, truth)
        first, last, _ = dataset.coordinates["x"]
        x = np.linspace(first, last, truth.shape[-1])
        shown = [panel for panel, name in zip(panels, names, strict=True) if name in interest]
        return band_figure(x, shown, x_label="x", title=title)
    name = interest[0]
    channel = list(names).index(name)
    unit = dataset.units.get(name, "1")
    return uncertainty_figure(mean[channel], std[channel], truth[channel], name=name, unit=unit, title=title)


def band_panels(
    names: Sequence[str], units: Mapping[str, str], mean: Any, std: Any, truth: Any
) -> list[dict[str, Any]]:
    """Return a panel of `band_figure` for each field of `(C, N)`; deviation and truth may be None."""
    return [
        {"title": name.replace("_", " "), "unit": units.get(name, "1"), "mean": mean[place]}
        | {"std": None if std is None else std[place], "truth": None if truth is None else truth[place]}
        for place, name in enumerate(names)
    ]


def _after(dataset: DatasetFacts, leads: Sequence[float]) -> list[float]:
    """Return lead times in units of the time constant in those of the data set's own times."""
    return [lead * dataset.time_constant * dataset.spacing for lead in leads]


def _coordinates(dataset: DatasetFacts, space: Sequence[int]) -> list[NDArray[np.float64]]:
    """Return positions of `space` points along each axis, over the box that the data's own points fill."""
    positions = []
    for size, (first, last, count) in zip(space, dataset.coordinates.values(), strict=True):
        side = (last - first) * count / max(count - 1, 1)
        positions.append(first + side / size * np.arange(size))
    return positions


def _physics(
    dataset: DatasetFacts,
    names: Sequence[str],
    times: Sequence[float],
    truth: Any,
    guess: Any,
    *,
    title: str,
    physics: Physics | None,
) -> Iterator[tuple[str, Figure]]:
    """Yield spectra and conserved totals of one trajectory `(K, C, *space)`, where the fields have them."""
    flow = [names.index(name) for name in ("velocity_x", "velocity_y") if name in names]
    if dataset.periodic and truth.ndim == 4:
        shown = flow if len(flow) == 2 else [0]
        what = "kinetic energy" if len(flow) == 2 else names[0]
        guesses = {title: guess[:, shown]}
        yield (
            "spectra",
            spectra_figure(truth[:, shown], guesses, times=times, name=what, title=f"Spectra of {what}"),
        )
    if physics is None or len(times) < 2:
        return
    totals = {"truth": physics.totals(truth[None]), title: physics.totals(guess[None])}
    if totals["truth"]:
        quantities = {
            name: {model: values[name][0] for model, values in totals.items()} for name in totals["truth"]
        }
        note = (
            f" (energy at a ratio of specific heats of {physics.gamma:.3g})" if "energy" in quantities else ""
        )
        yield "conserved", conserved_figure(quantities, times=times, title=f"Means over the domain{note}")


def _spectra(fields: Any) -> NDArray[np.float64]:
    """Return the energies `(T, K)` of the complete shells 1, 2, … of `(T, C, *space)`."""
    import torch

    from apps.pde.metrics.physics import energy_spectrum

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
        textcoords="offset points", color=NEUTRAL, fontsize=9, parse_math=True,
    )  # fmt: skip
