"""Tables from CSV, Parquet or pandas, each column read on demand: a large file never lies in memory twice."""

from __future__ import annotations

import gzip
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core.errors import UserError, did_you_mean

__all__ = ["SUFFIXES", "Table", "bare_name", "open_table"]

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".txt", ".parquet", ".pq")
_SEPARATORS = ",;\t|"
_SAMPLE = 200


class Table:
    """A table whose columns are asked for by name.

    Attributes:
        name: What messages call it: the file's name, or "the DataFrame".
        rows: Number of rows.
        kinds: Column name to `"number"`, `"time"`, `"text"`, `"counter"` or `"empty"`.
        notes: What was decided while opening it.
        frequency: Sampling rate, where whoever made the table knows it (a DataFrame's `attrs["frequency"]`).
    """

    frequency: str | None = None

    def __init__(self, frame: pd.DataFrame, *, name: str, first_line: int | None = None) -> None:
        self.name, self.rows = name, len(frame)
        self.notes: list[str] = []
        twice = frame.columns[frame.columns.duplicated()]
        if len(twice):
            raise UserError(f"{name} has two columns called '{twice[0]}'; rename one of them")
        self._frame, self._first_line = frame, first_line
        self._extra: dict[str, Any] = {}
        if first_line is None:
            self._extra = _index_columns(frame)
        self.kinds = {str(c): kind_of(self._column(c)) for c in [*self._extra, *frame.columns]}
        self._names = {str(c): c for c in [*self._extra, *frame.columns]}

    def column(self, name: str) -> pd.Series:
        """Return a column as pandas holds it."""
        return self._column(self._names[name])

    def numbers(self, name: str) -> np.ndarray:
        """Return a column as float64, NaN where a cell is empty.

        Raises:
            UserError: If a cell holds text or infinity, with its line.
        """
        column = self.column(name)
        if column.dtype == np.float64:
            values = column.to_numpy()  # a view: the frame is the only copy
        elif column.dtype == bool or str(column.dtype) == "boolean" or column.dtype.kind in "iuf":
            values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            numeric = pd.to_numeric(column, errors="coerce")
            bad = np.flatnonzero(numeric.isna().to_numpy() & column.notna().to_numpy())
            if len(bad):
                cell = column.iloc[bad[0]]
                raise UserError(
                    f"{self.where(int(bad[0]))}, column '{name}' holds '{cell}', which is not a number"
                )
            values = numeric.to_numpy(dtype=np.float64, na_value=np.nan)
        self.refuse_infinity(values, name)
        return values

    def refuse_infinity(self, values: np.ndarray, name: str) -> None:
        """Raise `UserError` for the first infinite value."""
        for first in range(0, len(values), 1 << 20):
            infinite = np.isinf(values[first : first + (1 << 20)])
            if infinite.any():
                row = first + int(infinite.argmax())
                raise UserError(
                    f"{self.where(row)}, column '{name}' holds an infinite value; leave the cell empty if it "
                    "is missing"
                )

    def where(self, row: int) -> str:
        """Return the place of a row in words a user can look up."""
        if self._first_line is None:
            return f"row {row} of {self.name}"
        return f"line {row + self._first_line} of {self.name}"

    def _column(self, name: Any) -> pd.Series:
        return self._extra[name] if name in self._extra else self._frame[name]


