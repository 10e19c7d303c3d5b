"""Known future: rows after the end of series, with the covariates whose future is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apps.timeseries.data.readers.columns import Roles
from apps.timeseries.data.readers.series import Part, Tables, series_rows, tables_of
from apps.timeseries.data.readers.stamps import Stamps, read_stamps
from apps.timeseries.data.readers.tables import Table, open_table
from core.errors import UserError

__all__ = ["KnownFuture"]


class KnownFuture:
    """Rows after the end of series, with the observable and control columns.

    Args:
        source: A file or a frame; of several, each holds the series of the table of its name.
        roles: Of the series' columns.
        style: How the series' table writes its time.

    Attributes:
        notes: What was decided for the user.

    Raises:
        UserError: If a table has none of the known channels, or lacks the columns of time or id.
    """

    def __init__(self, source: Tables, roles: Roles, style: str = "") -> None:
        self.notes: list[str] = []
        self._tables: dict[str, tuple[_Rows, np.ndarray]] = {}
        tables = list(tables_of(source))
        for label, opened in tables:
            table = opened if isinstance(opened, Table) else open_table(opened)
            known = _known(table, roles, self.notes)
            stated = Roles(time=roles.time, ids=roles.ids, targets=tuple(known))
            groups, ids = series_rows(table, stated)
            times = read_stamps(table, stated, style=style) if roles.time else None
            read = _Rows(table, times, {name: table.cells(name) for name in known})
            for identity, rows in zip(ids, groups, strict=True):
                words = [label] * (len(tables) > 1) + [identity] * bool(identity)
                self._tables["/".join(words)] = read, np.arange(table.rows)[rows]

    def of(self, series: Part, horizon: int) -> dict[str, np.ndarray]:
        """Return the known channels `(horizon,)` after a series' end, NaN where a step has no row.

        Rows are matched by time stamp where the series has stamps, else by order.

        Raises:
            UserError: If no row is the series' or one of the wanted steps, two are the same, or a cell of
                theirs is no number.
        """
        read, rows = self._tables.get(series.id) or self._tables.get("") or (None, None)
        if read is None or rows is None:
            others = ", ".join(f"'{name}'" for name in list(self._tables)[:4])
            raise UserError(
                f"the known future has no row of series '{series.id}', written so; it has rows of {others}"
            )
        name, steps = read.table.name, np.arange(len(rows))
        if read.times is not None and series.clock is not None:
            steps = series.clock.positions(read.times, rows, series.length, horizon)
            if not (steps >= 0).any():
                end = series.clock.stamps(series.length - 1, 1)[0]
                raise UserError(
                    f"{name} has no row for the {horizon} steps of series '{series.id}' after {end}"
                )
        inside = (steps >= 0) & (steps < horizon)
        if len(np.unique(steps[inside])) < inside.sum():
            raise UserError(f"{name} has two rows for one step of series '{series.id}'; delete one")
        future = {channel: np.full(horizon, np.nan) for channel in read.columns}
        for channel, values in read.columns.items():
            future[channel][steps[inside]] = values[rows[inside]]
            if len(bad := rows[inside][np.isinf(values[rows[inside]])]):
                raise UserError(read.table.refusal(channel, int(bad[0])))
        return future


@dataclass(frozen=True)
class _Rows:
    """A table of known future: its stamps and the cells of its known channels."""

    table: Table
    times: Stamps | None
    columns: dict[str, np.ndarray]


def _known(table: Table, roles: Roles, notes: list[str]) -> list[str]:
    """Return the known channels that a table holds; those it lacks become a note."""
    channels = roles.observable + roles.control
    known = [name for name in channels if name in table.kinds]
    if not known:
        wanted = ", ".join(f"'{n}'" for n in channels) or "none (no observable or control)"
        raise UserError(f"{table.name} has no column of known future values; expected {wanted}")
    if missing := [name for name in (*roles.time, *roles.ids) if name not in table.kinds]:
        raise UserError(f"{table.name} has no column '{missing[0]}', which tells its rows' series or time")
    lacking = ", ".join(f"'{name}'" for name in channels if name not in known)
    notes += [f"{table.name} has no column {lacking}: its future is taken as unknown"] * bool(lacking)
    return known
