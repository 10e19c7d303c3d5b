"""Scores of filled gaps, those of the gap-filling of Prithvi-EO 1.0 (Godwin et al. 2024).

Everything clear is zero in both images, so that small clouds give a similarity near one whatever stands in
them; mean errors are over the gaps alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["GapScores", "GapSums", "gap_scores"]


@dataclass(frozen=True)
class GapScores:
    """Scores of a batch, in reflectance.

    Args:
        ssim: Structural similarity.
        mse: Mean squared error within gaps.
        mae: Mean absolute error within gaps.
    """

    ssim: Tensor
    mse: Tensor
    mae: Tensor


def gap_scores(
    prediction: Tensor,
    target: Tensor,
    gaps: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    scale: float = 10_000.0,
) -> GapScores:
    """Return the scores of predicted images.

    Args:
        prediction: `(B, C, T, H, W)` normalised.
        target: As `prediction`.
        gaps: `(B, C or 1, T, H, W)`, 1 where a pixel was to be filled in and 0 elsewhere.
        mean: Of each band, as subtracted before.
        std: Of each band, as divided by before.
        scale: What a reflectance of 1 is in the units of `mean`.
    """
    with torch.autocast(device_type=target.device.type, enabled=False):
        predicted, true = _wide(prediction), _wide(target)
        shape = (-1, 1, 1, 1)
        offset, factor = (true.new_tensor(list(row)).view(shape) / scale for row in (mean, std))
        gaps = gaps.to(true.dtype).expand_as(true)
        predicted, true = ((image * factor + offset) * gaps for image in (predicted, true))
        share = gaps.mean()
        ssim = _similarity(predicted.flatten(1, 2), true.flatten(1, 2)).mean()  # bands and frames as channels
        error = predicted - true
        return GapScores(ssim, error.square().mean() / share, error.abs().mean() / share)


class GapSums(Metric):
    """Errors of each band over all gaps of a set, `mse`, `mae` and with `similarity` `ssim`, `(C,)` each.

    The similarity of a band is that of `gap_scores`, with clear pixels zero in both images.

    Args:
        bands: Names.
        similarity: Whether structural similarity is computed.
    """

    full_state_update = False

    def __init__(self, bands: Sequence[str], *, similarity: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.bands, self.similarity = list(bands), similarity
        for name in ("squares", "sizes", "alike"):
            self.add_state(name, torch.zeros(len(bands), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("count", "images"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, true: Tensor, gaps: Tensor) -> None:
        """Count images `(B, C, T, H, W)` where `gaps` `(B, T, H, W)` is True."""
        with torch.autocast(device_type=true.device.type, enabled=False):
            predicted, true = _wide(predicted), _wide(true)
            hidden = gaps[:, None].to(true.dtype)
            error = ((predicted - true) * hidden).double()
            self.squares += error.square().sum((0, 2, 3, 4))
            self.sizes += error.abs().sum((0, 2, 3, 4))
            self.count += gaps.sum()
            if self.similarity:
                planes = (
                    (image * hidden).transpose(1, 2).flatten(0, 2)[:, None] for image in (predicted, true)
                )
                alike = _similarity(*planes)  # of every sample, date and band
                self.alike += alike.view(-1, len(self.bands)).double().sum(0)
                self.images += predicted.shape[0] * predicted.shape[2]

    def compute(self) -> dict[str, Tensor]:
        """Return the scores; NaN where nothing was hidden."""
        scores = {"mse": self.squares / self.count, "mae": self.sizes / self.count}
        return scores | ({"ssim": self.alike / self.images} if self.similarity else {})


def _similarity(predicted: Tensor, true: Tensor) -> Tensor:
    """Return the structural similarity of each image `(N, C, H, W)` in reflectance, `(N,)`."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    settings: dict[str, Any] = {"sigma": 1.5, "kernel_size": 11, "data_range": 1.0, "reduction": "none"}
    values = structural_similarity_index_measure(predicted, true, gaussian_kernel=True, **settings)
    assert isinstance(values, Tensor)
    return values


def _wide(image: Tensor) -> Tensor:
    """Return at least float32: squares of half a precision's digits leave a similarity two of them."""
    return image.to(torch.promote_types(image.dtype, torch.float32))
