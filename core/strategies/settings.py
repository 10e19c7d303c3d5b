"""What a recipe or the command line says about processes of one run: `launch:`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from core.errors import UserError, did_you_mean

__all__ = ["PREEMPTION", "Launch"]

PREEMPTION = ("USR1", "TERM")


@dataclass(frozen=True)
class Launch:
    """How long processes wait for each other, and whether a pre-empted SLURM job goes back into the queue.

    Attributes:
        timeout: Seconds after which a process that never comes, hangs or is gone ends the run; None takes the
            strategy's own, which is half an hour.
        requeue: Signals after which a SLURM job is put back into its queue, once its checkpoint is written:
            USR1 (`sbatch --signal=USR1@120`) or TERM, which `scancel` sends too.
    """

    timeout: float | None = None
    requeue: Sequence[str] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if self.timeout is not None and not self.timeout > 0:
            raise UserError(f"launch.timeout is {self.timeout}; it is a number of seconds above 0")
        given = [self.requeue] if isinstance(self.requeue, str) else list(self.requeue)
        names = tuple(str(name).upper().removeprefix("SIG") for name in given)
        for name in names:
            if name not in PREEMPTION:
                raise UserError(
                    f"launch.requeue names the signal {name}; it may hold"
                    f" {' and '.join(PREEMPTION)}{did_you_mean(name, PREEMPTION)}"
                )
        object.__setattr__(self, "requeue", names)
