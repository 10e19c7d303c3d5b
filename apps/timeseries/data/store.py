"""The store: all scaled series of a run, the table that says what they are, and windows gathered from it.

Windows are gathered per batch as views of one tensor and never stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from apps.timeseries.batch import SeriesBatch
from apps.timeseries.data import frequency as rates
from apps.timeseries.data.readers.columns import Roles
from apps.timeseries.data.readers.series import Report
from apps.timeseries.data.readers.stamps import Clock
from apps.timeseries.data.scaling import ChannelScaler
from apps.timeseries.data.settings import Split
from core.data.mixtures import Mixture

__all__ = [
    "History",
    "MixedWindows",
    "SeriesSet",
    "SeriesStore",
    "SeriesWindows",
    "Track",
    "gather",
    "impute",
]


@dataclass(frozen=True)
class SeriesStore:
    """All series of a run, one after the other in one tensor.

    Attributes:
        values: `(T, C)` float32 contiguous, scaled; NaN is missing. Series `i` occupies rows
            `offsets[i]` to `offsets[i] + lengths[i]`, of which the first `pads[i]` are left padding (NaN).
        offsets: `(S,)` int64.
        lengths: `(S,)` int64, padding included.
        pads: `(S,)` int64.
        tokens: `(S,)` int64, resolution tokens.
        categories: `(S, n)` int64 codes of the static categorical columns, or None.
        known: `(C,)` bool, True for channels whose future may be shown: targets (labels), observable and
            control.
        missing: Whether any value is NaN.
    """

    values: Tensor
    offsets: np.ndarray
    lengths: np.ndarray
    pads: np.ndarray
    tokens: np.ndarray
    categories: Tensor | None
    known: Tensor
    missing: bool

    def series(self, index: int) -> Tensor:
        """Return series `index` without its padding, `(T, C)`, a view."""
        first = int(self.offsets[index])
        return self.values[first + int(self.pads[index]) : first + int(self.lengths[index])]

    def rows(self, series: np.ndarray, starts: np.ndarray, length: int) -> Tensor:
        """Return `(B, length, C)` from rows `starts` (without padding) of series on, NaN where missing."""
        first = torch.from_numpy(self.offsets[series] + self.pads[series] + starts)
        return gather(self.values, first, length)

    def batch(
        self,
        series: np.ndarray,
        starts: np.ndarray,
        *,
        context: int,
        horizon: int,
        missing: str = "mask",
        beyond: bool = False,
    ) -> SeriesBatch:
        """Return the windows whose contexts begin at rows `starts` (without padding) of the given series.

        Args:
            series: `(B,)` int64.
            starts: `(B,)` int64; as low as `-pads`.
            context: Rows of the context.
            horizon: Rows of labels.
            missing: How gaps in the context are filled, as for `impute`.
            beyond: Whether the labels lie beyond the series' end and are missing.
        """
        past = self.rows(series, starts, context)
        if beyond:
            future = past.new_full((len(past), horizon, past.shape[2]), torch.nan)
        else:
            future = self.rows(series, starts + context, horizon)
        if self.missing or beyond:
            past = impute(past, missing) if self.missing else past
            past_observed, future_observed = ~torch.isnan(past), ~torch.isnan(future)
            past, future = past.nan_to_num_(nan=0.0), future.nan_to_num_(nan=0.0)
        else:
            past_observed = torch.ones(past.shape, dtype=torch.bool)
            future_observed = torch.ones(future.shape, dtype=torch.bool)
        if not bool(self.known.all()):
            future[..., ~self.known] = 0.0
            future_observed[..., ~self.known] = False
        rows = torch.from_numpy(series.astype(np.int64))
        return SeriesBatch(
            past_values=past,
            past_observed=past_observed,
            future_values=future,
            future_observed=future_observed,
            freq_token=torch.from_numpy(self.tokens[series]),
            static_categories=None if self.categories is None else self.categories[rows],
            series=rows,
            start=torch.from_numpy(np.asarray(starts, dtype=np.int64)),
        )


@dataclass(frozen=True)
class Track:
    """One row of the series table.

    Attributes:
        id: Name of the series.
        channel: The channel's name where every channel is a series of its own, else None.
        source: Number of its source.
        frequency: Alias, or empty.
        split: Rows of train, validation and test.
        scalers: Of its channels.
        roles: Of its table's columns.
        clock: Its stamps, or None.
        factor: Rows of the original that one row stands for (diverse-resolution sampling).
    """

    id: str
    channel: str | None
    source: int
    frequency: str
    split: Split
    scalers: tuple[ChannelScaler, ...]
    roles: Roles
    clock: Clock | None = None
    factor: int = 1

    def stamps(self, first: int, count: int) -> pd.Index | None:
        """Return the stamps of `count` rows from row `first`, as its table writes them, or None."""
        return self.clock.stamps(first, count) if self.clock else None

    def invert(self, values: np.ndarray) -> np.ndarray:
        """Return `(..., C)` scaled values in the data's own units; only the first channels may be given."""
        columns = zip(np.moveaxis(values, -1, 0), self.scalers, strict=False)
        return np.stack([scaler.invert(column) for column, scaler in columns], -1)


