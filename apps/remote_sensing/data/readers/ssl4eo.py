"""SSL4EO-S12 with multi-labels of land cover (Wang et al. 2023, arXiv 2211.07044; 2024, arXiv 2405.20462)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal, get_args

import torch

from apps.remote_sensing.data.bands import SENSORS, canonical
from apps.remote_sensing.data.readers.source import Scene, Source, Target, drawn_share
from apps.remote_sensing.models.dino.sensors import S1, S2
from core.data.checks import at_least, one_of
from core.errors import UserError

__all__ = ["SSL4EO"]

Images = Literal["s2c", "s2a", "s1"]

_NUMBERS: dict[str, tuple[str, ...]] = {
    "s2c": tuple(SENSORS["sentinel2"]),
    "s2a": tuple(name for name in SENSORS["sentinel2"] if name != "B10"),
    "s1": tuple(SENSORS["sentinel1"]),
}


@dataclass(frozen=True)
class _Date:
    """One image of a location."""

    files: tuple[Path, ...]
    layers: tuple[tuple[int, int], ...]
    labels: tuple[int, ...]
    day: date | None


class SSL4EO(Source):
    """Locations of 2.64 km, 264 x 264 pixels at 10 m, seen in one to four seasons.

    A location is a folder, and each of its dates a folder in it with one raster of all bands or one for each
    band (`B1.tif` or `B01.tif`, `VV.tif`), of 10, 20 or 60 m. In training the dates of a sample are drawn
    anew in every epoch; they are different ones as long as the location has enough. The label of a sample
    has the classes of any of its dates.

    Args:
        path: The folder of the locations' folders, or one that holds it under the name of `images`.
        images: `s2c` (top of the atmosphere, 13 bands), `s2a` (surface, 12) or `s1` (VV and VH).
        labels: File of labels below `path`, `{location: {date: ["0", "4"]}}`; None reads none.
        seasons: Dates of a sample; where a location has fewer they come several times.
        unlabelled: What becomes of a location without any label: `leave_out` it, or `keep` it with none.
        classes: Names of the labels in the order of their numbers; by default Dynamic World's.
        bands: Names of the bands in the order of the files, where these are not the sensor's own.
        fractions: Shares of training, validation and test locations.
        seed: Of the shares.
        nodata: The number that stands for no measurement; None takes each file's own.

    Raises:
        UserError: If a value is unknown or out of range.
    """

    name = "ssl4eo_s12"
    target: Target = "multilabel"
    licence = "CC-BY-4.0"

    def __init__(
        self,
        path: str | None = None,
        *,
        images: Images = "s2c",
        labels: str | None = "labels.json",
        seasons: int = 2,
        unlabelled: Literal["leave_out", "keep"] = "leave_out",
        classes: Sequence[str] = (
            "water", "trees", "grass", "flooded vegetation", "crops", "shrub", "built", "bare", "snow",
        ),
        bands: Sequence[str] | None = None,
        fractions: Sequence[float] = (0.98, 0.01, 0.01),
        seed: int = 0,
        nodata: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(path, nodata=nodata)
        one_of(get_args(Images), room="data.source", images=images)
        one_of(("leave_out", "keep"), room="data.source", unlabelled=unlabelled)
        at_least(1, room="data.source", seasons=seasons)
        self.images, self.frames, self.unlabelled = images, seasons, unlabelled
        self.sensor = "sentinel1" if images == "s1" else "sentinel2"
        own = _NUMBERS[images]
        self.bands = tuple(canonical(band, sensor=self.sensor) for band in bands or own)
        self.numbers = own if bands is None else tuple(bands)
        if bands is None:
            about = S1 if images == "s1" else S2
            self.mean = dict(zip(about.bands, about.mean, strict=True))
            self.std = dict(zip(about.bands, about.std, strict=True))
        self.classes = tuple(classes)
        self.labels_file = labels
        if labels is None:
            self.target, self.classes = "none", ()
        self.fractions, self.seed = tuple(fractions), seed
        self._opened = False
        self._dates: dict[str, list[_Date]] = {}
        self._table: Mapping[str, Mapping[str, Sequence[str]]] | None = None

    @property
    def labels(self) -> Path | None:
        """The file of labels, if any."""
        return self.path / self.labels_file if self.labels_file else None

    def move(self, path: str) -> None:
        """Read another folder from now on."""
        super().move(path)
        self._opened, self._table = False, None
        self._dates.clear()

    def scenes(self, split: str) -> list[Scene]:
        """Return the locations of a split with their first dates, sorted by name.

        Raises:
            UserError: If a file is missing, or the labels are damaged.
        """
        folder = self._folder()
        names = sorted(one.name for one in folder.iterdir() if one.is_dir())
        if not names:
            raise UserError(f"{folder} has no folder of a location; check data.source.path")
        found = []
        for name in drawn_share(names, split, fractions=self.fractions, seed=self.seed):
            try:
                dates = self._of(folder / name)
            except UserError as error:
                if self.refused is None:
                    raise
                self.refused.append(str(error))
                continue
            if self.labels and self.unlabelled == "leave_out":
                dates = [one for one in dates if one.labels]
            if dates:
                self._dates[name] = dates
                found.append(self._scene(name, list(range(self.frames))))
        return found

    def drawn(self, scene: Scene, generator: torch.Generator) -> Scene:
        """Return the location with other dates of it."""
        count = len(self._dates[scene.name])
        if count == 1:
            return scene
        return self._scene(scene.name, torch.randperm(count, generator=generator).tolist())

    def _scene(self, name: str, order: Sequence[int]) -> Scene:
        dates = self._dates[name]
        chosen = [dates[order[number % len(order)] % len(dates)] for number in range(self.frames)]
        files = tuple(file for one in chosen for file in one.files)
        layers, before = [], 0
        for one in chosen:
            layers += [(before + file, band) for file, band in one.layers]
            before += len(one.files)
        days = tuple(one.day for one in chosen if one.day is not None)
        labels = tuple(sorted({number for one in chosen for number in one.labels}))
        return Scene(
            name,
            files,
            tuple(layers),
            self.frames,
            labels if self.labels else None,
            days if len(days) == self.frames else None,
        )

    def _of(self, folder: Path) -> list[_Date]:
        """Return all dates of a location, in the order of their names."""
        found = []
        for day in sorted(one for one in folder.iterdir() if one.is_dir()):
            files, layers = self._files(day)
            found.append(_Date(files, layers, self._numbers_of(folder.name, day.name), _day(day.name)))
        if not found:
            raise UserError(f"{folder} has no folder of a date; add one with its rasters, or remove it")
        return found

    def _files(self, folder: Path) -> tuple[tuple[Path, ...], tuple[tuple[int, int], ...]]:
        rasters = {one.stem.upper(): one for one in folder.iterdir() if one.suffix in (".tif", ".tiff")}
        if len(rasters) == 1:
            (only,) = rasters.values()
            count = len(self.bands) if self._opened else self.header(only).count
            self._opened = True  # of a million files one is opened to list them
            if count != len(self.bands):
                raise UserError(
                    f"{only} has {count} bands, and {self.images} has {len(self.bands)} "
                    f"({', '.join(self.numbers)}); set data.source.images, or name data.source.bands"
                )
            return (only,), tuple((0, band + 1) for band in range(len(self.bands)))
        files = []
        for number in self.numbers:
            file = rasters.get(number.upper()) or rasters.get(re.sub(r"^B0", "B", number.upper()))
            if file is None:
                raise UserError(f"{folder} has no raster of {number}; add {number}.tif, or remove the folder")
            files.append(file)
        return tuple(files), tuple((file, 1) for file in range(len(files)))

    def _numbers_of(self, location: str, day: str) -> tuple[int, ...]:
        """Return the classes of one date."""
        if self.labels is None:
            return ()
        table = self._read_labels()
        if location not in table or day not in table[location]:
            raise UserError(
                f"{self.labels} has no labels of {location}/{day}; add them (an empty list: none), or set "
                "data.source.labels to null"
            )
        numbers = []
        for text in table[location][day]:
            if not str(text).isdigit() or int(text) >= len(self.classes):
                raise UserError(
                    f"{self.labels} gives {location}/{day} the class '{text}', and classes are 0 to "
                    f"{len(self.classes) - 1}; correct it, or name all in data.source.classes"
                )
            numbers.append(int(text))
        return tuple(sorted(set(numbers)))

    def _read_labels(self) -> Mapping[str, Mapping[str, Sequence[str]]]:
        if self._table is None:
            assert self.labels is not None
            try:
                table = json.loads(self.labels.read_text(encoding="utf-8"))
                sound = isinstance(table, dict) and all(isinstance(one, dict) for one in table.values())
            except (OSError, ValueError) as error:
                raise UserError(
                    f"the labels {self.labels} cannot be read ({error}); check data.source.labels"
                ) from error
            if not sound:
                raise UserError(
                    f'{self.labels} is not of the form {{location: {{date: ["0", "4"]}}}}; check '
                    "data.source.labels"
                )
            self._table = table
        return self._table

    def _folder(self) -> Path:
        for folder in (self.path / self.images, self.path):
            if folder.is_dir():
                return folder
        raise UserError(f"there is no folder {self.path}; check data.source.path")


def _day(name: str) -> date | None:
    """Return the date that a folder's name holds as YYYYMMDD, or None."""
    for year, month, day in re.findall(r"(?<!\d)(\d{4})(\d{2})(\d{2})(?!\d)", name.replace("T", "_")):
        try:
            return date(int(year), int(month), int(day))
        except ValueError:
            continue
    return None
