"""Columns of a table: what each is for (time, ids, targets, covariates, …)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from core.errors import UserError, did_you_mean, listed

__all__ = ["COUNT_NAMES", "DAY_PARTS", "TIME_NAMES", "Roles", "infer_roles"]

TIME_NAMES = ("date", "datetime", "timestamp", "time", "ds", "stamp")
"""Usual names of the column of time stamps, in small letters."""

COUNT_NAMES = ("t", "step", "period", "month", "week", "quarter", "day", "elapsed", "epoch", "seconds")
"""Names of columns that count the time where nothing else tells it."""

_ID_NAMES = ("item_id", "unique_id", "series_id", "ts_id", "id", "series")
_ID_LIKE = (
    r"(?i)(.*[ _-])?(id|code|sku|store|shop|item|product|article|station|sensor|device|meter|machine|"
    r"site|location|region|country|state|city|customer|user|account|symbol|ticker|zone|building)s?"
    r"([ _-]?(id|nr|no))?"
)
DAY_PARTS = ("hour", "minute", "second")
"""Names of columns of numbers that make a time beside one of dates."""

_COMPOSED = ("year", "quarter", "month", "week", "day", *DAY_PARTS)


_TIMES = ("time", "date", "clock")


@dataclass(frozen=True)
class Roles:
    """Names of columns by role; empty means not stated.

    Attributes:
        time: The column of time stamps, or several (`year, month, day, hour`) that make one.
        ids: Columns that tell several series in one table apart.
        targets: What is forecast.
        observable: Covariates whose past and future are known (forecasts of weather, say).
        control: Covariates whose past and future are known because the user sets them.
        conditional: Covariates of which only the past is known.
        categorical: Categories that change in time; coded as whole numbers, past only.
        static_categorical: Categories that belong to a whole series.
    """

    time: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    observable: tuple[str, ...] = ()
    control: tuple[str, ...] = ()
    conditional: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    static_categorical: tuple[str, ...] = ()

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels in their order: target, observable, control, conditional, categorical."""
        return self.targets + self.observable + self.control + self.conditional + self.categorical

    @property
    def exogenous(self) -> tuple[int, ...]:
        """Positions of the channels whose future is known (observable and control)."""
        first = len(self.targets)
        return tuple(range(first, first + len(self.observable) + len(self.control)))

    @staticmethod
    def of(**roles: str | Sequence[str] | None) -> Roles:
        """Return roles from names given singly or as lists; None is an unstated role."""
        names = [field.name for field in fields(Roles)]
        for name in roles:
            if name not in names:
                raise UserError(f"'{name}' is no column role{did_you_mean(name, names)}")
        return Roles(
            **{k: (v,) if isinstance(v, str) else tuple(str(x) for x in v or ()) for k, v in roles.items()}
        )


def infer_roles(
    kinds: Mapping[str, str],
    stated: Roles,
    *,
    source: str,
    distinct: Callable[[Sequence[str]], bool] = lambda _: False,
) -> tuple[Roles, list[str]]:
    """Return the complete roles of a table and what was decided for the user.

    Args:
        kinds: Column name to kind: `"number"`, `"time"` (stamps or text that reads as stamps), `"date"`
            (stamps at midnight), `"clock"` (times of day), `"month"` (names of months), `"text"`,
            `"counter"` (whole numbers rising by one) or `"empty"`, in the order of the file.
        stated: What the user named.
        source: What messages call the table.
        distinct: Whether no two rows agree in some columns; stamps that stand twice ask for ids.

    Raises:
        UserError: For an unknown column, one named twice, or no numeric column left.
    """
    _check(kinds, stated, source)
    notes: list[str] = []
    named = {name for field in fields(Roles) for name in getattr(stated, field.name)}
    time = stated.time or _infer_time(kinds, named)
    if time and not stated.time:
        notes.append(f"{source}: time is {', '.join(repr(name) for name in time)}")
    named.update(time)
    ids, counters = stated.ids, []
    if not ids:
        # a frame in the long layout: a column with one of the usual names
        usual = [name for name in kinds if name.lower() in _ID_NAMES and name not in named]
        usual = [name for name in usual if kinds[name] in ("text", "number", *_TIMES)]
        counters = [name for name in usual if distinct([name])]  # each row has its own: no series
        ids = tuple(name for name in usual if name not in counters)[:1]
        if time and not ids and not distinct(time):
            ids = _infer_ids(kinds, named, lambda names: distinct([*time, *names]))
        elif not time and not ids:
            words = [n for n in kinds if kinds[n] == "text" and n not in named and re.fullmatch(_ID_LIKE, n)]
            ids = tuple(name for name in words if not distinct([name]))[:1]
        if ids:
            notes.append(f"{source}: series are told apart by {_some(ids)}")
    named.update(ids)
    targets = stated.targets
    if not targets:
        rest = [name for name in kinds if name not in named]
        times = [name for name in rest if kinds[name] in _TIMES and time]
        counters = [name for name in rest if name in counters or _is_row_number(name, kinds[name])]
        targets = tuple(
            name for name in rest if kinds[name] in ("number", "counter") and name not in counters
        )
        text = [
            name for name in rest if kinds[name] in ("text", "month") or (kinds[name] in _TIMES and not time)
        ]
        text = [name for name in text if name not in counters]
        if not targets:
            words = f"; column '{text[0]}' of {source} holds text" if text else ""
            raise UserError(
                f"{source} has no numeric column to forecast among its columns {_some(list(kinds))}{words}"
            )
        for name in counters:
            notes.append(f"{source}: '{name}' only counts the rows and is left out")
        if times:
            notes.append(f"{source}: {_listed(times)} left out, for times are not forecast")
        empty = [name for name in rest if kinds[name] == "empty"]
        if empty:
            notes.append(f"{source}: {_listed(empty)} empty and left out")
        if text:
            notes.append(
                f"{source}: {_listed(text)} left out, being no numbers; --data.ids, --data.categorical and "
                "--data.static_categorical name such columns"
            )
        if len(targets) > 1 or stated == Roles():
            notes.append(f"{source}: targets are {_some(list(targets))}")
    return replace(stated, time=tuple(time), ids=tuple(ids), targets=tuple(targets)), notes


