"""Low-rank corrections of a linear layer, chosen by the roll-out step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from apps.weather.models.aurora.settings import RolloutLoRA

__all__ = ["StepLoRA"]


class LowRankPair(nn.Module):
    """One correction, `scaling · x Aᵀ Bᵀ`."""

    def __init__(self, inputs: int, outputs: int, *, rank: int, alpha: float) -> None:
        super().__init__()
        self.scaling = alpha / rank
        self.lora_A = nn.Parameter(torch.empty(rank, inputs))
        self.lora_B = nn.Parameter(torch.empty(outputs, rank))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw A as torch draws a linear layer; B is 0, so that nothing is corrected at first."""
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(…, inputs)` to `(…, outputs)`."""
        return nn.functional.linear(nn.functional.linear(x, self.lora_A), self.lora_B * self.scaling)


class StepLoRA(nn.Module):
    """The corrections of one linear layer, as `settings` say."""

    def __init__(self, inputs: int, outputs: int, settings: RolloutLoRA) -> None:
        super().__init__()
        self.settings = settings
        count = settings.steps if settings.mode == "all" else 1
        self.loras = nn.ModuleList(
            LowRankPair(inputs, outputs, rank=settings.rank, alpha=settings.alpha) for _ in range(count)
        )

    def forward(self, x: Tensor, y: Tensor, step: int) -> Tensor:
        """Return the layer's result `y` for `x`, corrected for a roll-out step."""
        if step >= self.settings.steps or (self.settings.mode == "from_second" and step == 0):
            return y
        return y + self.loras[step if self.settings.mode == "all" else 0](x)
