"""Features without training that pre-trained ones must beat, as networks that a probe can take.

Image statistics, and the random convolutional features of MOSAIKS (Rolf et al. 2021, doi
10.1038/s41467-021-24638-z), as in the resize study (Corley et al. 2023, arXiv 2305.13456).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError

__all__ = ["ImageStatistics", "Mosaiks", "image_statistics", "patches_of", "whitened"]


def image_statistics(images: Tensor) -> Tensor:
    """Return mean, deviation (unbiased), maximum and minimum of each band, `(B, C, H, W)` to `(B, 4C)`."""
    pixels = images.flatten(2)
    std, mean = torch.std_mean(pixels, dim=2)
    return torch.cat([mean, std, pixels.amax(2), pixels.amin(2)], dim=1)


class ImageStatistics(nn.Module):
    """Mean, deviation, largest and smallest number of each band: what a network must beat."""

    normalisation = "none"

    def reset_parameters(self) -> None:
        """Do nothing: there is nothing to draw."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, 4C)`."""
        return image_statistics(x)


class Mosaiks(nn.Module):
    """Mean of both signs of the answers of filters, drawn at random or cut out of the training images.

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

    weight: Tensor
    bias: Tensor

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
        super().__init__()
        if patches not in ("random", "training"):
            raise UserError(f"patches is '{patches}'; it must be random or training")
        if features < 2 or features % 2:
            raise UserError(f"features is {features}; it must be even: every filter gives two")
        self.width, self.seed, self.first_bias, self.patches = features, seed, bias, patches
        self.register_buffer("weight", torch.empty(features // 2, channels, kernel, kernel))
        self.register_buffer("bias", torch.empty(features // 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the filters by the seed and write the biases."""
        generator = torch.Generator()
        if self.seed is not None:
            generator.manual_seed(self.seed)
        with torch.no_grad():
            self.weight.copy_(torch.randn(self.weight.shape, generator=generator, device="cpu"))
            self.bias.fill_(self.first_bias)

    @property
    def wants_images(self) -> int:
        """Training images that `learn_from` is to be given."""
        return self.weight.shape[0] if self.patches == "training" else 0

    @torch.no_grad()
    def learn_from(self, images: Tensor) -> None:
        """Make filters of patches of prepared training images `(B, C, H, W)`."""
        count, _, side, _ = self.weight.shape
        self.weight.copy_(whitened(patches_of(images.cpu(), count, kernel=side, seed=self.seed or 0)))

    def forward(self, images: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, features)`: all positive parts, then all negative ones.

        Raises:
            UserError: If the images are smaller than a filter.
        """
        side = self.weight.shape[-1]
        if min(images.shape[-2:]) < side:
            raise UserError(
                f"the images have {images.shape[-2]}x{images.shape[-1]} pixels, fewer than a filter of {side}"
            )
        answers = F.conv2d(images, self.weight, self.bias).flatten(2)
        return torch.cat([answers.relu().mean(2), (-answers).relu().mean(2)], dim=1)


def patches_of(images: Tensor, count: int, *, kernel: int = 3, seed: int = 0) -> Tensor:
    """Cut patches at random places out of random images, `(B, C, H, W)` to `(count, C, kernel, kernel)`."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (side - kernel + 1 for side in images.shape[-2:])
    which, top, left = (
        torch.randint(n, (count,), generator=generator).tolist() for n in (len(images), rows, columns)
    )
    cut = (images[i, :, r : r + kernel, c : c + kernel] for i, r, c in zip(which, top, left, strict=True))
    return torch.stack(list(cut))


def whitened(patches: Tensor, *, floor: float = 1e-3) -> Tensor:
    """Return filters made of training patches: centred, of unit length, and whitened twice (ZCA).

    Args:
        patches: `(P, C, k, k)`.
        floor: Added to the eigenvalues of the covariance, so that absent directions are not blown up.

    Returns:
        Filters of the same shape and type; computed in float64.
    """
    rows = patches.flatten(1).double()
    rows = rows - rows.mean(1, keepdim=True)
    length = rows.norm(dim=1, keepdim=True)
    rows = rows / torch.where(length < 1e-8, 1.0, length)
    # With Z = V (E + floor)^-1/2 V', Z Z' is the inverse of the covariance with its floor.
    covariance = rows.T @ rows / len(rows)
    covariance.diagonal().add_(floor)
    return torch.linalg.solve(covariance, rows.T).T.reshape(patches.shape).to(patches.dtype)
