"""Scores of maps and labels as the field defines them, on torchmetrics: counted over a whole set, never
averaged over images or batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import (
    MeanAbsoluteError,
    MeanSquaredError,
    Metric,
    MetricCollection,
    PearsonCorrCoef,
    R2Score,
)
from torchmetrics.classification import (
    MulticlassConfusionMatrix,
    MultilabelAveragePrecision,
    MultilabelF1Score,
)

from core.data.batch import IGNORE

__all__ = ["Calibration", "ClassScores", "LabelScores", "NumberScores", "Temperature"]


class ClassScores(Metric):
    """Scores of named classes, of pixels or of scenes, from one matrix of counts.

    `accuracy` is over all pixels (aAcc), `mean_accuracy` over classes (mAcc), `iou` TP / (TP + FP + FN) over
    classes (mIoU), `f1` over classes, `kappa` Cohen's. Means leave out classes that stand neither in the
    labels nor in the predictions, and `mean_accuracy` those without a label.
    """

    full_state_update = False

    def __init__(self, classes: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self.classes = list(classes)
        self.counts = MulticlassConfusionMatrix(len(classes), ignore_index=IGNORE, validate_args=False)

    def update(self, predicted: Tensor, label: Tensor) -> None:
        """Count classes `(B, ...)` int64; a label of `IGNORE` counts nothing."""
        self.counts.update(predicted, label)

    def reset(self) -> None:
        """Forget what was counted."""
        super().reset()
        self.counts.reset()

    def compute(self) -> dict[str, Tensor]:
        """Return the scores; NaN where nothing was labelled."""
        counts = self.matrix().double()
        rows = self._by_class(counts)
        total, hits = counts.sum(), counts.diagonal().sum()
        chance = (counts.sum(0) * counts.sum(1)).sum() / total.square()
        share = hits / total
        return {
            "accuracy": share,
            "mean_accuracy": rows["accuracy"].nanmean(),
            "iou": rows["iou"].nanmean(),
            "f1": rows["f1"].nanmean(),
            "kappa": torch.where(chance < 1, (share - chance) / (1 - chance), torch.nan),
        }

    def by_class(self) -> dict[str, Tensor]:
        """Return `iou`, `accuracy` (recall), `precision`, `f1` and labelled `pixels` of each class."""
        return self._by_class(self.matrix().double())

    def matrix(self) -> Tensor:
        """Return counts `(K, K)` int64, rows the labels."""
        return self.counts.compute().view(len(self.classes), -1)  # of one class it is a number

    @staticmethod
    def _by_class(counts: Tensor) -> dict[str, Tensor]:
        hits, guessed, true = counts.diagonal(), counts.sum(0), counts.sum(1)
        return {
            "iou": hits / (guessed + true - hits),
            "accuracy": hits / true,
            "precision": hits / guessed,
            "f1": 2 * hits / (guessed + true),
            "pixels": true,
        }


class LabelScores(Metric):
    """Scores of several labels a scene: mean average precision, F1 at one half, and exact matches."""

    full_state_update = False
    held: Tensor
    guessed: Tensor
    exact: Tensor
    seen: Tensor

    def __init__(self, classes: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self.classes = list(classes)
        size = len(classes)
        self.precision = MultilabelAveragePrecision(size, average="none", validate_args=False)
        self.micro = MultilabelAveragePrecision(size, average="micro", validate_args=False)
        self.f1 = MultilabelF1Score(size, average="none", validate_args=False)
        for name in ("held", "guessed"):
            self.add_state(name, torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("exact", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("seen", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, label: Tensor) -> None:
        """Count scores `(B, K)` in [0, 1] and labels `(B, K)` of 0 and 1."""
        truth = label.long()
        for metric in (self.precision, self.micro, self.f1):
            metric.update(scores, truth)
        self.exact += ((scores > 0.5) == truth.bool()).all(1).sum()
        self.seen += len(truth)
        self.held += truth.sum(0)
        self.guessed += (scores > 0.5).sum(0)

    def reset(self) -> None:
        """Forget what was counted."""
        super().reset()
        for metric in (self.precision, self.micro, self.f1):
            metric.reset()

    def compute(self) -> dict[str, Tensor]:
        """Return `map_macro` and `f1_macro` over labels that stand somewhere, `map_micro` and `exact`."""
        rows = self.by_class()
        return {
            "map_macro": rows["average_precision"].nanmean(),
            "map_micro": self.micro.compute(),
            "f1_macro": rows["f1"].nanmean(),
            "exact": self.exact / self.seen,
        }

    def by_class(self) -> dict[str, Tensor]:
        """Return `average_precision` and `f1` of each label, `(K,)`, NaN for one that nothing has."""
        found = torch.where(self.held > 0, self.precision.compute(), torch.nan)
        return {
            "average_precision": found,
            "f1": torch.where(self.held + self.guessed > 0, self.f1.compute(), torch.nan),
        }


class NumberScores(Metric):
    """Errors of numbers, of pixels or scenes, in float64: `mae`, `rmse`, `bias`, `r2`, `correlation`."""

    full_state_update = False
    gap: Tensor
    seen: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.scores = MetricCollection(
            {
                "mae": MeanAbsoluteError(),
                "rmse": MeanSquaredError(squared=False),
                "r2": R2Score(),
                "correlation": PearsonCorrCoef(),
            },
            compute_groups=False,
        )
        self.scores.set_dtype(torch.float64)
        self.add_state("gap", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("seen", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, true: Tensor) -> None:
        """Count `(B, ...)` twice; a truth that is not finite counts nothing."""
        known = true.isfinite()
        made, wanted = predicted[known].double(), true[known].double()
        if len(made):
            self.scores.update(made, wanted)
            self.gap += (made - wanted).sum()
            self.seen += len(made)

    def reset(self) -> None:
        """Forget what was counted."""
        super().reset()
        self.scores.reset()

    def compute(self) -> dict[str, Tensor]:
        """Return the scores; NaN for all where fewer than two values are known."""
        if int(self.seen) < 2:
            return {name: torch.tensor(torch.nan) for name in ("mae", "rmse", "r2", "correlation", "bias")}
        return {**self.scores.compute(), "bias": self.gap / self.seen}


class Calibration(Metric):
    """Expected calibration error, and what it is made of: sure predictions should be right more often.

    Guo et al. 2017 (arXiv 1706.04599), equation 3: the mean over bins of equal width in [0, 1] of the gap
    between their share of hits and their confidence. Bins are counted as they come, whatever the number of
    pixels.
    """

    full_state_update = False
    seen: Tensor
    confidence: Tensor
    hits: Tensor

    def __init__(self, bins: int = 15, **options: Any) -> None:
        super().__init__(**options)
        self.bins = bins
        for name in ("seen", "confidence", "hits"):
            self.add_state(name, torch.zeros(bins, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, confidence: Tensor, hits: Tensor, known: Tensor) -> None:
        """Count predictions of any shape: each one's probability, whether it is right and is known."""
        sure, known = confidence.flatten().double(), known.flatten().double()
        places = (sure * self.bins).long().clamp(0, self.bins - 1)
        self.seen.index_add_(0, places, known)
        self.confidence.index_add_(0, places, sure * known)
        self.hits.index_add_(0, places, hits.flatten().double() * known)

    def compute(self) -> dict[str, Tensor]:
        """Return `ece`, NaN if nothing was counted, and `seen`, `confidence` and `hits` of each bin."""
        error = (self.confidence - self.hits).abs().sum() / self.seen.sum()
        return {"ece": error, "seen": self.seen, "confidence": self.confidence, "hits": self.hits}


