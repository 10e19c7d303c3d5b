"""A torch scheduler that follows one of our schedules; its rate is a function of the optimizer step alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from core.errors import UserError
from core.optim.schedules import Schedule

__all__ = ["ScheduleLR"]


class ScheduleLR(LRScheduler):
    """Set each group's rate to its own peak times `schedule.factor(step, total)`, and its momentum where that
    is cycled.

    A group's peak is the `lr` it has when the scheduler is built. Groups that carry `layer` and `layers`
    (`parameter_groups` with a layer-wise decay) are asked by depth.

    Args:
        optimizer: The optimizer whose groups are set.
        schedule: One of `core.optim`'s schedules.
        total: Number of optimizer steps of the run; `inf` where it has no end.

    Raises:
        UserError: If the schedule cycles momentum and the optimizer has neither `momentum` nor `betas`, or if
            a duration cannot be turned into steps.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule, total: float) -> None:
        self.schedule = schedule
        self.total = total
        cycled = schedule.momentum(0, total) is not None
        if cycled and not {"momentum", "betas"} & set(optimizer.defaults):
            raise UserError(
                f"{type(schedule).__name__} cycles the momentum, which {type(optimizer).__name__} "
                "does not have; set the schedule's cycle_momentum to false"
            )
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of every group at the present step, and set the momenta."""
        self._set_momentum()
        pairs = zip(self.optimizer.param_groups, self.base_lrs, strict=True)
        return [self._factor(group) * base for group, base in pairs]

    def state_dict(self) -> dict[str, Any]:
        """Return plain values: the step and the groups' peaks. The schedule itself belongs to the recipe."""
        return {"step": self.last_epoch, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the saved step; rates and momenta follow from it.

        Raises:
            UserError: If the state has another number of groups.
        """
        groups = self.optimizer.param_groups
        if len(state_dict["base_lrs"]) != len(groups):
            raise UserError(
                f"the checkpoint's schedule has {len(state_dict['base_lrs'])} parameter groups "
                f"and this run has {len(groups)}; resume with the recipe that wrote it"
            )
        self.last_epoch = state_dict["step"]
        self._step_count = self.last_epoch + 1
        self.base_lrs = list(state_dict["base_lrs"])
        for group, rate in zip(groups, self.get_lr(), strict=True):
            group["lr"] = rate
        self._last_lr = [group["lr"] for group in groups]

    def _factor(self, group: dict[str, Any]) -> float:
        depth = {name: group[name] for name in ("layer", "layers") if name in group}
        if not depth:
            return self.schedule.factor(self.last_epoch, self.total)
        return self.schedule.layer_factor(self.last_epoch, self.total, **depth)

    def _set_momentum(self) -> None:
        value = self.schedule.momentum(self.last_epoch, self.total)
        for group in self.optimizer.param_groups if value is not None else ():
            if "betas" in group:
                group["betas"] = (value, *group["betas"][1:])
            else:
                group["momentum"] = value
