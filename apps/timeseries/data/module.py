"""The data module of time series: files, cards, embedded or synthetic series to batches of scaled windows."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import Dataset

from apps.timeseries.batch import SeriesFacts
from apps.timeseries.data.build import Layout, SplitSource, build
from apps.timeseries.data.catalogue import CARDS, borders, check_leaks, locate
from apps.timeseries.data.readers.columns import Roles
from apps.timeseries.data.readers.series import Part, SeriesSource, read_rows
from apps.timeseries.data.readers.tables import SUFFIXES, Table, open_table
from apps.timeseries.data.settings import SeriesSettings, SourceMix, Split, SplitSettings, few_shot_rows
from apps.timeseries.data.store import MixedWindows, SeriesSet, SeriesStore, SeriesWindows, Track
from core.data.checks import at_least
from core.data.module import DataModule
from core.errors import UserError

__all__ = ["Series"]


class Series(DataModule):
    """Windows of one or many series, split in time and scaled per series with the training rows' statistics.

    Exactly one of `path`, `card` and `mix` is given.

    Args:
        path: A `.csv`, `.csv.gz` or `.parquet` file, or a folder of them (each file a series).
        card: A data card (`ett_h1`, `weather`, …), `embedded`, `embedded:co2+nile`, `synthetic:256` (so many
            generated series) or `synthetic:256x2000` (of 2000 rows each; else four times context + horizon).
        root: Folder of the cards' data; else the environment's DFM_DATA, else where `dfm data fetch` puts it.
        mix: Several cards or paths at once.
        context: Rows the network sees.
        horizon: Rows it forecasts.
        time: Column of time stamps, or several that make one: date and time of day (or hour), or year,
            month (quarter, week), day, hour.
        ids: Columns that tell series apart.
        targets: Columns to forecast; without them every other numeric column.
        observable: Covariates known in the future.
        control: Covariates known in the future because the user sets them.
        conditional: Covariates known in the past only.
        categorical: Changing categories.
        static_categorical: Categories of a whole series.
        frequency: Sampling rate as pandas writes it (`h-7B`: 7 hours a business day); inferred if left out.
        split: Training, validation and test rows.
        windows: How windows are cut.
        loading: Batch sizes, workers and seed, as for `core.data.module.DataModule`; the seed also draws
            few-shot windows and synthetic series.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        card: str | None = None,
        root: str | None = None,
        mix: SourceMix | None = None,
        context: int = 512,
        horizon: int = 96,
        time: str | list[str] | None = None,
        ids: str | list[str] | None = None,
        targets: str | list[str] | None = None,
        observable: str | list[str] | None = None,
        control: str | list[str] | None = None,
        conditional: str | list[str] | None = None,
        categorical: str | list[str] | None = None,
        static_categorical: str | list[str] | None = None,
        frequency: str | None = None,
        split: SplitSettings = SplitSettings(),  # noqa: B008
        windows: SeriesSettings = SeriesSettings(),  # noqa: B008
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        sources = {"path": path, "card": card, "mix": mix and mix.sources}
        named = [name for name, value in sources.items() if value]
        if len(named) != 1:
            raise UserError(
                f"data.{' and data.'.join(named)} are given, but only one of path, card and mix may be"
                if named
                else "no data is named; give data.path (a file or folder), data.card or data.mix.sources"
            )
        self.roles = Roles.of(
            time=time, ids=ids, targets=targets, observable=observable, control=control,
            conditional=conditional, categorical=categorical, static_categorical=static_categorical,
        )  # fmt: skip
        at_least(1, context=context, horizon=horizon)
        self.mix = mix if mix and mix.sources else SourceMix([card or str(path)])
        self.path, self.root, self.frequency = path, root, frequency
        self.context, self.horizon, self.split, self.windows = context, horizon, split, windows
        if self.mix.weights is not None and split.drawn:
            raise UserError(
                "data.split.few_shot_where is 'uniform', which does not go with data.mix.weights; use "
                "'first' or 'last'"
            )
        self.test_sources = self.mix.test_sources or []
        check_leaks(self.mix.sources, [*(self.mix.held_out or []), *self.test_sources])
        self._trained: SeriesFacts | None = None
        self._frame: pd.DataFrame | None = None
        self._built: SeriesSet | None = None
        self._facts: SeriesFacts | None = None
        self._counted = False

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, *, name: str = "series", **arguments: Any) -> Series:
        """Return the data module of a DataFrame; it is read in place and not changed.

        Args:
            frame: Long or wide, with a column or an index of time stamps.
            name: Id of the series, where no id column tells several apart.
            **arguments: Those of `Series`, but for `path`, `card` and `mix`.
        """
        data = cls(path=name, **arguments)
        data._frame = frame
        return data

    # --- what tasks ask for ---

    @property
    def facts(self) -> SeriesFacts:
        """What a task must know, enough to predict from a checkpoint alone."""
        self.built  # noqa: B018
        assert self._facts is not None
        return self._facts

    @property
    def built(self) -> SeriesSet:
        """All scaled series, read on first use."""
        if self._built is None:
            self._build()
        assert self._built is not None
        return self._built

    @property
    def tracks(self) -> list[Track]:
        """The series table: what the number `SeriesBatch.series` stands for."""
        return self.built.tracks

    @property
    def store(self) -> SeriesStore:
        """The values of all series."""
        return self.built.store

    @property
    def trained_rows(self) -> list[tuple[int, int]]:
        """Rows of each series that training windows come from, in a few-shot run a part of `split.train`.

        The scaler and the seasonal error of MASE keep the whole training part, as in the benchmark.
        """
        return [self.split.kept(track.split.train, context=self.context) for track in self.tracks]

    def use_statistics(self, facts: SeriesFacts) -> None:
        """Scale series whose id is known with a checkpoint's statistics instead of their own.

        Args:
            facts: Of the checkpoint. To be called before the data is read.
        """
        self._trained, self._built = facts, None

    # --- hooks of the base class ---

    def setup(self, stage: str | None = None) -> None:
        """Read the data once and say what was decided, mended or left out."""
        self.built  # noqa: B018

    def train_set(self) -> Dataset:
        """Return the training windows."""
        rows = self._rows(self.trained_rows, reach=False)
        if self.mix.weights is not None:
            return self._mixture(rows)
        whole = self._cut(rows, stride=self.windows.stride)
        if self.split.drawn:
            few_shot_rows((0, 1), share=self.split.few_shot, context=0)  # checks the share
            drawn = np.random.default_rng(self.seed).permutation(len(whole))
            whole.chosen = np.sort(drawn[: max(1, int(len(whole) * self.split.few_shot))])
        self._refuse_empty(whole, "training")
        return whole

    def val_set(self) -> Dataset | None:
        """Return the validation windows, whose labels begin where training ends; None if there are none."""
        rows = self._rows([t.split.val for t in self.tracks], reach=True)
        windows = self._cut(rows, stride=self.windows.eval_stride)
        return windows if len(windows) else None

    def test_set(self) -> Dataset:
        """Return the test windows."""
        first = len(self.mix.sources) if self.test_sources else 0
        parts = [t.split.test if t.source >= first else (0, 0) for t in self.tracks]
        windows = self._cut(self._rows(parts, reach=True), stride=self.windows.eval_stride)
        self._refuse_empty(windows, "test")
        return windows

    def predict_set(self) -> Dataset:
        """Return the last context of every series; its labels are missing."""
        store = self.store
        ends = store.lengths - store.pads
        keep = np.array([track.factor == 1 for track in self.tracks]) & (store.lengths >= self.context)
        parts = np.stack([ends - self.context, np.where(keep, ends, ends - self.context - 1)], axis=1)
        return self._cut(parts, stride=1, beyond=True)

    # --- helpers ---

    def _rows(self, parts: list[tuple[int, int]], *, reach: bool) -> np.ndarray:
        """Return `(first context row, end of labels)` of each series.

        With `reach`, contexts begin before the part.
        """
        rows = np.array(parts, dtype=np.int64).reshape(-1, 2)
        empty = rows[:, 1] <= rows[:, 0]
        pads = self.store.pads
        first = rows[:, 0] - self.context if reach else rows[:, 0].copy()
        if self.windows.pad_short:
            earliest = np.minimum(first, rows[:, 1] - self.context - self.horizon)
            first = earliest if reach else np.where(pads > 0, earliest, first)
        first = np.maximum(first, -pads)
        return np.stack([first, np.where(empty, first, rows[:, 1])], axis=1)

    def _mixture(self, rows: np.ndarray) -> MixedWindows:
        mix = self.mix
        owner = np.array([track.source for track in self.tracks])
        each = []
        for number, name in enumerate(mix.sources):
            part = rows.copy()
            part[owner != number, 1] = part[owner != number, 0]
            each.append(self._cut(part, stride=self.windows.stride))
            self._refuse_empty(each[-1], f"training ({name})")
        mixture = MixedWindows(
            each, mix.weights or [], seed=self.seed, length=mix.samples, names=mix.sources,
            limit=mix.repeats or 1.0, allow_repeats=mix.repeats is None,
        )  # fmt: skip
        epochs = self.trainer.max_epochs if self.trainer is not None else None
        if epochs and epochs > 0 and not self._counted:
            self._counted = True
            seen = mixture.check(epochs)
            _say([f"{name} is seen {times:.2g} times in {epochs} epochs" for name, times in seen.items()])
        return mixture

    def _cut(self, parts: np.ndarray, *, stride: int, beyond: bool = False) -> SeriesWindows:
        sizes = {"context": self.context, "horizon": self.horizon, "stride": stride}
        return SeriesWindows(self.store, parts, **sizes, missing=self.windows.missing, beyond=beyond)

    def _refuse_empty(self, windows: SeriesWindows, what: str) -> None:
        if len(windows):
            return
        longest = max(int(n) for n in self.store.lengths - self.store.pads)
        raise UserError(
            f"there is no {what} window of context {self.context} and horizon {self.horizon} in "
            f"{', '.join(self.mix.sources[:3])} (longest series: {longest} rows); "
            "shorten --data.context and --data.horizon, or change --data.split"
        )

    def _build(self) -> None:
        windows = self.windows
        layout = Layout(self.context, self.horizon, windows, trained=self._trained)
        sources = [self._source(name) for name in self.mix.sources]
        sources += [self._source(name, tested=True) for name in self.test_sources]
        self._built = built = build(sources, layout)
        rate = built.tracks[0].frequency
        regular = all(track.frequency == rate for track in built.tracks if track.factor == 1)
        self._facts = SeriesFacts(
            sources=tuple(self.mix.sources),
            licences=tuple(sorted({source.licence for source in sources if source.licence})),
            context=self.context,
            horizon=self.horizon,
            roles=built.roles,
            univariate=windows.univariate,
            frequency=rate if regular else "",
            scaler=windows.scaler,
            missing=windows.missing,
            categories=built.categories,
            series=built.statistics,
        )
        report = built.report
        _say([*report.notes, *(f"left out: {one.reason}" for one in report.unreadable)])

    def _source(self, name: str, *, tested: bool = False) -> SplitSource:
        """Return a card, a path, embedded or synthetic series as a source; `tested` has no other part."""
        kind, _, rest = name.partition(":")
        own: str | Sequence[int | str] = "fractions"
        licence = ""
        if kind == "embedded":
            from apps.timeseries.data.readers import embedded

            licence = embedded.LICENCE
            frames = ((one, open_table(embedded.frame(one), name=one)) for one in embedded.resolve(rest))
            tables = SeriesSource(frames, self.roles, self.frequency, quiet=True, lenient=True)
        elif kind == "synthetic":
            tables = SeriesSource(self._synthetic(rest), Roles(targets=("value",)), None, False, True, True)
        elif self._frame is not None:
            tables = SeriesSource.of(self._frame, self.roles, frequency=self.frequency, name=name)
            licence = f"{name}: not stated"
        elif self._is_path(name):
            tables = SeriesSource.of(name, self.roles, frequency=self.frequency)
            licence = f"{Path(name).name}: not stated"
        else:
            card, paths = locate(name, self.root)
            reading, licence, own = CARDS[name], card.licence, borders(card)
            roles = reading.roles if self.roles == Roles() else self.roles
            table = open_table(read_rows(*paths), name=name) if card.layout == "rows" else paths[0]
            rate = self.frequency or card.frequency
            tables = SeriesSource([(name, table)], roles, rate, stamps=reading.stamps, quiet=True)
        split = self._tested if tested else partial(self.split.parts, own=own, horizon=self.horizon)
        return SplitSource(name, tables, split, licence)

    def _is_path(self, name: str) -> bool:
        return name == self.path or "/" in name or name.lower().endswith(SUFFIXES) or Path(name).exists()

    def _tested(self, part: Part) -> Split:
        """Return every row but a first context as test; a series shorter than that keeps one horizon."""
        return Split((0, 0), (0, 0), (max(0, min(self.context, part.length - self.horizon)), part.length))

    def _synthetic(self, size: str) -> Iterator[tuple[str, Table]]:
        from apps.timeseries.simulation import frames

        count, _, length = size.partition("x")
        if not (count or "256").isdigit() or not (length or "1").isdigit():
            raise UserError(f"synthetic:{size} is no size; write synthetic:SERIES or synthetic:SERIESxROWS")
        rows = int(length) if length else 4 * (self.context + self.horizon)
        for label, frame in frames(int(count or 256), seed=self.seed, length=rows):
            yield label, open_table(frame, name=label)


@rank_zero_only
def _say(lines: list[str], limit: int = 12) -> None:
    for line in lines[:limit]:
        print(f"data: {line}", file=sys.stderr)
    if len(lines) > limit:
        print(f"data: and {len(lines) - limit} more notes", file=sys.stderr)
