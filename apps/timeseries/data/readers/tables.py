"""Tables from CSV, Parquet or pandas, each column read on demand: a large file never lies in memory twice."""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from apps.timeseries.data.pieces import pieces
from core.errors import UserError, did_you_mean

__all__ = ["SUFFIXES", "Table", "bare_name", "is_date", "open_table"]

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".txt", ".parquet", ".pq")
_SEPARATORS = ",;\t|"
_SAMPLE = 200
_BLANKS = r"(?<=\d)[ '’\u00a0\u202f](?=\d{3})"
_GROUPED = rf"\d,\d|\d\.\d+[.,]\d|{_BLANKS}"
_MONTH = r"(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\b"
_CLOCK = r"(?i)\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?( ?[ap]m)?( ?(Z|[+-]\d{2}:?\d{2}))?"
_WEEK_OR_QUARTER = r"\d{4}-?W\d{1,2}(-?\d)?|\d{4}[- ]?[QM]\d{1,2}|Q[1-4][-/ ]\d{4}|-?\d+ days?.*"


class Table:
    """A table whose columns are asked for by name.

    Attributes:
        name: What messages call it: the file's name, or "the DataFrame".
        rows: Number of rows.
        kinds: Column name to `"number"`, `"counter"`, `"time"`, `"date"`, `"clock"`, `"month"`, `"text"` or
            `"empty"`.
        notes: What was decided while opening it.
        frequency: Sampling rate, where whoever made the table knows it (a DataFrame's `attrs["frequency"]`).
    """

    frequency: str | None = None
    decimal = "."

    def __init__(self, frame: pd.DataFrame, *, name: str) -> None:
        twice = frame.columns[frame.columns.duplicated()]
        if len(twice):
            raise UserError(f"{name} has two columns called '{twice[0]}'; rename one of them")
        self.name, self.rows = name, len(frame)
        self.notes: list[str] = []
        self._frame, self._first_line = frame, None
        self._extra = _index_columns(frame)
        self._names = {str(c): c for c in [*self._extra, *frame.columns]}
        self._see_kinds()

    def column(self, name: str) -> pd.Series:
        """Return a column as pandas holds it."""
        key = self._names[name]
        return self._extra[key] if key in self._extra else self._frame[key]

    def words(self, name: str) -> pd.Series:
        """Return a column as text, as an id is written; None where a cell is empty."""
        codes, values = pd.factorize(self.column(name))
        return pd.Series(np.array([*map(_word, values), None], dtype=object)[codes])

    def distinct(self, names: Sequence[str]) -> bool:
        """Return whether no two rows agree in these columns; a rising one needs no copy of itself to tell."""
        first = self.column(names[0])
        plain = isinstance(first.dtype, np.dtype) and first.dtype.kind in "iufM"
        if plain and all((piece[1:] > piece[:-1]).all() for _, piece in pieces(first.to_numpy(), beyond=1)):
            return True
        return not pd.DataFrame({name: self.column(name).array for name in names}).duplicated().any()

    def head(self, name: str) -> pd.Series:
        """Return the first rows of a column."""
        return self.column(name).iloc[:_SAMPLE]

    def numbers(self, name: str) -> np.ndarray:
        """Return a column as float64, NaN where a cell is empty.

        Raises:
            UserError: If a cell holds text or infinity, with its line.
        """
        values = self.cells(name)
        bad = unreadable_rows(values)
        if len(bad):
            raise UserError(self.refusal(name, int(bad[0])))
        return values

    def cells(self, name: str) -> np.ndarray:
        """Return a column as float64, NaN where a cell is empty, infinite where it holds no finite number."""
        column = self.column(name)
        if column.dtype == np.float64:
            return column.to_numpy()  # a view: the frame is the only copy
        if pd.api.types.is_bool_dtype(column.dtype) or column.dtype.kind in "iuf":
            return column.to_numpy(dtype=np.float64, na_value=np.nan)
        values = self._parsed(name, column).to_numpy(dtype=np.float64, na_value=np.nan)
        return np.where(np.isnan(values) & column.notna().to_numpy(), np.inf, values)

    def refusal(self, name: str, row: int) -> str:
        """Return the sentence for a cell that holds no finite number."""
        cell = self.column(name).iloc[row]
        where = f"{self.where(row)}, column '{name}' holds"
        try:
            float(cell)
        except (TypeError, ValueError):
            return f"{where} '{cell}', which is not a number; leave the cell empty if it is missing"
        return f"{where} an infinite value; leave the cell empty if it is missing"

    def where(self, row: int) -> str:
        """Return the place of a row in words a user can look up."""
        if self._first_line is None:
            return f"row {row} of {self.name}"
        return f"line {row + self._first_line} of {self.name}"

    def _see_kinds(self) -> None:
        self.kinds = {name: kind_of(self.column(name), decimal=self.decimal) for name in self._names}

    def _parsed(self, name: str, column: pd.Series) -> pd.Series:
        """Return text as numbers; how separators within them are understood becomes a note."""
        values = as_numbers(column, self.decimal)
        odd = np.flatnonzero(values.notna() & column.astype(str).str.contains(_GROUPED))
        if len(odd):
            cell, value = column.iloc[odd[0]], values.iloc[odd[0]]
            note = f"{self.name}: '{cell}' in column '{name}' is read as {value:.12g}"
            self.notes += [note] * (note not in self.notes)
        return values


