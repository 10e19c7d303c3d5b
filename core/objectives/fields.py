"""Objectives of PDE networks; B samples, K label frames, C channels, `space` one to three grid axes.

All take normalised fields `(B, K, C, *space)` and return a scalar. A mask `(B, C)` or `(B, C, *space)`, True
where a label does not count, replaces the prediction by the label there: no error, and no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from core.errors import UserError

__all__ = ["GroupedRelative", "MeanSquared", "RelativeH1", "RelativeLp", "ScaledL2", "overwrite"]


def overwrite(prediction: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    """Return `prediction (B, K, C, *space)` with the label wherever `mask` is True."""
    if mask is None:
        return prediction
    mask = mask.unsqueeze(1)  # B C ... -> B 1 C ...
    mask = mask.reshape(*mask.shape, *[1] * (prediction.ndim - mask.ndim))
    return torch.where(mask, target, prediction)


class _Objective(nn.Module):
    def forward(
        self,
        prediction: Tensor,
        target: Tensor,
        *,
        mask: Tensor | None = None,
        groups: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the loss of `prediction` against `target`, both normalised `(B, K, C, *space)`.

        `mask` `(B, C)` or `(B, C, *space)` bool is True where a label does not count; `groups` holds the
        starts of the channel groups and, last, C, which only group-wise losses look at.

        Raises:
            ValueError: If the shapes differ.
        """
        if prediction.shape != target.shape:
            raise ValueError(
                f"the prediction is {tuple(prediction.shape)} and the label {tuple(target.shape)}; "
                "they must be alike"
            )
        return self.error(overwrite(prediction, target, mask), target, groups)

    def error(self, prediction: Tensor, target: Tensor, groups: Sequence[int] | None) -> Tensor:
        raise TypeError(f"{type(self).__name__} defines no error")


class GroupedRelative(_Objective):
    """Error relative to the labels' size, group by group (Poseidon, arXiv 2405.19101).

    `mean over groups of err(prediction_g, label_g) / (err(label_g, 0) + 1e-10)`, where err is the mean of
    `|x - y|^p` over the whole batch, the frames, the group's channels and the grid. Without groups it is
    err(prediction, label). A masked group has error 0 and still counts in the mean.

    Args:
        p: 1 for absolute, 2 for squared differences.

    Raises:
        UserError: If p is neither.
    """

    def __init__(self, p: int = 1) -> None:
        super().__init__()
        if p not in (1, 2):
            raise UserError(f"objective.p is {p}; it must be 1 (absolute) or 2 (squared)")
        self.p = p

    def error(self, prediction: Tensor, target: Tensor, groups: Sequence[int] | None) -> Tensor:
        """Return the scalar; see the class."""
        if groups is None:
            return self._size(prediction - target)
        parts = []
        for first, last in pairwise(groups):
            label = target[:, :, first:last]
            parts.append(self._size(prediction[:, :, first:last] - label) / (self._size(label) + 1e-10))
        return torch.stack(parts).mean()

    def _size(self, difference: Tensor) -> Tensor:
        return difference.abs().mean() if self.p == 1 else difference.square().mean()


class ScaledL2(_Objective):
    """Mean over sample, frame and channel of `||x - y||_2 / ||y||_2`, norms over the grid (SineNet, arXiv
    2403.19507).
    """

    def error(self, prediction: Tensor, target: Tensor, groups: Sequence[int] | None) -> Tensor:
        """Return the scalar; see the class."""
        return (_norm(prediction - target) / _norm(target)).mean()


class MeanSquared(_Objective):
    """Mean of the squared differences over everything."""

    def error(self, prediction: Tensor, target: Tensor, groups: Sequence[int] | None) -> Tensor:
        """Return the scalar; see the class."""
        return nn.functional.mse_loss(prediction, target)


class RelativeLp(_Objective):
    """`||x - y||_p / (||y||_p + 1e-8)` over the grid for every sample, frame and channel (FNO, arXiv
    2010.08895).

    Args:
        p: Order of the norm.
        reduction: `mean`, or `sum` over samples and channels as published; a sum changes with the batch size.

    Raises:
        UserError: If a value is out of its range.
    """

    def __init__(self, p: int = 2, *, reduction: str = "mean") -> None:
        super().__init__()
        if p < 1:
            raise UserError(f"objective.p is {p}; it must be at least 1")
        if reduction not in ("mean", "sum"):
            raise UserError(f"objective.reduction is '{reduction}'; it must be mean or sum")
        self.p, self.reduction = p, reduction

    def error(self, prediction: Tensor, target: Tensor, groups: Sequence[int] | None) -> Tensor:
        """Return the scalar; see the class."""
        ratio = self._size(prediction - target) / (self._size(target) + 1e-8)
        return ratio.mean() if self.reduction == "mean" else ratio.sum()

    def _size(self, x: Tensor) -> Tensor:
        return _norm(x, self.p)


class RelativeH1(RelativeLp):
    """As `RelativeLp` with p = 2, in the norm that adds the first derivatives: `||y||^2 + sum_i ||d_i y||^2`.

    Derivatives are periodic central differences on axes of length 1, so with spacing 1/n.

    Args:
        reduction: `mean`, or `sum` over samples and channels as published.

    Raises:
        UserError: If `reduction` is neither.
    """

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)

    def _size(self, x: Tensor) -> Tensor:
        total = x.square().flatten(3).sum(-1)
        for axis in range(3, x.ndim):
            slope = (x.roll(-1, axis) - x.roll(1, axis)) * (x.shape[axis] / 2)
            total = total + slope.square().flatten(3).sum(-1)
        return total.sqrt()


def _norm(x: Tensor, p: int = 2) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(3), ord=p, dim=-1)
