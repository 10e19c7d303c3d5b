"""What a scaling curve says: samples and accuracy gained over a baseline (arXiv 2405.19101)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from core.errors import UserError

__all__ = ["Gain", "accuracy_gain", "efficiency_gain"]


@dataclass(frozen=True)
class Gain:
    """A ratio read off a scaling curve; `float(gain)` is its value.

    Its bound is `exact` within the curve; `at_least` or `at_most` where the curve ends before.
    """

    value: float
    bound: Literal["exact", "at_least", "at_most"] = "exact"

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return {"exact": "", "at_least": "≥ ", "at_most": "≤ "}[self.bound] + f"{self.value:.3g}"


def efficiency_gain(sizes: Sequence[float], errors: Sequence[float], samples: float, error: float) -> Gain:
    """Return EG = S / s: S samples of the baseline for every one that the model needs (arXiv 2405.19101).

    `s` is where the model's curve first comes down to the baseline's error, on straight lines between points
    in logarithms of both. If the model is as good with its fewest samples already, `S / fewest` is a lower
    bound; if it is not with its most, `S / most` is an upper one.

    Args:
        sizes: Numbers of training samples of the model's curve, any order.
        errors: Its errors there.
        samples: S, the baseline's number of samples (published: 1024; 4096 for steady problems).
        error: The baseline's error with them.

    Raises:
        UserError: If there is no curve, or a number is not positive and finite.
    """
    if not sizes or len(sizes) != len(errors):
        raise UserError(f"a scaling curve has {len(sizes)} sizes and {len(errors)} errors; it needs pairs")
    for name, value in (*(("size", s) for s in sizes), *(("error", e) for e in errors)):
        _positive(name, value)
    _positive("baseline's number of samples", samples)
    _positive("baseline's error", error)
    curve = sorted(zip(map(float, sizes), map(float, errors), strict=True))
    if curve[0][1] <= error:
        return Gain(samples / curve[0][0], "exact" if curve[0][1] == error else "at_least")
    for (s0, e0), (s1, e1) in pairwise(curve):
        if e1 <= error:
            share = math.log(e0 / error) / math.log(e0 / e1)
            return Gain(samples / (s0 * (s1 / s0) ** share))
    return Gain(samples / curve[-1][0], "at_most")


def accuracy_gain(baseline: float, error: float) -> float:
    """Return AG = the baseline's error over the model's with the same samples (arXiv 2405.19101).

    Published at 128 samples; 512 for steady problems.

    Raises:
        UserError: If an error is not positive and finite.
    """
    _positive("baseline's error", baseline)
    _positive("error", error)
    return baseline / error


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"the {name} is {value}; a gain needs positive, finite numbers")
