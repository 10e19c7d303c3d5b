"""Baselines without training as networks that a probe can take: image statistics and MOSAIKS.

They are those of the resize study (Corley et al. 2023, arXiv 2305.13456); the computation stands in
`apps/remote_sensing/models/frozen/random_features.py`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from apps.remote_sensing.models.frozen.random_features import (
    RandomConvolutions,
    image_statistics,
    patches_of,
    whitened,
)
from core.errors import UserError

__all__ = ["ImageStatistics", "Mosaiks"]


class ImageStatistics(nn.Module):
    """Mean, deviation, largest and smallest number of each band: what a network must beat."""

    normalisation = "none"

    def reset_parameters(self) -> None:
        """Do nothing: there is nothing to draw."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, 4C)`."""
        return image_statistics(x)


class Mosaiks(RandomConvolutions):
    """Random convolutional features (Rolf et al. 2021), drawn or cut out of the training images.

    Args:
        channels: Bands of the images.
        features: Numbers for an image, two for each filter.
        kernel: Side of a filter in pixels.
        bias: Added to every answer before the sign is taken.
        seed: Of the filters; None is torch's own starting seed, which the study's seed of 0 amounted to.
        patches: `random` filters, or whitened (ZCA) patches of the `training` images.

    Raises:
        UserError: If `features` is odd, or `patches` is unknown.
    """

    def __init__(
        self,
        channels: int,
        *,
        features: int = 512,
        kernel: int = 3,
        bias: float = -1.0,
        seed: int | None = None,
        patches: Literal["random", "training"] = "random",
    ) -> None:
        if patches not in ("random", "training"):
            raise UserError(f"patches is '{patches}'; it must be random or training")
        super().__init__(channels, features=features, kernel=kernel, bias=bias, seed=seed)
        self.patches = patches

    @property
    def wants_images(self) -> int:
        """How many training images `learn_from` is to be given."""
        return self.weight.shape[0] if self.patches == "training" else 0

    @torch.no_grad()
    def learn_from(self, images: Tensor) -> None:
        """Make filters of patches of prepared training images `(B, C, H, W)`."""
        cut = patches_of(
            images.cpu(), self.weight.shape[0], kernel=self.weight.shape[-1], seed=self.seed or 0
        )
        self.weight.copy_(whitened(cut))
