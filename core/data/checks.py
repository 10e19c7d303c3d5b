"""Checks of arguments that a recipe gives, each with one sentence that names the option."""

from __future__ import annotations

from collections.abc import Collection

from core.errors import UserError, did_you_mean

__all__ = ["at_least", "one_of"]


def at_least(least: float, *, room: str = "data", **values: float | None) -> None:
    """Refuse an option of `room` below `least`; None is not checked.

    Raises:
        UserError: Naming the option and its value.
    """
    for name, value in values.items():
        if value is not None and not value >= least:
            raise UserError(f"{room}.{name} is {value}; it must be at least {least:g}")


def one_of(choices: Collection[str], *, room: str = "data", **values: str) -> None:
    """Refuse a word that is none of `choices`, with the nearest of them.

    Raises:
        UserError: Naming the option, its value and the choices.
    """
    for name, value in values.items():
        if value not in choices:
            near = did_you_mean(str(value), list(choices))
            raise UserError(f"{room}.{name} is '{value}'; it must be one of {', '.join(choices)}{near}")