class _ParquetTable(Table):
    """A Parquet file read one column at a time, in batches."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(
                f"{path.name} is not a Parquet file that can be read ({_first_sentence(error)})"
            ) from error
        self.name, self.rows, self.notes = path.name, self._file.metadata.num_rows, []
        self._first_line = None
        self.kinds = {}
        for field in self._file.schema_arrow:
            if pa.types.is_timestamp(field.type) or pa.types.is_date(field.type):
                self.kinds[field.name] = "time"
            elif pa.types.is_floating(field.type) or pa.types.is_boolean(field.type):
                self.kinds[field.name] = "number"
            elif pa.types.is_nested(field.type):
                raise UserError(
                    f"column '{field.name}' of {path.name} holds lists or structures; give one number a row "
                    "and column"
                )
            else:  # whole numbers may count the rows, text may be stamps: a sample tells
                self.kinds[field.name] = kind_of(self._head(field.name), total=self.rows)

    def column(self, name: str) -> pd.Series:
        """Return a column as pandas holds it."""
        import pyarrow as pa

        kind = self._file.schema_arrow.field(name).type
        if not (pa.types.is_timestamp(kind) and kind.tz is None):
            return self._file.read(columns=[name]).column(0).to_pandas()
        return pd.Series(self._gather(name, np.dtype(f"datetime64[{kind.unit}]")), copy=False)

    def numbers(self, name: str) -> np.ndarray:
        """Return a column as float64, NaN where a cell is empty; no second copy of the column is made."""
        import pyarrow as pa

        kind = self._file.schema_arrow.field(name).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            return super().numbers(name)
        values = self._gather(name, np.dtype(np.float64))
        self.refuse_infinity(values, name)
        return values

    def _gather(self, name: str, dtype: np.dtype) -> np.ndarray:
        """Return a column in one array, filled batch by batch, so that it never lies in memory twice."""
        values = np.empty(self.rows, dtype=dtype)
        done = 0
        for batch in self._file.iter_batches(batch_size=1 << 17, columns=[name], use_threads=False):
            piece = batch.column(0).to_numpy(zero_copy_only=False)
            values[done : done + len(piece)] = piece
            done += len(piece)
        return values

    def _head(self, name: str) -> pd.Series:
        for batch in self._file.iter_batches(batch_size=_SAMPLE, columns=[name]):
            return batch.column(0).to_pandas()
        return pd.Series([], dtype=float)


def open_table(source: str | Path | pd.DataFrame, *, name: str | None = None) -> Table:
    """Open a CSV (plain or gzip), a Parquet file or a DataFrame.

    Raises:
        UserError: One sentence for a missing, empty or unreadable file, or one without a header.
    """
    if isinstance(source, pd.DataFrame):
        if source.empty:
            raise UserError(f"{name or 'the DataFrame'} is empty; give at least one row and one column")
        made = Table(source, name=name or "the DataFrame")
        made.frequency = source.attrs.get("frequency")
        return made
    path = Path(source)
    if not path.is_file():
        raise UserError(f"there is no file '{path}'{_neighbour(path)}")
    if path.stat().st_size == 0:
        raise UserError(f"{path.name} is empty; give a file with a header and at least one row")
    if path.suffix in (".parquet", ".pq"):
        table: Table = _ParquetTable(path)
        if table.rows == 0:
            raise UserError(f"{path.name} has columns but no rows")
        return table
    return _open_csv(path)


def bare_name(path: str | Path) -> str:
    """Return a file's name without `.csv.gz` and the like: the id of the series in it."""
    name = Path(path).name
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return Path(path).stem


def kind_of(column: pd.Series, *, total: int | None = None) -> str:
    """Return what a column holds: `"number"`, `"counter"`, `"time"`, `"text"` or `"empty"`."""
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return "time"
    if pd.api.types.is_bool_dtype(column.dtype):
        return "number"
    if pd.api.types.is_integer_dtype(column.dtype):
        head = column.iloc[: 1 << 16].to_numpy(dtype=np.float64, na_value=np.nan)
        counts = len(head) > 1 and head[0] in (0, 1) and bool((np.diff(head) == 1).all())
        return "counter" if counts else "number"
    if pd.api.types.is_numeric_dtype(column.dtype):
        return "empty" if total is None and bool(column.isna().all()) else "number"
    filled = column.iloc[:_SAMPLE].dropna()
    if not len(filled):
        filled = column.dropna().iloc[:_SAMPLE]
    if not len(filled):
        return "empty"
    if pd.to_numeric(filled, errors="coerce").notna().mean() > 0.5:
        return "number"  # a column of numbers with a stray word: reading it names the cell
    return "time" if _reads_as_stamps(filled) else "text"


def _reads_as_stamps(sample: pd.Series) -> bool:
    words = [str(value) for value in sample.iloc[:5]]
    if not all(re.search(r"\d{1,4}[-/.:]\d|\d{4}Q[1-4]|\d{8}", word) for word in words):
        return False
    # one wrong stamp among the first does not make the column text: reading it names the line
    read = pd.to_datetime(pd.Series(words), format="mixed", errors="coerce", utc=True)
    return bool(read.notna().mean() > 0.5)