@dataclass(frozen=True)
class History:
    """One series with all its targets, which lie in one track or in a track each.

    Attributes:
        store: Holds it.
        numbers: Its tracks.
        tracks: The same, themselves.
        live: Numbers of the targets that can be forecast; None is all.
    """

    store: SeriesStore
    numbers: list[int]
    tracks: list[Track]
    live: tuple[int, ...] | None = None

    @property
    def id(self) -> str:
        """Name of the series."""
        return self.tracks[0].id

    @property
    def targets(self) -> list[str]:
        """Names of the channels that are forecast."""
        names = self.tracks[0].roles.targets
        return list(names) if self.live is None else [names[i] for i in self.live]

    @property
    def width(self) -> int:
        """Number of targets in each track, live or not."""
        return len(self.tracks[0].roles.targets) // len(self.numbers)

    @property
    def season(self) -> int:
        """Rows in a season."""
        return rates.season(self.tracks[0].frequency)

    def __len__(self) -> int:
        return len(self.store.series(self.numbers[0]))

    def scaled(self, first: int = 0, end: int | None = None) -> np.ndarray:
        """Return rows of the targets `(T, targets)` in scaled units, float64, NaN where missing."""
        parts = [self.store.series(number)[first:end, : self.width] for number in self.numbers]
        return self.chosen(torch.cat(parts, 1).double().numpy())

    def chosen(self, values: np.ndarray) -> np.ndarray:
        """Return the live targets of `(..., all targets)`."""
        return values if self.live is None else values[..., list(self.live)]

    def invert(self, values: np.ndarray) -> np.ndarray:
        """Return scaled targets `(..., targets)` in the series' own units."""
        scalers = [scaler for track in self.tracks for scaler in track.scalers[: self.width]]
        scalers = scalers if self.live is None else [scalers[i] for i in self.live]
        return np.stack([scalers[i].invert(values[..., i]) for i in range(values.shape[-1])], -1)


@dataclass(frozen=True)
class SeriesSet:
    """All series of a run: their scaled values, and the table that says what they are.

    Attributes:
        store: The values.
        tracks: What the number `SeriesBatch.series` stands for.
        roles: Of the first table's columns.
        categories: Words of categorical columns.
        report: What was left out, and what was decided for the user.
    """

    store: SeriesStore
    tracks: list[Track]
    roles: Roles
    categories: dict[str, tuple[str, ...]]
    report: Report

    @property
    def statistics(self) -> dict[str, dict[str, ChannelScaler]]:
        """Id of a series to its channels' scalers, by name."""
        found: dict[str, dict[str, ChannelScaler]] = {}
        for track in self.tracks:
            names = [track.channel] if track.channel else track.roles.channels
            found.setdefault(track.id, {}).update(zip(names, track.scalers, strict=True))  # type: ignore[arg-type]
        return found

    def histories(self) -> list[History]:
        """Return the series with all their targets together, in the order of the tables."""
        numbers: dict[str, list[int]] = {}
        for number, track in enumerate(self.tracks):
            numbers.setdefault(track.id, []).append(number)
        return [History(self.store, own, [self.tracks[n] for n in own]) for own in numbers.values()]


def gather(values: Tensor, starts: Tensor, length: int) -> Tensor:
    """Return the windows `values[s : s + length]` for all `starts`, `(B, length, C)`, in one copy.

    `values` is `(T, C)` contiguous. A strided view holds every window; only the wanted ones are copied.
    """
    rows, channels = values.shape
    if length == 0 or rows < length:
        return values.new_empty((len(starts), length, channels))
    view = values.as_strided((rows - length + 1, length * channels), (channels, 1), values.storage_offset())
    return view.index_select(0, starts).view(-1, length, channels)


