"""A rate that falls by a factor at even distances."""

from __future__ import annotations

from dataclasses import dataclass

from core.errors import UserError
from core.optim.durations import check_between, check_duration, steps_of
from core.optim.schedules import Schedule

__all__ = ["Staircase"]


@dataclass(frozen=True)
class Staircase(Schedule):
    """The peak times `gamma` to the number of `every` that have passed: `torch.optim.lr_scheduler.StepLR`.

    Args:
        every: How long a stair is.
        gamma: Factor from one stair to the next, 0 to 1.
    """

    every: int | float = 0.1
    gamma: float = 0.1

    def __post_init__(self) -> None:
        check_duration(self, "every")
        check_between(self, "gamma", 0.0, 1.0)
        if not self.every:
            raise UserError("Staircase: every is 0; it must be at least one step")

    def factor(self, step: int, total: float) -> float:
        """Return the rate of update `step` relative to the peak."""
        return self.gamma ** (step // max(steps_of(self.every, total), 1))
