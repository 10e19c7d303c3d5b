"""The batch every network of images of the Earth is fed with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from core.data.batch import IGNORE, Batch
from core.errors import UserError

__all__ = ["IGNORE", "SceneBatch"]


@dataclass(frozen=True, eq=False)
class SceneBatch(Batch):
    """Images of places, with T dates and C bands each.

    Attributes:
        image: `(B, C, T, H, W)` float32, normalised; the data module's `fill` where `valid` is False.
        label: By the task: classes `(B, H, W)` int64 with `IGNORE` where unknown; numbers `(B, H, W)`
            float32 with NaN where unknown; a class `(B,)` int64; several classes `(B, K)` float32 of 0 and 1;
            or None.
        valid: `(B, T, H, W)` bool, False where a date shows nothing (no data, or padding).
        time: `(B, T, 2)` float32 of year and day of year, or None.
        location: `(B, 2)` float32 of latitude and longitude in degrees, or None.
        gaps: `(B, T, H, W)` bool, True where a cloud hides what is to be filled in, or None.
        names: One for each sample.

    Raises:
        UserError: If the image has not five dimensions or the mask does not fit it.
    """

    image: Tensor
    label: Tensor | None
    valid: Tensor
    time: Tensor | None = None
    location: Tensor | None = None
    gaps: Tensor | None = None
    names: tuple[str, ...] | str = ()

    def __post_init__(self) -> None:
        if self.image.ndim not in (4, 5):  # four: one sample, before batches are stacked
            raise UserError(
                f"the image of a scene batch has shape {tuple(self.image.shape)}; it must be "
                "(batch, band, time, height, width)"
            )
        expected = (*self.image.shape[:-4], *self.image.shape[-3:])
        if tuple(self.valid.shape) != expected:
            raise UserError(
                f"the valid mask of a scene batch has shape {tuple(self.valid.shape)}; its image has "
                f"{tuple(self.image.shape)}, so it must be {expected}"
            )

    @property
    def labelled(self) -> Tensor | None:
        """Where the label says something, bool of the label's shape; None without labels."""
        if self.label is None:
            return None
        return self.label.isfinite() if self.label.is_floating_point() else self.label != IGNORE
