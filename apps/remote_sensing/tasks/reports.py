"""The tables and figures that an evaluation leaves in its run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from core.figures.lettering import unlike

if TYPE_CHECKING:
    from apps.remote_sensing.tasks.autoencoding import Pretraining
    from apps.remote_sensing.tasks.base import SceneTask

__all__ = [
    "confusion_rows",
    "draw_reconstructions",
    "report_bands",
    "report_classes",
    "report_labels",
    "report_numbers",
]

Scores = Mapping[str, Mapping[str, Tensor]]


def report_classes(
    task: SceneTask,
    found: Scores,
    *,
    rows: Mapping[str, Tensor],
    matrix: Tensor,
    calibration: Scores,
) -> None:
    """Write scores of classes, of pixels or scenes.

    Args:
        task: Whose run folder it is.
        found: Scores of each model, the task's own first.
        rows: Its scores of each class.
        matrix: Its counts, rows the labels.
        calibration: `Calibration`'s counts with and without temperature.
    """
    names = list(task.facts.classes)
    _tables(task, found, rows, names)
    task.write_table("confusion", confusion_rows(matrix.tolist(), names))
    _calibration(task, calibration)
    if not task.trainer.is_global_zero:
        return
    from core.figures.classes import bars_figure, confusion_figure

    key = "iou" if task.facts.target == "segmentation" else "f1"
    task.log_figure("by_class", bars_figure(rows[key].tolist(), names, what=_SPOKEN[key], title=task.title))
    task.log_figure("confusion", confusion_figure(matrix.tolist(), names, title=task.title))
    _draw_examples(task)


def confusion_rows(counts: Sequence[Sequence[int]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each class: `label`, and how often it was `predicted <name>` of each class.

    Args:
        counts: Rows are labels, columns predictions.
        names: Of the classes; of those that are alike, the later ones get a number.
    """
    apart = unlike(names)
    return [
        {"label": name, **{f"predicted {other}": count for other, count in zip(apart, row, strict=True)}}
        for name, row in zip(apart, counts, strict=True)
    ]


def report_labels(task: SceneTask, found: Scores, *, rows: Mapping[str, Tensor], calibration: Scores) -> None:
    """Write scores of several labels a scene; for the arguments see `report_classes`."""
    names = list(task.facts.classes)
    _tables(task, found, rows, names)
    _calibration(task, calibration)
    if task.trainer.is_global_zero:
        from core.figures.classes import bars_figure

        values = rows["average_precision"].tolist()
        task.log_figure("by_class", bars_figure(values, names, what="average precision", title=task.title))
        _draw_examples(task)


def report_numbers(task: SceneTask, found: Scores) -> None:
    """Write scores of numbers, the task's own first."""
    _tables(task, found)
    if task.trainer.is_global_zero:
        _draw_examples(task)


def report_bands(task: SceneTask, found: Scores) -> None:
    """Write scores of reconstructions, the task's own first, each `(C,)` by band."""
    bands = list(task.facts.bands)
    table = [
        {"model": name, "band": band, **{key: float(values[place]) for key, values in scores.items()}}
        for name, scores in found.items()
        for place, band in enumerate(bands)
    ]
    task.write_table("by_band", table)
    _tables(task, {name: {key: values.mean() for key, values in row.items()} for name, row in found.items()})


def draw_reconstructions(task: Pretraining) -> None:
    """Draw the scenes that were kept: what was seen, predicted and there."""
    if task.trainer.is_global_zero and task.drawn:
        from apps.remote_sensing.figures import reconstruction_figure

        task.log_figure("reconstruction", reconstruction_figure(task.drawn, task.facts, title=task.title))


_SPOKEN = {"iou": "intersection over union", "f1": "F1"}


def _draw_examples(task: SceneTask) -> None:
    if not task.drawn:
        return
    from apps.remote_sensing.figures import examples_figure

    task.log_figure("examples", examples_figure(task.drawn, task.facts, title=task.title))


def _tables(
    task: SceneTask,
    found: Scores,
    rows: Mapping[str, Tensor] | None = None,
    names: list[str] | None = None,
) -> None:
    results = [
        {"model": name, **{key: float(value) for key, value in scores.items()}}
        for name, scores in found.items()
    ]
    task.write_table("results", results)
    task.say(_text(results))
    if rows is not None and names is not None:
        columns = {key: values.tolist() for key, values in rows.items()}
        table = [
            {"class": name, **{key: values[place] for key, values in columns.items()}}
            for place, name in enumerate(names)
        ]
        task.write_table("by_class", table)
        task.say(_text(table))


def _calibration(task: SceneTask, found: Scores) -> None:
    table = []
    for name, counts in found.items():
        seen, confidence, hits = (counts[key] for key in ("seen", "confidence", "hits"))
        table += [
            {
                "probabilities": name,
                "confidence": float(confidence[bin]) / float(seen[bin]),
                "accuracy": float(hits[bin]) / float(seen[bin]),
                "share": float(seen[bin] / seen.sum()),
            }
            for bin in range(len(seen))
            if seen[bin]
        ]
    task.write_table("calibration", table)
    if task.trainer.is_global_zero and table:
        from core.figures.classes import calibration_figure

        errors = {name: float(counts["ece"]) for name, counts in found.items()}
        task.log_figure("calibration", calibration_figure(table, errors, title=task.title))


def _text(rows: list[dict[str, Any]]) -> str:
    """Return rows as aligned text."""
    heads = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(head, "")) for head in heads] for row in rows]
    widths = [max(len(head), *(len(row[place]) for row in cells)) for place, head in enumerate(heads)]
    lines = [heads, *cells]
    return "\n".join(
        "  ".join(cell.ljust(width) if place == 0 else cell.rjust(width)
                  for place, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )  # fmt: skip


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if value != value:
        return "-"
    return f"{value:.0f}" if value.is_integer() and abs(value) > 1 else f"{value:.4f}"