class _CsvTable(Table):
    """A CSV file; a column of ids is read once more, as it is written."""

    def __init__(self, path: Path, frame: pd.DataFrame, layout: _CsvLayout) -> None:
        self.decimal = layout.decimal
        super().__init__(frame, name=path.name)
        self._path, self._layout, self._first_line = path, layout, layout.skip + 2
        empty = [column for column, kind in self.kinds.items() if kind == "empty"]
        for column, words in self._as_written(empty).items() if empty else ():
            if words.notna().any():  # NA and null, of which ids may be made
                self.kinds[column] = "text"
        self.notes += layout.notes

    def words(self, name: str) -> pd.Series:
        """Return a column as text, as an id is written; None where a cell is empty."""
        return self._as_written([name])[name]

    def _as_written(self, names: Sequence[str]) -> dict[str, pd.Series]:
        numbers = {list(self._names).index(name): name for name in names}
        frame = self._layout.read(self._path, usecols=sorted(numbers), dtype=str, keep_default_na=False)
        texts = {numbers[number]: frame[number].str.strip() for number in frame}
        return {name: text.where(text != "", None) for name, text in texts.items()}


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
        names = self._file.schema_arrow.names
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{path.name} has two columns called '{twice}'; rename one of them")
        self.kinds = {}
        for field in self._file.schema_arrow:
            if pa.types.is_floating(field.type) or pa.types.is_boolean(field.type):
                self.kinds[field.name] = "number"
            elif pa.types.is_nested(field.type):
                raise UserError(
                    f"column '{field.name}' of {path.name} holds lists or structures; give one number a row "
                    "and column"
                )
            else:  # whole numbers may count the rows, text may be stamps: a sample tells
                self.kinds[field.name] = kind_of(self.head(field.name), total=self.rows)

    def column(self, name: str) -> pd.Series:
        """Return a column as pandas holds it."""
        import pyarrow as pa

        kind = self._file.schema_arrow.field(name).type
        if not (pa.types.is_timestamp(kind) and kind.tz is None):
            return self._file.read(columns=[name]).column(0).to_pandas(integer_object_nulls=True)
        return pd.Series(self._gather(name, np.dtype(f"datetime64[{kind.unit}]")), copy=False)

    def cells(self, name: str) -> np.ndarray:
        """Return a column as float64 without a second copy of it, NaN where a cell is empty."""
        import pyarrow as pa

        kind = self._file.schema_arrow.field(name).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            return super().cells(name)
        return self._gather(name, np.dtype(np.float64))

    def _gather(self, name: str, dtype: np.dtype) -> np.ndarray:
        """Return a column in one array, filled batch by batch, so that it never lies in memory twice."""
        values = np.empty(self.rows, dtype=dtype)
        done = 0
        for batch in self._file.iter_batches(batch_size=1 << 17, columns=[name], use_threads=False):
            piece = batch.column(0).to_numpy(zero_copy_only=False)
            values[done : done + len(piece)] = piece
            done += len(piece)
        return values

    def head(self, name: str) -> pd.Series:
        """Return the first rows of a column."""
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
        table = Table(source, name=name or "the DataFrame")
        table.frequency = source.attrs.get("frequency")
        return table
    path = Path(source)
    if not path.is_file():
        raise UserError(f"there is no file '{path}'{_neighbour(path)}")
    if path.stat().st_size == 0:
        raise UserError(f"{path.name} is empty; give a file with a header and at least one row")
    if path.suffix in (".parquet", ".pq"):
        table = _ParquetTable(path)
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


