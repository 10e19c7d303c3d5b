"""The data module of time series: files, cards, embedded or synthetic series to batches of scaled windows."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import Dataset

from apps.timeseries.data import frequency as rates
from apps.timeseries.data.catalogue import CARDS, borders, check_leaks, locate
from apps.timeseries.data.readers.roles import Roles
from apps.timeseries.data.readers.series import Unreadable, read_rows, tables_of
from apps.timeseries.data.readers.tables import SUFFIXES, Table, open_table
from apps.timeseries.data.splits import check_fractions, few_shot_rows
from apps.timeseries.data.store import Built, Draft, Source, Track, build
from apps.timeseries.data.windows import MixedWindows, SeriesStore, Windows
from core.data.module import DataModule
from core.errors import UserError, did_you_mean

__all__ = ["Series"]

_MISSING = ("mask", "forward_fill", "linear")
_WHERE = ("first", "last", "uniform")


class Series(DataModule):
    """Windows of one or many series, split in time and scaled per series with the training rows' statistics.

    Exactly one of `path`, `card` and `sources` is given.

    Args:
        path: A `.csv`, `.csv.gz` or `.parquet` file, or a folder of them (each file a series).
        card: A data card (`ett_h1`, `weather`, …), `embedded`, `embedded:co2+nile` or `synthetic`.
        root: Folder of the cards' data; else the environment's DFM_DATA, else where `dfm data fetch` puts it.
        sources: Several cards or paths at once, for pre-training; needs equal channels or `univariate`.
        weights: Share of training samples of each source; without them every window counts once.
        samples: Training samples in an epoch with `weights`; else as many as there are windows.
        repeats: Times a source with `weights` may be walked through in the whole run; null for any number.
        test_sources: Cards or paths that only the test sees, with all their rows (which scale them); without
            them the test rows of the data above are tested.
        held_out: Cards or paths that must not be among the training sources (nor another view of the same
            data).
        context: Rows the network sees.
        horizon: Rows it forecasts.
        time: Column of time stamps, or the columns year, month, day, … that make one.
        ids: Columns that tell series apart.
        targets: Columns to forecast; without them every other numeric column.
        observable: Covariates known in the future.
        control: Covariates known in the future because the user sets them.
        conditional: Covariates known in the past only.
        categorical: Changing categories.
        static_categorical: Categories of a whole series.
        frequency: Sampling rate as pandas writes it; inferred if left out.
        borders: `"auto"` (the card's own, else fractions), `"ett"`, `"fractions"`, `"tail"`, `"train"`,
            `"test"`, or two or three row numbers or dates where training, validation (and test) end.
        fractions: Shares of training, validation and test rows.
        stride: Step between training windows.
        eval_stride: Step between validation and test windows.
        few_shot: Share of the training rows kept.
        few_shot_where: The `"first"` or `"last"` rows, or `"uniform"`: windows drawn from all.
        scaler: `"standard"`, `"minmax"`, `"power"` or `"none"`.
        missing: Gaps in a context: `"mask"` (0, and masked), `"forward_fill"` or `"linear"`.
        resolutions: Factors by which training series are also down-sampled, as further series.
        resolution_how: `"average"` or `"decimate"`.
        pad_short: Pad series that are too short on the left instead of leaving them out.
        univariate: Make every channel a series of its own; batches then have one channel.
        synthetic: Number of series of the card `synthetic`.
        synthetic_length: Rows of each; None takes four times context + horizon.
        batch_size: Windows in a batch.
        eval_batch_size: The same for validation and test.
        num_workers: Loader processes; gathering is so cheap that none is fastest.
        seed: Seed of the order, of uniform few-shot windows and of synthetic series.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        card: str | None = None,
        root: str | None = None,
        sources: list[str] | None = None,
        weights: list[float] | None = None,
        samples: int | None = None,
        repeats: float | None = 4.0,
        test_sources: list[str] | None = None,
        held_out: list[str] | None = None,
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
        borders: str | list[int | str] = "auto",
        fractions: list[float] | None = None,
        stride: int = 1,
        eval_stride: int = 1,
        few_shot: float = 1.0,
        few_shot_where: str = "first",
        scaler: str = "standard",
        missing: str = "mask",
        resolutions: list[int] | None = None,
        resolution_how: str = "average",
        pad_short: bool = False,
        univariate: bool = False,
        synthetic: int = 256,
        synthetic_length: int | None = None,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed
        )
        given = [name for name, value in (("path", path), ("card", card), ("sources", sources)) if value]
        if len(given) != 1:
            raise UserError(
                f"data.{' and data.'.join(given)} are given, but only one of path, card and sources may be"
                if given
                else "no data is named; give data.path (a file or folder), data.card or data.sources"
            )
        self.roles = Roles.of(
            time=time, ids=ids, targets=targets, observable=observable, control=control,
            conditional=conditional, categorical=categorical, static_categorical=static_categorical,
        )  # fmt: skip
        _positive(context=context, horizon=horizon, stride=stride, eval_stride=eval_stride)
        _one_of("missing", missing, _MISSING)
        _one_of("few_shot_where", few_shot_where, _WHERE)
        self.path, self.sources = path, list(sources or [card or str(path)])
        self.weights, self.samples = weights, samples
        if weights is not None and len(weights) != len(self.sources):
            raise UserError(
                f"data.weights has {len(weights)} numbers for {len(self.sources)} sources; give one each"
            )
        if weights is not None and (few_shot != 1.0 and few_shot_where == "uniform"):
            raise UserError(
                "data.few_shot_where is 'uniform', which does not go with data.weights; use 'first' or 'last'"
            )
        self.test_sources = list(test_sources or [])
        self.repeats = repeats
        check_leaks(self.sources, [*(held_out or []), *self.test_sources])
        self.root, self.context, self.horizon, self.frequency = root, context, horizon, frequency
        self.borders, self.fractions = borders, tuple(fractions or (0.7, 0.1, 0.2))
        self.stride, self.eval_stride = stride, eval_stride
        check_fractions(self.fractions)
        self.few_shot, self.few_shot_where = few_shot, few_shot_where
        self.scaler, self.missing = scaler, missing
        self.resolutions, self.resolution_how = tuple(resolutions or ()), resolution_how
        self.pad_short, self.univariate = pad_short, univariate
        self.synthetic, self.synthetic_length = synthetic, synthetic_length or 4 * (context + horizon)
        self.statistics: Mapping[str, Mapping[str, Any]] = {}
        self.skipped: list[Unreadable] = []
        self.notes: list[str] = []
        self._frame: pd.DataFrame | None = None
        self._built: Built | None = None
        self._counted = False
        self._licences: list[str] = []

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, *, name: str = "series", **arguments: Any) -> Series:
        """Return the data module of a DataFrame; it is read in place and not changed.

        Args:
            frame: Long or wide, with a column or an index of time stamps.
            name: Id of the series, where no id column tells several apart.
            **arguments: Those of `Series`, but for `path`, `card` and `sources`.
        """
        made = cls(path=name, **arguments)
        made._frame = frame
        return made

    # --- what tasks, baselines and figures ask for ---

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a task must know, in plain containers, enough to predict from a checkpoint alone."""
        built = self.built
        first = built.tracks[0].frequency
        rate = first if all(t.frequency == first for t in built.tracks if t.factor == 1) else ""
        roles = built.roles
        names = ["value"] if self.univariate else list(roles.channels)
        return {
            "context": self.context,
            "horizon": self.horizon,
            "channels": names,
            "targets": 1 if self.univariate else len(roles.targets),
            "exogenous": [] if self.univariate else list(roles.exogenous),
            "frequency": rate,
            "freq_token": rates.token(rate),
            "season": rates.season(rate),
            "scaler": self.scaler,
            "missing": self.missing,
            "roles": {k: list(v) for k, v in vars(roles).items()},
            "categories": built.categories,
            "series": built.facts,
            "univariate": self.univariate,
            "licences": self._licences,
            "sources": self.sources,
        }

    @property
    def tracks(self) -> list[Track]:
        """The series table: what the number `SeriesBatch.series` stands for."""
        return self.built.tracks

    @property
    def store(self) -> SeriesStore:
        """All scaled series."""
        return self.built.store

    @property
    def built(self) -> Built:
        """The tables, read on first use."""
        if self._built is None:
            self._build()
        assert self._built is not None
        return self._built

    @property
    def trained_rows(self) -> list[tuple[int, int]]:
        """Rows of each series that training windows come from, in a few-shot run a part of `split.train`.

        The scaler and the seasonal error of MASE keep the whole training part, as in the benchmark.
        """
        parts = [track.split.train for track in self.tracks]
        if self.few_shot == 1.0 or self.few_shot_where == "uniform":
            return parts
        return [
            few_shot_rows(part, share=self.few_shot, context=self.context, where=self.few_shot_where)
            for part in parts
        ]

    def use_statistics(self, series: Mapping[str, Mapping[str, Any]]) -> None:
        """Scale series whose id is known with these statistics (a checkpoint's) instead of their own.

        Args:
            series: As `facts["series"]`. To be called before the data is read.
        """
        self.statistics = series
        self._built = None

    # --- hooks of the base class ---

    def setup(self, stage: str | None = None) -> None:
        """Read the data once and say what was decided, mended or left out."""
        self.built  # noqa: B018

    def train_set(self) -> Dataset:
        """Return the training windows."""
        rows = self._rows(self.trained_rows, reach=False)
        if self.weights is not None:
            return self._mixture(rows)
        whole = self._windows(rows, stride=self.stride)
        if self.few_shot != 1.0 and self.few_shot_where == "uniform":
            few_shot_rows((0, 1), share=self.few_shot, context=0)  # checks the share
            drawn = np.random.default_rng(self.seed).permutation(len(whole))
            whole.chosen = np.sort(drawn[: max(1, int(len(whole) * self.few_shot))])
        self._refuse_empty(whole, "training")
        return whole

    def val_set(self) -> Dataset | None:
        """Return the validation windows, whose labels begin where training ends; None if there are none."""
        windows = self._windows(
            self._rows([t.split.val for t in self.built.tracks], reach=True), stride=self.eval_stride
        )
        return windows if len(windows) else None

    def test_set(self) -> Dataset:
        """Return the test windows."""
        first = len(self.sources) if self.test_sources else 0
        parts = [t.split.test if t.source >= first else (0, 0) for t in self.built.tracks]
        windows = self._windows(self._rows(parts, reach=True), stride=self.eval_stride)
        self._refuse_empty(windows, "test")
        return windows

    def predict_set(self) -> Dataset:
        """Return the last context of every series; its labels are missing."""
        store = self.built.store
        ends = store.lengths - store.pads
        keep = np.array([track.factor == 1 for track in self.built.tracks]) & (
            ends + store.pads >= self.context
        )
        parts = np.stack([ends - self.context, np.where(keep, ends, ends - self.context - 1)], axis=1)
        return Windows(
            store, parts, context=self.context, horizon=self.horizon, missing=self.missing, beyond=True
        )

    # --- helpers ---

    def _rows(self, parts: list[tuple[int, int]], *, reach: bool) -> np.ndarray:
        """Return `(first context row, end of labels)` of each series.

        With `reach`, contexts begin before the part.
        """
        rows = np.array(parts, dtype=np.int64).reshape(-1, 2)
        empty = rows[:, 1] <= rows[:, 0]
        pads = self.built.store.pads
        first = rows[:, 0] - self.context if reach else rows[:, 0].copy()
        if self.pad_short and not reach:
            first = np.where(pads > 0, np.minimum(first, rows[:, 1] - self.context - self.horizon), first)
        if self.pad_short and reach:
            first = np.minimum(first, rows[:, 1] - self.context - self.horizon)
        first = np.maximum(first, -pads)
        return np.stack([first, np.where(empty, first, rows[:, 1])], axis=1)

    def _mixture(self, rows: np.ndarray) -> MixedWindows:
        owner = np.array([track.source for track in self.built.tracks])
        each = []
        for number, name in enumerate(self.sources):
            own = rows.copy()
            own[owner != number, 1] = own[owner != number, 0]
            each.append(self._windows(own, stride=self.stride))
            self._refuse_empty(each[-1], f"training ({name})")
        mixture = MixedWindows(
            each, self.weights or [], seed=self.seed, length=self.samples, names=self.sources,
            limit=self.repeats or 1.0, allow_repeats=self.repeats is None,
        )  # fmt: skip
        epochs = self.trainer.max_epochs if self.trainer is not None else None
        if epochs and epochs > 0 and not self._counted:
            self._counted = True
            seen = mixture.check(epochs)
            _say([f"{name} is seen {times:.2g} times in {epochs} epochs" for name, times in seen.items()])
        return mixture

    def _windows(self, parts: np.ndarray, *, stride: int) -> Windows:
        return Windows(
            self.built.store,
            parts,
            context=self.context,
            horizon=self.horizon,
            stride=stride,
            missing=self.missing,
        )

    def _refuse_empty(self, windows: Windows, what: str) -> None:
        if len(windows):
            return
        longest = max(int(n) for n in self.built.store.lengths - self.built.store.pads)
        raise UserError(
            f"there is no {what} window of context {self.context} and horizon {self.horizon} in "
            f"{', '.join(self.sources[:3])} (longest series: {longest} rows); "
            "shorten them, or change borders or few_shot"
        )

    def _build(self) -> None:
        draft = Draft(
            context=self.context, horizon=self.horizon, fractions=self.fractions, borders=self.borders,
            scaler=self.scaler, univariate=self.univariate, pad_short=self.pad_short,
            resolutions=self.resolutions, resolution_how=self.resolution_how,
            known_statistics=self.statistics,
        )  # fmt: skip
        sources = [self._source(name) for name in self.sources]
        sources += [replace(self._source(name), tested=True) for name in self.test_sources]
        self._built = build(sources, draft)
        self.skipped, self.notes = self._built.unreadable, self._built.notes
        self._licences = sorted({source.licence for source in sources if source.licence})
        _say([*self.notes, *(f"left out: {one.reason}" for one in self.skipped)])

    def _source(self, name: str) -> Source:
        kind, _, rest = name.partition(":")
        if kind == "embedded":
            from apps.timeseries.data.readers import embedded

            return Source(
                name,
                self._embedded(rest),
                self.roles,
                "fractions",
                self.frequency,
                True,
                embedded.LICENCE,
                quiet=True,
                lenient=True,
            )
        if kind == "synthetic":
            from apps.timeseries.simulation import frames

            drawn = frames(self.synthetic, seed=self.seed, length=self.synthetic_length)
            made = ((label, open_table(frame, name=label)) for label, frame in drawn)
            return Source(
                name, made, Roles(targets=("value",)), "fractions", None, False, "", quiet=True, lenient=True
            )
        looks_like_path = name == self.path or "/" in name or name.lower().endswith(SUFFIXES)
        if self._frame is not None or looks_like_path or Path(name).exists():
            tables = tables_of(name) if self._frame is None else tables_of(self._frame, name=name)
            folder = self._frame is None and Path(name).is_dir()
            return Source(
                name, tables, self.roles, "fractions", self.frequency, True, "", lenient=folder, folder=folder
            )
        card, paths = locate(name, self.root)
        reading = CARDS[name]
        roles = reading.roles if self.roles == Roles() else self.roles
        opened = open_table(read_rows(*paths), name=name) if card.layout == "rows" else paths[0]
        return Source(
            name, iter([(name, opened)]), roles, borders(card), self.frequency or card.frequency,
            reading.stamps, card.licence, quiet=True,
        )  # fmt: skip

    def _embedded(self, names: str) -> Iterator[tuple[str, Table]]:
        from apps.timeseries.data.readers import embedded

        for name in embedded.resolve(names):
            yield name, open_table(embedded.frame(name), name=name)


def _positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise UserError(f"data.{name} is {value}, but must be at least 1")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(
            f"data.{name} is '{value}', but must be one of {', '.join(choices)}{did_you_mean(value, choices)}"
        )


@rank_zero_only
def _say(lines: list[str], limit: int = 12) -> None:
    for line in lines[:limit]:
        print(f"data: {line}", file=sys.stderr)
    if len(lines) > limit:
        print(f"data: and {len(lines) - limit} more notes", file=sys.stderr)
