"""Mean and deviation of each band and the pixels of each class of the training scenes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.remote_sensing.data.open_rasters import quick
from apps.remote_sensing.data.readers.source import Pixels, Scene, Source
from core.data.counting import counted
from core.data.statistics import Moments, file_state, kept
from core.errors import UserError

__all__ = ["Statistics", "compute", "stored", "walk"]

_VERSION = 2


@dataclass(frozen=True)
class Statistics:
    """What was counted.

    Args:
        mean: Of each band, in the files' units.
        std: Population standard deviation of each band; 1 for one that is the same everywhere.
        pixels: Valid pixels of all dates.
        classes: Pixels, or scenes, of each class; empty without classes.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixels: int
    classes: tuple[int, ...] = ()


def compute(source: Source, scenes: Sequence[Scene], bands: Sequence[int]) -> Statistics:
    """Read all scenes once and return their statistics; a bar shows the progress.

    Args:
        source: What reads them.
        scenes: Those of the training.
        bands: Positions among the source's bands.

    Raises:
        UserError: If no pixel is valid.
    """
    moments = Moments.none(len(bands))
    classes = np.zeros(len(source.classes), np.int64)
    for _, pixels in walk(source, scenes, bands, what="statistics"):
        for frame, valid in zip(pixels.image, pixels.valid, strict=True):
            moments += Moments.of(frame[:, valid])
        if len(classes) and pixels.label is not None:
            classes += _counted(pixels.label, len(classes), marks=source.target == "multilabel")
    if not moments.count.any():
        raise UserError(
            f"the {len(scenes)} training scenes of {source.name} have no valid pixel; check "
            "data.source.nodata"
        )
    return Statistics(
        tuple(moments.mean.tolist()),
        tuple(moments.std.tolist()),
        int(moments.count.max()),
        tuple(classes.tolist()),
    )


def stored(
    source: Source, scenes: Sequence[Scene], bands: Sequence[int], *, folder: Path | None = None
) -> Statistics:
    """Return the statistics of the same files, if they were computed before; else compute and keep them.

    Args:
        source: What reads them.
        scenes: Those of the training.
        bands: Positions among the source's bands.
        folder: Where they are kept; None is `statistics` below the environment's DFM_DATA.
    """
    if not source.keeps_statistics:
        return compute(source, scenes, bands)

    def read(plain: dict[str, Any]) -> Statistics:
        mean, std, classes = (tuple(plain[name]) for name in ("mean", "std", "classes"))
        if not (len(mean) == len(std) == len(bands) and len(classes) == len(source.classes)):
            raise ValueError("the statistics are of other bands or classes")
        return Statistics(mean, std, plain["pixels"], classes)

    return kept(
        source.name,
        _everything(source, scenes, bands),
        lambda: compute(source, scenes, bands),
        read,
        folder=folder,
    )


def walk(
    source: Source, scenes: Sequence[Scene], bands: Sequence[int], *, what: str
) -> Iterator[tuple[Scene, Pixels]]:
    """Yield scenes and all their pixels, and show how far it is."""
    with quick(), counted(f"data: {what} of {source.name}", len(scenes), unit="scenes") as advance:
        for scene in scenes:
            yield scene, source.read(scene, bands, lambda height, width: (0, 0, height, width))
            advance(1)


def _counted(label: NDArray[Any], classes: int, *, marks: bool) -> NDArray[np.int64]:
    if marks:
        return label.astype(np.int64)
    known = np.atleast_1d(label).ravel()
    return np.bincount(known[known >= 0], minlength=classes)


def _everything(source: Source, scenes: Sequence[Scene], bands: Sequence[int]) -> list[Any]:
    """Return what changes when the files, the bands or how they are read change."""
    parts: list[Any] = [_VERSION, type(source).__name__, *source.reading()]
    parts += [list(source.classes), [source.bands[band] for band in bands]]
    for scene in scenes:
        label = [file_state(scene.label)] if isinstance(scene.label, Path) else scene.label
        parts.append([scene.name, scene.places, [file_state(path) for path in scene.files], label])
    return parts
