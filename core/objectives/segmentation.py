"""Losses of maps: cross-entropy, focal, Dice, Jaccard and Lovász, all blind to pixels that nobody labelled.

Each takes logits `(B, K, ...)` and classes `(B, ...)` int64 with `IGNORE` where unknown, and gives a scalar.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.data.batch import IGNORE
from core.errors import UserError

__all__ = ["CrossEntropy", "Dice", "Focal", "Jaccard", "Lovasz", "Mixed"]


class CrossEntropy(nn.Module):
    """The mean over labelled pixels of `-w log p`, with the weight of a pixel's class.

    Args:
        weights: One for each class; None is 1 for all.
        smoothing: Share of a label that is spread evenly over all classes.
        by_weight: Divide by the sum of the pixels' weights, as torch does, and not by their number, as the
            published flood recipe.

    Raises:
        UserError: If a weight is negative or the smoothing is not in [0, 1).
    """

    def __init__(
        self, weights: Sequence[float] | None = None, smoothing: float = 0.0, by_weight: bool = False
    ) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise UserError(f"smoothing is {smoothing}; it must lie in [0, 1)")
        self.register_buffer("weights", _weights(weights), persistent=False)
        self.smoothing, self.by_weight = smoothing, by_weight

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the mean."""
        weight, wide = _for(self.weights, logits), _wide(logits)
        total = F.cross_entropy(
            wide,
            label,
            None if weight is None else weight.to(wide.dtype),
            ignore_index=IGNORE,
            reduction="sum",
            label_smoothing=self.smoothing,
        )
        known = label != IGNORE
        if weight is None or not self.by_weight:
            return total / known.sum().clamp(min=1)
        return total / (weight[label.clamp(min=0)] * known).sum().clamp(min=torch.finfo(weight.dtype).tiny)


