"""Multi-temporal crop segmentation: 3,854 chips of three dates and six bands, United States 2022."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from apps.remote_sensing.batch import IGNORE
from apps.remote_sensing.data.bands import HLS
from apps.remote_sensing.data.readers.source import Scene, Source, read_names
from apps.remote_sensing.data.readers.splits import read_rows
from core.data.checks import one_of
from core.errors import UserError

__all__ = ["CLASS_WEIGHTS", "Crops", "stacked"]

_MEAN = (494.905781, 815.239594, 924.335066, 2968.881459, 2634.621962, 1739.579917)
_STD = (284.925432, 357.84876, 575.566823, 896.601013, 951.900334, 921.407808)
_PARTS = {"train": "training", "val": "validation", "test": "validation", "predict": "validation"}
_DATES = ("first_img_date", "middle_img_date", "last_img_date")

CLASS_WEIGHTS = (
    0.386375, 0.661126, 0.548184, 0.640482, 0.876862, 0.925186, 3.249462, 1.542289, 2.175141, 2.272419,
    3.062762, 3.626097, 1.198702,
)  # fmt: skip
"""Published weights of the classes in the loss."""


class Crops(Source):
    """Thirteen classes of land at 30 m from three dates of one year.

    A file has 18 bands, the six of the first date, of the second and of the third. Published programs read
    them as if the date varied fastest, so that bands and dates are mixed; a checkpoint that was trained so
    has to be fed so. The validation chips are also the test.

    Args:
        path: The folder of `training_chips`, `validation_chips`, their lists and `chips_df.csv`.
        order: `right`, or `scrambled` for checkpoints of version 1: the numbers are normalised by the bands
            they are, and shown to the network at the places they are not.
    """

    name = "multi_temporal_crops"
    sensor = "sentinel2"
    bands = HLS
    frames = 3
    classes = (
        "natural vegetation", "forest", "corn", "soybeans", "wetlands", "developed or barren", "open water",
        "winter wheat", "alfalfa", "fallow", "cotton", "sorghum", "other",
    )  # fmt: skip
    mean = dict(zip(HLS, _MEAN, strict=True))
    std = dict(zip(HLS, _STD, strict=True))
    licence = "CC-BY-4.0"
    default_nodata = -9999.0

    def __init__(self, path: str | None = None, *, order: Literal["right", "scrambled"] = "right") -> None:
        super().__init__(path)
        one_of(("right", "scrambled"), room="data.source", order=order)
        self.order = order
        self._dates: dict[str, tuple[date, ...]] | None = None

    def move(self, path: str) -> None:
        """Read another folder from now on."""
        super().move(path)
        self._dates = None

    def scenes(self, split: str) -> list[Scene]:
        """Return the chips of a published list, in its order; none if there is no list."""
        part = _PARTS[split]
        listed = self.path / f"{part}_data.txt"
        if not listed.is_file():
            if self.path.is_dir():
                return []
            raise UserError(f"there is no folder {self.path}; check data.source.path")
        layers, statistics = stacked(self.frames, len(self.bands), scrambled=self.order == "scrambled")
        folder, found = self.path / f"{part}_chips", []
        for name in read_names(listed):
            image = folder / f"{name}_merged.tif"
            label = folder / f"{name}.mask.tif"
            found.append(
                Scene(name, (image,), layers, self.frames, label, self._dated(name), statistics=statistics)
            )
        return found

    def classed(self, values: NDArray[Any], nodata: float | None) -> NDArray[np.int64]:
        """Return the classes; in the files they begin at 1, and 0 is unknown."""
        labels = super().classed(values, nodata)
        return np.where(labels >= 0, labels - 1, IGNORE)

    def _dated(self, name: str) -> tuple[date, ...] | None:
        if self._dates is None:
            self._dates = _read_dates(self.path / "chips_df.csv")
        return self._dates.get(name)


def stacked(
    frames: int, bands: int, *, scrambled: bool = False
) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...] | None]:
    """Return the layers of bands and dates in a stacked file, and whose statistics normalise them.

    Args:
        frames: Dates.
        bands: Bands of a date.
        scrambled: Read the file, which has one date after another, as if it had one band after another.
    """
    if not scrambled:
        return tuple((0, band + 1) for band in range(frames * bands)), None
    numbers = [band * frames + frame for frame in range(frames) for band in range(bands)]
    return tuple((0, number + 1) for number in numbers), tuple(number % bands for number in numbers)


def _read_dates(path: Path) -> dict[str, tuple[date, ...]]:
    if not path.is_file():
        return {}
    rows = read_rows(path, ("chip_id", *_DATES))
    try:
        return {row["chip_id"]: tuple(date.fromisoformat(row[name][:10]) for name in _DATES) for row in rows}
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path} has no usable date ({error}); it needs chip_id, {', '.join(_DATES)} with "
            "dates as 2022-03-31"
        ) from error
