"""One reading of the training scenes: mean and deviation of bands, pixels of classes, which are usable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.remote_sensing.data.open_rasters import quick
from apps.remote_sensing.data.readers.source import Scene, Source, whole
from core.data.counting import counted
from core.data.statistics import Moments, file_state, kept
from core.errors import UserError

__all__ = ["Statistics", "compute", "stored", "usable"]

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
    with quick(), counted(f"data: statistics of {source.name}", len(scenes), unit="scenes") as advance:
        for scene in scenes:
            pixels = source.read(scene, bands, whole)
            for frame, valid in zip(pixels.image, pixels.valid, strict=True):
                moments += Moments.of(frame[:, valid])
            if len(classes) and pixels.label is not None:
                classes += _counted(pixels.label, len(classes), marks=source.target == "multilabel")
            advance(1)
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


def usable(
    source: Source,
    scenes: Sequence[Scene],
    bands: Sequence[int],
    *,
    order: Sequence[int],
    enough: int,
    skip: Callable[[str], None],
) -> list[int]:
    """Return which scenes can be read and hold data, in the order in which they were tried.

    Args:
        source: What reads them.
        scenes: All of them.
        bands: Positions among the source's bands.
        order: In which they are tried.
        enough: How many are wanted; the others are not read.
        skip: Is told why a scene cannot be used.
    """
    kept: list[int] = []
    with counted("data: check of scenes", min(len(scenes), enough), unit="scenes") as advance:
        for row in order:
            if len(kept) == enough:
                break
            scene = scenes[row]
            try:
                pixels = source.read(scene, bands, whole)
                if not pixels.valid.any():
                    name = scene.files[0] if scene.files else scene.name
                    raise UserError(f"{name} has no data in any pixel (nodata everywhere)")
                kept.append(row)
                advance(1)
            except UserError as error:
                skip(str(error))
    return kept


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
        parts.append([scene.name, scene.layers, [file_state(path) for path in scene.files], label])
    return parts
