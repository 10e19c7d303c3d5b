"""Samples of scenes: windows that are cut, mirrored, normalised and joined to batches."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from apps.remote_sensing.batch import IGNORE, Coordinates, SceneBatch
from apps.remote_sensing.data.normalisation import Normalisation
from apps.remote_sensing.data.open_rasters import quick, share_of_memory
from apps.remote_sensing.data.raster import Window
from apps.remote_sensing.data.readers.source import Pixels, Scene, Source, whole
from apps.remote_sensing.data.settings import Augment
from core.data.randomness import generator
from core.errors import UserError

__all__ = ["SceneSet", "Style", "tile_windows"]

_DRAWS = 8  # windows tried before one without any data is taken


@dataclass(frozen=True)
class Style:
    """What is done to every sample.

    Args:
        bands: Positions among the source's bands, in the order wanted.
        normalisation: Of these bands and all dates.
        crop: Side of the window in pixels; None is the whole scene or tile.
        resize: Side to which the window is resized; None leaves it.
        augment: What training samples are turned into by chance.
        coordinates: Which dates and places are given.
        seed: Of what is drawn.
    """

    bands: tuple[int, ...]
    normalisation: Normalisation
    crop: int | None = None
    resize: int | None = None
    augment: Augment = field(default_factory=Augment)
    coordinates: Coordinates = field(default_factory=Coordinates)
    seed: int = 0


@dataclass(frozen=True)
class _Sample:
    scene: Scene
    pixels: Pixels
    gaps: NDArray[np.bool_] | None


class SceneSet(Dataset[SceneBatch]):
    """Scenes, or tiles of scenes, indexed by `(epoch, index)`.

    Args:
        source: What reads them.
        samples: Scene and tile, or None for the whole scene.
        style: What is done to them.
        training: Draw windows, mirror images and count gaps anew in every epoch; else the middle is cut.
    """

    def __init__(
        self, source: Source, samples: Sequence[tuple[Scene, Window | None]], style: Style, *, training: bool
    ) -> None:
        self.source, self.samples, self.style, self.training = source, list(samples), style, training
        self._degrees: dict[str, tuple[float, float]] = {}
        self._cache: tuple[int, int] | None = None
        self._checked = False

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def __getitem__(self, pair: tuple[int, int]) -> SceneBatch:
        """Return one sample, without the batch dimension."""
        batch = self.__getitems__([pair])
        return batch._replace(lambda value: None if value is None else value[0])

    def __getitems__(self, pairs: Sequence[tuple[int, int]]) -> SceneBatch:
        """Return a batch.

        Raises:
            UserError: If a file is damaged or holds nothing, or the windows differ in size.
        """
        with quick(self._memory()):
            read = [self._read(epoch, index) for epoch, index in pairs]
        chosen = [self.samples[index] for _, index in pairs]
        names = tuple(_named(scene, tile) for scene, tile in chosen)
        first = read[0].pixels.image.shape
        for name, one in zip(names, read, strict=True):
            if one.pixels.image.shape != first:
                raise UserError(
                    f"{name} is {_size(one.pixels.image.shape)} and {names[0]} {_size(first)}; "
                    "samples of a batch must agree, so give data.crop, data.tiles or a batch size of 1"
                )
        image = torch.empty(len(read), first[1], first[0], *first[2:])  # B C T H W
        for row, one in enumerate(read):
            image.numpy()[row] = np.swapaxes(one.pixels.image, 0, 1)  # T C H W -> C T H W
        valid = torch.from_numpy(np.stack([one.pixels.valid for one in read]))
        lost = ~valid[:, None]
        if not self._checked:
            self._checked = self._check_units(image.masked_fill(lost, math.nan))
        self.style.normalisation(image, lost)
        labels = [one.pixels.label for one in read]
        label = torch.from_numpy(np.stack(labels)) if labels[0] is not None else None  # type: ignore[arg-type]
        masks = [one.gaps for one in read]
        gaps = torch.from_numpy(np.stack(masks)) if masks[0] is not None else None  # type: ignore[arg-type]
        image, label, valid, gaps = self._resized(image, label, valid, gaps)
        told = self.style.coordinates
        return SceneBatch(
            image=image, label=label, valid=valid, gaps=gaps, names=names,
            time=self._time([one.scene for one in read]) if told.time else None,
            location=self._location([scene for scene, _ in chosen]) if told.location else None,
        )  # fmt: skip

    def _memory(self) -> int:
        """Return the bytes of decoded tiles this process may keep, one of all that load for this machine."""
        if self._cache is None or self._cache[0] != os.getpid():
            info = get_worker_info()
            ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            self._cache = os.getpid(), share_of_memory(ranks * (info.num_workers if info else 1))
        return self._cache[1]

    def _read(self, epoch: int, index: int) -> _Sample:
        scene, tile = self.samples[index]
        style = self.style
        drawn = generator(style.seed, epoch, index, "scene")
        if self.training:
            scene = self.source.drawn(scene, drawn)
        for _ in range(_DRAWS if self.training and style.crop else 1):
            used: list[Any] = []

            def cut(height: int, width: int, used: list[Any] = used) -> Window:
                area = tile or (0, 0, height, width)
                used += [_inner(area, style.crop, drawn if self.training else None), (height, width)]
                return used[0]

            pixels = self.source.read(scene, style.bands, cut)
            if pixels.valid.any():
                break
        else:
            if self.training or tile is None:  # an empty tile of a scene is no mistake
                self._refuse_empty(scene)
        gaps = self.source.gaps(index, size=used[1], generator=drawn if self.training else None)
        if gaps is not None:
            top, left, rows, columns = used[0]
            gaps = gaps[:, top : top + rows, left : left + columns]
        sample = _padded(_Sample(scene, pixels, gaps), style.crop)
        if self.training and (style.augment.flips or style.augment.turns):
            choices = torch.randint(0, 2, (3,), generator=drawn).tolist()
            sample = _turned(sample, choices, style.augment)
        return sample

    def _refuse_empty(self, scene: Scene) -> None:
        pixels = self.source.read(scene, self.style.bands, whole)
        if not pixels.valid.any():
            raise UserError(
                f"{scene.files[0] if scene.files else scene.name} has no data in any pixel "
                "(nodata everywhere); "
                "leave it out, or correct data.source.nodata"
            )

    def _check_units(self, images: Tensor) -> bool:
        """Refuse the first images whose numbers cannot be in the units of the normalisation."""
        return self.style.normalisation.check(
            images,
            [self.source.bands[band] for band in self.style.bands],
            what=f"the first images of {self.source.name}",
            advice="give data.normalise.scale, what stored numbers are multiplied by before mean and "
            "deviation hold, or data.normalise=statistics",
        )

    def _resized(
        self, image: Tensor, label: Tensor | None, valid: Tensor, gaps: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        size = self.style.resize
        if size is None or image.shape[-2:] == (size, size):
            return image, label, valid, gaps
        from apps.remote_sensing.models.frozen.resizing import resize

        image = resize(image, (size, size))
        if label is not None and label.ndim == 3:
            label = F.interpolate(label[:, None].double(), (size, size), mode="nearest-exact")[:, 0].to(
                label.dtype
            )
        valid = F.interpolate(valid.float(), (size, size), mode="nearest-exact") > 0
        if gaps is not None:
            gaps = F.interpolate(gaps.float(), (size, size), mode="nearest-exact") > 0
        return image, label, valid, gaps

    def _time(self, scenes: Sequence[Scene]) -> Tensor:
        rows = []
        for scene in scenes:
            if scene.dates is None:
                raise UserError(f"the date of {scene.name} is not known; set data.coordinates.time=false")
            rows.append(self.style.coordinates.days(scene.dates))
        return torch.tensor(rows, dtype=torch.float32)

    def _location(self, scenes: Sequence[Scene]) -> Tensor:
        rows = []
        for scene in scenes:
            if scene.name not in self._degrees:
                degrees = self.source.location(scene)
                if degrees is None:
                    raise UserError(
                        f"{scene.name} has no coordinate reference system; set "
                        "data.coordinates.location=false"
                    )
                self._degrees[scene.name] = degrees
            rows.append(self.style.coordinates.degrees(*self._degrees[scene.name]))
        return torch.tensor(rows, dtype=torch.float32)


def tile_windows(height: int, width: int, *, tile: int, stride: int | None = None) -> list[Window]:
    """Return windows of side `tile` that cover a scene; the last of a row or column is moved inwards.

    Args:
        height: Rows of the scene.
        width: Columns.
        tile: Side; where the scene is smaller, its side is taken.
        stride: Step between them; None is `tile`.
    """
    step = stride or tile

    def starts(length: int) -> list[int]:
        last = max(length - tile, 0)
        return [*range(0, last, step), last]

    rows, columns = min(tile, height), min(tile, width)
    return [(top, left, rows, columns) for top in starts(height) for left in starts(width)]


def _inner(area: Window, crop: int | None, drawn: torch.Generator | None) -> Window:
    top, left, rows, columns = area
    if crop is None:
        return area
    free = (max(rows - crop, 0), max(columns - crop, 0))
    shift = [
        room // 2 if drawn is None else int(torch.randint(0, room + 1, (1,), generator=drawn))
        for room in free
    ]
    return top + shift[0], left + shift[1], min(crop, rows), min(crop, columns)


def _padded(sample: _Sample, crop: int | None) -> _Sample:
    rows, columns = sample.pixels.image.shape[-2:]
    if crop is None or (rows, columns) == (crop, crop):
        return sample
    more = ((0, crop - rows), (0, crop - columns))

    def pad(values: NDArray[Any] | None, value: float) -> Any:
        if values is None or values.ndim < 2:
            return values
        return np.pad(values, ((0, 0),) * (values.ndim - 2) + more, constant_values=value)

    label = sample.pixels.label
    unknown = np.nan if label is not None and np.issubdtype(label.dtype, np.floating) else IGNORE
    pixels = Pixels(pad(sample.pixels.image, 0), pad(sample.pixels.valid, False), pad(label, unknown))
    return _Sample(sample.scene, pixels, pad(sample.gaps, False))


def _turned(sample: _Sample, choices: Sequence[int], augment: Augment) -> _Sample:
    """Mirror along each axis and swap the axes, as drawn: the eight positions of a square."""
    across, down, swap = choices
    flips, turns = augment.flips, augment.turns
    square = sample.pixels.image.shape[-1] == sample.pixels.image.shape[-2]

    def move(values: NDArray[Any] | None) -> Any:
        if values is None or values.ndim < 2:
            return values
        if (flips or turns) and across:
            values = values[..., ::-1]
        if (flips is True or turns) and down:
            values = values[..., ::-1, :]
        if turns and swap and square:
            values = np.swapaxes(values, -1, -2)
        return values

    pixels = Pixels(*(move(part) for part in (sample.pixels.image, sample.pixels.valid, sample.pixels.label)))
    return _Sample(sample.scene, pixels, move(sample.gaps))


def _named(scene: Scene, tile: Window | None) -> str:
    return scene.name if tile is None else f"{scene.name}@{tile[0]},{tile[1]}"


def _size(shape: Sequence[int]) -> str:
    return f"{shape[0]} dates of {shape[1]} bands of {shape[2]} x {shape[3]} pixels"