def _open_csv(path: Path) -> Table:
    head, decimal, separator, quirks = _look_at_csv(path)
    try:
        frame = pd.read_csv(path, sep=separator, decimal=decimal, low_memory=False, skipinitialspace=True)
    except UnicodeDecodeError as error:
        raise UserError(_not_utf8(path)) from error
    except pd.errors.EmptyDataError as error:
        raise UserError(f"{path.name} is empty; give a file with a header and at least one row") from error
    except pd.errors.ParserError as error:
        found = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
        if found:
            want, line, saw = found.groups()
            raise UserError(
                f"line {line} of {path.name} has {saw} cells, but the header has {want}"
            ) from error
        raise UserError(f"{path.name} cannot be read as a CSV ({_first_sentence(error)})") from error
    except (OSError, EOFError) as error:
        raise UserError(f"{path.name} cannot be read ({_first_sentence(error)})") from error
    if frame.empty:
        raise UserError(f"{path.name} has a header but no rows")
    if not isinstance(frame.index, pd.RangeIndex):
        raise UserError(
            f"the rows of {path.name} have more cells than its header; name every column in the first line"
        )
    if _looks_like_data(head):
        raise UserError(
            f"{path.name} has no header: its first line is '{separator.join(head)[:60]}'; add a "
            "first line with the columns' names"
        )
    if decimal == ",":
        _mend_decimals(frame)
    twice = [cell for place, cell in enumerate(head) if cell and cell in head[:place]]
    if twice:  # pandas would call the second one by another name
        raise UserError(f"{path.name} has two columns called '{twice[0]}'; rename one of them")
    table = Table(frame, name=path.name, first_line=2)
    table.notes += quirks
    return table


def _mend_decimals(frame: pd.DataFrame) -> None:
    """Write decimal points in columns of numbers that a stray word kept from being read as such, in place."""
    for place, kind in enumerate(frame.dtypes):
        if pd.api.types.is_numeric_dtype(kind):
            continue
        words = frame.iloc[:, place].astype("string")
        numbers = words.str.fullmatch(r"[-+]?\d+,\d+").fillna(False)
        if numbers.mean() > 0.5:
            frame.isetitem(place, words.mask(numbers, words.str.replace(",", ".")))


def _look_at_csv(path: Path) -> tuple[list[str], str, str, list[str]]:
    """Return the header's cells, the decimal sign, the separator and what to tell the user about them."""
    try:
        raw = gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")  # noqa: SIM115
        with raw, io.TextIOWrapper(raw, encoding="utf-8-sig") as text:
            lines = [text.readline(1 << 20).rstrip("\r\n") for _ in range(3)]
    except UnicodeDecodeError as error:
        raise UserError(_not_utf8(path)) from error
    except (OSError, EOFError) as error:
        raise UserError(f"{path.name} cannot be read ({_first_sentence(error)})") from error
    if not any(line.strip() for line in lines):
        raise UserError(f"{path.name} is empty; give a file with a header and at least one row")
    header, row = lines[0], lines[1]
    counts = {s: header.count(s) for s in _SEPARATORS}
    separator = max(_SEPARATORS, key=lambda s: (counts[s], s == ","))
    # a comma inside numbers outnumbers ';' only in the rows, so the header decides
    if not counts[separator]:
        separator = ","
    notes, decimal = [], "."
    if separator != ",":
        shown = {"\t": "a tab"}.get(separator, f"'{separator}'")
        if re.search(r"(^|[;\t|])\s*-?\d+,\d+\s*([;\t|]|$)", row) and not re.search(
            r"\d\.\d+\s*([;\t|]|$)", row
        ):
            decimal = ","
        note = f"{path.name}: columns are separated by {shown}" + (
            ", the decimal sign is ','" if decimal == "," else ""
        )
        notes.append(note)
    cells = [cell.strip().strip('"') for cell in header.split(separator)]
    return cells, decimal, separator, notes


def _looks_like_data(head: list[str]) -> bool:
    filled = [cell for cell in head if cell]
    if not filled:
        return False
    numbers = [cell for cell in filled if re.fullmatch(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?", cell)]
    stamps = [cell for cell in filled if re.fullmatch(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ].*)?", cell)]
    return len(numbers) + len(stamps) == len(filled)


def _not_utf8(path: Path) -> str:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as raw:
        for number, line in enumerate(raw, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return f"line {number} of {path.name} is not UTF-8 text; save the file as UTF-8"
    return f"{path.name} is not UTF-8 text; save the file as UTF-8"


def _index_columns(frame: pd.DataFrame) -> dict[Any, pd.Series]:
    index = frame.index
    if isinstance(index, pd.MultiIndex):
        names = [str(n) if n is not None else f"level_{i}" for i, n in enumerate(index.names)]
        return {n: index.get_level_values(i).to_series(index=frame.index) for i, n in enumerate(names)}
    if isinstance(index, pd.PeriodIndex):
        return {str(index.name or "time"): pd.Series(index.to_timestamp(), index=frame.index)}
    if isinstance(index, pd.DatetimeIndex):
        return {str(index.name or "time"): pd.Series(index, index=frame.index)}
    return {}


def _neighbour(path: Path) -> str:
    if not path.parent.is_dir():
        return f", nor a folder '{path.parent}'"
    return did_you_mean(path.name, [file.name for file in path.parent.iterdir()])


def _first_sentence(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
