"""Where training, validation and test rows of a series begin and end, as the field's benchmark draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from core.errors import UserError, did_you_mean

__all__ = ["KINDS", "Split", "check_fractions", "few_shot_rows", "split_rows"]

KINDS = ("auto", "ett", "ett_h", "ett_m", "fractions", "tail", "train", "test")
_MONTH = 30 * 24


@dataclass(frozen=True)
class Split:
    """Rows (end exclusive) whose values may be forecast in each part; a context may reach back before it."""

    train: tuple[int, int]
    val: tuple[int, int]
    test: tuple[int, int]


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
    if kind not in KINDS:
        raise UserError(
            f"borders is '{kind}', but must be one of {', '.join(KINDS)} or two row numbers or dates"
            f"{did_you_mean(kind, KINDS)}"
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
    check_fractions(fractions)
    train, test = int(rows * fractions[0]), int(rows * fractions[2])
    return Split((0, train), (train, rows - test), (rows - test, rows))


def check_fractions(fractions: Sequence[float]) -> None:
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
    found = [_row(end, rows, times, where) for end in ends]
    found = [*found, rows] if len(found) == 2 else found
    if not 0 < found[0] <= found[1] <= found[2] <= rows:
        raise UserError(
            f"borders {list(ends)} are the rows {found} of {where}, but must rise within its {rows} rows"
        )
    return Split((0, found[0]), (found[0], found[1]), (found[1], found[2]))


def _row(end: int | str, rows: int, times: pd.DatetimeIndex | None, where: str) -> int:
    if isinstance(end, int) or (str(end).isdigit() and len(str(end)) != 4):
        return int(end)
    if times is None:
        raise UserError(f"borders name the date '{end}', but {where} has no time stamps; give row numbers")
    try:
        return int(times.searchsorted(pd.Timestamp(end)))
    except ValueError as error:
        raise UserError(f"'{end}' in borders is neither a row number nor a date") from error
