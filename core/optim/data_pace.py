"""Rates that follow what the data do: multigrid's stages, and updates counted in what they process."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.data.curriculum import Curriculum, consumed
from core.data.multigrid import Multigrid
from core.optim.durations import Duration, Share, check_length, steps_of, warm
from core.optim.schedules import Schedule

__all__ = ["CountedByTokens", "MultigridRate"]


@dataclass(frozen=True)
class MultigridRate(Schedule):
    """The rate of `Multigrid`'s stages; the peak is the baseline's first rate, for its default batch.

    Args:
        grid: The schedule that the data follow too (`core.data.multigrid_set.MultigridShapes`).
        warmup: Length of a linear warm-up.
        start: Factor of the first update where there is a warm-up, 0 to 1.
    """

    grid: Multigrid = field(default_factory=Multigrid)
    warmup: Duration = 0
    start: Share = 0.0

    def factor(self, step: int, total: float) -> float:
        """Return the rate of update `step` relative to the peak."""
        check_length(self, total)
        return warm(step, steps_of(self.warmup, total), self.start) * self.grid.rate(step, int(total))


@dataclass(frozen=True)
class CountedByTokens(Schedule):
    """Another schedule at the pace of the tokens: where half of all are processed, it stands at its half.

    With short sequences at first, or dropped tokens, a schedule over updates would decay too early (Li et al.
    2022, arXiv 2212.03597). Its durations in steps are then updates of full batches.

    Args:
        schedule: The schedule over tokens.
        pace: The curriculum, or the schedule of dropped tokens, that the run follows too.
    """

    schedule: Schedule
    pace: Curriculum

    def factor(self, step: int, total: float) -> float:
        """Return the rate of update `step` relative to the peak."""
        return self.schedule.factor(*self._counted(step, total))

    def layer_factor(self, step: int, total: float, *, layer: int, layers: int) -> float:
        """Return the factor for parameters of depth `layer` of `layers`."""
        return self.schedule.layer_factor(*self._counted(step, total), layer=layer, layers=layers)

    def momentum(self, step: int, total: float) -> float | None:
        """Return the momentum at `step`, or None."""
        return self.schedule.momentum(*self._counted(step, total))

    def _counted(self, step: int, total: float) -> tuple[int, float]:
        check_length(self, total)
        # The schedules are formulas over real numbers, though updates are whole ones.
        return consumed(self.pace, step), consumed(self.pace, int(total))  # type: ignore[return-value]