class Temperature(Metric):
    """The temperature that makes probabilities fit labels best (Guo et al. 2017, section 4.2).

    Losses at fixed temperatures are summed as logits come; the least of them is refined by a parabola.

    Args:
        steps: Temperatures tried, evenly spaced in their logarithm from a quarter to four.
        most: Pixels of a batch that are looked at.
        several: Whether a scene may have several labels.
    """

    full_state_update = False
    grid: Tensor
    losses: Tensor

    def __init__(self, steps: int = 25, most: int = 4096, several: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.most, self.several = most, several
        self.register_buffer("grid", torch.linspace(-math.log(4), math.log(4), steps), persistent=False)
        self.add_state("losses", torch.zeros(steps, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, label: Tensor) -> None:
        """Count logits `(B, K, ...)` and labels `(B, ...)`, or `(B, K)` twice for several labels."""
        if self.several:
            values, target = logits.float(), label.float()
            losses = [
                F.binary_cross_entropy_with_logits(values / scale, target, reduction="sum")
                for scale in self.grid.exp()
            ]
        else:
            values, target = logits.float().movedim(1, -1).flatten(0, -2), label.flatten()
            stride = -(-len(values) // self.most)
            values, target = values[::stride], target[::stride]
            losses = [
                F.cross_entropy(values / scale, target, ignore_index=IGNORE, reduction="sum")
                for scale in self.grid.exp()
            ]
        self.losses += torch.stack(losses).double()

    def compute(self) -> Tensor:
        """Return the temperature; 1 if nothing was counted."""
        losses, grid = self.losses, self.grid.double()
        if not bool(losses.any()):
            return torch.ones((), dtype=torch.float64)
        best = int(losses.argmin().clamp(1, len(losses) - 2))
        low, middle, high = losses[best - 1], losses[best], losses[best + 1]
        bend = low - 2 * middle + high
        shift = torch.where(bend > 0, (low - high) / (2 * bend), 0.0).clamp(-1, 1)
        return (grid[best] + shift * (grid[1] - grid[0])).exp()
