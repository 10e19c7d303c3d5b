"""Tables of results: written as CSV, and shown in the report with the best of each metric marked."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from core.files import replacing
from core.tracking.charts import short

__all__ = ["higher_is_better", "results_table", "write_table"]

MOST_ROWS = 200
HIGHER = {"accuracy", "acc", "auc", "auroc", "r2", "psnr", "ssim", "dice", "iou", "miou", "f1", "map"}
# Columns that say what was measured, on which rows are compared; and numbers of which none is the best.
KEYS = {"dataset", "series", "horizon", "channel", "variable", "lead", "step", "region", "split", "windows"}
NO_BEST = {"coverage", "seconds", "parameters", "samples", "season", "count", "n"}


def write_table(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all: the columns in the order they are first met, numbers in full.

    Args:
        path: The file; its folder is made.
        rows: One mapping of column to value per row; a missing value leaves an empty cell.
    """
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def results_table(path: Path) -> str:
    """Return a CSV as a table, the best value of each metric marked among the rows that can be compared."""
    with open(path, newline="", encoding="utf-8") as file:
        head, *rows = [row for row in csv.reader(file) if row] or [[]]
    if not rows:
        return ""
    rows = [row + [""] * (len(head) - len(row)) for row in rows]
    numeric = [all(_float(row[k]) is not None or not row[k] for row in rows) for k in range(len(head))]
    places = [_places([row[k] for row in rows]) if numeric[k] else 0 for k in range(len(head))]
    best = _best(head, rows, numeric)
    lines = []
    for number, row in enumerate(rows[:MOST_ROWS]):
        cells = []
        for k, cell in enumerate(row[: len(head)]):
            kind = ' class="num best"' if (number, k) in best else ' class="num"' if numeric[k] else ""
            value = _float(cell) if numeric[k] else None
            cells.append(f"<td{kind}>{escape(cell if value is None else _fixed(value, places[k]))}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    heads = "".join(
        f'<th class="num">{escape(name)}</th>' if numeric[k] else f"<th>{escape(name)}</th>"
        for k, name in enumerate(head)
    )
    left = len(rows) - MOST_ROWS
    note = f'<p class="note">{left} more rows in {escape(path.name)}.</p>' if left > 0 else ""
    name = path.stem.removeprefix("results").replace("_", " ").strip("-. ")
    caption = f"<caption>{escape(name)}</caption>" if name else ""
    body = f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="scroll tall"><table>{caption}{body}</table></div>{note}'


def _best(head: list[str], rows: list[list[str]], numeric: list[bool]) -> set[tuple[int, int]]:
    """Return the (row, column) of the best values among rows that agree in everything but the model."""
    lower = [name.lower() for name in head]
    keys = [k for k, name in enumerate(lower) if name != "model" and (name in KEYS or not numeric[k])]
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(tuple(row[k] for k in keys), []).append(number)
    found = set()
    for k, name in enumerate(lower):
        if not numeric[k] or k in keys or name in NO_BEST:
            continue
        for members in groups.values():
            values = {number: value for number in members if (value := _float(rows[number][k])) is not None}
            if len(values) > 1:
                top = max(values.values()) if higher_is_better(name) else min(values.values())
                found |= {(number, k) for number, value in values.items() if value == top}
    return found


def higher_is_better(name: str) -> bool:
    """Tell whether a metric of this name is good when it is great; errors and losses are not."""
    return any(word in HIGHER for word in re.split(r"[^a-z0-9]+", name.lower()))


def _places(cells: list[str]) -> int | None:
    """Return a column's decimals: for four digits of its smallest value, four at most; None if it is tiny."""
    values = [abs(value) for cell in cells if (value := _float(cell)) is not None and math.isfinite(value)]
    if all(value.is_integer() for value in values):
        return 0
    power = math.floor(math.log10(min(value for value in values if value)))
    return max(0, min(4, 3 - power)) if power >= -3 else None


def _fixed(value: float, places: int | None) -> str:
    """Return a number with its column's decimals, so that they stand below each other."""
    return short(value) if places is None or not math.isfinite(value) else f"{value:.{places}f}"


def _float(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