def unreadable_rows(values: np.ndarray) -> np.ndarray:
    """Return the rows of a column's cells that hold no finite number."""
    bad = [first + np.flatnonzero(np.isinf(piece)) for first, piece in pieces(values)]
    return np.concatenate(bad) if bad else np.array([], dtype=np.int64)


def as_numbers(column: pd.Series, decimal: str = ".") -> pd.Series:
    """Return text as numbers, NaN where it is none: `1,234.5`, `1.234,5`, `1 234,5` or `1'234.5`.

    The reading that fits more cells counts; where both do (`1,234`), `decimal` decides.
    """
    plain = pd.to_numeric(column, errors="coerce")
    if decimal == "." and not (plain.isna() & column.notna()).any():
        return plain
    words = column.astype("string").str.strip().str.replace(_BLANKS, "", regex=True)
    readings = []
    for sign, group in ((".", ","), (",", ".")) if decimal == "." else ((",", "."), (".", ",")):
        whole = rf"[-+]?(\d{{1,3}}(\{group}\d{{3}})+|\d*)"
        fits = words.str.fullmatch(rf"{whole}(\{sign}\d*)?([eE][-+]?\d+)?").fillna(False)
        text = words.where(fits).str.replace(group, "").str.replace(sign, ".")
        readings.append(pd.to_numeric(text.astype(object), errors="coerce"))
    if decimal == ".":
        readings.insert(0, plain)
    return max(readings, key=pd.Series.count)


def kind_of(column: pd.Series, *, total: int | None = None, decimal: str = ".") -> str:
    """Return what a column holds: a kind of `Table.kinds`."""
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        head = column.iloc[:_SAMPLE].dropna()
        return "date" if len(head) and (head.dt.normalize() == head).all() else "time"
    if isinstance(column.dtype, pd.PeriodDtype) or pd.api.types.is_timedelta64_dtype(column.dtype):
        return "time"
    if pd.api.types.is_bool_dtype(column.dtype):
        return "number"
    if pd.api.types.is_integer_dtype(column.dtype):
        head = column.iloc[: 1 << 16].to_numpy(dtype=np.float64, na_value=np.nan)
        counts = len(head) > 1 and head[0] in (0, 1) and bool((np.diff(head) == 1).all())
        return "counter" if counts else "number"
    if pd.api.types.is_complex_dtype(column.dtype):
        return "text"  # no real number: it needs a part or a size to be chosen
    if pd.api.types.is_numeric_dtype(column.dtype):
        return "empty" if total is None and bool(column.isna().all()) else "number"
    filled = column.iloc[:_SAMPLE].dropna()
    if not len(filled):
        filled = column.dropna().iloc[:_SAMPLE]
    if not len(filled):
        return "empty"
    if as_numbers(filled, decimal).notna().mean() > 0.5:
        return "number"  # a column of numbers with a stray word: reading it names the cell
    return _kind_of_words([str(value).strip() for value in filled.iloc[:5]])


