"""A cosine that is cut off at a floor instead of being bent to end there (HLAT, arXiv 2404.10630)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from core.optim.durations import check_between, check_duration, check_length, steps_of
from core.optim.schedules import Schedule

__all__ = ["FlooredCosine"]


@dataclass(frozen=True)
class FlooredCosine(Schedule):
    """Linear warm-up from 0, an optional constant stretch, and half a cosine towards 0 that stops at `floor`.

    The rate flattens before the end: with a floor of 0.1 where 79.5 % of the cosine are done. A run may be
    shorter than the cosine, whose length then has to be given.

    Args:
        warmup: Length of the warm-up.
        plateau: Length of the constant stretch after it; most of the run makes this a warm-up-stable-decay.
        length: Step at which the cosine would reach 0, counted from the first update.
        floor: Smallest factor after the warm-up.
    """

    warmup: int | float = 2000
    plateau: int | float = 0
    length: int | float = 1.0
    floor: float = 0.1

    def __post_init__(self) -> None:
        for name in ("warmup", "plateau", "length"):
            check_duration(self, name)
        check_between(self, "floor", 0.0, 1.0)

    def factor(self, step: int, total: float) -> float:
        """Return the rate of update `step` relative to the peak."""
        if isinstance(self.length, float):
            check_length(self, total)
        warmup, end = steps_of(self.warmup, total), steps_of(self.length, total)
        if step < warmup:
            return step / warmup
        begin = warmup + steps_of(self.plateau, total)
        done = min(max(0.0, (step - begin) / (end - begin)), 1.0) if end > begin else 1.0
        return max(self.floor, (1 + math.cos(math.pi * done)) / 2)
