"""Features without training that pre-trained ones must beat: image statistics and random convolutions.

Random convolutional features are those of MOSAIKS (Rolf et al. 2021, doi 10.1038/s41467-021-24638-z).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError

__all__ = ["RandomConvolutions", "image_statistics", "patches_of", "whitened"]


def image_statistics(images: Tensor) -> Tensor:
    """Return mean, deviation (unbiased), maximum and minimum of each band, `(B, C, H, W)` to `(B, 4C)`."""
    pixels = images.flatten(2)
    std, mean = torch.std_mean(pixels, dim=2)
    return torch.cat([mean, std, pixels.amax(2), pixels.amin(2)], dim=1)


class RandomConvolutions(nn.Module):
    """Mean of both signs of random filters' answers; nothing in it is trained.

    Args:
        channels: Bands of the images.
        features: Numbers for an image, two for each filter.
        kernel: Side of a filter in pixels.
        bias: Added to every answer before the sign is taken.
        seed: Of the filters; None is what the study's program took for a seed of 0: torch's own starting
            seed.
        filters: `(features / 2, channels, kernel, kernel)` to use instead, such as `whitened` patches.

    Raises:
        UserError: If `features` is odd, or the filters have another shape.
    """

    def __init__(
        self,
        channels: int,
        *,
        features: int = 512,
        kernel: int = 3,
        bias: float = -1.0,
        seed: int | None = None,
        filters: Tensor | None = None,
    ) -> None:
        super().__init__()
        if features < 2 or features % 2:
            raise UserError(f"features is {features}; it must be even: every filter gives two")
        shape = (features // 2, channels, kernel, kernel)
        if filters is not None and tuple(filters.shape) != shape:
            raise UserError(f"the filters are {tuple(filters.shape)} and must be {shape}")
        self.width, self.seed, self.first_bias, self.filters = features, seed, bias, filters
        self.weight: Tensor
        self.bias: Tensor
        self.register_buffer("weight", torch.empty(shape))
        self.register_buffer("bias", torch.empty(features // 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the filters by the seed and write the biases."""
        drawn = self.filters
        if drawn is None:
            generator = torch.Generator()
            if self.seed is not None:
                generator.manual_seed(self.seed)
            drawn = torch.randn(self.weight.shape, generator=generator, device="cpu")
        with torch.no_grad():
            self.weight.copy_(drawn)
            self.bias.fill_(self.first_bias)

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
