"""Durations of schedules, their warm-up, and the checks of their fields."""

from __future__ import annotations

import math
from itertools import pairwise

from core.errors import UserError, did_you_mean

__all__ = [
    "check_between",
    "check_choice",
    "check_duration",
    "check_ends",
    "check_length",
    "cycle_of",
    "steps_of",
    "warm",
]


def steps_of(duration: int | float, total: float) -> int:
    """Turn a duration into steps: an int as it is, a float as a share of `total`, rounded down."""
    if isinstance(duration, int):
        return duration
    if not math.isfinite(total):
        raise UserError(
            f"the schedule's duration {duration} is a share of the run, which has no length; "
            "set trainer.max_steps or trainer.max_epochs, or give the duration in steps (an integer)"
        )
    return int(duration * total)


def cycle_of(owner: object, ends: tuple[int | float, ...], step: int, total: float) -> tuple[int, int, int]:
    """Return which cycle `step` is in, where it begins and where it ends; past the last end, the last
    cycle.
    """
    limits = [0, *(steps_of(end, total) for end in ends)]
    if any(b < a for a, b in pairwise(limits)):
        name = type(owner).__name__
        raise UserError(f"{name}: ends {ends} are steps {limits[1:]} of {total}; they must ascend")
    number = next((i for i, end in enumerate(limits[1:]) if step < end), len(ends) - 1)
    return number, limits[number], limits[number + 1]


def check_duration(owner: object, name: str) -> None:
    """Refuse a field that is neither a number of steps nor a share of the run."""
    value = getattr(owner, name)
    where = f"{type(owner).__name__}: {name} is {value!r}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where}; it must be a number of steps (integer) or a share of the run (0.0 to 1.0)")
    if isinstance(value, int) and value < 0:
        raise UserError(f"{where}; a number of steps must be at least 0")
    if isinstance(value, float) and not 0.0 <= value <= 1.0:
        raise UserError(f"{where}; a share of the run must be 0.0 to 1.0 (a number of steps is an integer)")


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


def check_choice(owner: object, name: str, allowed: tuple[str, ...]) -> None:
    """Refuse a field that is none of `allowed`."""
    value = getattr(owner, name)
    if value not in allowed:
        where = f"{type(owner).__name__}: {name}"
        hint = did_you_mean(str(value), allowed)
        raise UserError(f"{where} is {value!r}; it must be one of {', '.join(allowed)}{hint}")


def check_length(owner: object, total: float) -> None:
    """Refuse a run without a length."""
    if not math.isfinite(total) or total < 0:
        raise UserError(
            f"{type(owner).__name__} needs the run's length and found {total}; "
            "set trainer.max_steps or trainer.max_epochs"
        )


def check_ends(owner: object, ends: tuple[int | float, ...]) -> tuple[int | float, ...]:
    """Check a list of ends as far as it can be checked without the run's length."""
    result = tuple(ends)
    if not result:
        raise UserError(f"{type(owner).__name__}: ends is empty; give at least one")
    for end in result:
        positive = not isinstance(end, bool) and isinstance(end, int | float) and end > 0
        if not positive or (isinstance(end, float) and end > 1.0):
            raise UserError(
                f"{type(owner).__name__}: an end is {end!r}; each must be a positive number of steps "
                "(integer) or a share of the run (above 0.0, at most 1.0)"
            )
    return result


def warm(step: int, warmup: int, start: float) -> float:
    """Rise from `start` at step 0 to 1 at step `warmup`, then stay."""
    return 1.0 if step >= warmup else start + (1 - start) * step / warmup
