"""How well gaps were filled in, as the gap-filling of Prithvi-EO 1.0 was scored (Godwin et al. 2024).

Everything clear is zero in both images, so that small clouds give a similarity near one whatever stands in
them; mean errors are over the gaps alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = ["GapScores", "gap_scores"]


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
    from torchmetrics.functional.image import structural_similarity_index_measure as similarity

    shape = (-1, 1, 1, 1)
    offset, factor = (target.new_tensor(list(row)).view(shape) / scale for row in (mean, std))
    gaps = gaps.to(target.dtype).expand_as(target)
    made, true = ((image * factor + offset) * gaps for image in (prediction, target))
    share = gaps.mean()
    pair = (made.flatten(1, 2), true.flatten(1, 2))  # bands and frames as channels
    ssim = similarity(*pair, gaussian_kernel=True, sigma=1.5, kernel_size=11, data_range=1.0)
    error = made - true
    return GapScores(ssim, error.square().mean() / share, error.abs().mean() / share)
