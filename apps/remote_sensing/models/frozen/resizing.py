"""Preparation of images as a set of weights was trained on: size first, then the numbers.

Corley et al. 2023 (arXiv 2305.13456) show that features of weights trained on 224 pixels are far better at
that size than at an image's own, and that each set of weights has its own normalisation. Both are bound to
weights here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError, did_you_mean

__all__ = [
    "SECO_RGB",
    "ImagePreparation",
    "Normalisation",
    "Preparation",
    "arranged",
    "centre_crop",
    "preparation_for",
    "resize",
]

Normalisation = Literal["none", "divide", "clip", "standardise", "min_max", "stretch", "eight_bit"]

# What each does to numbers x, and the statistics that it needs of each band.
_RULES: dict[str, tuple[tuple[str, ...], Callable[..., Tensor]]] = {
    "none": ((), lambda x, divisor: x),
    "divide": ((), lambda x, divisor: x / divisor),
    "clip": ((), lambda x, divisor: (x / divisor).clamp(0, 1)),
    "standardise": (("mean", "std"), lambda x, _, mean, std: (x - mean) / std),
    "min_max": (("low", "high"), lambda x, _, low, high: (x - low) / (high - low)),
    "stretch": (
        ("low", "high", "mean", "std"),
        lambda x, _, low, high, mean, std: (
            (((x - low) / (high - low) * 255).clamp(0, 255) / 255 - mean) / std
        ),
    ),
    "eight_bit": (
        ("mean", "std"),
        lambda x, _, mean, std: ((x - (mean - 2 * std)) / (4 * std) * 255).clamp(0, 255).trunc() / 255,
    ),
}


class ImagePreparation:
    """How images are prepared for a network; subclasses are frozen dataclasses that a recipe names."""

    def preparation(self, network: nn.Module, bands: Sequence[str]) -> Preparation:
        """Return what is done to images whose bands are those named, in this order."""
        raise TypeError(f"{type(self).__name__} defines no preparation; name one of this module's classes")

    def factor(self, network: nn.Module) -> float:
        """Return what the data's numbers are multiplied by before that."""
        return 1.0


@dataclass(frozen=True)
class Preparation(ImagePreparation):
    """Changes to an image before a network sees it, whatever its weights.

    Args:
        normalisation: `none`; `divide` by `divisor`; `clip` to [0, 1] after that; `standardise` by `mean` and
            `std`; `min_max` by `low` and `high`; `stretch` to [0, 1] by these, clipped, and standardise; or
            `eight_bit`: whole numbers from 0 at two deviations below the mean to 255 at two above, over 255.
        size: Pixels of the shorter side, or (height, width); None leaves the size.
        crop: Side of the square that is cut from the centre after that; None leaves the rest.
        resize_first: Whether numbers are changed after the size; before it in some programs.
        divisor: For `divide` and `clip`.
        mean: Of each band.
        std: Of each band, above 0.
        low: Of each band.
        high: Of each band, above `low`.

    Raises:
        UserError: If the normalisation is unknown, or numbers do not fit each other.
    """

    normalisation: Normalisation = "none"
    size: int | tuple[int, int] | None = None
    crop: int | None = None
    resize_first: bool = True
    divisor: float = 1.0
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    low: Sequence[float] = ()
    high: Sequence[float] = ()

    def __post_init__(self) -> None:
        if self.normalisation not in get_args(Normalisation):
            choices = get_args(Normalisation)
            hint = did_you_mean(str(self.normalisation), choices)
            raise UserError(f"normalisation is {self.normalisation!r}; it must be one of {choices}{hint}")
        if self.divisor == 0 or any(s <= 0 for s in self.std):
            raise UserError("divisor must not be 0, and every std must be above 0; a constant band has std 1")
        if any(high <= low for low, high in zip(self.low, self.high, strict=False)):
            raise UserError("high must be above low in every band")

    def __call__(self, images: Tensor) -> Tensor:
        """Return prepared images.

        Args:
            images: `(B, C, H, W)` or `(B, C, T, H, W)`, any type of number.

        Returns:
            The same with another height and width, floating.
        """
        if self.resize_first:
            return self.normalise(self._sized(images))
        return self._sized(self.normalise(images))

    def normalise(self, images: Tensor) -> Tensor:
        """Change the numbers only.

        Raises:
            UserError: If statistics are missing, or not one for each band.
        """
        x = images if images.is_floating_point() else images.float()
        needed, rule = _RULES[self.normalisation]
        return rule(x, self.divisor, *(self._along(name, x) for name in needed))

    def preparation(self, network: nn.Module, bands: Sequence[str]) -> Preparation:
        """Return this."""
        return self

    def _sized(self, images: Tensor) -> Tensor:
        sized = images if self.size is None else resize(images, self.size)
        return sized if self.crop is None else centre_crop(sized, self.crop)

    def _along(self, name: str, x: Tensor) -> Tensor:
        """Return a statistic of the bands as a tensor that broadcasts over images."""
        numbers = getattr(self, name)
        if len(numbers) != x.shape[1]:
            raise UserError(
                f"the normalisation {self.normalisation} has {len(numbers)} numbers of {name} and the images "
                f"have {x.shape[1]} bands; give one for each band, in their order"
            )
        return torch.tensor(numbers, dtype=x.dtype, device=x.device).view(-1, *[1] * (x.ndim - 2))


