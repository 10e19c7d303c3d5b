"""Series from tables: the one opening of a file, for training and for prediction.

Stamps are checked and put on a regular grid, columns read one by one, and every mistake named with its line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from apps.timeseries.data import frequency as rates
from apps.timeseries.data.readers.columns import Roles, infer_roles
from apps.timeseries.data.readers.stamps import Clock, Stamps, kind_of_numbers, read_stamps, style_of
from apps.timeseries.data.readers.tables import (
    SUFFIXES,
    Table,
    bare_name,
    is_date,
    open_table,
    unreadable_rows,
)
from core.errors import UserError

__all__ = [
    "Part",
    "Report",
    "SeriesFile",
    "SeriesSource",
    "Unreadable",
    "read_rows",
    "read_source",
    "series_rows",
    "tables_of",
]

Tables = str | Path | pd.DataFrame | Sequence[pd.DataFrame] | Any
"""A file, a folder of files (each a series), a frame of any library, numbers, or several of these."""


@dataclass(frozen=True)
class Unreadable:
    """A series or file that was left out, and why (one sentence)."""

    id: str
    reason: str


@dataclass
class Report:
    """What was left out, and what was decided for the user, one sentence each."""

    unreadable: list[Unreadable] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def refuse(self) -> UserError:
        """Return the error for a source of which nothing is left."""
        reason = self.unreadable[0].reason if self.unreadable else "it holds no series"
        if len(self.unreadable) <= 1:
            return UserError(reason)
        return UserError(f"none of the {len(self.unreadable)} series can be used; the first: {reason}")


@dataclass(frozen=True)
class SeriesSource:
    """Tables that are read alike.

    Attributes:
        tables: Label and table (or path) of each.
        roles: Stated roles.
        frequency: Stated sampling rate, or None to infer it.
        stamps: Whether time stamps are read; otherwise the rows stand as they are, as benchmarks count them.
        quiet: Do not say which roles were inferred: the table is not the user's.
        lenient: List a table that cannot be used (one of a folder's) instead of raising its error.
        prefix: Whether the tables' labels go before their series' ids.
        styles: How the tables write their time, where that can be read in two ways: the first that shows it.
    """

    tables: Iterable[tuple[str, Table | Path]]
    roles: Roles = field(default_factory=Roles)
    frequency: str | None = None
    stamps: bool = True
    quiet: bool = False
    lenient: bool = False
    prefix: bool = False
    styles: list[str] = field(default_factory=list)

    @staticmethod
    def of(
        source: Tables, roles: Roles | None = None, *, frequency: str | None = None, name: str | None = None
    ) -> SeriesSource:
        """Return the source of a user's files or frames; `name` is the id of the single series of a frame."""
        source = source if isinstance(source, (str, Path)) else frames_of(source)
        several = Path(source).is_dir() if isinstance(source, (str, Path)) else isinstance(source, dict)
        tables = list(tables_of(source, name=name))
        return SeriesSource(tables, roles or Roles(), frequency, lenient=several, prefix=several)


@dataclass(frozen=True)
class Part:
    """Where one series lies in a table.

    Attributes:
        id: Name of the series: its id columns joined by `/`, else the file's name.
        rows: Rows of the table in the order of time; a slice where they are contiguous already.
        positions: Their places on the grid, or None where no stamp is missing.
        length: Rows on the grid.
        times: Stamps of the grid, or None.
        frequency: Present pandas alias (`"h"`, `"15min"`); empty if unknown.
        static: Static categorical columns of the series.
        notes: What was mended.
        clock: The grid and how the table writes its stamps, or None without one.
    """

    id: str
    rows: np.ndarray | slice
    positions: np.ndarray | None
    length: int
    times: pd.DatetimeIndex | None
    frequency: str
    static: dict[str, str]
    notes: list[str]
    clock: Clock | None

    def fill(self, column: np.ndarray) -> np.ndarray:
        """Return the series' values `(length,)` of a column: in order of time, NaN at missing stamps."""
        values = column[self.rows]
        if self.positions is None:
            return values
        laid = np.full(self.length, np.nan)
        laid[self.positions] = values
        return laid


@dataclass(frozen=True)
class SeriesFile:
    """An opened table: the roles of its columns and the series in it; its columns are read on demand.

    Attributes:
        name: What messages call it.
        roles: The complete roles.
        parts: Its series.
        table: The table.
        style: How it writes its time.
    """

    name: str
    roles: Roles
    parts: list[Part]
    table: Table
    style: str = ""

    def readable(self, names: Sequence[str], report: Report) -> SeriesFile:
        """Return the file without the series that hold words or infinity in a column, which are reported.

        Raises:
            UserError: If no series is left.
        """
        said = len(self.table.notes)
        bad = self._bad_rows(names)
        report.notes += self.table.notes[said:]  # how numbers with separators were understood
        if not bad:
            return self
        owner = np.full(self.table.rows, -1)
        for number, part in enumerate(self.parts):
            owner[part.rows] = number
        reasons: dict[int, str] = {}
        for name, rows in bad.items():
            owners, first = np.unique(owner[rows], return_index=True)
            for number, row in zip(owners, rows[first], strict=True):
                reasons.setdefault(int(number), self.table.refusal(name, int(row)))
        reasons.pop(-1, None)  # of a series that was left out before
        kept = [part for number, part in enumerate(self.parts) if number not in reasons]
        if not kept:
            raise UserError(next(iter(reasons.values())))
        report.unreadable += [Unreadable(self.parts[number].id, why) for number, why in reasons.items()]
        return replace(self, parts=kept)

    def _bad_rows(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        numeric = [name for name in names if name not in self.roles.categorical]
        bad = {name: unreadable_rows(self.table.cells(name)) for name in numeric}
        return {name: rows for name, rows in bad.items() if len(rows)}

    def column(self, name: str) -> np.ndarray:
        """Return a numeric column as float64, NaN where a cell is empty."""
        return self.table.cells(name)

    def codes(self, name: str, words: list[str], *, grow: bool = True) -> np.ndarray:
        """Return a categorical column as codes (float64, NaN where empty): places of its cells in `words`.

        Words that are not among them follow sorted, unless `grow` is false; then they are NaN.
        """
        column = self.table.words(name)
        if grow:
            words += sorted(set(column.dropna().unique()) - set(words))
        code = {word: float(i) for i, word in enumerate(words)}
        return column.map(code).to_numpy(dtype=np.float64)


def read_source(source: SeriesSource, use: Callable[[SeriesFile], None], report: Report) -> None:
    """Open each table of a source and hand it to `use`, whose mistakes count as the table's.

    Raises:
        UserError: The first mistake, unless the source is lenient.
    """
    for number, (label, opened) in enumerate(source.tables):
        said = len(report.notes)
        try:
            use(_open(source, label, opened, report))
        except UserError as error:
            if not source.lenient:
                raise
            report.unreadable.append(Unreadable(label, str(error)))
        if number:
            del report.notes[said:]  # thousands of like files say the same: once is enough


def tables_of(source: Tables, *, name: str | None = None) -> Iterator[tuple[str, Table | Path]]:
    """Yield `(label, table or path)` for each table of a source; a folder is walked in the order of names."""
    if not isinstance(source, (str, Path)):
        frames = frames_of(source)
        if isinstance(frames, pd.DataFrame):
            yield name or "series", open_table(frames)
            return
        for label, frame in frames.items():
            yield label, open_table(frame, name=f"DataFrame '{label}'")
        return
    path = Path(source)
    if not path.is_dir():
        if path.exists() and not path.name.lower().endswith(SUFFIXES):
            raise UserError(
                f"'{path.name}' is none of the kinds of file that can be read: {', '.join(SUFFIXES)}"
            )
        yield bare_name(path), path
        return
    try:
        files = [p for p in sorted(path.rglob("*")) if p.name.lower().endswith(SUFFIXES) and p.is_file()]
    except OSError as error:
        raise UserError(f"the folder '{path}' cannot be listed ({error.strerror})") from error
    files = [p for p in files if not p.name.startswith((".", "_"))]
    if not files:
        raise UserError(f"the folder '{path}' holds no {', '.join(SUFFIXES[:2])} or .parquet file")
    for file in files:
        yield (file.parent.relative_to(path) / bare_name(file)).as_posix(), file


def frames_of(source: Any) -> pd.DataFrame | dict[str, pd.DataFrame | str | Path]:
    """Return what Python users hand over as a frame, or as several frames or files by their labels.

    Frames and series of pandas and of any library that converts to it, arrays `(T,)` or `(T, C)`, lists of
    numbers or of records and mappings of columns make one; mappings and lists of frames make several.

    Raises:
        UserError: For anything else.
    """
    if isinstance(source, pd.DataFrame):
        return source
    if isinstance(source, pd.Series):
        return source.to_frame(source.name if source.name is not None else "value")
    reason = ""
    try:
        for method in ("to_pandas", "to_dataframe", "compute", "collect"):
            if hasattr(source, method):
                return frames_of(getattr(source, method)())
        if isinstance(source, Mapping) and source:
            if not any(isinstance(value, (pd.DataFrame, str, Path)) for value in source.values()):
                return pd.DataFrame(dict(source))
            return {str(label): _frame_of(value) for label, value in source.items()}
        first = source[0] if isinstance(source, (list, tuple)) and source else 0
        if isinstance(first, Mapping) and all(map(pd.api.types.is_scalar, first.values())):
            return pd.DataFrame(source)
        if isinstance(first, str) or not pd.api.types.is_scalar(first):
            return {f"series{number}": _frame_of(value) for number, value in enumerate(source)}
        values = np.ma.asarray(source)
        if values.ndim in (1, 2) and values.size and values.dtype.kind in "biufO":
            names = ["value"] if values.ndim == 1 else [f"value{n}" for n in range(values.shape[1])]
            values = values.astype(np.float64).filled(np.nan)
            return pd.DataFrame(values.reshape(len(values), -1), columns=names)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = f" ({str(error).splitlines()[0][:90]})"
    raise UserError(
        "series are read from a file, a folder, a DataFrame, a Series, an array (T,) or (T, C), a mapping of "
        f"columns, or a list of these; this {type(source).__name__} is none{reason}; make it a DataFrame"
    )


def _frame_of(source: Any) -> pd.DataFrame | str | Path:
    frame = source if isinstance(source, (str, Path)) else frames_of(source)
    if isinstance(frame, dict):
        raise UserError("a list or mapping of series holds another one; give each series as a DataFrame")
    return frame


def read_rows(*files: str | Path | Table) -> pd.DataFrame:
    """Return the M4 layout (one series a row: id, values, empty cells to the right) as a long frame.

    Later files continue the series of the first one, row by row.

    Returns:
        A frame with columns `id` and `value`.
    """
    series: dict[str, list[np.ndarray]] = {}
    order: list[str] | None = None
    for file in files:
        table = file if isinstance(file, Table) else open_table(file)
        names = list(table.kinds)
        labels = [str(v) for v in table.words(names[0])]
        values = np.stack([table.numbers(n) for n in names[1:]], axis=1)
        order = order or labels
        if len(labels) != len(order):
            raise UserError(f"{table.name} has {len(labels)} series, but the first file has {len(order)}")
        for label, row in zip(order, values, strict=True):
            last = np.flatnonzero(~np.isnan(row))
            series.setdefault(label, []).append(row[: last[-1] + 1] if len(last) else row[:0])
    long = {label: np.concatenate(pieces) for label, pieces in series.items()}
    return pd.DataFrame(
        {
            "id": np.repeat(list(long), [len(v) for v in long.values()]),
            "value": np.concatenate(list(long.values())),
        }
    )


def _open(source: SeriesSource, label: str, opened: Table | Path, report: Report) -> SeriesFile:
    """Return an opened table; what of it cannot be used, and what was decided, goes to the report.

    A series is called as its id columns say (with `prefix` after the table's label), else as the label.
    With a series a row (M4's header V1, V2, …) the table becomes long.

    Raises:
        UserError: For mistakes of the whole table, or if it holds a single series that cannot be read.
    """
    table = opened if isinstance(opened, Table) else open_table(opened)
    names = list(table.kinds)
    if (
        len(names) > 2
        and table.kinds[names[0]] == "text"
        and names == [f"V{i + 1}" for i in range(len(names))]
    ):
        table = open_table(read_rows(table), name=table.name)
        table.notes.append(f"{table.name} holds one series a row, named in its first column")
    dates = [name for name in names if is_date(name)]
    if len(dates) > 2 and not source.roles.channels:
        table = _from_dated_columns(table, dates, source.roles.ids)
    kinds = dict(table.kinds)
    for column, kind in kinds.items():
        free = kind in ("number", "counter") and column not in source.roles.channels + source.roles.ids
        if free and source.stamps:
            kinds[column] = kind_of_numbers(table, column) or kind
    roles, notes = infer_roles(kinds, source.roles, source=table.name, distinct=table.distinct)
    frequency = source.frequency or table.frequency
    frequency = rates.canonical(frequency) if frequency else None
    stamps = None
    if roles.time and source.stamps:
        stamps = read_stamps(table, roles, style=_style(source, table, roles))
    elif source.stamps:
        notes.append(f"{table.name} has no column of time stamps; rows are taken as equally spaced")
    groups, ids = series_rows(table, roles)
    static = {name: table.words(name) for name in roles.static_categorical}
    parts: list[Part] = []
    bad: list[Unreadable] = []
    for identity, rows in zip(ids, groups, strict=True):
        name = f"{label}/{identity}" if source.prefix and identity else identity or label
        try:
            part = _part(table, name, rows, stamps, frequency)
        except UserError as error:
            bad.append(Unreadable(name, str(error)))
            if len(ids) == 1:
                raise
            continue
        words = {n: _constant(table, c, part.rows, n, name) for n, c in static.items()}
        parts.append(replace(part, static=words))
    if not parts:
        raise UserError(
            f"none of the {len(bad)} series of {table.name} can be used; the first: {bad[0].reason}"
        )
    report.unreadable.extend(bad)
    if not source.quiet:
        report.notes += [*table.notes, *notes, *(note for part in parts[:3] for note in part.notes)]
    return SeriesFile(table.name, roles, parts, table, stamps.style if stamps else "")


def _from_dated_columns(table: Table, dates: list[str], ids: Sequence[str]) -> Table:
    """Return a table of one series a row, whose columns are called by their dates, in the long layout."""
    rest = [name for name in table.kinds if name not in dates]
    ids = ids or [name for name in rest if table.kinds[name] not in ("number", "counter", "empty")]
    frame = pd.DataFrame(
        {name: table.words(name) for name in ids} | {name: table.cells(name) for name in dates}
    )
    long = open_table(frame.melt(list(ids), var_name="time", value_name="value"), name=table.name)
    left = [name for name in rest if name not in ids]
    long.notes = [*table.notes, f"{table.name} holds one series a row; its columns are called by their dates"]
    long.notes += [f"{table.name}: columns {', '.join(map(repr, left))} are left out"] * bool(left)
    return long


def _style(source: SeriesSource, table: Table, roles: Roles) -> str:
    """Return how the tables of a source write their time, "" where each tells it by itself.

    A folder's dates have one order of day and month: the one that any of its files proves.
    """
    if source.styles:
        return source.styles[0]
    style = style_of(table, roles, proof=True)
    if not style and (style := style_of(table, roles)):
        others = source.tables[1:] if isinstance(source.tables, list) else []
        style = next((proof for _, other in others if (proof := _proof(source, other))), style)
    source.styles.extend([style] if style else [])
    return style


def _proof(source: SeriesSource, opened: Table | Path) -> str:
    try:
        table = opened if isinstance(opened, Table) else open_table(opened)
        roles, _ = infer_roles(table.kinds, source.roles, source=table.name)
        return style_of(table, roles, proof=True)
    except UserError:
        return ""


def series_rows(table: Table, roles: Roles) -> tuple[list[np.ndarray | slice], list[str]]:
    """Return the rows of each series in the file's order, and the series' ids ("" if there is one only).

    Raises:
        UserError: For the first row without an id.
    """
    if not roles.ids:
        return [slice(0, table.rows)], [""]
    labels: list[pd.Series] = []
    for name in roles.ids:
        column = table.words(name)
        missing = np.flatnonzero(column.isna().to_numpy())
        if len(missing):
            raise UserError(f"{table.where(int(missing[0]))} has no '{name}', so its series is not known")
        labels.append(column)
    joined = labels[0]
    for more in labels[1:]:
        joined = joined.str.cat(more, sep="/")
    numbers, names = pd.factorize(joined)
    if len(labels) > 1 and (merged := _merged(labels, joined)):
        raise UserError(f"two series of {table.name} are called '{merged}'; write their ids without '/'")
    order = np.argsort(numbers, kind="stable")
    ends = np.cumsum(np.bincount(numbers, minlength=len(names)))
    groups: list[np.ndarray | slice] = []
    for first, end in zip([0, *ends[:-1]], ends, strict=True):
        rows = order[first:end]
        contiguous = rows[-1] - rows[0] == len(rows) - 1
        groups.append(slice(int(rows[0]), int(rows[-1]) + 1) if contiguous else rows)
    return groups, [str(name) for name in names]


def _merged(labels: Sequence[pd.Series], joined: pd.Series) -> str:
    """Return a joined name that several combinations of ids give, empty where there is none."""
    apart = pd.concat([*labels, joined], axis=1, ignore_index=True).drop_duplicates()
    names = apart.iloc[:, -1]
    return next(iter(names[names.duplicated()]), "")


def _part(
    table: Table,
    identity: str,
    rows: np.ndarray | slice,
    written: Stamps | None,
    frequency: str | None,
) -> Part:
    count = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
    if written is None:
        return Part(identity, rows, None, count, None, frequency or "", {}, [], None)
    notes: list[str] = []
    stamps = written.times[rows]
    least, again = rates.smallest_step(stamps.asi8)
    if least < 0:
        order = np.argsort(stamps.asi8, kind="stable")
        rows = np.arange(table.rows)[rows][order]
        stamps = stamps[order]
        least, again = rates.smallest_step(stamps.asi8)
        notes.append(
            f"{table.name}: the rows of '{identity}' were not in the order of time and have been sorted"
        )
    if least == 0:
        lines = np.arange(table.rows)[rows]
        hint = "" if identity in table.kinds else "; of several series, name the column in --data.ids"
        raise UserError(
            f"the time stamp {stamps[again]} of series '{identity}' stands twice: "
            f"{table.where(int(lines[again]))} and {table.where(int(lines[again + 1]))}{hint}"
        )
    written = written.of(rows)
    grid_rate = frequency or rates.infer(stamps)
    if written.zone and not (grid_rate and 0 < rates.hours_in(grid_rate) < 24):
        local = written.on_clock()  # days and months are those of the zone's own clock
        if rate := frequency or rates.infer(local.times):
            written, stamps, grid_rate = local, local.times, rate
    grid_rate = rates.anchored(frequency, stamps) if frequency else grid_rate
    if grid_rate is None:
        if count < 3:
            return Part(identity, rows, None, count, stamps, "", {}, notes, None)
        steps = [_words(ticks, stamps) for ticks in (least, np.diff(stamps.asi8).max())]
        raise UserError(
            f"the time stamps of series '{identity}' in {table.name} fit no regular frequency (steps from "
            f"{' to '.join(steps)}); resample it, or give --data.frequency"
        )
    try:
        grid, positions, length = rates.StampGrid.of(stamps, grid_rate)
    except ValueError as error:
        line = int(np.arange(table.rows)[rows][error.args[0]])
        raise UserError(
            f"the time stamp {stamps[error.args[0]]} in {table.where(line)} does not lie on the grid of "
            f"frequency '{grid_rate}' that begins at {stamps[0]}"
        ) from error
    if length > 20 * count + 1000:
        raise UserError(
            f"series '{identity}' in {table.name} has {count} of {length} stamps at frequency '{grid_rate}'; "
            "state a coarser --data.frequency"
        )
    if positions is not None:
        notes.append(
            f"{table.name}: {length - count} stamps missing in '{identity}' at frequency '{grid_rate}' "
            "are gaps"
        )
        stamps = grid.stamps(0, length)
    rate = "" if written.nameless else grid_rate
    clock = Clock(grid, replace(written, times=stamps[:0], offsets=None))
    return Part(identity, rows, positions, length, stamps, rate, {}, notes, clock)


def _constant(table: Table, column: pd.Series, rows: np.ndarray | slice, name: str, identity: str) -> str:
    words = column.iloc[rows].dropna().unique()
    if len(words) > 1:
        raise UserError(
            f"static_categorical '{name}' changes within series '{identity}' of {table.name} ('{words[0]}', "
            f"'{words[1]}'); name it in categorical instead"
        )
    return str(words[0]) if len(words) else ""


def _words(ticks: int, stamps: pd.DatetimeIndex) -> str:
    return str(pd.Timedelta(int(ticks), unit=stamps.unit)).replace("0 days ", "")
