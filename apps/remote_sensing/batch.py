"""The batch every network of images of the Earth is fed with, and what is known of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from torch import Tensor

from core.data.batch import IGNORE, Batch
from core.data.facts import Facts
from core.errors import UserError

__all__ = ["IGNORE", "Coordinates", "SceneBatch", "SceneFacts"]


@dataclass(frozen=True)
class Coordinates:
    """When and where a scene was taken, as networks are told.

    Args:
        time: Give dates where all are known.
        first_day: Number of the first of January; some published readers begin at 0.
        location: Give latitude and longitude where they are known.
        longitude_first: Give longitude first, as one published program does.
    """

    time: bool = True
    first_day: int = 1
    location: bool = True
    longitude_first: bool = False

    def days(self, dates: Sequence[date]) -> list[tuple[float, float]]:
        """Return year and day of the year of each date."""
        return [(float(day.year), float(day.timetuple().tm_yday - 1 + self.first_day)) for day in dates]

    def degrees(self, latitude: float, longitude: float) -> tuple[float, float]:
        """Return both in the order wanted."""
        return (longitude, latitude) if self.longitude_first else (latitude, longitude)


@dataclass(frozen=True, kw_only=True)
class SceneFacts(Facts):
    """How images were read and what their labels are: enough to map another scene from a checkpoint alone.

    Attributes:
        bands: Names, in the network's order.
        mean: Of each band, in units of stored numbers times `scale`.
        std: The same.
        scale: Stored numbers are multiplied by it before `mean` and `std` hold.
        frames: Dates of a scene.
        sensor: Whose numbers names of bands are, or None.
        target: What the labels are: `segmentation`, `regression`, `classification`, `multilabel` or `none`.
        classes: Their names.
        class_counts: Labelled pixels or scenes of each, empty where nobody counted.
        nodata: Number that stands for no measurement in files that do not say it, or None.
        fill: What pixels without data become.
        fill_before: Whether that is before the normalisation.
        stored: Whether numbers were taken as stored, whatever scale and offset the files name.
        resize: Side to which windows are resized, or None.
        window: Side of the training windows in pixels of the files, or None where nobody knows.
        order: Date and band of each date and band where a reader mixes them up on purpose, else None.
        coordinates: Which dates and places networks are told, and how.
        kind: What the task was for; `features` before any task.
        temperature: What logits are divided by for probabilities.
        label_mean: Of the training labels of a regression.
        label_std: The same.
        quantity: What a regression's numbers are called.
    """

    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1.0
    frames: int = 1
    sensor: str | None = None
    target: str = "none"
    classes: tuple[str, ...] = ()
    class_counts: tuple[int, ...] = ()
    nodata: float | None = None
    stored: bool = False
    fill: float = 0.0
    fill_before: bool = False
    resize: int | None = None
    window: int | None = None
    order: tuple[tuple[int, int], ...] | None = None
    coordinates: Coordinates = Coordinates(time=False, location=False)
    kind: str = "features"
    temperature: float = 1.0
    label_mean: float = 0.0
    label_std: float = 1.0
    quantity: str = "value"


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
