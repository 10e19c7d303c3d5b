"""From tables to the scaled tensor that windows are gathered from, one column in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from apps.timeseries.data import frequency as rates
from apps.timeseries.data import scaling
from apps.timeseries.data.readers.roles import Roles
from apps.timeseries.data.readers.series import Part, Unreadable, as_columns, codes, fill_channel, plan
from apps.timeseries.data.readers.tables import Table
from apps.timeseries.data.resolutions import downsample
from apps.timeseries.data.splits import Split, split_rows
from apps.timeseries.data.windows import SeriesStore
from core.errors import UserError

__all__ = ["Built", "Draft", "Source", "Track", "build"]


@dataclass(frozen=True)
class Source:
    """Tables that are read and split alike.

    Attributes:
        name: The card, `embedded:name` or path.
        tables: Label and table (or path) of each.
        roles: Stated roles.
        borders: Where the parts end (`apps.timeseries.data.splits.split_rows`).
        frequency: Stated sampling rate, or None to infer it.
        stamps: Whether time stamps are read.
        licence: Of the data, "" if not known.
        quiet: Do not say which roles were inferred: the table is not the user's.
        lenient: List a table that cannot be used (one of a folder's) instead of raising its error.
        folder: The tables are a folder's files, whose names go before their series' ids.
        tested: Every row belongs to the test.
    """

    name: str
    tables: Iterator[tuple[str, Table | Path]]
    roles: Roles
    borders: str | Sequence[int | str]
    frequency: str | None
    stamps: bool
    licence: str
    quiet: bool = False
    lenient: bool = False
    folder: bool = False
    tested: bool = False


@dataclass(frozen=True)
class Track:
    """One row of the series table.

    Attributes:
        id: Name of the series.
        channel: The channel's name where every channel is a series of its own, else None.
        source: Place of its source in `Series.sources`.
        frequency: Alias, or empty.
        split: Rows of train, validation and test.
        start: Stamp of its first row, or None.
        factor: Rows of the original that one row stands for (diverse-resolution sampling).
        place: Place of its (first) channel in its series' statistics.
    """

    id: str
    channel: str | None
    source: int
    frequency: str
    split: Split
    start: pd.Timestamp | None
    factor: int = 1
    place: int = 0


@dataclass
class Built:
    """Everything a data module needs of its tables."""

    store: SeriesStore
    tracks: list[Track]
    roles: Roles
    facts: dict[str, dict[str, Any]]
    categories: dict[str, list[str]]
    unreadable: list[Unreadable]
    notes: list[str]


@dataclass(frozen=True)
class Draft:
    """How a store is built; see `apps.timeseries.data.Series` for each argument."""

    context: int
    horizon: int
    fractions: Sequence[float]
    borders: str | Sequence[int | str] | None
    scaler: str
    univariate: bool
    pad_short: bool
    resolutions: Sequence[int]
    resolution_how: str
    known_statistics: Mapping[str, Mapping[str, Any]]


def build(sources: Sequence[Source], draft: Draft) -> Built:
    """Read, split and scale all sources.

    Raises:
        UserError: If nothing can be read, or the series do not have the same channels.
    """
    return _Builder(draft).run(sources)


class _Builder:
    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.pieces: list[np.ndarray] = []
        self.tracks: list[Track] = []
        self.lengths: list[int] = []
        self.pads: list[int] = []
        self.static: list[dict[str, str]] = []
        self.facts: dict[str, dict[str, Any]] = {}
        self.unreadable: list[Unreadable] = []
        self.notes: list[str] = []
        self.roles: Roles | None = None
        self.missing = False
        self.categories: dict[str, list[str]] = {}

    def run(self, sources: Sequence[Source]) -> Built:
        for number, source in enumerate(sources):
            for place, (label, opened) in enumerate(source.tables):
                before = len(self.notes)
                try:
                    self._add(number, source, label, opened)
                except UserError as error:
                    if not source.lenient:
                        raise
                    self.unreadable.append(Unreadable(label, str(error)))
                if place:
                    del self.notes[before:]  # a folder of like files says the same of each: once is enough
        if not self.tracks:
            if len(self.unreadable) == 1:
                raise UserError(self.unreadable[0].reason)
            first = f"; the first: {self.unreadable[0].reason}" if self.unreadable else ""
            raise UserError(f"none of the {len(self.unreadable)} series can be used{first}")
        assert self.roles is not None
        values = self.pieces[0] if len(self.pieces) == 1 else np.concatenate(self.pieces)
        self.pieces.clear()
        names = () if self.draft.univariate else self.roles.channels
        known = torch.ones(values.shape[1], dtype=torch.bool)
        for channel, name in enumerate(names):
            known[channel] = name not in self.roles.conditional + self.roles.categorical
        lengths = np.array(self.lengths, dtype=np.int64)
        store = SeriesStore(
            values=torch.from_numpy(values),
            offsets=np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64),
            lengths=lengths,
            pads=np.array(self.pads, dtype=np.int64),
            tokens=np.array([rates.token(track.frequency) for track in self.tracks], dtype=np.int64),
            categories=self._static_codes(),
            known=known,
            missing=self.missing,
        )
        return Built(store, self.tracks, self.roles, self.facts, self.categories, self.unreadable, self.notes)

    def _add(self, number: int, source: Source, label: str, opened: Table | Path) -> None:
        table = as_columns(opened)
        roles, parts, bad, notes = plan(
            table,
            source.roles,
            frequency=source.frequency,
            label=label,
            stamps=source.stamps,
            prefix=source.folder,
        )
        self.unreadable.extend(bad)
        self.notes.extend([] if source.quiet else [*table.notes, *notes])
        names = roles.channels
        if self.draft.univariate:
            names = roles.targets + roles.observable + roles.control + roles.conditional
        elif self.roles is not None and self.roles.channels != names:
            raise UserError(
                f"the series of {table.name} have the channels {', '.join(names)}, but those before "
                f"{', '.join(self.roles.channels)}; set univariate to true to train on each channel by itself"
            )
        self.roles = self.roles or roles
        usable = [(part, split) for part in parts if (split := self._split(part, source, table)) is not None]
        if not usable:
            return
        plans = [self._layout(part, split) for part, split in usable]
        total = sum(length for one in plans for _, length, _, _ in one)
        wide = len(names)
        # univariate: a channel after the other, so that a window of one channel is contiguous
        block = np.full((wide, total) if self.draft.univariate else (total, wide), np.nan, dtype=np.float32)
        identities = [self._identity(part.id, source) for part, _ in usable]
        entries: list[list[dict[str, Any]]] = [
            [
                {"channels": list(names), "mean": [], "scale": [], "frequency": f, "season": rates.season(f)}
                for _, _, _, f in one
            ]
            for one in plans
        ]
        for channel, name in enumerate(names):
            if name in roles.categorical:
                column, words = codes(table, name)
                self.categories[name] = words
            else:
                column = table.numbers(name)
            row = 0
            for (part, split), one, identity, found in zip(usable, plans, identities, entries, strict=True):
                raw = fill_channel(column, part)
                for (factor, length, pad, _), entry in zip(one, found, strict=True):
                    into = (
                        block[channel, row : row + length]
                        if self.draft.univariate
                        else block[row : row + length, channel]
                    )
                    self._fill(
                        into[pad:], raw, factor, split, entry, name, identity, name in roles.categorical
                    )
                    row += length
            del column
        self._register(number, block, usable, plans, identities, entries, names)

    def _fill(
        self, into: np.ndarray, raw: np.ndarray, factor: int, split: Split, entry: dict[str, Any], name: str,
        identity: str, coded: bool,
    ) -> None:  # fmt: skip
        first, end = split.train if split.train[1] > split.train[0] else (0, len(raw))
        if factor > 1:
            raw = downsample(raw[first:end], factor, self.draft.resolution_how)
            first, end = 0, len(raw)
        channel = len(entry["mean"])
        given = self.draft.known_statistics.get(identity)
        if given is not None and factor == 1 and channel < len(given["mean"]):
            scaler = scaling.of_channel(given, channel)
        else:
            scaler = scaling.fit(raw[first:end], "none" if coded else self.draft.scaler)
            if scaler["scale"] == 1.0 and not coded and self.draft.scaler != "none":
                self._note_constant(raw[first:end], name, identity)
        entry["mean"].append(scaler["mean"])
        entry["scale"].append(scaler["scale"])
        if self.draft.scaler == "power":
            entry.setdefault("power", []).append(scaler.get("power"))
        for begin in range(0, len(raw), 1 << 18):  # float64 in pieces: no second copy of a long channel
            into[begin : begin + (1 << 18)] = scaling.apply(raw[begin : begin + (1 << 18)], scaler)
        self.missing = self.missing or bool(np.isnan(raw).any())

    def _note_constant(self, train: np.ndarray, name: str, identity: str) -> None:
        observed = train[~np.isnan(train)]
        if not len(observed):
            self.notes.append(
                f"channel '{name}' of '{identity}' has no value in the training rows; it is not scaled"
            )
        elif observed.min() == observed.max():
            self.notes.append(
                f"channel '{name}' of '{identity}' is constant in the training rows; its scale is 1"
            )

    def _register(
        self, number: int, block: np.ndarray, usable: list[tuple[Part, Split]], plans: list,
        identities: list[str], entries: list[list[dict[str, Any]]], names: Sequence[str],
    ) -> None:  # fmt: skip
        for place, channel in enumerate(names if self.draft.univariate else (None,)):
            for (part, split), one, identity, found in zip(usable, plans, identities, entries, strict=True):
                for (factor, length, pad, frequency), entry in zip(one, found, strict=True):
                    rows = (split.train[1] - split.train[0]) // factor
                    own = split if factor == 1 else Split((0, rows), (rows, rows), (rows, rows))
                    name = identity if factor == 1 else f"{identity}@{frequency or factor}"
                    start = None if part.times is None or factor > 1 else part.times[0]
                    self.tracks.append(Track(name, channel, number, frequency, own, start, factor, place))
                    self.lengths.append(length)
                    self.pads.append(pad)
                    self.static.append(part.static)
                    self.facts[name] = entry
                    self.missing = self.missing or pad > 0
        self.pieces.append(block.reshape(-1, 1) if self.draft.univariate else block)

    def _split(self, part: Part, source: Source, table: Table) -> Split | None:
        """Return a series' parts, or None (and say why) if it has no window at all."""
        draft = self.draft
        if source.tested:  # every row but a first context; a series shorter than that keeps one horizon
            first = max(0, min(draft.context, part.length - draft.horizon))
            split = Split((0, 0), (0, 0), (first, part.length))
        else:
            split = split_rows(
                draft.borders if draft.borders not in (None, "auto") else source.borders,
                part.length,
                fractions=draft.fractions,
                horizon=draft.horizon,
                frequency=part.frequency,
                times=part.times,
                where=f"series '{part.id}'",
            )
        if draft.pad_short or part.length >= draft.context + draft.horizon:
            return split
        self.unreadable.append(
            Unreadable(
                part.id,
                f"series '{part.id}' of {table.name} has {part.length} rows, fewer than context + horizon = "
                f"{draft.context} + {draft.horizon}; shorten them or set pad_short",
            )
        )
        return None

    def _layout(self, part: Part, split: Split) -> list[tuple[int, int, int, str]]:
        """Return `(factor, length with padding, padding, frequency)` for a series and its coarser copies."""
        draft = self.draft
        result = []
        for factor in (1, *draft.resolutions):
            trained = (split.train[1] - split.train[0]) // factor
            length = part.length if factor == 1 else trained
            need = draft.context + draft.horizon
            if factor > 1 and trained < need:
                continue  # too short once coarser
            pad = 0
            if draft.pad_short:
                pad = max(0, need - trained if trained else 0)
                if split.val[1] > split.val[0]:
                    pad = max(pad, draft.context - split.val[0])
                if split.test[1] > split.test[0]:
                    pad = max(pad, draft.context - split.test[0], need - split.test[1])
                pad = max(pad, draft.context - length)
            result.append(
                (
                    factor,
                    length + pad,
                    pad,
                    part.frequency if factor == 1 else rates.coarser(part.frequency, factor),
                )
            )
        return result

    def _identity(self, identity: str, source: Source) -> str:
        name, number = identity, 1
        while name in self.facts:  # two sources may hold a series of the same name
            number += 1
            name = f"{Path(source.name).name}/{identity}" if number == 2 else f"{identity}#{number}"
        return name

    def _static_codes(self) -> torch.Tensor | None:
        assert self.roles is not None
        names = self.roles.static_categorical
        if not names or self.draft.univariate:
            return None
        for name in names:
            self.categories[name] = sorted({one.get(name, "") for one in self.static})
        place = {name: {word: i for i, word in enumerate(self.categories[name])} for name in names}
        return torch.tensor(
            [[place[n][one.get(n, "")] for n in names] for one in self.static], dtype=torch.int64
        )
