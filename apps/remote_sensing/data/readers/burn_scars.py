"""HLS Burn Scars: 804 chips of six bands with burnt land, United States 2018 to 2021 (CC-BY-4.0)."""

from __future__ import annotations

import re
from datetime import date, timedelta

from apps.remote_sensing.data.bands import HLS
from apps.remote_sensing.data.readers.source import Scene, Source
from core.errors import UserError

__all__ = ["BurnScars"]

_FOLDERS = {"train": "training", "val": "validation", "test": "validation", "predict": "validation"}
_MEAN = (
    0.033349706741586264, 0.05701185520536176, 0.05889748132001316, 0.2323245113436119, 0.1972854853760658,
    0.11944914225186566,
)  # fmt: skip
_STD = (
    0.02269135568823774, 0.026807560223070237, 0.04004109844362779, 0.07791732423672691, 0.08708738838140137,
    0.07241979477437814,
)  # fmt: skip


class BurnScars(Source):
    """Classes not burnt and burnt at 30 m, one date, 512 x 512 pixels of reflectance 0 to 1.

    The set has no test part: as published, the validation chips are tested.

    Args:
        path: The folder of `training` and `validation`.
    """

    name = "hls_burn_scars"
    sensor = "sentinel2"
    bands = HLS
    classes = ("not burnt", "burnt")
    mean = dict(zip(HLS, _MEAN, strict=True))
    std = dict(zip(HLS, _STD, strict=True))
    licence = "CC-BY-4.0"
    default_nodata = -9999.0

    def __init__(self, path: str | None = None) -> None:
        super().__init__(path)

    def scenes(self, split: str) -> list[Scene]:
        """Return the chips of a split, sorted by name."""
        folder = self.path / _FOLDERS[split]
        found = []
        for image in sorted(folder.glob("*_merged.tif")):
            name = image.name.removesuffix("_merged.tif")
            label = image.with_name(f"{name}.mask.tif")
            if split != "predict" and not label.is_file():
                said = f"{image} has no label {label.name} beside it; add it or take the chip away"
                if self.refused is None:
                    raise UserError(said)
                self.refused.append(said)
                continue
            layers = tuple((0, band) for band in range(1, 7))
            dates = _date(name)
            found.append(Scene(name, (image,), layers, 1, label if label.is_file() else None, dates))
        return found


def _date(name: str) -> tuple[date, ...] | None:
    """Return the date that a name holds as year and day of year, such as 2018285."""
    found = re.search(r"\.(\d{4})(\d{3})\.", name)
    if found is None:
        return None
    return (date(int(found[1]), 1, 1) + timedelta(days=int(found[2]) - 1),)
