"""Learning rates counted in what was processed instead of in updates, for runs that grow while they train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from core.data.curriculum import consumed
from core.optim.durations import check_length
from core.optim.schedules import Schedule

__all__ = ["CountedByTokens", "Pace"]


class Pace(Protocol):
    """How much of a full batch each update processes; curricula and token dropping are such."""

    @property
    def end(self) -> int:
        """A step from which on the share stays the same."""

    def share(self, step: int) -> float:
        """Return the part of a full batch that update `step` processes, above 0 to 1."""


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
    pace: Pace

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
