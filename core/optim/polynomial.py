"""A falling power of what is left of the run, the schedule of many segmentation recipes."""

from __future__ import annotations

from dataclasses import dataclass

from core.errors import UserError
from core.optim.durations import check_between, check_duration, steps_of
from core.optim.schedules import Schedule

__all__ = ["Polynomial"]


@dataclass(frozen=True)
class Polynomial(Schedule):
    """`(1 - step / total) ** power`, during the warm-up times a factor that rises from `start` to 1.

    Without warm-up it is `torch.optim.lr_scheduler.PolynomialLR`; with it, mmsegmentation's `poly` policy,
    whose warm-up scales the falling rate.

    Args:
        power: 1 is a straight line.
        warmup: Length of the warm-up.
        start: Factor of the first update where there is a warm-up, 0 to 1.
    """

    power: float = 1.0
    warmup: int | float = 0
    start: float = 0.0

    def __post_init__(self) -> None:
        if self.power <= 0:
            raise UserError(f"Polynomial: power is {self.power}; it must be above 0")
        check_duration(self, "warmup")
        check_between(self, "start", 0.0, 1.0)

    def factor(self, step: int, total: float) -> float:
        """Return the rate of update `step` relative to the peak."""
        fallen = (1 - min(step / steps_of(1.0, total), 1.0)) ** self.power
        length = steps_of(self.warmup, total)
        return fallen * (1 - (1 - step / length) * (1 - self.start) if step < length else 1.0)
