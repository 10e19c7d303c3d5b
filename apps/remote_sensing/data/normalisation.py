"""The one normalisation of images, in training and in prediction, and the check of their units."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from apps.remote_sensing.data.bands import NAMES, SENSORS
from core.errors import UserError

__all__ = ["Normalisation", "check_units"]

_OTHERS = (
    100.0  # times smaller or larger than any ground is: bytes, per cent and 10,000ths lie closer together
)
_LEAST, _MOST = 64, 2**18  # pixels of a band that tell anything, and that are looked at
_RADAR = frozenset(SENSORS["sentinel1"].values())
_OPTICAL = frozenset(NAMES) - _RADAR


class Normalisation:
    """Stored numbers times `scale`, less `mean`, over `std`.

    Args:
        mean: Of each band, `(C, 1)` or with each date `(C, T)`.
        std: The same.
        scale: What stored numbers are multiplied by.
        fill: What pixels without data become.
        fill_before: Whether that is before the normalisation, in the units of `mean`.
        device: Where images are.
    """

    def __init__(
        self,
        mean: Tensor,
        std: Tensor,
        *,
        scale: float,
        fill: float,
        fill_before: bool,
        device: torch.device | str = "cpu",
    ) -> None:
        self.offset = (mean.double() / scale).float()[..., None, None].to(device)
        self.factor = (scale / std.double()).float()[..., None, None].to(device)
        self.scale, self.fill, self.fill_before = scale, fill, fill_before

    @property
    def plain(self) -> bool:
        """Whether numbers stay as they are, but for the scale."""
        return not bool(self.offset.any()) and bool((self.factor == self.scale).all())

    def __call__(self, images: Tensor, lost: Tensor) -> Tensor:
        """Normalise images in place and return them.

        Args:
            images: `(B, C, T, H, W)` float32, stored numbers.
            lost: Where a date shows nothing, `(B, 1, T, H, W)` bool.
        """
        some = bool(lost.any())
        if some and self.fill_before:
            images.masked_fill_(lost, self.fill / self.scale)
        images.sub_(self.offset).mul_(self.factor)
        if some and not self.fill_before:
            images.masked_fill_(lost, self.fill)
        return images

    def undone(self, images: Tensor) -> Tensor:
        """Return stored numbers of normalised images."""
        return images / self.factor + self.offset

    def check(self, images: Tensor, bands: Sequence[str], *, what: str, advice: str) -> bool:
        """Refuse stored numbers that cannot be in the units of the normalisation; see `check_units`."""
        if self.plain:
            return True  # as they are: whoever is given them knows what they should be
        self._check_decibels(images, bands, what=what)
        return check_units(images, self.offset.abs() + 1 / self.factor, bands, what=what, advice=advice)

    def _check_decibels(self, images: Tensor, bands: Sequence[str], *, what: str) -> None:
        """Refuse backscatter in decibels, which is mostly negative, for linear one, and the reverse."""
        rows = [row for row, band in enumerate(bands) if band in _RADAR]
        seen = images[:, rows].flatten()
        seen = seen[seen.isfinite() & (seen != 0)][:_MOST]
        if len(seen) < _LEAST:
            return
        usual, negative = bool((self.offset[rows] < 0).all()), float((seen < 0).float().mean())
        if (negative < 0.01) if usual else (negative > 0.5):
            has, wants = ("linear", "decibels") if usual else ("in decibels", "linear numbers")
            raise UserError(
                f"{what} hold radar backscatter that is {has}, and the normalisation is of {wants}; convert "
                "it (decibels are 10 log10 of the linear power)"
            )


def check_units(images: Tensor, level: Tensor, bands: Sequence[str], *, what: str, advice: str) -> bool:
    """Refuse images whose numbers are all far smaller, or half of them far larger, than is usual in any band.

    Only bands of reflected light tell: heights and radar may be anything.

    Args:
        images: `(B, C, T, H, W)`, NaN without data.
        level: What is usual, such as mean and deviation together, broadcastable to `(C, T, H, W)`.
        bands: Names of the C bands.
        what: The images, for the message.
        advice: What to do, for the message.

    Returns:
        Whether they told anything; images of too few pixels or of zeros alone do not.

    Raises:
        UserError: If their units are others.
    """
    rows = [row for row, band in enumerate(bands) if band in _OPTICAL]
    if not rows:
        return True
    seen = (images[..., ::4, ::4].float().abs() / level.to(images.device))[:, rows]
    seen = seen.movedim(1, 0).flatten(1)[:, :_MOST]  # C, B T H W
    if int(seen.isfinite().all(0).sum()) < _LEAST:
        return False
    share = torch.tensor([0.5, 0.99], device=seen.device)
    middle, most = torch.nanquantile(seen.masked_fill(seen.isinf(), math.nan), share, dim=1)
    if not float(most.max()):
        return False
    times = float(middle.min()) if float(middle.min()) > _OTHERS else 1 / max(float(most.max()), 1e-12)
    if times > _OTHERS:
        side = "above" if float(middle.min()) > _OTHERS else "below"
        raise UserError(
            f"{what} hold numbers about {times:.0e} times {side} the usual of their bands, so their units "
            f"are others (reflectance of 0 to 1, or times 10,000); {advice}"
        )
    return True
