"""Series of files and frames in their own units, read as the store reads them, for tests of the readers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from apps.timeseries.data.readers.columns import Roles
from apps.timeseries.data.readers.series import Part, Report, SeriesFile, SeriesSource, Tables, read_source


@dataclass(frozen=True)
class SeriesTable(Part):
    """One series in the data's own units, on a regular grid.

    Attributes:
        values: `(T, C)` float64, NaN where nothing was measured; categorical channels hold codes.
        roles: The complete roles of the columns; they give the channels' order.
        categories: Per categorical channel the words that its codes 0, 1, … stand for.
    """

    values: np.ndarray
    roles: Roles
    categories: dict[str, list[str]]

    @property
    def channels(self) -> list[str]:
        """Names in the order target, observable, control, conditional, categorical."""
        return list(self.roles.channels)


@dataclass
class Collection(Report):
    """What a source held: the series, those left out, and what was decided for the user."""

    series: list[SeriesTable] = field(default_factory=list)


def read_series(
    source: Tables, roles: Roles | None = None, *, frequency: str | None = None, name: str | None = None
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
    source: Tables, roles: Roles | None = None, *, frequency: str | None = None, name: str | None = None
) -> Collection:
    """Return every series of a source with a report of those that could not be read.

    A source that holds a single series raises its error instead of reporting it.
    """
    found = Collection()
    tables = SeriesSource.of(source, roles, frequency=frequency, name=name)
    read_source(tables, lambda file: found.series.extend(_tables(file, found)), found)
    if not found.series:
        raise found.refuse()
    return found


def _tables(file: SeriesFile, report: Report) -> list[SeriesTable]:
    channels = list(file.roles.channels)
    file = file.readable(channels, report)
    # each channel contiguous while it is filled
    values = [np.empty((len(channels), part.length)).T for part in file.parts]
    categories: dict[str, list[str]] = {name: [] for name in file.roles.categorical}
    for number, name in enumerate(channels):
        column = file.codes(name, categories[name]) if name in categories else file.column(name)
        for part, table in zip(file.parts, values, strict=True):
            table[:, number] = part.fill(column)
    return [
        SeriesTable(**vars(part), values=table, roles=file.roles, categories=categories)
        for part, table in zip(file.parts, values, strict=True)
    ]
