"""Series from tables: stamps checked and put on a regular grid, every mistake named with its line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from apps.timeseries.data import frequency as rates
from apps.timeseries.data.readers.roles import TIME_NAMES, Roles, infer_roles
from apps.timeseries.data.readers.stamps import numbers_are_stamps, read_stamps
from apps.timeseries.data.readers.tables import SUFFIXES, Table, bare_name, open_table
from core.errors import UserError

__all__ = [
    "Collection",
    "Part",
    "SeriesTable",
    "Unreadable",
    "as_columns",
    "fill_channel",
    "plan",
    "read_collection",
    "read_future",
    "read_rows",
    "read_series",
    "tables_of",
]  # fmt: skip


@dataclass(frozen=True)
class SeriesTable:
    """One series in the data's own units, on a regular grid.

    Attributes:
        id: Name of the series: its id columns joined by `/`, else the file's name.
        times: Stamps of the rows, or None where the table has none.
        values: `(T, C)` float64, NaN where nothing was measured; categorical channels hold codes.
        channels: Names in the order target, observable, control, conditional, categorical.
        frequency: Present pandas alias (`"h"`, `"15min"`); empty if unknown.
        static: Static categorical columns of the series.
        notes: What was decided or mended for the user, one sentence each.
        roles: The complete roles of the columns.
        categories: Per categorical channel the words that its codes 0, 1, … stand for.
    """

    id: str
    times: pd.DatetimeIndex | None
    values: np.ndarray
    channels: list[str]
    frequency: str
    static: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    roles: Roles = field(default_factory=Roles)
    categories: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Unreadable:
    """A series or file that was left out, and why (one sentence)."""

    id: str
    reason: str


@dataclass(frozen=True)
class Collection:
    """What a source held: the series, those left out, and what was decided for the user."""

    series: list[SeriesTable]
    unreadable: list[Unreadable]
    notes: list[str]


@dataclass(frozen=True)
class Part:
    """Where one series lies in a table.

    Attributes:
        id: Name of the series.
        rows: Rows of the table in the order of time; a slice where they are contiguous already.
        positions: Their places on the grid, or None where no stamp is missing.
        length: Rows on the grid.
        times: Stamps of the grid, or None.
        frequency: Alias, or empty.
        static: Static categories.
        notes: What was mended.
    """

    id: str
    rows: np.ndarray | slice
    positions: np.ndarray | None
    length: int
    times: pd.DatetimeIndex | None
    frequency: str
    static: dict[str, str]
    notes: list[str]


def read_series(
    source: str | Path | pd.DataFrame | Sequence[pd.DataFrame],
    roles: Roles | None = None,
    *,
    frequency: str | None = None,
    name: str | None = None,
) -> list[SeriesTable]:
    """Return every series of a file, a folder of files or a DataFrame.

    Args:
        source: `.csv`, `.csv.gz`, `.parquet`, a folder of these (each file a series), or a frame.
        roles: Roles of the columns; those not stated are inferred: the first column that reads as stamps is
            the time, every other numeric column a target.
        frequency: Sampling rate; inferred from the stamps where None.
        name: Id of the single series of a DataFrame.

    Raises:
        UserError: One sentence, if nothing could be read.
    """
    return read_collection(source, roles, frequency=frequency, name=name).series


def read_collection(
    source: str | Path | pd.DataFrame | Sequence[pd.DataFrame],
    roles: Roles | None = None,
    *,
    frequency: str | None = None,
    name: str | None = None,
) -> Collection:
    """Return every series of a source with a report of those that could not be read.

    A source that holds a single series raises its error instead of reporting it.
    """
    series: list[SeriesTable] = []
    unreadable: list[Unreadable] = []
    notes: list[str] = []
    single: UserError | None = None
    tables = 0
    folder = (
        Path(source).is_dir() if isinstance(source, (str, Path)) else not isinstance(source, pd.DataFrame)
    )
    for label, opened in tables_of(source, name=name):
        tables += 1
        try:
            table = as_columns(opened)
            complete, parts, bad, said = plan(
                table, roles or Roles(), frequency=frequency, label=label, prefix=folder
            )
            series.extend(_series(table, complete, parts))
        except UserError as error:
            single = error
            unreadable.append(Unreadable(label, str(error)))
            continue
        unreadable.extend(bad)
        # thousands of like files say the same: once is enough
        notes.extend(note for note in [*table.notes, *said] if tables == 1)
    if not series:
        if single is not None and tables == 1:
            raise single
        reason = unreadable[0].reason if unreadable else "it holds no series"
        if len(unreadable) <= 1:
            raise UserError(reason)
        raise UserError(f"none of the {len(unreadable)} series could be read; the first: {reason}")
    return Collection(series, unreadable, notes)


def tables_of(
    source: str | Path | pd.DataFrame | Sequence[pd.DataFrame], *, name: str | None = None
) -> Iterator[tuple[str, Table | Path]]:
    """Yield `(label, table or path)` for each table of a source; a folder is walked in the order of names."""
    if isinstance(source, pd.DataFrame):
        yield name or "series", open_table(source)
        return
    if not isinstance(source, (str, Path)):
        for number, frame in enumerate(source):
            yield f"{name or 'series'}{number}", open_table(frame, name=f"DataFrame {number}")
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


def as_columns(opened: Table | Path) -> Table:
    """Return a table, opened if need be; one with a series a row (M4's header V1, V2, …) becomes long."""
    table = opened if isinstance(opened, Table) else open_table(opened)
    names = list(table.kinds)
    if len(names) < 3 or table.kinds[names[0]] != "text" or names != [f"V{i + 1}" for i in range(len(names))]:
        return table
    long = open_table(read_rows(table), name=table.name)
    long.notes.append(f"{table.name} holds one series a row, named in its first column")
    return long


def plan(
    table: Table,
    stated: Roles,
    *,
    frequency: str | None = None,
    label: str = "series",
    prefix: bool = False,
    stamps: bool = True,
) -> tuple[Roles, list[Part], list[Unreadable], list[str]]:
    """Return the roles of a table's columns, its series, those left out, and notes for the user.

    A series is called as its id columns say (with `prefix` after the table's label), else as the label.
    Without `stamps` the column of time is found but not read: the rows stand as they are, as benchmarks count
    them.

    Raises:
        UserError: For mistakes of the whole table, or if it holds a single series that cannot be read.
    """
    kinds = dict(table.kinds)
    for column, kind in kinds.items():
        numeric = kind in ("number", "counter") and column.lower() in TIME_NAMES
        if numeric and column not in stated.channels and numbers_are_stamps(table.numbers(column)):
            kinds[column] = "time"
    roles, notes = infer_roles(kinds, stated, source=table.name)
    frequency = frequency or table.frequency
    frequency = rates.canonical(frequency) if frequency else None
    times = read_stamps(table, roles) if roles.time and stamps else None
    if times is None and stamps:
        notes.append(f"{table.name} has no column of time stamps; rows are taken as equally spaced")
    groups, ids = _groups(table, roles)
    static = {name: table.column(name) for name in roles.static_categorical}
    parts: list[Part] = []
    bad: list[Unreadable] = []
    for identity, rows in zip(ids, groups, strict=True):
        found = f"{label}/{identity}" if prefix and identity else identity or label
        try:
            part = _part(table, found, rows, times, frequency)
        except UserError as error:
            bad.append(Unreadable(found, str(error)))
            if len(ids) == 1:
                raise
            continue
        belongs = {n: _constant(table, c, part.rows, n, found) for n, c in static.items()}
        parts.append(replace(part, static=belongs))
    if not parts:
        raise UserError(
            f"none of the {len(bad)} series of {table.name} can be used; the first: {bad[0].reason}"
        )
    notes.extend(note for part in parts[:3] for note in part.notes)
    return roles, parts, bad, notes


def fill_channel(values: np.ndarray, part: Part) -> np.ndarray:
    """Return a channel `(length,)` of one series: in order of time, NaN at missing stamps."""
    own = values[part.rows]
    if part.positions is None:
        return own
    laid = np.full(part.length, np.nan)
    laid[part.positions] = own
    return laid


def codes(table: Table, name: str) -> tuple[np.ndarray, list[str]]:
    """Return a categorical column as codes (float64, NaN where empty) and their words, sorted."""
    column = table.column(name)
    words = sorted({str(w) for w in column.dropna().unique()})
    place = {w: float(i) for i, w in enumerate(words)}
    return column.astype("object").map(lambda w: place.get(str(w), np.nan)).to_numpy(dtype=np.float64), words


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
        labels = [str(v) for v in table.column(names[0])]
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


def read_future(
    source: str | Path | pd.DataFrame, series: Sequence[SeriesTable], *, horizon: int
) -> dict[str, np.ndarray]:
    """Return the known future of the observable and control channels per series id, `(horizon, C)`.

    Rows are matched by time stamp where the series have stamps, else by order. Targets, conditional channels
    and stamps that the table lacks are NaN.

    Raises:
        UserError: If the table has none of the known channels, or no row at the wanted stamps.
    """
    table = next((t if isinstance(t, Table) else open_table(t)) for _, t in tables_of(source))
    roles = series[0].roles
    known = [name for name in roles.observable + roles.control if name in table.kinds]
    if not known:
        wanted = (
            ", ".join(f"'{n}'" for n in roles.observable + roles.control) or "none (no observable or control)"
        )
        raise UserError(f"{table.name} has no column of known future values; expected {wanted}")
    missing = [name for name in (*roles.time, *roles.ids) if name not in table.kinds]
    if missing:
        raise UserError(f"{table.name} has no column '{missing[0]}', which tells its rows' series or time")
    mine = Roles(time=roles.time, ids=roles.ids, targets=tuple(known))
    times = read_stamps(table, mine) if roles.time else None
    groups, ids = _groups(table, mine)
    columns = {name: table.numbers(name) for name in known}
    by_id = dict(zip(ids, groups, strict=True))
    result = {}
    for one in series:
        rows = by_id.get(one.id, by_id.get(""))
        future = np.full((horizon, len(one.channels)), np.nan)
        if rows is not None:
            taken = np.arange(table.rows)[rows]
            places = np.arange(len(taken))
            if times is not None and one.times is not None and one.frequency:
                wanted_times = rates.future_times(one.times[-1], one.frequency, horizon)
                places = wanted_times.as_unit("us").get_indexer(times[taken])
                if not (places >= 0).any():
                    raise UserError(
                        f"{table.name} has no row for the {horizon} steps of series '{one.id}' after "
                        f"{one.times[-1]}"
                    )
            inside = (places >= 0) & (places < horizon)
            for name, values in columns.items():
                future[places[inside], one.channels.index(name)] = values[taken[inside]]
        result[one.id] = future
    return result


def _series(table: Table, roles: Roles, parts: list[Part]) -> list[SeriesTable]:
    channels = list(roles.channels)
    values = [
        np.empty((len(channels), part.length)).T for part in parts
    ]  # each channel contiguous while it is filled
    categories: dict[str, list[str]] = {}
    for number, name in enumerate(channels):
        if name in roles.categorical:
            column, categories[name] = codes(table, name)
        else:
            column = table.numbers(name)
        for part, own in zip(parts, values, strict=True):
            own[:, number] = fill_channel(column, part)
    return [
        SeriesTable(
            id=part.id,
            times=part.times,
            values=own,
            channels=channels,
            frequency=part.frequency,
            static=part.static,
            notes=part.notes,
            roles=roles,
            categories=categories,
        )
        for part, own in zip(parts, values, strict=True)
    ]


def _groups(table: Table, roles: Roles) -> tuple[list[np.ndarray | slice], list[str]]:
    """Return the rows of each series in the file's order, and the series' ids ("" if there is one only)."""
    if not roles.ids:
        return [slice(0, table.rows)], [""]
    labels: list[pd.Series] = []
    for name in roles.ids:
        column = table.column(name)
        missing = np.flatnonzero(column.isna().to_numpy())
        if len(missing):
            raise UserError(f"{table.where(int(missing[0]))} has no '{name}', so its series is not known")
        labels.append(column.astype(str))
    joined = labels[0]
    for more in labels[1:]:
        joined = joined.str.cat(more, sep="/")
    place, names = pd.factorize(joined)
    order = np.argsort(place, kind="stable")
    ends = np.cumsum(np.bincount(place, minlength=len(names)))
    groups: list[np.ndarray | slice] = []
    for first, end in zip([0, *ends[:-1]], ends, strict=True):
        rows = order[first:end]
        contiguous = rows[-1] - rows[0] == len(rows) - 1
        groups.append(slice(int(rows[0]), int(rows[-1]) + 1) if contiguous else rows)
    return groups, [str(name) for name in names]


def _part(
    table: Table,
    identity: str,
    rows: np.ndarray | slice,
    times: pd.DatetimeIndex | None,
    frequency: str | None,
) -> Part:
    count = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
    if times is None:
        return Part(identity, rows, None, count, None, frequency or "", {}, [])
    notes: list[str] = []
    own = times[rows]
    least, again = rates.smallest_step(own.asi8)
    if least < 0:
        order = np.argsort(own.asi8, kind="stable")
        rows = np.arange(table.rows)[rows][order]
        own = own[order]
        least, again = rates.smallest_step(own.asi8)
        notes.append(
            f"{table.name}: the rows of '{identity}' were not in the order of time and have been sorted"
        )
    if least == 0:
        place = np.arange(table.rows)[rows]
        hint = (
            "" if identity in table.kinds else "; if the table holds several series, name their column in ids"
        )
        raise UserError(
            f"the time stamp {own[again]} of series '{identity}' stands twice: "
            f"{table.where(int(place[again]))} and {table.where(int(place[again + 1]))}{hint}"
        )
    found = rates.anchored(frequency, own) if frequency else rates.infer(own)
    if found is None:
        if count < 3:
            return Part(identity, rows, None, count, own, "", {}, notes)
        raise UserError(
            f"the time stamps of series '{identity}' in {table.name} fit no regular frequency (steps from "
            f"{_words(least)} to {_words(np.diff(own.asi8).max())}); resample it, or state frequency"
        )
    try:
        positions, length = rates.grid(own, found)
    except ValueError as error:
        line = int(np.arange(table.rows)[rows][error.args[0]])
        raise UserError(
            f"the time stamp {own[error.args[0]]} in {table.where(line)} does not lie on the grid of "
            f"frequency '{found}' that begins at {own[0]}"
        ) from error
    if length > 20 * count + 1000:
        raise UserError(
            f"series '{identity}' in {table.name} has {count} of {length} stamps at frequency '{found}'; "
            "state a coarser frequency"
        )
    if positions is not None:
        notes.append(
            f"{table.name}: {length - count} stamps missing in '{identity}' at frequency '{found}' are gaps"
        )
        own = _grid_times(own, found, length)
    return Part(identity, rows, positions, length, own, found, {}, notes)


def _grid_times(times: pd.DatetimeIndex, frequency: str, length: int) -> pd.DatetimeIndex:
    rest = rates.future_times(times[0], frequency, length - 1)
    return pd.DatetimeIndex(np.concatenate([times[:1].to_numpy(), rest.to_numpy()])).as_unit("us")


def _constant(table: Table, column: pd.Series, rows: np.ndarray | slice, name: str, identity: str) -> str:
    words = column.iloc[rows].dropna().unique()
    if len(words) > 1:
        raise UserError(
            f"static_categorical '{name}' changes within series '{identity}' of {table.name} ('{words[0]}', "
            f"'{words[1]}'); name it in categorical instead"
        )
    return str(words[0]) if len(words) else ""


def _words(microseconds: int) -> str:
    return str(pd.Timedelta(int(microseconds), unit="us")).replace("0 days ", "")
