"""What a reader gives: scenes that know their files, and pixels of a window when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from apps.remote_sensing.batch import IGNORE
from apps.remote_sensing.data.raster import (
    Header,
    Nodata,
    Window,
    check_grid,
    check_image,
    read_header,
    read_label,
    read_stack,
)
from apps.remote_sensing.data.readers.splits import SPLITS, drawn_share, positions, read_lines, read_names
from core.errors import UserError
from core.files import data_folder

__all__ = [
    "SPLITS",
    "Cut",
    "Pixels",
    "Scene",
    "Source",
    "Target",
    "drawn_share",
    "positions",
    "read_lines",
    "read_names",
    "whole",
]

Target = Literal["segmentation", "regression", "classification", "multilabel", "none"]

Cut = Callable[[int, int], Window]
"""From rows and columns of a scene to the window wanted."""


@dataclass(frozen=True)
class Scene:
    """Images of one piece of ground, and in which file each band of each date is.

    Args:
        name: Unique in its data set.
        files: Rasters of the image.
        layers: File number and band in it, from 1, of each band of each date; the band varies fastest.
        frames: Dates.
        label: A raster, another file the reader understands, class numbers, or None.
        dates: Of each frame, or None.
        location: Latitude and longitude in degrees where the reader knows them without opening a file.
        statistics: Band whose statistics normalise each layer, where that is not its own.
    """

    name: str
    files: tuple[Path, ...]
    layers: tuple[tuple[int, int], ...]
    frames: int = 1
    label: Path | tuple[int, ...] | None = None
    dates: tuple[date, ...] | None = None
    location: tuple[float, float] | None = None
    statistics: tuple[int, ...] | None = None

    def mixed(self, bands: Sequence[int], count: int) -> tuple[tuple[int, int], ...] | None:
        """Return date and band of each date and band where a reader mixes them up on purpose, else None.

        Both count from 0; the numbers of bands are those among the wanted ones, or -1.

        Args:
            bands: Positions of the wanted ones.
            count: Of all bands.
        """
        if self.statistics is None:
            return None
        order = [self.layers[frame * count + band][1] - 1 for frame in range(self.frames) for band in bands]
        wanted = {band: row for row, band in enumerate(bands)}
        return tuple((number // count, wanted.get(number % count, -1)) for number in order)


@dataclass(frozen=True)
class Pixels:
    """A window of a scene.

    Args:
        image: `(T, C, H, W)` in the file's units.
        valid: `(T, H, W)`.
        label: As `SceneBatch.label` without the batch, or None.
    """

    image: NDArray[Any]
    valid: NDArray[np.bool_]
    label: NDArray[Any] | None


def whole(height: int, width: int) -> Window:
    """Cut nothing off."""
    return 0, 0, height, width


class Source:
    """Base of the readers; a subclass lists the scenes of a split, and may read labels of its own kind.

    Nothing is read before scenes are asked for.

    Args:
        path: Folder of the data set; None is its folder below the environment's DFM_DATA.
        nodata: The number that stands for no measurement; None takes each file's own.
        resampling: How coarser bands are brought to the finest, as rasterio names it.
    """

    name = "scenes"
    """What the set is called; with `path` None also its folder."""
    sensor: str | None = None
    target: Target = "segmentation"
    bands: tuple[str, ...] = ()
    """Names of all bands in the order of a scene's layers."""
    classes: tuple[str, ...] = ()
    frames = 1
    scale = 1.0
    """What stored numbers are multiplied by before the published statistics hold."""
    mean: Mapping[str, float] = {}
    std: Mapping[str, float] = {}
    licence = ""
    default_nodata: float | None = None
    """What stands for no measurement in files that do not say it."""
    keeps_statistics = True
    """Whether the files tell when statistics have to be computed again."""

    def __init__(
        self, path: str | None = None, *, nodata: float | None = None, resampling: str = "bilinear"
    ) -> None:
        self.path = Path(path).expanduser() if path else data_folder() / self.name
        self.nodata, self.resampling = nodata, resampling
        # Where a list, scenes that cannot be listed are left out, and their sentences are put here.
        self.refused: list[str] | None = None
        self._headers: dict[Path, Header] = {}
        self._agreed: set[tuple[Path, ...]] = set()

    def move(self, path: str) -> None:
        """Read another folder from now on; a subclass that remembers anything of the old one forgets it."""
        self.path = Path(path).expanduser()
        self._headers.clear()
        self._agreed.clear()

    def reading(self) -> tuple[Any, ...]:
        """Return what changes the numbers that `read` gives of the same files, for what is kept of them."""
        return self.nodata, self.default_nodata, self.resampling, self.target, self.frames

    def scenes(self, split: str) -> list[Scene]:
        """Return the scenes of `train`, `val`, `test` or `predict` in a fixed order; there may be none."""
        readers = "apps.remote_sensing.data.readers"
        raise UserError(f"{type(self).__name__} lists no scenes; use a reader of {readers}")

    def positions(self, names: Sequence[str] | None) -> list[int]:
        """Return where the named bands stand among `bands`; all of them for None.

        Raises:
            UserError: If there is no such band.
        """
        return positions(names, self.bands, what=self.name, sensor=self.sensor)

    def header(self, path: Path) -> Header:
        """Return a file's header; it is read once.

        Raises:
            UserError: If it cannot be read, or is smaller than 2 x 2 pixels.
        """
        if path not in self._headers:
            header = read_header(path)
            if min(header.height, header.width) < 2:
                raise UserError(
                    f"{path} is {header.height} x {header.width} pixels; an image needs at least 2 x 2, so "
                    "leave it out"
                )
            self._headers[path] = header
        return self._headers[path]

    def size(self, scene: Scene) -> tuple[int, int]:
        """Return rows and columns of a scene, those of its finest file."""
        headers = [self.header(path) for path in scene.files]
        return max(one.height for one in headers), max(one.width for one in headers)

    def location(self, scene: Scene) -> tuple[float, float] | None:
        """Return latitude and longitude of a scene's centre in degrees, or None if nobody knows."""
        return scene.location or self.header(scene.files[0]).centre()

    def drawn(self, scene: Scene, generator: torch.Generator) -> Scene:
        """Return what a training sample sees of a scene where it has more than that, such as other dates.

        Args:
            scene: Of `scenes`.
            generator: The sample's own.
        """
        return scene

    def gaps(
        self, index: int, *, size: tuple[int, int], generator: torch.Generator | None
    ) -> NDArray[np.bool_] | None:
        """Return the clouds `(T, H, W)` a sample is to be freed of, or None if the set has none.

        Args:
            index: Number of the sample.
            size: Rows and columns of its scene.
            generator: Draws one in training; None is evaluation, where a sample has always the same.
        """
        return None

    def hide(
        self,
        index: int,
        kinds: Sequence[Sequence[int]],
        count: int,
        size: tuple[int, int],
        generator: torch.Generator | None,
        mask: Callable[[int], NDArray[np.bool_]],
    ) -> NDArray[np.bool_]:
        """Return the gaps `(T, H, W)` of a sample.

        Args:
            index: Number of the sample.
            kinds: Hidden dates, from 1, of each kind of sample; samples take them in turn.
            count: Of masks.
            size: Rows and columns.
            generator: Draws masks; None takes them in turn.
            mask: Reads one by its number.
        """
        hidden = np.zeros((self.frames, *size), bool)
        for day in kinds[index % len(kinds)]:
            if generator is None:
                number = (index + day - 1) % count
            else:
                number = int(torch.randint(0, count, (1,), generator=generator))
            hidden[day - 1] = mask(number)
        return hidden

    def read(self, scene: Scene, bands: Sequence[int], cut: Cut) -> Pixels:
        """Read a window of the chosen bands.

        Args:
            scene: Of `scenes`.
            bands: Positions among `bands`.
            cut: Chooses the window when the size is known.

        Raises:
            UserError: If a file is damaged, the files do not fit each other, or a label is out of range.
        """
        size = self.size(scene)
        self._check(scene)
        window = cut(*size)
        count = len(self.bands)
        stack = read_stack(
            scene.files,
            [scene.layers[frame * count + band] for frame in range(scene.frames) for band in bands],
            scene.frames,
            window,
            header=self.header,
            nodata=Nodata(self.nodata, self.default_nodata),
            size=size,
            alpha=[number for number in range(len(scene.files)) if self._shows(scene, number)],
            resampling=self.resampling,
            stored=self.stored,
        )
        return Pixels(stack.image, stack.valid, self.label(scene, window))

    def label(self, scene: Scene, window: Window) -> NDArray[Any] | None:
        """Return the label of a window of a scene."""
        if self.target == "none" or scene.label is None:
            return None
        if isinstance(scene.label, tuple):
            return np.array(scene.label[0]) if self.target == "classification" else self.marked(scene.label)
        header = self.header(scene.label)
        values, seen = read_label(scene.label, header, window)
        nodata = header.nodata[0]
        if self.target == "regression":
            numbers = self._numbers(values, nodata)
            return numbers if seen is None else np.where(seen, numbers, np.float32(np.nan))
        if not np.issubdtype(values.dtype, np.integer):
            fractions = values[np.isfinite(values) & (values != np.rint(values))]
            if fractions.size:
                raise UserError(
                    f"{scene.label} holds fractions such as {fractions[0]:g}, and classes are whole numbers; "
                    "correct the labels, or set data.source.target to regression"
                )
        classes = self.classed(values, nodata)
        return self._checked(classes if seen is None else np.where(seen, classes, IGNORE), scene.label)

    def classed(self, values: NDArray[Any], nodata: float | None) -> NDArray[np.int64]:
        """Return class numbers of a label raster's values, `IGNORE` where there is none."""
        labels = values.astype(np.int64)
        if not np.issubdtype(values.dtype, np.integer):
            labels[~np.isfinite(values)] = IGNORE
        if nodata is not None and nodata == nodata:
            labels[values == nodata] = IGNORE
        return labels

    def marked(self, numbers: Sequence[int]) -> NDArray[np.float32]:
        """Return 0 and 1 for each class, `(K,)`."""
        marks = np.zeros(len(self.classes), np.float32)
        marks[list(numbers)] = 1
        return marks

    @property
    def stored(self) -> bool:
        """Whether numbers are taken as stored, whatever scale files name: published means are of those."""
        return bool(self.mean)

    def note(self, scene: Scene) -> str | None:
        """Return what is assumed of a scene that its files do not say, None where nothing is."""
        first = self.header(scene.files[0]) if scene.files else None
        if not isinstance(scene.label, Path) or self.target not in ("segmentation", "regression"):
            return None
        if first is None or not first.located or self.header(scene.label).located:
            return None
        return (
            f"{scene.label} does not say where it lies; labels are taken to cover the pixels of their images"
        )

    def _shows(self, scene: Scene, number: int) -> bool:
        """Return whether the last band of a file says which pixels are shown."""
        header = self.header(scene.files[number])
        return header.alpha and header.count > 1 and (number, header.count) not in scene.layers

    def _numbers(self, values: NDArray[Any], nodata: float | None) -> NDArray[np.float32]:
        numbers = values.astype(np.float32)
        if nodata is not None and nodata == nodata:
            numbers[values == nodata] = np.nan
        return numbers

    def _checked(self, labels: NDArray[np.int64], path: object) -> NDArray[np.int64]:
        if self.classes and labels.size:
            low, high, last = int(labels.min()), int(labels.max()), len(self.classes) - 1
            if low < IGNORE or high > last:
                raise UserError(
                    f"{path} has the class {high if high > last else low}, but classes are 0 to {last} "
                    f"({', '.join(self.classes[:3])}{', …' if last > 2 else ''}) and {IGNORE} "
                    "for unknown; name all classes, correct the labels, or where it means unknown give "
                    "data.source.label_nodata of a GeoTiffFolder"
                )
        return labels

    def _check(self, scene: Scene) -> None:
        known = (*scene.files, scene.label) if isinstance(scene.label, Path) else scene.files
        if known in self._agreed:
            return
        first = scene.files[0]
        for path in scene.files:
            check_image(path, self.header(path))
        for path in scene.files[1:]:
            check_grid(first, self.header(first), path, self.header(path), same_size=False)
        if isinstance(scene.label, Path) and self.target in ("segmentation", "regression"):
            finest = max(scene.files, key=lambda path: self.header(path).height)
            label = self.header(scene.label)
            check_grid(finest, self.header(finest), scene.label, label, same_size=True, slack=0.6)
        self._agreed.add(known)
