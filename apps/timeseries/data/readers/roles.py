"""What each column of a table is for: time, ids, targets, known and unknown covariates, categories."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from core.errors import UserError, did_you_mean

__all__ = ["ROLES", "TIME_NAMES", "Roles", "infer_roles"]

TIME_NAMES = ("date", "datetime", "timestamp", "time", "ds", "stamp")
"""Usual names of the column of time stamps, in small letters."""

_ID_NAMES = ("item_id", "unique_id", "series_id", "ts_id", "id", "series")
_COMPOSED = ("year", "month", "day", "hour", "minute", "second")


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
        known = [field.name for field in fields(Roles)]
        for name in roles:
            if name not in known:
                raise UserError(f"'{name}' is no column role{did_you_mean(name, known)}")
        return Roles(
            **{k: (v,) if isinstance(v, str) else tuple(str(x) for x in v or ()) for k, v in roles.items()}
        )


ROLES = tuple(field.name for field in fields(Roles))
"""Names of all roles."""


def infer_roles(kinds: Mapping[str, str], stated: Roles, *, source: str) -> tuple[Roles, list[str]]:
    """Return the complete roles of a table and what was decided for the user.

    Args:
        kinds: Column name to kind: `"number"`, `"time"` (stamps or text that reads as stamps), `"text"`,
            `"counter"` (whole numbers rising by one) or `"empty"`, in the order of the file.
        stated: What the user named.
        source: What messages call the table.

    Raises:
        UserError: For an unknown column, one named twice, a text column that nobody named, or no numeric
            column left.
    """
    _check(kinds, stated, source)
    notes: list[str] = []
    named = {name for field in fields(Roles) for name in getattr(stated, field.name)}
    time = stated.time or _infer_time(kinds, named)
    if time and not stated.time:
        notes.append(f"{source}: time is {', '.join(repr(name) for name in time)}")
    named.update(time)
    ids = stated.ids
    if not ids:
        # only a frame in the long layout: a column with one of the usual names
        ids = tuple(name for name in kinds if name.lower() in _ID_NAMES and name not in named)[:1]
        if ids and kinds[ids[0]] not in ("text", "number"):
            ids = ()
        if ids:
            notes.append(f"{source}: series are told apart by '{ids[0]}'")
    named.update(ids)
    targets = stated.targets
    if not targets:
        rest = [name for name in kinds if name not in named]
        text = [
            name for name in rest if kinds[name] in ("text", "time") and not (time and kinds[name] == "time")
        ]
        if text:
            raise UserError(
                f"column '{text[0]}' of {source} holds text; name it in ids, categorical or "
                "static_categorical, or name the numeric columns in targets"
            )
        counters = [name for name in rest if kinds[name] == "counter" and _is_row_number(name)]
        targets = tuple(
            name for name in rest if kinds[name] in ("number", "counter") and name not in counters
        )
        for name in counters:
            notes.append(f"{source}: '{name}' only counts the rows and is left out")
        empty = [name for name in rest if kinds[name] == "empty"]
        if empty:
            notes.append(f"{source}: {_listed(empty)} empty and left out")
        if not targets:
            raise UserError(
                f"{source} has no numeric column to forecast among its columns {_some(list(kinds))}; "
                "name one in targets"
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
                "time",
            ):
                raise UserError(
                    f"column '{name}' of {source}, named in {field.name}, holds text, not numbers; name "
                    "it in categorical instead"
                )


def _infer_time(kinds: Mapping[str, str], named: set[str]) -> tuple[str, ...]:
    free = {name.lower(): name for name in kinds if name not in named}
    for name in TIME_NAMES:
        if name in free and kinds[free[name]] == "time":
            return (free[name],)
    for name, kind in kinds.items():
        if kind == "time" and name not in named:
            return (name,)
    parts = [free[part] for part in _COMPOSED if part in free and kinds[free[part]] in ("number", "counter")]
    if len(parts) >= 3 and "year" in free:
        return tuple(parts)
    if "year" in free and kinds[free["year"]] in ("number", "counter"):
        return (free["year"], free["month"]) if "month" in free else (free["year"],)
    return ()


def _is_row_number(name: str) -> bool:
    return bool(
        re.fullmatch(
            r"(?i)(unnamed: ?\d+|no\.?|index|row|rownum|nr|#|time|t|step|level_0|__index_level_\d+__|)", name
        )
    )


def _listed(names: Sequence[str]) -> str:
    return f"column {names[0]!r} is" if len(names) == 1 else f"columns {_some(names)} are"


def _some(names: Sequence[str], limit: int = 8) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
