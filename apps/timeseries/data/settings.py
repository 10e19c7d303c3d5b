"""What a recipe says of its data in groups: which sources train, how rows are split, how windows are cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from apps.timeseries.data.readers.series import Part
from core.data.checks import at_least, one_of
from core.errors import UserError, did_you_mean

__all__ = [
    "BORDERS",
    "SeriesSettings",
    "SourceMix",
    "Split",
    "SplitSettings",
    "few_shot_rows",
    "split_rows",
]

BORDERS = ("auto", "ett", "ett_h", "ett_m", "fractions", "tail", "train", "test")
_MONTH = 30 * 24


@dataclass(frozen=True)
class Split:
    """Rows (end exclusive) whose values may be forecast in each part; a context may reach back before it."""

    train: tuple[int, int]
    val: tuple[int, int]
    test: tuple[int, int]


@dataclass(frozen=True)
class SourceMix:
    """Several cards or paths at once, for pre-training; needs equal channels or `windows.univariate`.

    Attributes:
        sources: Those that train.
        weights: Share of training samples of each source; without them every window counts once.
        samples: Training samples in an epoch with `weights`; else as many as there are windows.
        repeats: Times a source with `weights` may be walked through in the whole run; null for any number.
        test_sources: Those that only the test sees, with all their rows (which scale them); without them the
            test rows of the training sources are tested.
        held_out: Those that must not be among the training sources (nor another view of the same data).
    """

    sources: list[str] = field(default_factory=list)
    weights: list[float] | None = None
    samples: int | None = None
    repeats: float | None = 4.0
    test_sources: list[str] | None = None
    held_out: list[str] | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and len(self.weights) != len(self.sources):
            raise UserError(
                f"data.mix.weights has {len(self.weights)} numbers for {len(self.sources)} sources; "
                "give one each"
            )


@dataclass(frozen=True)
class SplitSettings:
    """Where training, validation and test rows lie.

    Attributes:
        borders: `"auto"` (the card's own, else fractions), `"ett"`, `"fractions"`, `"tail"`, `"train"`,
            `"test"`, or two or three row numbers or dates where training, validation (and test) end.
        fractions: Shares of training, validation and test rows.
        few_shot: Share of the training rows kept.
        few_shot_where: The `"first"` or `"last"` rows, or `"uniform"`: windows drawn from all.
    """

    borders: str | list[int | str] = "auto"
    fractions: list[float] = field(default_factory=lambda: [0.7, 0.1, 0.2])
    few_shot: float = 1.0
    few_shot_where: str = "first"

    def __post_init__(self) -> None:
        one_of(("first", "last", "uniform"), room="data.split", few_shot_where=self.few_shot_where)
        _check_fractions(self.fractions)

    @property
    def drawn(self) -> bool:
        """Whether few-shot windows are drawn from all training rows."""
        return self.few_shot != 1.0 and self.few_shot_where == "uniform"

    def parts(self, part: Part, *, own: str | Sequence[int | str], horizon: int) -> Split:
        """Return the parts of a series; `own` are the borders of its card."""
        return split_rows(
            own if self.borders == "auto" else self.borders,
            part.length,
            fractions=self.fractions,
            horizon=horizon,
            frequency=part.frequency,
            times=part.times if part.frequency else None,
            where=f"series '{part.id}'",
        )

    def kept(self, train: tuple[int, int], *, context: int) -> tuple[int, int]:
        """Return the training rows that windows come from."""
        if self.few_shot == 1.0 or self.drawn:
            return train
        return few_shot_rows(train, share=self.few_shot, context=context, where=self.few_shot_where)


@dataclass(frozen=True)
class SeriesSettings:
    """How series become windows.

    Attributes:
        stride: Step between training windows.
        eval_stride: Step between validation and test windows.
        scaler: `"standard"`, `"minmax"`, `"power"` or `"none"`.
        missing: Gaps in a context: `"mask"` (0, and masked), `"forward_fill"` or `"linear"`.
        pad_short: Pad series that are too short on the left instead of leaving them out.
        univariate: Make every channel a series of its own; batches then have one channel.
        resolutions: Factors by which training series are also down-sampled, as further series.
        resolution_how: `"average"` or `"decimate"`.
    """

    stride: int = 1
    eval_stride: int = 1
    scaler: str = "standard"
    missing: str = "mask"
    pad_short: bool = False
    univariate: bool = False
    resolutions: list[int] | None = None
    resolution_how: str = "average"

    def __post_init__(self) -> None:
        at_least(1, room="data.windows", stride=self.stride, eval_stride=self.eval_stride)
        one_of(("mask", "forward_fill", "linear"), room="data.windows", missing=self.missing)


def split_rows(
    kind: str | Sequence[int | str],
    rows: int,
    *,
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
    horizon: int = 1,
    frequency: str = "",
    times: pd.DatetimeIndex | None = None,
    where: str = "the series",
) -> Split:
    """Return the three parts of a series of `rows` rows.

    Args:
        kind: `"ett_h"`, `"ett_m"` (12, 4 and 4 months of 30 days; the rest unused), `"ett"` (one of the two,
            by the frequency), `"fractions"` (the first and last part rounded down, the middle takes the
            rest), `"tail"` (the last `horizon` rows are the test, as many before them the validation),
            `"train"` (every row trains), `"test"` (every row is tested), or two or three explicit ends, as
            row numbers or dates.
        rows: Length of the series.
        fractions: Shares of train, validation and test for `"fractions"`.
        horizon: Steps forecast, for `"tail"`.
        frequency: The series' frequency, for `"ett"`.
        times: Stamps of the rows, for dates.
        where: What the message calls the series.

    Raises:
        UserError: If the kind is not known or does not fit the series.
    """
    if not isinstance(kind, str):
        return _explicit(kind, rows, times, where)
    if kind not in BORDERS:
        raise UserError(
            f"borders is '{kind}', but must be one of {', '.join(BORDERS)} or two row numbers or dates"
            f"{did_you_mean(kind, BORDERS)}"
        )
    if kind == "ett":
        kind = "ett_m" if frequency == "15min" else "ett_h"
    if kind in ("ett_h", "ett_m"):
        month = _MONTH * (4 if kind == "ett_m" else 1)
        if rows < 20 * month:
            raise UserError(
                f"{where} has {rows} rows, but the borders '{kind}' need {20 * month}; set borders to "
                "'fractions'"
            )
        return Split((0, 12 * month), (12 * month, 16 * month), (16 * month, 20 * month))
    if kind == "tail":
        first, second = max(0, rows - 2 * horizon), max(0, rows - horizon)
        return Split((0, first), (first, second), (second, rows))
    if kind == "train":
        return Split((0, rows), (rows, rows), (rows, rows))
    if kind == "test":
        return Split((0, 0), (0, 0), (0, rows))
    _check_fractions(fractions)
    train, test = int(rows * fractions[0]), int(rows * fractions[2])
    return Split((0, train), (train, rows - test), (rows - test, rows))


def _check_fractions(fractions: Sequence[float]) -> None:
    """Refuse shares of training, validation and test rows that are none.

    Raises:
        UserError: If there are not three, one is negative, or they do not sum to 1.
    """
    if len(fractions) != 3 or any(f < 0 for f in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(
            f"fractions are {list(fractions)}, but must be three shares of at least 0 that sum to 1"
        )


def few_shot_rows(
    train: tuple[int, int], *, share: float, context: int, where: str = "first"
) -> tuple[int, int]:
    """Return the training rows that a few-shot run keeps: `context + int((n - context) * share)` of them."""
    if not 0 < share <= 1:
        raise UserError(f"few_shot is {share}, but must be above 0 and at most 1 (1 keeps every row)")
    first, end = train
    kept = (
        min(end - first, context + int((end - first - context) * share))
        if end - first > context
        else end - first
    )
    return (first, first + kept) if where == "first" else (end - kept, end)


def _explicit(ends: Sequence[int | str], rows: int, times: pd.DatetimeIndex | None, where: str) -> Split:
    if len(ends) not in (2, 3):
        raise UserError(
            f"borders are {list(ends)}, but must be two or three ends: of training, validation and test"
        )
    last = [] if len(ends) == 3 else [rows]
    train, val, test = numbers = [*(_row(end, rows, times, where) for end in ends), *last]
    if not 0 < train <= val <= test <= rows:
        raise UserError(
            f"borders {list(ends)} are the rows {numbers} of {where}, but must rise within its {rows} rows"
        )
    return Split((0, train), (train, val), (val, test))


def _row(end: int | str, rows: int, times: pd.DatetimeIndex | None, where: str) -> int:
    if isinstance(end, int) or (str(end).isdigit() and len(str(end)) != 4):
        return int(end)
    if times is None:
        raise UserError(f"borders name the date '{end}', but {where} has no time stamps; give row numbers")
    try:
        return int(times.searchsorted(pd.Timestamp(end)))
    except ValueError as error:
        raise UserError(f"'{end}' in borders is neither a row number nor a date") from error
