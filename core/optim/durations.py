"""Durations of schedules, their warm-up, and the checks of their fields, which the fields' types name."""

from __future__ import annotations

import math
from dataclasses import fields
from itertools import pairwise
from typing import Any, get_args, get_type_hints

from core.errors import UserError, did_you_mean

__all__ = [
    "Duration",
    "Ends",
    "PositiveShare",
    "Share",
    "check_between",
    "check_fields",
    "check_length",
    "cycle_of",
    "steps_of",
    "warm",
]

Duration = int | float
"""Steps, or a share of the run."""
Ends = tuple[int | float, ...]
"""Durations from the first step, ascending."""
Share = float
"""A number from 0 to 1."""
PositiveShare = float
"""A number above 0 and up to 1."""


def steps_of(duration: Duration, total: float) -> int:
    """Turn a duration into steps: an int as it is, a float as a share of `total`, rounded down."""
    if isinstance(duration, int):
        return duration
    if not math.isfinite(total):
        raise UserError(
            f"the schedule's duration {duration} is a share of the run, which has no length; "
            "set trainer.max_steps or trainer.max_epochs, or give the duration in steps (an integer)"
        )
    return int(duration * total)


def warm(step: int, warmup: int, start: float) -> float:
    """Rise from `start` at step 0 to 1 at step `warmup`, then stay."""
    return 1.0 if step >= warmup else start + (1 - start) * step / warmup


def cycle_of(owner: object, ends: Ends, step: int, total: float) -> tuple[int, int, int]:
    """Return which cycle `step` is in, where it begins and where it ends; past the last end, the last
    cycle.
    """
    limits = [0, *(steps_of(end, total) for end in ends)]
    if any(b < a for a, b in pairwise(limits)):
        name = type(owner).__name__
        raise UserError(f"{name}: ends {ends} are steps {limits[1:]} of {total}; they must ascend")
    cycle = next((i for i, end in enumerate(limits[1:]) if step < end), len(ends) - 1)
    return cycle, limits[cycle], limits[cycle + 1]


def check_fields(schedule: Any) -> None:
    """Refuse values that the types of a dataclass's fields do not allow; ends become a tuple."""
    for field in fields(schedule):
        value, kind = getattr(schedule, field.name), str(field.type)
        if kind == "Duration" or (kind == "Duration | None" and value is not None):
            _check_duration(schedule, field.name)
        elif kind in ("Share", "PositiveShare"):
            check_between(schedule, field.name, 0.0, 1.0, above=kind == "PositiveShare")
        elif kind == "Ends":
            object.__setattr__(schedule, field.name, _checked_ends(schedule, value))
        elif kind.startswith("Literal"):
            choices = get_args(get_type_hints(type(schedule))[field.name])
            if value not in choices:
                raise UserError(
                    f"{type(schedule).__name__}: {field.name} is {value!r}; it must be one of "
                    f"{', '.join(choices)}{did_you_mean(str(value), choices)}"
                )


def check_length(owner: object, total: float) -> None:
    """Refuse a run without a length."""
    if not math.isfinite(total) or total < 0:
        raise UserError(
            f"{type(owner).__name__} needs the run's length and found {total}; "
            "set trainer.max_steps or trainer.max_epochs"
        )


def check_between(owner: object, name: str, low: float, high: float, *, above: bool = False) -> None:
    """Refuse a field outside `low` to `high`; with `above` it may not be `low` itself."""
    value = getattr(owner, name)
    good = (low < value if above else low <= value) and value <= high and math.isfinite(value)
    if not good:
        allowed = f"above {low:g}" if above else f"at least {low:g}"
        raise UserError(
            f"{type(owner).__name__}: {name} is {value}; it must be {allowed}"
            + (f" and at most {high:g}" if math.isfinite(high) else " and finite")
        )


def _check_duration(owner: object, name: str) -> None:
    value = getattr(owner, name)
    where = f"{type(owner).__name__}: {name} is {value!r}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where}; it must be a number of steps (integer) or a share of the run (0.0 to 1.0)")
    if isinstance(value, int) and value < 0:
        raise UserError(f"{where}; a number of steps must be at least 0")
    if isinstance(value, float) and not 0.0 <= value <= 1.0:
        raise UserError(f"{where}; a share of the run must be 0.0 to 1.0 (a number of steps is an integer)")


def _checked_ends(owner: object, ends: Ends) -> Ends:
    """Return a list of ends as a tuple, checked as far as it can be without the run's length."""
    ends = tuple(ends)
    if not ends:
        raise UserError(f"{type(owner).__name__}: ends is empty; give at least one")
    for end in ends:
        positive = not isinstance(end, bool) and isinstance(end, int | float) and end > 0
        if not positive or (isinstance(end, float) and end > 1.0):
            raise UserError(
                f"{type(owner).__name__}: an end is {end!r}; each must be a positive number of steps "
                "(integer) or a share of the run (above 0.0, at most 1.0)"
            )
    return ends