def impute(values: Tensor, how: str) -> Tensor:
    """Fill NaN along time from within the window alone, so that no later value leaks into a context.

    Args:
        values: `(B, L, C)` with NaN where nothing was measured.
        how: `"mask"` fills nothing, `"forward_fill"` repeats the last value, `"linear"` draws a line between
            the neighbours and repeats the last value after them. What precedes the first value stays NaN.
    """
    if how == "mask":
        return values
    steps = torch.arange(values.shape[1])[None, :, None].expand(values.shape)
    present = ~torch.isnan(values)
    before = torch.where(present, steps, -1).cummax(1).values
    left = values.gather(1, before.clamp_min(0))
    filled = torch.where(before < 0, torch.nan, left)
    if how == "forward_fill":
        return filled
    last = values.shape[1]
    after = torch.where(present, steps, last).flip(1).cummin(1).values.flip(1)
    right = values.gather(1, after.clamp_max(last - 1))
    share = (steps - before) / (after - before).clamp_min(1)
    between = (before >= 0) & (after < last) & ~present
    return torch.where(between, torch.lerp(left, right, share.to(values.dtype)), filled)


class SeriesWindows(Dataset[SeriesBatch]):
    """Every window whose labels lie in given rows of the series of a store.

    Indexed by `(epoch, index)` or by a plain index; a list of them gives the whole batch at once.

    Args:
        store: The series.
        parts: Per series the first row of the first context and the end (exclusive) of the last labels, `(S,
            2)`, counted without padding: the first may be as low as `-pads`. Series without a window have
            `end <= first`.
        context: L, rows of the context.
        horizon: H, rows of labels; where the series ends before them (prediction), labels are missing.
        stride: Step between neighbouring windows.
        missing: How gaps in the context are filled: `"mask"`, `"forward_fill"` or `"linear"`.
        chosen: Sorted numbers of the windows kept (few-shot), or None for all.
        beyond: Allow labels beyond a series' end (prediction).
    """

    def __init__(
        self,
        store: SeriesStore,
        parts: np.ndarray,
        *,
        context: int,
        horizon: int,
        stride: int = 1,
        missing: str = "mask",
        chosen: np.ndarray | None = None,
        beyond: bool = False,
    ) -> None:
        self.store, self.context, self.horizon, self.stride = store, context, horizon, stride
        self.missing, self.beyond = missing, beyond
        parts = np.asarray(parts, dtype=np.int64).reshape(-1, 2)
        self.first = parts[:, 0]
        needed = context + (0 if beyond else horizon)
        room = parts[:, 1] - parts[:, 0] - needed
        self.counts = np.where(room >= 0, room // stride + 1, 0)
        self.ends = np.cumsum(self.counts)
        self.chosen = chosen

    def __len__(self) -> int:
        if self.chosen is not None:
            return len(self.chosen)
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, index: int | tuple[int, int]) -> SeriesBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int | tuple[int, int]]) -> SeriesBatch:
        """Return the windows as one batch; of a pair `(epoch, index)` the epoch says nothing here."""
        series, starts = self.locate(np.array([i[1] if isinstance(i, tuple) else i for i in indices]))
        return self.batch(series, starts)

    def locate(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the series and the first context row of each window number."""
        index = np.where(index < 0, index + len(self), index)
        if len(index) and (index.min() < 0 or index.max() >= len(self)):
            raise IndexError(f"window {index.max()} of {len(self)}")
        if self.chosen is not None:
            index = self.chosen[index]
        series = np.searchsorted(self.ends, index, side="right")
        within = index - (self.ends[series] - self.counts[series])
        return series, self.first[series] + within * self.stride

    def batch(self, series: np.ndarray, starts: np.ndarray) -> SeriesBatch:
        """Return the windows that begin at rows `starts` (without padding) of the given series."""
        return self.store.batch(
            series,
            starts,
            context=self.context,
            horizon=self.horizon,
            missing=self.missing,
            beyond=self.beyond,
        )


class MixedWindows(Mixture):
    """Windows of several sources with given shares, gathered at once because all lie in one store."""

    sources: list[SeriesWindows]  # type: ignore[assignment]

    def __getitems__(self, where: Sequence[tuple[int, int]]) -> SeriesBatch:
        """Return a batch of the mixture's samples."""
        places = np.array([self.locate(epoch, index) for epoch, index in where], dtype=np.int64)
        source, _, sample = places.reshape(-1, 3).T
        series, starts = np.empty_like(source), np.empty_like(source)
        for number in np.unique(source):
            rows = source == number
            series[rows], starts[rows] = self.sources[number].locate(sample[rows])
        return self.sources[0].batch(series, starts)
