"""The figures that a test of an operator leaves: rollouts, error growth, spectra and conserved totals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from apps.pde.batch import DatasetFacts
    from apps.pde.metrics.evaluation import Evaluation
    from apps.pde.metrics.physics import Physics
    from apps.pde.metrics.uncertainty import Uncertainty

__all__ = ["drawings", "movie"]


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
    from apps.pde.spread_figures import error_bars_figure, series_figure, spread_figures
    from core.figures.curves import error_figure
    from core.figures.pictures import rollout_figure

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
            yield f"rollout-{number + 1}", series_figure(shown, names, dataset, title=what)
            continue
        yield (
            f"rollout-{number + 1}",
            rollout_figure(
                truth,
                guess,
                channels=names,
                times=times,
                units=dataset.units,
                coordinates=_coordinates(dataset, truth.shape[2:]),
                title=what,
            ),
        )
        if example.get("std") is not None:
            yield from spread_figures(number + 1, shown, names, dataset, title=what)
        if number == 0:
            yield from _physics(
                dataset,
                names,
                times,
                truth,
                guess,
                title=title,
                physics=evaluation.physics[example["source"]],
            )
    for source, dataset in enumerate(evaluation.datasets):
        curves = evaluation.curves("relative_l1", source)
        lengths = {len(times) for times, _ in curves.values()}
        if lengths and max(lengths) > 1:
            leads = _after(dataset, next(iter(curves.values()))[0])
            errors = {model: values for model, (_, values) in curves.items()}
            heading = f"Relative L1 error on {dataset.name} (median)"
            suffix = "" if len(evaluation.datasets) == 1 else f"-{dataset.name}"
            yield (
                f"error_by_time{suffix}",
                error_figure(errors, times=leads, time_name="time after the start", title=heading),
            )
    if spread is not None:
        rows = spread.results()
        for name in dict.fromkeys(row["dataset"] for row in rows):
            own = [row for row in rows if row["dataset"] == name]
            last = [row for row in own if row["step"] == own[-1]["step"]]
            suffix = "" if len(evaluation.datasets) == 1 else f"-{name}"
            when = " at the last time" if last[0]["step"] > 1 else ""
            yield (
                f"uncertainty_by_field{suffix}",
                error_bars_figure(last, title=f"{title} on {name}: errors and spread{when}"),
            )


def movie(evaluation: Evaluation, example: Mapping[str, Any]) -> list[NDArray[np.uint8]]:
    """Return the pictures of an example's first field of interest: truth, prediction and difference."""
    from core.figures.field_movies import rollout_frames

    dataset = evaluation.datasets[example["source"]]
    name = (dataset.interest or evaluation.outputs)[0]
    place = evaluation.outputs.index(name)
    times = [dataset.times[snapshot] for snapshot in example["snapshots"][1:]]
    return list(
        rollout_frames(
            example["truth"][:, place],
            example["prediction"][:, place],
            times=times,
            name=name,
            unit=dataset.units.get(name, "1"),
        )
    )


def _after(dataset: DatasetFacts, leads: Sequence[float]) -> list[float]:
    """Return lead times in units of the time constant in those of the data set's own times."""
    import numpy as np

    times = np.asarray(dataset.times, dtype=float)
    snapshots = np.asarray(leads) * dataset.time_constant
    return [float(t) for t in np.interp(snapshots, np.arange(len(times)), times) - times[0]]


def _coordinates(dataset: DatasetFacts, space: Sequence[int]) -> list[NDArray[np.float64]]:
    """Return positions of `space` points along each axis, over the box that the data's own points fill."""
    import numpy as np

    made = []
    for size, (first, last, count) in zip(space, dataset.coordinates.values(), strict=True):
        side = (last - first) * count / max(count - 1, 1)
        made.append(first + side / size * np.arange(size))
    return made


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
    from apps.pde.figures import conserved_figure, spectra_figure

    flow = [names.index(name) for name in ("velocity_x", "velocity_y") if name in names]
    if dataset.periodic and truth.ndim == 4:
        shown = flow if len(flow) == 2 else [0]
        what = "kinetic energy" if len(flow) == 2 else names[0]
        yield (
            "spectra",
            spectra_figure(
                truth[:, shown], {title: guess[:, shown]}, times=times, name=what, title=f"Spectra of {what}"
            ),
        )
    if physics is None or len(times) < 2:
        return
    totals = {"truth": physics.totals(truth[None]), title: physics.totals(guess[None])}
    if totals["truth"]:
        quantities = {
            name: {model: values[name][0] for model, values in totals.items()} for name in totals["truth"]
        }
        told = (
            f" (energy at a ratio of specific heats of {physics.gamma:.3g})" if "energy" in quantities else ""
        )
        yield "conserved", conserved_figure(quantities, times=times, title=f"Means over the domain{told}")
