"""Simulated landscapes: scenes of six bands with exact labels, made on this machine when they are first read.

`apps/remote_sensing/simulation/scene.py` says how they are made, from which sources, and what they lack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from apps.remote_sensing.data.bands import HLS
from apps.remote_sensing.data.raster import read_window
from apps.remote_sensing.data.readers.folders import GeoTiffFolder
from apps.remote_sensing.data.readers.source import Scene, Target, drawn_share
from apps.remote_sensing.simulation.ground import CLASSES
from apps.remote_sensing.simulation.store import FRACTIONS, Settings, ensure, read_table
from core.data.checks import one_of
from core.data.randomness import key
from core.errors import UserError

__all__ = ["Landscapes", "Task"]

Task = Literal["floods", "land_cover", "change", "gaps", "scene_labels", "biomass", "images"]

_TASKS: dict[str, tuple[Target, tuple[str, ...], str | None]] = {
    "floods": ("segmentation", ("dry", "water"), "water"),
    "land_cover": ("segmentation", CLASSES, "land_cover"),
    "change": ("segmentation", ("same", "changed"), "changed"),
    "gaps": ("none", (), None),
    "scene_labels": ("multilabel", CLASSES, None),
    "biomass": ("regression", (), "biomass"),
    "images": ("none", (), None),
}
"""Target, classes and folder of labels of each task."""


class Landscapes(GeoTiffFolder):
    """Simulated scenes at 30 m with six bands and several dates, below `DFM_DATA` as GeoTIFFs.

    The same scenes serve all tasks. `floods`: water and dry land on the last date, after the floods.
    `land_cover`: seven classes from all dates. `change`: what a flood or a fire changed between the last two
    dates. `gaps`: all dates without clouds, and clouds of other scenes that hide some of them.
    `scene_labels`: which land covers are on 2 % of a scene or more. `biomass`: tonnes per hectare on the
    middle date. `images`: all dates, no label.

    Args:
        scenes: How many.
        size: Pixels along an edge.
        frames: Dates that are made.
        seed: Of the scenes and of the shares.
        task: What is learnt.
        clouds: Whether clouds, their shadows and the edge of the swath are in the images; never for `gaps`.
        dates: Dates to read, from 1; None is the task's own choice.
        fractions: Shares of training, validation and test scenes.
        hidden: For `gaps`: dates read, from 1, that are clouded, one list for each kind of sample; samples
            take them in turn. None hides the middle one.
        path: Folder to keep them in; None is one below the environment's DFM_DATA named after the settings.

    Raises:
        UserError: If a value is out of range or the task is unknown.
    """

    sensor = "sentinel2"
    licence = "CC0-1.0: computed by domainfm's own generator"

    def __init__(
        self,
        scenes: int = 48,
        size: int = 128,
        frames: int = 3,
        *,
        seed: int = 0,
        task: Task = "floods",
        clouds: bool = True,
        dates: Sequence[int] | None = None,
        fractions: Sequence[float] = FRACTIONS,
        hidden: Sequence[Sequence[int]] | None = None,
        path: str | None = None,
    ) -> None:
        one_of(get_args(Task), room="data.source", task=task)
        self.settings = Settings(scenes, size, frames, seed, clouds and task != "gaps")
        self.task, self.chosen = task, _dates(task, frames, dates)
        target, classes, labels = _TASKS[task]
        pattern = [f"images/date_{number}/*.tif" for number in self.chosen]
        super().__init__(
            str(self.settings.place(path)), images=pattern[0], later=pattern[1:], bands=HLS,
            sensor="sentinel2", labels=f"labels/{labels}/*.tif" if labels else None, classes=classes,
            target=target, fractions=fractions, mixed_crs=True, seed=seed,
        )  # fmt: skip
        self.target = target
        drawn_share((), "train", fractions=fractions, seed=seed)  # refuses wrong shares before any work
        middle = (len(self.chosen) + 1) // 2
        self.hidden = tuple(tuple(one) for one in (((middle,),) if hidden is None else hidden))
        numbers = [number for one in self.hidden for number in one]
        if not numbers or min(numbers) < 1 or max(numbers) > len(self.chosen):
            raise UserError(
                f"data.source.hidden is {[list(one) for one in self.hidden]}; give lists of the dates 1 to "
                f"{len(self.chosen)}"
            )
        self._masks: dict[str, list[tuple[Path, int]]] = {}

    def move(self, path: str) -> None:
        """Keep the scenes in another folder from now on."""
        super().move(path)
        self._masks.clear()

    def scenes(self, split: str) -> list[Scene]:
        """Return the scenes of a split, sorted by name, with dates and location."""
        ensure(self.settings, self.path)
        table = read_table(self.path)
        found = []
        for scene in super().scenes("test" if split == "predict" else split):
            row = table[scene.name]
            days = [date.fromisoformat(day) for day in row["dates"].split()]
            label: Path | tuple[int, ...] | None = scene.label
            if self.task == "scene_labels":
                label = tuple(CLASSES.index(name) for name in row["covers"].split(";") if name)
            location = (float(row["latitude"]), float(row["longitude"]))
            dates = tuple(days[number - 1] for number in self.chosen)
            found.append(replace(scene, label=label, dates=dates, location=location))
        return found

    def gaps(
        self, index: int, *, size: tuple[int, int], generator: torch.Generator | None
    ) -> NDArray[np.bool_] | None:
        """Return clouds and their shadows `(T, H, W)` of other scenes; None for tasks without gaps.

        Args:
            index: Number of the sample.
            size: Rows and columns of its scene.
            generator: Draws from the training scenes' clouds; None takes those of the test scenes in turn.
        """
        if self.task != "gaps":
            return None
        masks = self._clouds("test" if generator is None else "train")

        def mask(number: int) -> NDArray[np.bool_]:
            path, band = masks[number]
            return np.isin(read_window(path, [band], (0, 0, *size))[0], (1, 2))

        return self.hide(index, self.hidden, len(masks), size, generator, mask)

    def _clouds(self, split: str) -> list[tuple[Path, int]]:
        """Return file and band of every mask of a split in an order that mixes the scenes."""
        if split not in self._masks:
            table = read_table(self.path)
            names = self._split(split, sorted(table)) or sorted(table)
            found = [
                (self.path / "clouds" / f"{name}.tif", band)
                for name in names
                for band, share in enumerate(table[name]["clouded"].split(), start=1)
                if float(share) >= 0.01
            ]
            found.sort(key=lambda one: key(self.seed, one[1], one[0].stem, "gaps"))
            if not found:
                raise UserError(
                    f"{self.path} has no clouds to hide anything with; set data.source.scenes higher"
                )
            self._masks[split] = found
        return self._masks[split]


def _dates(task: str, frames: int, wanted: Sequence[int] | None) -> tuple[int, ...]:
    """Return the dates that are read, from 1."""
    if wanted is not None:
        if not wanted or min(wanted) < 1 or max(wanted) > frames:
            raise UserError(f"data.source.dates is {list(wanted)}; give dates from 1 to {frames}")
        if len(set(wanted)) < len(wanted):
            raise UserError(f"data.source.dates is {list(wanted)}; give each date once")
        return tuple(wanted)
    if task == "change":
        if frames < 2:
            raise UserError(f"data.source.frames is {frames}; the task change needs at least 2 dates")
        return (frames - 1, frames)
    if task == "floods":
        return (frames,)
    if task in ("scene_labels", "biomass"):
        return ((frames + 1) // 2,)
    return tuple(range(1, frames + 1))