def _check(kinds: Mapping[str, str], stated: Roles, source: str) -> None:
    seen: dict[str, str] = {}
    for field in fields(Roles):
        for name in getattr(stated, field.name):
            if name not in kinds:
                raise UserError(
                    f"{source} has no column '{name}' (named in {field.name}); it has {_some(list(kinds))}"
                    f"{did_you_mean(name, kinds)}"
                )
            # a static category may also tell the series apart
            if name in seen and {seen[name], field.name} != {"ids", "static_categorical"}:
                raise UserError(
                    f"column '{name}' of {source} is named both in {seen[name]} and in {field.name}"
                )
            seen[name] = field.name
            if field.name in ("targets", "observable", "control", "conditional") and kinds[name] in (
                "text",
                "month",
                *_TIMES,
            ):
                raise UserError(
                    f"column '{name}' of {source}, named in {field.name}, holds text, not numbers; name "
                    "it in --data.categorical, or mend its cells"
                )


def _infer_time(kinds: Mapping[str, str], named: set[str]) -> tuple[str, ...]:
    free = {name.lower(): name for name in kinds if name not in named}
    stamps = [name for name in free.values() if kinds[name] in ("time", "date")]
    stamps.sort(
        key=lambda name: TIME_NAMES.index(name.lower()) if name.lower() in TIME_NAMES else len(TIME_NAMES)
    )
    parts = ("number", "counter", "month")
    numbers = [part for part in _COMPOSED if part in free and kinds[free[part]] in parts]
    parts = tuple(free[part] for part in numbers)
    if stamps and kinds[stamps[0]] == "date":  # a time of day in another column completes it
        clocks = [name for name in free.values() if kinds[name] == "clock"]
        rest = clocks[:1] or ([free[p] for p in numbers if p in DAY_PARTS] if "hour" in numbers else [])
        return (stamps[0], *rest)
    if stamps:
        return (stamps[0],)
    return parts if "year" in numbers else ()


def _infer_ids(
    kinds: Mapping[str, str], named: set[str], apart: Callable[[Sequence[str]], bool]
) -> tuple[str, ...]:
    """Return the first column of words, else of numbers by its name, else all these that tell rows apart."""
    free = [name for name in kinds if name not in named]
    text = [name for name in free if kinds[name] == "text"]
    coded = [name for name in free if kinds[name] == "number" and re.fullmatch(_ID_LIKE, name)]
    choices = [*((name,) for name in [*text, *coded]), tuple(text), (*text, *coded)]
    return next((names for names in choices if names and apart(names)), ())


def _is_row_number(name: str, kind: str) -> bool:
    if re.fullmatch(r"(?i)unnamed: ?\d+|level_0|__index_level_\d+__", name):  # pandas wrote its index
        return kind in ("counter", "number")
    return kind == "counter" and bool(re.fullmatch(r"(?i)(no\.?|index|row|rownum|nr|#|time|t|step|)", name))


def _listed(names: Sequence[str]) -> str:
    return f"column {names[0]!r} is" if len(names) == 1 else f"columns {_some(names)} are"


def _some(names: Sequence[str], limit: int = 8) -> str:
    return listed([f"'{name}'" for name in names], limit)
