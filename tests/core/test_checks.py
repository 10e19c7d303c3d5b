"""Checks of arguments say which option is wrong, its value and what is allowed."""

from __future__ import annotations

import pytest

from core.data.checks import at_least, one_of
from core.errors import UserError


def test_numbers_that_are_too_small_or_not_numbers_are_refused() -> None:
    at_least(1, context=1, horizon=None)
    with pytest.raises(UserError, match=r"data\.horizon is 0; it must be at least 1"):
        at_least(1, context=4, horizon=0)
    with pytest.raises(UserError, match=r"model\.rate is nan"):
        at_least(0.5, room="model", rate=float("nan"))


def test_a_word_that_is_no_choice_is_refused_with_the_nearest() -> None:
    one_of(("mask", "linear"), missing="mask")
    with pytest.raises(UserError, match=r"data\.missing is 'lineer'.*mask, linear.*did you mean 'linear'"):
        one_of(("mask", "linear"), missing="lineer")
