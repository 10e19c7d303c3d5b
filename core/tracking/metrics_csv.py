"""The durable record of a run: an append-only `metrics.csv` that survives kills and resumes."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from core.files import replacing

__all__ = ["FolderLogger", "MetricsCSV", "read_metrics"]

FILE = "metrics.csv"
FIRST = ("step", "epoch")


class FolderLogger(Logger):
    """A logger whose files lie in the run folder itself."""

    def __init__(self, folder: str | os.PathLike[str], *, name: str = "run") -> None:
        super().__init__()
        self._folder, self._name = Path(folder), name

    @property
    def name(self) -> str:
        """Lightning's name of the run."""
        return self._name

    @property
    def version(self) -> str:
        """Empty: a run folder holds one run, and Lightning must not add a folder below it."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self._folder)


class MetricsCSV(FolderLogger):
    """Writes one line per logged set of metrics to `<folder>/metrics.csv` and hands it to the system at once.

    The column `step` is Lightning's: the row of the n-th optimiser step says n - 1. A metric never seen
    before adds a column, for which the file is rewritten beside itself and renamed; everything else is
    appended. A line that a kill cut in half is removed when the file is opened again; rows of earlier runs
    in the folder stay. Nothing is written by ranks above 0.
    """

    _columns: list[str] | None = None  # None until the file was looked at

    @property
    def path(self) -> Path:
        """The file."""
        return self._folder / FILE

    @rank_zero_only
    def log_hyperparams(self, *args: object, **kwargs: object) -> None:
        """Do nothing: the resolved config is saved beside the checkpoints."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row.

        Raises:
            OSError: If the line could not be written whole (a full disk); the file is then as it was before.
        """
        row: dict[str, object] = {"step": "" if step is None else int(step)}
        row |= {key: _number(value) for key, value in metrics.items() if key != "step"}
        columns = self._open()
        if not set(row) <= set(columns):
            rows = read_rows(self.path)
            every = dict.fromkeys([*columns, *row])
            first = [name for name in FIRST if name in every]  # the others as they were first seen
            self._columns = [*first, *(name for name in every if name not in FIRST)]
            self._rewrite([*rows, row])
            return
        _append(self.path, _line([row.get(column, "") for column in columns]))

    @rank_zero_only
    def rewind(self, steps_done: int) -> int:
        """Drop the rows of steps that the restored state has not done; return how many were dropped."""
        self._open()
        rows = read_rows(self.path)
        steps = (_parsed(str(row.get("step"))) for row in rows)
        kept = [row for row, step in zip(rows, steps, strict=True) if step is None or step < steps_done]
        if len(kept) < len(rows):
            self._rewrite(kept)
        return len(rows) - len(kept)

    def _open(self) -> list[str]:
        """Return the columns of the file, mended if a kill left half a line."""
        if self._columns is None or not self.path.exists():
            self._columns = _mend(self.path) if self.path.exists() else []
        return self._columns

    def _rewrite(self, rows: list[dict[str, object]]) -> None:
        columns = self._columns or []
        with replacing(self.path) as temporary, open(temporary, "wb") as file:
            file.write(_line(columns))
            file.writelines(_line([row.get(column, "") for column in columns]) for row in rows)


def read_metrics(folder: str | os.PathLike[str]) -> list[dict[str, float]]:
    """Return the rows of `<folder>/metrics.csv` in order, without the empty cells; no rows without a file."""
    numbers = []
    for row in read_rows(Path(folder) / FILE):
        cells = {key: _parsed(str(cell)) for key, cell in row.items() if cell != ""}
        numbers.append({key: cell for key, cell in cells.items() if cell is not None})
    return numbers


def read_rows(path: Path) -> list[dict[str, object]]:
    """Return the whole lines of a CSV as texts by column; a line without its end is left out."""
    if not path.exists():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1].decode("utf-8", errors="replace")
    rows = csv.DictReader(io.StringIO(whole, newline=""), restval="", restkey="")  # "": beyond the header
    return [{key: cell for key, cell in row.items() if key} for row in rows]


def _mend(path: Path) -> list[str]:
    """Cut off a last line without its end, and return the header."""
    text = path.read_bytes()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        os.truncate(path, whole)
    header = text[:whole].split(b"\n", 1)[0].decode("utf-8", errors="replace")
    return next(csv.reader([header]), [])


def _append(path: Path, line: bytes) -> None:
    """Append a line in one write; on failure cut off what was written of it."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        before = os.fstat(handle).st_size
        try:
            if (written := os.write(handle, line)) < len(line):
                raise OSError(f"only {written} of {len(line)} bytes went into {path}; is the disk full?")
        except OSError:
            os.ftruncate(handle, before)
            raise
    finally:
        os.close(handle)


def _line(cells: list[object] | list[str]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue().encode()


def _number(value: object) -> int | float:
    """Return a plain number that reads back exactly."""
    item = value.item() if hasattr(value, "item") else value
    return int(item) if isinstance(item, bool | int) else float(item)  # type: ignore[arg-type]


def _parsed(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