def _kind_of_words(words: list[str]) -> str:
    if all(re.fullmatch(_CLOCK, word) for word in words):
        return "clock"
    if all(re.fullmatch(_MONTH, word) for word in words):
        return "month"
    if all(re.fullmatch(_WEEK_OR_QUARTER, word) for word in words):
        return "time"
    if not all(re.search(rf"\d[-/.:]\d|\d{{8}}|{_MONTH}\W+\d|\d\W?{_MONTH}", word) for word in words):
        return "text"
    # one wrong stamp among the first does not make the column text: reading it names the line
    midnight = [re.sub(r"([T ])24:00", r"\g<1>00:00", word) for word in words]
    read = pd.to_datetime(pd.Series(midnight), format="mixed", errors="coerce", utc=True)
    if read.notna().mean() <= 0.5:
        return "text"
    return "time" if any(re.search(r"\d:\d|T\d", word) for word in words) else "date"


@dataclass(frozen=True)
class _CsvLayout:
    """How a CSV is written: its columns' names, and where and how its rows begin."""

    names: list[str]
    separator: str
    decimal: str
    skip: int
    encoding: str | None
    notes: list[str]

    def read(self, path: Path, **options: Any) -> pd.DataFrame:
        return pd.read_csv(
            path, sep=self.separator, names=range(len(self.names)), header=0, skiprows=self.skip,
            encoding=self.encoding, skipinitialspace=True, low_memory=False, index_col=None, **options,
        )  # fmt: skip


def _open_csv(path: Path) -> Table:
    layout = _look_at_csv(path)
    try:
        frame = layout.read(path, decimal=layout.decimal)
    except UnicodeDecodeError as error:
        raise UserError(_not_utf8(path)) from error
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
    frame.columns = layout.names
    return _CsvTable(path, frame, layout)


def _look_at_csv(path: Path) -> _CsvLayout:
    """Return how a CSV is written, by its first lines.

    Raises:
        UserError: If it is empty, no text, has no header, or names two columns alike.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as raw:
            marked = raw.read(2) in (b"\xff\xfe", b"\xfe\xff")
            raw.seek(0)
            encoding = "utf-16" if marked else None
            with io.TextIOWrapper(raw, encoding=encoding or "utf-8-sig", newline="") as text:
                lines = [line for _ in range(_SAMPLE) if (line := text.readline(1 << 20))]
        layouts = [_rows_of(lines, separator) for separator in _SEPARATORS]
    except UnicodeDecodeError as error:
        raise UserError(_not_utf8(path)) from error
    except (OSError, EOFError, csv.Error) as error:
        raise UserError(f"{path.name} cannot be read ({_first_sentence(error)})") from error
    if not any(line.strip() for line in lines):
        raise UserError(f"{path.name} is empty; give a file with a header and at least one row")
    separator, rows = max(zip(_SEPARATORS, layouts, strict=True), key=lambda pair: _regularity(pair[1]))
    head = _header(rows)
    skip, names = rows[head][0], [re.sub(r"\s*\n\s*", " ", name) for name in rows[head][1]]
    cells = [cell for _, row in rows[head + 1 :] for cell in row]
    if _looks_like_data(names):
        raise UserError(
            f"{path.name} has no header: its first line is '{separator.join(names)[:60]}'; add a "
            "first line with the columns' names"
        )
    twice = [cell for place, cell in enumerate(names) if cell and cell in names[:place]]
    if twice:
        raise UserError(f"{path.name} has two columns called '{twice[0]}'; rename one of them")
    later = [row for _, row in rows[head + 1 :]]
    if later and all(len(row) == len(names) + 1 and not row[-1] for row in later):
        names = [*names, ""]  # a separator at the end of each row, but not of the header
    decimal = _decimal(cells, separator)
    notes = [f"{path.name}: {skip} lines above the header are skipped"] * bool(skip)
    if separator != "," or decimal == ",":
        shown = {"\t": "a tab"}.get(separator, f"'{separator}'")
        sign = ", the decimal sign is ','" if decimal == "," else ""
        notes.append(f"{path.name}: columns are separated by {shown}{sign}")
    names = [name or f"Unnamed: {place}" for place, name in enumerate(names)]
    return _CsvLayout(names, separator, decimal, skip, encoding, notes)


def _rows_of(lines: Sequence[str], separator: str) -> list[tuple[int, list[str]]]:
    """Return the lines before each row that is not blank, and its cells."""
    reader, rows, before = csv.reader(lines, delimiter=separator, skipinitialspace=True), [], 0
    for row in reader:
        if any(cell.strip() for cell in row):
            rows.append((before, [cell.strip() for cell in row]))
        before = reader.line_num
    return rows


def _regularity(rows: Sequence[tuple[int, list[str]]]) -> tuple[int, int, int]:
    """Return how well a separator fits: rows of the usual width above 1, that width, cells of numbers."""
    width, count = Counter(len(row) for _, row in rows).most_common(1)[0] if rows else (1, 0)
    plain = sum(bool(re.fullmatch(r"[-+.\d][-+.,:/\d TZ]*", cell)) for _, row in rows for cell in row)
    return (count if width > 1 else 0, width, plain)


def _header(rows: Sequence[tuple[int, list[str]]]) -> int:
    """Return the number of the row with the columns' names: below comments and lines of another width."""
    comments = next((n for n, (_, row) in enumerate(rows) if not row[0].startswith(("#", "sep="))), 0)
    if comments and _looks_like_data(rows[comments][1]) and rows[comments - 1][1][0].startswith("#"):
        return comments - 1
    usual = Counter(len(row) for _, row in rows[comments:]).most_common(1)[0][0]
    first = next(n for n, (_, row) in enumerate(rows) if n >= comments and len(row) == usual)
    return comments if any(map(_is_data, rows[first][1])) else first


