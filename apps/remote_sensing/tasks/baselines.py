"""What needs no network: the most frequent class, and a linear classifier of single pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from apps.remote_sensing.batch import IGNORE, SceneBatch

__all__ = ["PixelBaselines", "gathered"]

CONSTANT, SPECTRA = "most frequent class", "single pixels (LDA)"
_SAMPLES = 64  # training samples that are looked at
_RIDGE = 1e-4


class PixelBaselines:
    """A constant, and linear discriminant analysis of all bands and dates of a pixel (Fisher 1936).

    The second is the field's maximum-likelihood classifier with one covariance for all classes. It knows
    spectra and nothing of their surroundings: what a network gains beyond it is context.

    Args:
        counts: Labelled pixels of each class, `(K,)`.
        means: Of each class, `(K, F)`, F bands of all dates.
        covariance: Shared, `(F, F)`.
    """

    names = (CONSTANT, SPECTRA)

    def __init__(self, counts: Tensor, means: Tensor, covariance: Tensor) -> None:
        self.frequent = int(counts.argmax())
        size = covariance.shape[0]
        scale = covariance.diagonal().mean().clamp(min=torch.finfo(covariance.dtype).tiny)
        inverse = torch.linalg.inv(covariance + _RIDGE * scale * torch.eye(size, dtype=covariance.dtype))
        self.weight = means @ inverse
        prior = (counts / counts.sum()).log()  # minus infinity for a class that was never seen
        self.bias = prior - 0.5 * (self.weight * means).sum(1)

    def __call__(self, batch: SceneBatch) -> dict[str, Tensor]:
        """Return the classes `(B, H, W)` of each baseline."""
        pixels = batch.image.flatten(1, 2)  # B C T H W -> B F H W
        weight, bias = self.weight.to(pixels), self.bias.to(pixels)
        with torch.autocast(pixels.device.type, enabled=False):  # a baseline has the same numbers everywhere
            scores = torch.einsum("bfhw,kf->bkhw", pixels, weight) + bias[:, None, None]
        found = scores.argmax(1)
        return {CONSTANT: torch.full_like(found, self.frequent), SPECTRA: found}


def gathered(data: Any, *, classes: Sequence[str]) -> PixelBaselines | None:
    """Fit the baselines to training samples spread evenly over the set; None if there are none.

    Args:
        data: The data module.
        classes: Names.
    """
    chosen = data.train_set()
    if chosen is None:
        return None
    counts = torch.zeros(len(classes), dtype=torch.float64)
    sums: Tensor | None = None
    squares: Tensor | None = None
    for index in range(0, len(chosen), -(-len(chosen) // _SAMPLES)):
        batch = chosen.__getitems__([(0, index)])
        label = batch.label[0]
        known = (label != IGNORE) & batch.valid[0].all(0)
        pixels = batch.image[0].flatten(0, 1)[:, known].double()  # F N
        if sums is None or squares is None:
            sums = torch.zeros(len(classes), len(pixels), dtype=torch.float64)
            squares = torch.zeros(len(pixels), len(pixels), dtype=torch.float64)
        numbers = label[known]
        counts += torch.bincount(numbers, minlength=len(classes))
        sums.index_add_(0, numbers, pixels.T)
        squares += pixels @ pixels.T
    total = float(counts.sum())
    if sums is None or squares is None or not total:
        return None
    means = sums / counts.clamp(min=1)[:, None]
    within = (squares - (means * counts[:, None]).T @ means) / total
    return PixelBaselines(counts, means, within)