class Focal(nn.Module):
    """Cross-entropy that counts sure pixels less, `-w (1 - p)^gamma log p` (Lin et al. 2017, equation 5).

    Args:
        gamma: How much less; 0 is cross-entropy.
        weights: As of `CrossEntropy`.

    Raises:
        UserError: If `gamma` or a weight is negative.
    """

    def __init__(self, gamma: float = 2.0, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        if gamma < 0:
            raise UserError(f"gamma of the focal loss is {gamma}; it must be at least 0")
        self.gamma = gamma
        self.register_buffer("weights", _weights(weights), persistent=False)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the mean over labelled pixels."""
        error = F.cross_entropy(_wide(logits), label, ignore_index=IGNORE, reduction="none")
        factor = (-torch.expm1(-error)).clamp(min=0) ** self.gamma
        weight = _for(self.weights, logits)
        if weight is not None:
            factor = factor * weight[label.clamp(min=0)]
        return (factor * error).sum() / (label != IGNORE).sum().clamp(min=1)


class Dice(nn.Module):
    """One less the mean over classes of `(2 |A B| + s) / (|A| + |B| + s)`, over all pixels of a batch.

    Milletari et al. 2016 (arXiv 1606.04797) have squares below, and so has mmsegmentation, which takes the
    mean over images too: `exponent` 2 and `by_image` are the loss of the published burn-scar recipe, but for
    unknown pixels, which that counts below.

    Args:
        smooth: The `s` that keeps a class without pixels from dividing by zero.
        present: Count only classes that have a labelled pixel.
        exponent: Of the predicted shares in `|A|`.
        by_image: Compare each image by itself, and take the mean.
    """

    def __init__(
        self, smooth: float = 1.0, present: bool = False, exponent: float = 1.0, by_image: bool = False
    ) -> None:
        super().__init__()
        self.smooth, self.present, self.exponent, self.by_image = smooth, present, exponent, by_image

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the loss."""
        shared, guessed, true = _overlap(logits, label, exponent=self.exponent, by_image=self.by_image)
        score = (2 * shared + self.smooth) / (guessed + true + self.smooth)
        return 1 - _averaged(score, true, present=self.present)


class Jaccard(nn.Module):
    """One less the mean over classes of `(|A B| + s) / (|A| + |B| - |A B| + s)`: soft overlap.

    Args:
        smooth: As of `Dice`.
        present: As of `Dice`.
    """

    def __init__(self, smooth: float = 1.0, present: bool = False) -> None:
        super().__init__()
        self.smooth, self.present = smooth, present

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the loss."""
        shared, guessed, true = _overlap(logits, label)
        score = (shared + self.smooth) / (guessed + true - shared + self.smooth)
        return 1 - _averaged(score, true, present=self.present)


class Lovasz(nn.Module):
    """The Lovász extension of intersection over union (Berman et al. 2018, arXiv 1705.08790, equation 9).

    The mean is over the classes that the batch's labels hold.
    """

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the loss."""
        known = label != IGNORE
        shares = _wide(logits).softmax(1).movedim(1, 0).flatten(1)  # B K ... -> K N
        known, label = known.flatten(), label.flatten()
        true = (torch.arange(len(shares), device=label.device)[:, None] == label) & known
        # An unlabelled pixel has no error, so that it comes last and adds nothing.
        error = (true.to(shares.dtype) - shares).abs() * known
        error, order = error.sort(dim=1, descending=True)
        true = true.gather(1, order).to(shares.dtype)
        total = true.sum(1, keepdim=True)
        wrong = (known.to(shares.dtype)[order] - true).cumsum(1)
        score = 1 - (total - true.cumsum(1)) / (total + wrong).clamp(min=1)
        slope = torch.cat([score[:, :1], score.diff(dim=1)], dim=1)
        held = (total[:, 0] > 0).to(shares.dtype)
        return ((error * slope).sum(1) * held).sum() / held.sum().clamp(min=1)


class Mixed(nn.Module):
    """A weighted sum of losses.

    Args:
        losses: Those.
        weights: One for each; None is 1 for all.

    Raises:
        UserError: If there are none, or as many weights as losses are not given.
    """

    def __init__(self, losses: list[nn.Module], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        factors = [1.0] * len(losses) if weights is None else [float(weight) for weight in weights]
        if not losses or len(factors) != len(losses):
            raise UserError(f"{len(losses)} losses have {len(factors)} weights; give one weight for each")
        self.losses, self.factors = nn.ModuleList(losses), factors

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the sum."""
        parts = zip(self.losses, self.factors, strict=True)
        return torch.stack([factor * loss(logits, label) for loss, factor in parts]).sum()


def _weights(given: Sequence[float] | None) -> Tensor | None:
    if given is not None and (not given or min(given) < 0):
        raise UserError(f"the weights of the classes are {list(given)}; each must be at least 0")
    if given is None:
        return None
    return torch.tensor([float(weight) for weight in given], device="cpu")  # also where networks are on meta


def _for(weights: Any, logits: Tensor) -> Tensor | None:
    if weights is None:
        return None
    if len(weights) != logits.shape[1]:
        raise UserError(
            f"the loss has {len(weights)} weights and the network {logits.shape[1]} classes; give one each"
        )
    return weights


def _wide(logits: Tensor) -> Tensor:
    """Return logits in float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _overlap(
    logits: Tensor, label: Tensor, *, exponent: float = 1.0, by_image: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `|A B|`, `|A|` and `|B|` of each class, `(K,)` or `(B, K)`: predicted shares A and labels B."""
    known = (label != IGNORE).unsqueeze(1)
    shares = _wide(logits).softmax(1) * known
    classes = torch.arange(logits.shape[1], device=label.device).view(1, -1, *[1] * (label.ndim - 1))
    true = (label.unsqueeze(1) == classes).to(shares.dtype)
    axes = [*([] if by_image else [0]), *range(2, logits.ndim)]
    size = shares if exponent == 1 else shares**exponent
    return (shares * true).sum(axes), size.sum(axes), true.sum(axes)


def _averaged(score: Tensor, true: Tensor, *, present: bool) -> Tensor:
    if not present:
        return score.mean()
    held = (true > 0).to(score.dtype)
    return (score * held).sum() / held.sum().clamp(min=1)