def _decimal(cells: Sequence[str], separator: str) -> str:
    """Return the decimal sign of a file, of which a comma must be sure where it separates columns too."""
    commas = [cell for cell in cells if re.fullmatch(r"[-+]?(\d{1,3}(\.\d{3})+|\d+),\d+", cell)]
    sure = [cell for cell in commas if not re.fullmatch(r"[-+]?[1-9]\d{0,2},\d{3}", cell)]
    english = r"[-+]?(\d{1,3}(,\d{3})+\.\d+|\d{1,3}(,\d{3}){2,}|\d+\.(\d{1,2}|\d{4,}))"
    points = any(re.fullmatch(english, cell) for cell in cells)
    return "," if (sure if separator == "," else commas) and not points else "."


def _looks_like_data(head: Sequence[str]) -> bool:
    filled = [cell for cell in head if cell]
    return bool(filled) and all(map(_is_data, filled))


def _is_data(cell: str) -> bool:
    """Return whether a cell is a number or a date, which no column is called."""
    return is_date(cell) or bool(re.fullmatch(r"[-+]?\d+([.,]\d*)?([eE][-+]?\d+)?", cell))


def is_date(cell: str) -> bool:
    """Return whether words read as a date, with or without a time of day."""
    return bool(re.fullmatch(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ].*)?|(1[89]|20)\d\d-[01]\d", cell))


def _word(value: Any) -> str:
    """Return an id as text; a whole number is written without a fraction, whatever its type."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


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
    """Return the levels of an index that says something: a name, stamps or words, no mere row numbers."""
    index, columns = frame.index, {}
    for level in range(index.nlevels):
        values = index.get_level_values(level)
        stamps = isinstance(values, (pd.DatetimeIndex, pd.PeriodIndex, pd.TimedeltaIndex))
        spoken = index.nlevels > 1 or stamps or not pd.api.types.is_numeric_dtype(values.dtype)
        if values.name is None and not spoken:
            continue
        name = values.name if values.name is not None else f"level_{level}" if index.nlevels > 1 else "time"
        if name not in frame.columns:
            columns[name] = pd.Series(values, index=frame.index)
    return columns


def _neighbour(path: Path) -> str:
    if not path.parent.is_dir():
        return f", nor a folder '{path.parent}'"
    return did_you_mean(path.name, [file.name for file in path.parent.iterdir()])


def _first_sentence(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
