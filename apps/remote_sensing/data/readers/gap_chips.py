"""Chips without clouds and masks of real clouds, to learn to fill gaps in (Godwin et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from apps.remote_sensing.data.bands import HLS
from apps.remote_sensing.data.raster import read_window
from apps.remote_sensing.data.readers.crops import stacked
from apps.remote_sensing.data.readers.source import Scene, Source, Target
from apps.remote_sensing.data.readers.splits import read_rows
from core.errors import UserError

__all__ = ["GapChips"]

_MEAN = (495.7316, 814.1386, 924.5740, 2962.5623, 2640.8833, 1740.3031)
_STD = (286.9569, 359.3304, 576.3471, 892.2656, 945.9432, 916.1625)
_USAGE = {"train": "train", "val": "validate", "test": "validate", "predict": "validate"}


class GapChips(Source):
    """Three dates of six bands at 30 m, some of which are hidden by clouds seen elsewhere.

    Training draws the clouds of a chip in every epoch; in evaluation a sample has always the same.

    Args:
        path: The folder of `chips_filtered`, `cloud_mask`, `chip_catalog.csv` and `cloud_catalog.csv`.
        positions: Dates, from 1, that are clouded, one list for each kind of sample; samples take them in
            turn.
        least: Smallest share of clouded pixels of a mask.
        most: Largest share.
        worst: Largest percentage of bad pixels of a chip.
    """

    name = "cloud_gaps"
    sensor = "sentinel2"
    bands = HLS
    frames = 3
    target: Target = "none"
    mean = dict(zip(HLS, _MEAN, strict=True))
    std = dict(zip(HLS, _STD, strict=True))
    default_nodata = -9999.0

    def __init__(
        self,
        path: str | None = None,
        *,
        positions: Sequence[Sequence[int]] = ((2,),),
        least: float = 0.01,
        most: float = 1.0,
        worst: float = 5.0,
    ) -> None:
        super().__init__(path)
        dates = [date for combination in positions for date in combination]
        if not dates or min(dates) < 1 or max(dates) > self.frames:
            raise UserError(
                f"data.source.positions is {[list(one) for one in positions]}; give lists of the dates 1 to "
                f"{self.frames}"
            )
        self.clouded = tuple(tuple(one) for one in positions)
        self.least, self.most, self.worst = least, most, worst
        self._masks: dict[str, list[Path]] = {}

    def move(self, path: str) -> None:
        """Read another folder from now on."""
        super().move(path)
        self._masks.clear()

    def scenes(self, split: str) -> list[Scene]:
        """Return the chips of a split in the order of the catalogue, without those with bad pixels."""
        usage, layers = _USAGE[split], stacked(self.frames, len(self.bands))[0]
        found = []
        catalogue = self.path / "chip_catalog.csv"
        for row in read_rows(catalogue, ("chip_id", "usage", "bad_pct_max", "na_count")):
            bad, lost = (_number(row, name, catalogue) for name in ("bad_pct_max", "na_count"))
            if row["usage"] == usage and bad < self.worst and lost == 0:
                image = self.path / "chips_filtered" / f"{row['chip_id']}_merged.tif"
                found.append(Scene(row["chip_id"], (image,), layers, self.frames))
        return found

    def gaps(
        self, index: int, *, size: tuple[int, int], generator: torch.Generator | None
    ) -> NDArray[np.bool_]:
        """Return the clouds of a sample, `(T, H, W)`.

        Args:
            index: Number of the sample.
            size: Rows and columns of its chip.
            generator: Draws the masks; None takes those of the evaluation.

        Raises:
            UserError: If there are no masks, or they are of another size.
        """
        masks = self.masks("train" if generator is not None else "validate")

        def mask(number: int) -> NDArray[np.bool_]:
            header = self.header(masks[number])
            if (header.height, header.width) != size:
                raise UserError(
                    f"{masks[number]} is {header.height} x {header.width} pixels, the chip "
                    f"{size[0]} x {size[1]}; masks must have the chips' size"
                )
            return read_window(masks[number], [1], (0, 0, *size))[0] == 1

        return self.hide(index, self.clouded, len(masks), size, generator, mask)

    def masks(self, usage: str) -> list[Path]:
        """Return the masks of a usage, `train` or `validate`, in the order of the catalogue."""
        if usage not in self._masks:
            catalogue = self.path / "cloud_catalog.csv"
            rows = read_rows(catalogue, ("fmask_name", "cloud_pct", "usage"))
            kept = [
                self.path / "cloud_mask" / _tif(row["fmask_name"])
                for row in rows
                if row["usage"] == usage and self.least <= _number(row, "cloud_pct", catalogue) <= self.most
            ]
            if not kept:
                raise UserError(
                    f"{catalogue} has no cloud for '{usage}' between "
                    f"{self.least:g} and "
                    f"{self.most:g}; widen data.source.least and most"
                )
            self._masks[usage] = kept
        return self._masks[usage]


def _number(row: dict[str, str], name: str, path: Path) -> float:
    try:
        return float(row[name])
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path} has {name} '{row[name] or ''}' in the row of {next(iter(row.values()))}, which is no "
            "number; correct it or remove the row"
        ) from error


def _tif(name: str) -> str:
    return name if name.endswith(".tif") else f"{name}.tif"
