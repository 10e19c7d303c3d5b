"""The learning rate of the multigrid schedule: scaled with the batch, decayed with the stages."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.data.multigrid import Multigrid
from core.optim.durations import check_between, check_duration, check_length, steps_of, warm
from core.optim.schedules import Schedule

__all__ = ["MultigridRate"]


@dataclass(frozen=True)
class MultigridRate(Schedule):
    """The rate of `Multigrid`'s stages; the peak is the baseline's first rate, for its default batch.

    Args:
        grid: The schedule that the data follow too (`core.data.multigrid_set.MultigridShapes`).
        warmup: Length of a linear warm-up.
        start: Factor of the first update where there is a warm-up, 0 to 1.
    """

    grid: Multigrid = field(default_factory=Multigrid)
    warmup: int | float = 0
    start: float = 0.0

    def __post_init__(self) -> None:
        check_duration(self, "warmup")
        check_between(self, "start", 0.0, 1.0)

    def factor(self, step: int, total: float) -> float:
        """Return the rate of update `step` relative to the peak."""
        check_length(self, total)
        return warm(step, steps_of(self.warmup, total), self.start) * self.grid.rate(step, int(total))
