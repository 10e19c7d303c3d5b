"""Tables of results: as aligned text for the terminal, and as CSV in full."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from core.files import replacing

__all__ = ["harmless", "text_table", "write_table"]


def text_table(
    rows: Iterable[Sequence[Any]], *, head: Sequence[str] | None = None, number: str = ".4g"
) -> str:
    """Return rows of cells as aligned columns: the first and those of words to the left, others to the right.

    None and NaN are shown as `-`, floats in the format `number`; `head` is a first line of headings.
    """
    lines = [[_cell(cell, number) for cell in row] for row in rows]
    columns = list(zip(*([list(head)] if head else []), *lines, strict=True))
    sides = [_side(cells[1:] if head else cells, place) for place, cells in enumerate(columns)]
    widths = [max(map(len, cells)) for cells in columns]
    return "\n".join(
        "  ".join(map(format, line, map("{}{}".format, sides, widths))).rstrip()
        for line in zip(*columns, strict=True)
    )


def write_table(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all: the columns in the order they are first met, numbers in full,
    an empty cell for a missing value.
    """
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(harmless, columns))
        writer.writerows([harmless(row.get(name, "")) for name in columns] for row in rows)


def harmless(cell: Any) -> Any:
    """Return a cell of a CSV that no spreadsheet runs: words that begin like a formula get a `'` before them.

    Numbers, also those in words, stay as they are.
    """
    if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def _cell(cell: Any, number: str) -> str:
    if cell is None or cell != cell:
        return "-"
    return format(cell, number) if isinstance(cell, float) else str(cell)


def _side(cells: Sequence[str], place: int) -> str:
    return "<" if place == 0 or any(cell[:1].isalpha() for cell in cells) else ">"