SECO_RGB = Preparation(
    "stretch",
    size=224,
    low=(3, 2, 0),
    high=(88, 103, 129),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
"""For SeCo's weights on red, green and blue of 8-bit Sentinel-2: stretched, then by ImageNet's statistics."""


def resize(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Resize bilinearly as the study does: corner pixels stay corners, and nothing is smoothed first.

    Args:
        images: `(B, C, H, W)` or `(B, C, T, H, W)`, any type of number.
        size: Pixels of the shorter side, the longer one following, or (height, width).

    Returns:
        Floating images of that size.

    Raises:
        UserError: If the size is not above 0.
    """
    x = images if images.is_floating_point() else images.float()
    height, width = x.shape[-2:]
    if isinstance(size, int):
        wide = width >= height
        to = (size, int(size * (width / height))) if wide else (int(size / (width / height)), size)
    else:
        to = (int(size[0]), int(size[1]))
    if min(to) < 1:
        raise UserError(f"size is {size}; both sides must be at least one pixel")
    if to == (height, width):
        return x
    flat = x.flatten(1, -3)  # B C T H W -> B CT H W
    resized = F.interpolate(flat, size=to, mode="bilinear", align_corners=True)
    return resized.reshape(*x.shape[:-2], *to)


def centre_crop(images: Tensor, side: int) -> Tensor:
    """Cut a square from the centre of `(..., H, W)`.

    Raises:
        UserError: If an image is smaller.
    """
    height, width = images.shape[-2:]
    if min(height, width) < side:
        raise UserError(
            f"the images have {height}x{width} pixels; a square of {side} cannot be cut from them"
        )
    top, left = round((height - side) / 2), round((width - side) / 2)
    return images[..., top : top + side, left : left + side]


def arranged(images: Tensor, *, given: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """Put bands in the order that a network wants them, by name; those that are not there are zeros.

    Zeros are what the study and SoftCon take for a missing band, such as the cirrus band in surface
    reflectances.

    Args:
        images: `(B, C, ...)`.
        given: Names of its C bands.
        wanted: Names of the bands to return.

    Raises:
        UserError: If the names are not one for each band, or no band is wanted.
    """
    if len(given) != images.shape[1]:
        raise UserError(f"{len(given)} bands are named ({', '.join(given)}); there are {images.shape[1]}")
    places = {name: i for i, name in enumerate(given)}
    if not set(places) & set(wanted):
        raise UserError(
            f"none of the bands {', '.join(given)} is one that is wanted ({', '.join(wanted)}); name them "
            "alike"
        )
    empty = torch.zeros_like(images[:, 0])
    return torch.stack([images[:, places[name]] if name in places else empty for name in wanted], dim=1)


def preparation_for(network: nn.Module, *, size: int | tuple[int, int] | None = None) -> Preparation:
    """Return how images are prepared for a network's published weights.

    Args:
        network: Says its `mean` and `std`, and if it is not `standardise` its `normalisation`; its `image` is
            the size.
        size: Another size; a network without `image` keeps each image's own.

    Raises:
        UserError: If it does not say its statistics.
    """
    mean, std = getattr(network, "mean", None), getattr(network, "std", None)
    if mean is None or std is None:
        raise UserError(
            f"{type(network).__name__} does not say what its weights were trained on; name a Preparation"
        )
    return Preparation(
        getattr(network, "normalisation", "standardise"),
        size=getattr(network, "image", None) if size is None else size,
        mean=tuple(mean),
        std=tuple(std),
    )
