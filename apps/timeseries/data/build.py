"""From tables to the scaled tensor that windows are gathered from, one column in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from apps.timeseries.batch import SeriesFacts
from apps.timeseries.data import frequency as rates
from apps.timeseries.data.pieces import pieces
from apps.timeseries.data.readers.columns import Roles
from apps.timeseries.data.readers.future import KnownFuture
from apps.timeseries.data.readers.series import (
    Part,
    Report,
    SeriesFile,
    SeriesSource,
    Unreadable,
    read_source,
)
from apps.timeseries.data.scaling import ChannelScaler, fit_recent, fit_scaler, ruling_row, without_outliers
from apps.timeseries.data.settings import SeriesSettings, Split
from apps.timeseries.data.store import SeriesSet, SeriesStore, Track
from core.data.checks import one_of
from core.errors import UserError

__all__ = ["Layout", "SplitSource", "build", "downsample"]

HOW = ("average", "decimate")


@dataclass(frozen=True)
class SplitSource:
    """Tables that are read and split alike.

    Attributes:
        name: The card, `embedded:name` or path.
        tables: How they are read.
        split: The parts of each series.
        licence: Of the data, "" if not known.
    """

    name: str
    tables: SeriesSource
    split: Callable[[Part], Split]
    licence: str = ""


@dataclass(frozen=True)
class Layout:
    """How series lie in the store, for training and for prediction alike.

    Attributes:
        context: Rows the network sees.
        horizon: Rows it forecasts.
        windows: How series become windows; of a forecast with `univariate` only the targets are read.
        ahead: For forecasts: rows kept free after each series' end for its known future, and a whole context
            of padding before its beginning; labels are then no known future.
        future: A file or frame of known future.
        trained: Facts of a checkpoint: scalers of series that it knows, and whose values they fit, are used
            instead of their own, words of categories and, for a forecast, the number of channels must be its
            own.
        by_context: Scale a history without training rows by its last `context` rows, for a network that
            scales each window anyway: what lies before cannot drown them.
    """

    context: int
    horizon: int
    windows: SeriesSettings
    ahead: int = 0
    future: str | Path | pd.DataFrame | None = None
    trained: SeriesFacts | None = None
    by_context: bool = False

    @property
    def statistics(self) -> Mapping[str, Mapping[str, ChannelScaler]]:
        """Scalers of known series."""
        return self.trained.series if self.trained else {}

    @property
    def categories(self) -> Mapping[str, Sequence[str]]:
        """Words of categorical columns that a network was trained on."""
        return self.trained.categories if self.trained and not self.windows.univariate else {}


def build(sources: Sequence[SplitSource], layout: Layout) -> SeriesSet:
    """Read, split and scale all sources.

    Raises:
        UserError: If nothing can be read, or the series do not have the same channels.
    """
    return _Builder(layout).run(sources)


def downsample(values: np.ndarray, factor: int, how: str = "average") -> np.ndarray:
    """Return one channel at a resolution coarser by `factor`, `(T // factor,)`; the oldest odd rows drop.

    Coarser copies of a series train too (diverse-resolution sampling; TTM, arXiv 2401.03955, section 3.1).

    Args:
        values: `(T,)` float64, NaN where nothing was measured.
        factor: Rows that become one, at least 2.
        how: `"average"` takes the mean of what was measured in a block, `"decimate"` its last value.
    """
    if factor < 2:
        raise UserError(
            f"resolutions holds {factor}; each must be a whole number of at least 2 (rows made one)"
        )
    one_of(HOW, room="data.windows", resolution_how=how)
    blocks = values[len(values) % factor :].reshape(-1, factor)
    if how == "decimate":
        return blocks[:, -1].copy()
    observed = ~np.isnan(blocks)
    count = observed.sum(axis=1)
    total = np.where(observed, blocks, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(blocks), np.nan), where=count > 0)


@dataclass
class _Copy:
    """A series, or a coarser copy of it, on its way into the store."""

    part: Part
    split: Split
    id: str
    factor: int
    frequency: str
    pad: int
    rows: int
    future: dict[str, np.ndarray] | None = None
    scalers: list[ChannelScaler] = field(default_factory=list)


class _Builder:
    def __init__(self, layout: Layout) -> None:
        self.layout, self.univariate = layout, layout.windows.univariate
        self.report = Report()
        self.pieces: list[np.ndarray] = []
        self.tracks: list[Track] = []
        self.lengths: list[int] = []
        self.pads: list[int] = []
        self.static: list[dict[str, str]] = []
        self.roles: Roles | None = None
        self.future: KnownFuture | None = None
        self.missing = layout.ahead > 0
        self.users = False  # whether the table that is read is the user's own
        self.names: set[str] = set()
        self.categories: dict[str, list[str]] = {n: list(words) for n, words in layout.categories.items()}

    def run(self, sources: Sequence[SplitSource]) -> SeriesSet:
        if self.univariate and self.layout.future is not None:
            self.report.notes.append("the network takes each channel by itself: known_future is not used")
        for number, source in enumerate(sources):
            read_source(source.tables, lambda file, n=number, s=source: self._add(n, s, file), self.report)
        if not self.tracks or self.roles is None:
            raise self.report.refuse()
        values = self.pieces[0] if len(self.pieces) == 1 else np.concatenate(self.pieces)
        self.pieces.clear()
        lengths = np.array(self.lengths, dtype=np.int64)
        store = SeriesStore(
            values=torch.from_numpy(values),
            offsets=np.concatenate([[0], np.cumsum(lengths + self.layout.ahead)[:-1]]).astype(np.int64),
            lengths=lengths,
            pads=np.array(self.pads, dtype=np.int64),
            tokens=np.array([rates.token(track.frequency) for track in self.tracks], dtype=np.int64),
            categories=self._static_codes(self.roles),
            known=self._known(self.roles, values.shape[1]),
            missing=self.missing,
        )
        words = {name: tuple(words) for name, words in self.categories.items()}
        return SeriesSet(store, self.tracks, self.roles, words, self.report)

    def _known(self, roles: Roles, channels: int) -> torch.Tensor:
        """Return the channels whose future may be shown: of a forecast no labels."""
        if self.layout.ahead:
            known = torch.zeros(channels, dtype=torch.bool)
            known[[] if self.univariate else list(roles.exogenous)] = True
            return known
        hidden = () if self.univariate else roles.conditional + roles.categorical
        return torch.tensor([name not in hidden for name in roles.channels] if hidden else [True] * channels)

    def _add(self, number: int, source: SplitSource, file: SeriesFile) -> None:
        self.users = not source.tables.quiet
        layout, roles = self.layout, file.roles
        names = roles.channels
        expected = layout.trained.channels if layout.trained and layout.ahead else ()
        if self.univariate and layout.ahead:
            names = roles.targets
        elif self.univariate:
            names = roles.targets + roles.observable + roles.control + roles.conditional
        elif self.roles is not None and self.roles.channels != names:
            raise UserError(
                f"the series of {file.name} have the channels {', '.join(names)}, but those before "
                f"{', '.join(self.roles.channels)}; set --data.windows.univariate true to take each by itself"
            )
        if expected and not self.univariate and len(names) != len(expected):
            reason = (
                f"has {len(names)} channels, the network was trained on {len(expected)}"
                f" ({', '.join(expected[:8])})"
            )
            left_out = [Unreadable(part.id, f"series '{part.id}' {reason}") for part in file.parts]
            self.report.unreadable.extend(left_out)
            return
        self.roles = self.roles or roles
        if layout.future is not None and self.future is None and not self.univariate:
            self.future = KnownFuture(layout.future, roles, file.style)
            self.report.notes += self.future.notes
        file = file.readable(names, self.report)
        series = [copies for part in file.parts if (copies := self._copies(part, source, file.name))]
        if not series:
            return
        lengths = [copy.pad + copy.rows + layout.ahead for copies in series for copy in copies]
        # univariate: a channel after the other, so that a window of one channel is contiguous
        shape = (len(names), sum(lengths)) if self.univariate else (sum(lengths), len(names))
        block = np.full(shape, np.nan, dtype=np.float32)
        for channel, name in enumerate(names):
            values = block[channel] if self.univariate else block[:, channel]
            self._fill(values, file, name, series)
        self.pieces.append(block.reshape(-1, 1) if self.univariate else block)
        for place, channel in enumerate(names if self.univariate else (None,)):
            for copy in (copy for copies in series for copy in copies):
                self._register(number, roles, copy, place, channel)

    def _copies(self, part: Part, source: SplitSource, table: str) -> list[_Copy]:
        """Return a series and its coarser copies, or nothing (and say why) if it has no window at all."""
        layout, need = self.layout, self.layout.context + self.layout.horizon
        split = source.split(part)
        if not layout.ahead and not layout.windows.pad_short and part.length < need:
            reason = (
                f"series '{part.id}' of {table} has {part.length} rows, fewer than context + horizon = "
                f"{layout.context} + {layout.horizon}; shorten them or set --data.windows.pad_short true"
            )
            self.report.unreadable.append(Unreadable(part.id, reason))
            return []
        name = self._name(part.id, source)
        copies = []
        for factor in (1, *(layout.windows.resolutions or ())):
            trained = (split.train[1] - split.train[0]) // factor
            if factor > 1 and trained < need:
                continue  # too short once coarser
            rate = part.frequency if factor == 1 else rates.coarser(part.frequency, factor)
            identity = name if factor == 1 else f"{name}@{rate or factor}"
            rows = part.length if factor == 1 else trained
            copies.append(_Copy(part, split, identity, factor, rate, self._pad(split, trained, rows), rows))
        if self.future is not None:
            try:
                copies[0].future = future = self.future.of(part, layout.ahead)
            except UserError as error:
                self.report.unreadable.append(Unreadable(part.id, str(error)))
                return []
            known = min(np.isfinite(values).sum() for values in future.values())
            if known < layout.ahead:
                self.report.notes.append(
                    f"the known future of '{part.id}' has {known} of {layout.ahead} steps"
                )
        self.names.update(copy.id for copy in copies)
        return copies

    def _pad(self, split: Split, trained: int, length: int) -> int:
        layout, need = self.layout, self.layout.context + self.layout.horizon
        if layout.ahead:
            return layout.context
        if not layout.windows.pad_short:
            return 0
        pad = max(0, need - trained if trained else 0)
        if split.val[1] > split.val[0]:
            pad = max(pad, layout.context - split.val[0])
        if split.test[1] > split.test[0]:
            pad = max(pad, layout.context - split.test[0], need - split.test[1])
        return max(pad, layout.context - length)

    def _fill(self, into: np.ndarray, file: SeriesFile, name: str, series: list[list[_Copy]]) -> None:
        """Fill one channel of a table's block, `(rows,)`, series by series."""
        coded = name in file.roles.categorical
        if coded:
            words = self.categories.setdefault(name, [])
            column = file.codes(name, words, grow=name not in self.layout.categories)
        else:
            column = file.column(name)
        row = 0
        for copies in series:
            values = copies[0].part.fill(column)
            for copy in copies:
                row += copy.pad
                scaler = self._scale(into[row : row + copy.rows], values, copy, name, coded=coded)
                row += copy.rows
                if copy.future is not None and name in copy.future:
                    into[row : row + self.layout.ahead] = scaler.apply(copy.future[name])
                row += self.layout.ahead

    def _scale(
        self, into: np.ndarray, values: np.ndarray, copy: _Copy, name: str, *, coded: bool
    ) -> ChannelScaler:
        layout, (first, end) = self.layout, copy.split.train
        trained = end > first
        if not trained:
            first, end = 0, len(values)
        if copy.factor > 1:
            values = downsample(values[first:end], copy.factor, layout.windows.resolution_how)
            first, end = 0, len(values)
        scaler = ChannelScaler() if coded else self._scaler(values[first:end], copy, name, trained=trained)
        wild = 0
        for first, piece in pieces(values):
            with np.errstate(over="ignore"):
                scaled = scaler.apply(piece)
            beyond = np.abs(scaled) > 1e30
            if beyond.any():  # their squares are no float32
                wild += int(beyond.sum())
                scaled[beyond] = np.nan
            into[first : first + len(piece)] = scaled
        if wild:
            self.report.notes.append(
                f"{wild} values of '{name}' of '{copy.id}' lie 1e30 deviations off or more; taken as gaps"
            )
        copy.scalers.append(scaler)
        self.missing = self.missing or wild > 0 or bool(np.isnan(values).any())
        return scaler

    def _scaler(self, values: np.ndarray, copy: _Copy, name: str, *, trained: bool) -> ChannelScaler:
        layout, kind = self.layout, self.layout.windows.scaler
        if layout.by_context and not trained:
            return fit_recent(values, layout.context)
        stored = layout.statistics.get(copy.id, {}).get(name) if copy.factor == 1 else None
        if stored is not None:
            if kind == "none" or stored.fits(values):
                return stored
            self.report.notes.append(
                f"'{name}' of '{copy.id}' lies far from what training stored under that name, as other data"
                " or another unit do; its statistics are computed anew"
            )
        if layout.ahead and not trained and kind == "standard":
            usual = without_outliers(values)
            return fit_recent(usual, max(1, len(usual)))
        scaler = fit_scaler(values, kind)
        if trained and scaler.scale == 1.0 and kind != "none":
            self._note_constant(values, name, copy.id)
        row = ruling_row(values) if trained and copy.factor == 1 and self.users else None
        if row is not None:
            self.report.notes.append(
                f"a training row of '{copy.id}' holds {values[row]:g} in '{name}', which rules its scale;"
                " leave the cell empty if it is an error"
            )
        return scaler

    def _note_constant(self, train: np.ndarray, name: str, identity: str) -> None:
        observed = train[~np.isnan(train)]
        what = f"channel '{name}' of '{identity}'"
        if not len(observed):
            self.report.notes.append(f"{what} has no value in the training rows; it is not scaled")
        elif observed.min() == observed.max():
            self.report.notes.append(f"{what} is constant in the training rows; its scale is 1")

    def _register(self, number: int, roles: Roles, copy: _Copy, place: int, channel: str | None) -> None:
        part, split = copy.part, copy.split
        if copy.factor > 1:
            split = Split((0, copy.rows), (copy.rows, copy.rows), (copy.rows, copy.rows))
        self.tracks.append(
            Track(
                id=copy.id,
                channel=channel,
                source=number,
                frequency=copy.frequency,
                split=split,
                scalers=tuple(copy.scalers if channel is None else copy.scalers[place : place + 1]),
                roles=roles,
                clock=part.clock if copy.factor == 1 else None,
                factor=copy.factor,
            )
        )
        self.lengths.append(copy.pad + copy.rows)
        self.pads.append(copy.pad)
        self.static.append(part.static)
        self.missing = self.missing or copy.pad > 0

    def _name(self, identity: str, source: SplitSource) -> str:
        name, number = identity, 1
        while name in self.names:  # two sources may hold a series of the same name
            number += 1
            name = f"{Path(source.name).name}/{identity}" if number == 2 else f"{identity}#{number}"
        return name

    def _static_codes(self, roles: Roles) -> torch.Tensor | None:
        names = roles.static_categorical
        if not names or self.univariate:
            return None
        for name in names:
            if name not in self.layout.categories:
                self.categories[name] = sorted({words.get(name, "") for words in self.static})
        for track, words in zip(self.tracks, self.static, strict=True):
            for name in names:
                if words.get(name, "") not in self.categories[name]:
                    raise UserError(
                        f"series '{track.id}' has '{words.get(name)}' in '{name}',"
                        f" which training never saw ({', '.join(self.categories[name][:8])})"
                    )
        codes = [[self.categories[n].index(words.get(n, "")) for n in names] for words in self.static]
        return torch.tensor(codes, dtype=torch.int64)
