"""Known future: rows after the end of series, with the covariates whose future is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from apps.timeseries.data.readers.columns import Roles
from apps.timeseries.data.readers.series import Part, series_rows, tables_of
from apps.timeseries.data.readers.stamps import read_stamps
from apps.timeseries.data.readers.tables import Table, open_table
from core.errors import UserError

__all__ = ["KnownFuture"]


class KnownFuture:
    """Rows after the end of series, with the observable and control columns.

    Args:
        source: A file or a frame.
        roles: Of the series' columns.
        style: How the series' table writes its time.

    Raises:
        UserError: If the table has none of the known channels, or lacks the columns of time or id.
    """

    def __init__(self, source: str | Path | pd.DataFrame, roles: Roles, style: str = "") -> None:
        table = next(t if isinstance(t, Table) else open_table(t) for _, t in tables_of(source))
        channels = roles.observable + roles.control
        known = [name for name in channels if name in table.kinds]
        if not known:
            wanted = ", ".join(f"'{n}'" for n in channels) or "none (no observable or control)"
            raise UserError(f"{table.name} has no column of known future values; expected {wanted}")
        missing = [name for name in (*roles.time, *roles.ids) if name not in table.kinds]
        if missing:
            raise UserError(
                f"{table.name} has no column '{missing[0]}', which tells its rows' series or time"
            )
        stated = Roles(time=roles.time, ids=roles.ids, targets=tuple(known))
        groups, ids = series_rows(table, stated)
        self.name, self._times = table.name, None
        if roles.time:
            self._times = read_stamps(table, stated, style=style)
        self._columns = {name: table.numbers(name) for name in known}
        self._rows = {key: np.arange(table.rows)[rows] for key, rows in zip(ids, groups, strict=True)}

    def of(self, series: Part, horizon: int) -> dict[str, np.ndarray] | None:
        """Return the known channels `(horizon,)` after a series' end, NaN where a step has no row.

        Rows are matched by time stamp where the series has stamps, else by order.

        Returns:
            None where no row is the series'.

        Raises:
            UserError: If none of its rows is one of the wanted steps, or two are the same.
        """
        rows = self._rows.get(series.id, self._rows.get(""))
        if rows is None:
            return None
        steps = np.arange(len(rows))
        if self._times is not None and series.clock is not None:
            steps = series.clock.positions(self._times, rows, series.length, horizon)
            if not (steps >= 0).any():
                end = series.clock.stamps(series.length - 1, 1)[0]
                raise UserError(
                    f"{self.name} has no row for the {horizon} steps of series '{series.id}' after {end}"
                )
        inside = (steps >= 0) & (steps < horizon)
        if len(np.unique(steps[inside])) < inside.sum():
            raise UserError(f"{self.name} has two rows for one step of series '{series.id}'; delete one")
        future = {name: np.full(horizon, np.nan) for name in self._columns}
        for name, values in self._columns.items():
            future[name][steps[inside]] = values[rows[inside]]
        return future
