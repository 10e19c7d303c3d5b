"""Losses of numbers, blind to what nobody measured: squared, absolute, and Huber's between the two."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError, did_you_mean

__all__ = ["NumberLoss"]

Kind = Literal["squared", "absolute", "huber"]


class NumberLoss(nn.Module):
    """The mean error over values that are known.

    Args:
        kind: `squared`, `absolute`, or `huber` (squared within `delta`, absolute beyond).
        delta: Of Huber's, in deviations of the training labels.

    Raises:
        UserError: If the kind is unknown or `delta` is not above 0.
    """

    def __init__(self, kind: Kind = "squared", delta: float = 1.0) -> None:
        super().__init__()
        if kind not in get_args(Kind):
            choices = get_args(Kind)
            raise UserError(f"the loss is '{kind}'; it must be one of {', '.join(choices)}"
                            f"{did_you_mean(kind, choices)}")  # fmt: skip
        if delta <= 0:
            raise UserError(f"delta of Huber's loss is {delta}; it must be above 0")
        self.kind, self.delta = kind, delta

    def forward(self, predicted: Tensor, true: Tensor) -> Tensor:
        """Return the mean over finite values of `true`, of the same shape."""
        known = true.isfinite()
        made, wanted = predicted.float(), torch.where(known, true, 0).float()
        if self.kind == "squared":
            error = (made - wanted).square()
        elif self.kind == "absolute":
            error = (made - wanted).abs()
        else:
            error = F.huber_loss(made, wanted, delta=self.delta, reduction="none")
        return torch.where(known, error, 0).sum() / known.sum().clamp(min=1)
