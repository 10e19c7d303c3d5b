"""Mean and deviation of each band and the pixels of each class, in one pass, kept for the next run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.remote_sensing.data.opened import quick
from apps.remote_sensing.data.readers.source import Pixels, Scene, Source
from core.data.counting import counted
from core.errors import UserError
from core.files import data_folder, replacing

__all__ = ["Moments", "Statistics", "compute", "stored", "walk"]

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


class Moments:
    """Means and squared deviations of arrays of any size, joined in float64 (Chan et al. 1979)."""

    def __init__(self, bands: int) -> None:
        self.count = 0
        self.mean = np.zeros(bands)
        self.squares = np.zeros(bands)

    def add(self, values: NDArray[Any]) -> None:
        """Take in `(bands, N)`."""
        size = values.shape[1]
        if size == 0:
            return
        x = values.astype(np.float64)
        mean = x.mean(axis=1)
        squares = np.square(x - mean[:, None]).sum(axis=1)
        total, gap = self.count + size, mean - self.mean
        self.mean = self.mean + gap * size / total
        self.squares = self.squares + squares + gap**2 * self.count * size / total
        self.count = total

    @property
    def std(self) -> NDArray[np.float64]:
        """Population standard deviation of each band; 1 for one that is the same everywhere."""
        std = np.sqrt(self.squares / max(self.count, 1))
        return np.where(std <= 1e-12 * np.maximum(np.abs(self.mean), 1e-30), 1.0, std)


def compute(source: Source, scenes: Sequence[Scene], bands: Sequence[int]) -> Statistics:
    """Read all scenes once and return their statistics; a bar shows the progress.

    Args:
        source: What reads them.
        scenes: Those of the training.
        bands: Positions among the source's bands.

    Raises:
        UserError: If no pixel is valid.
    """
    moments = Moments(len(bands))
    classes = np.zeros(len(source.classes), np.int64)
    for _, pixels in walk(source, scenes, bands, what="statistics"):
        for frame, valid in zip(pixels.image, pixels.valid, strict=True):
            moments.add(frame[:, valid])
        if len(classes) and pixels.label is not None:
            classes += _counted(pixels.label, len(classes), marks=source.target == "multilabel")
    if moments.count == 0:
        raise UserError(
            f"the {len(scenes)} training scenes of {source.name} have no valid pixel; check "
            "data.source.nodata"
        )
    return Statistics(
        tuple(moments.mean.tolist()), tuple(moments.std.tolist()), moments.count, tuple(classes.tolist())
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
    place = data_folder() / "statistics" if folder is None else folder
    path = place / f"{source.name}-{_fingerprint(source, scenes, bands)}.json"
    try:
        kept = json.loads(path.read_text())
        found = Statistics(tuple(kept["mean"]), tuple(kept["std"]), kept["pixels"], tuple(kept["classes"]))
        if len(found.mean) == len(found.std) == len(bands) and len(found.classes) == len(source.classes):
            return found
    except (OSError, ValueError, TypeError, KeyError):
        pass  # it is counted again, and written anew
    found = compute(source, scenes, bands)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(asdict(found)) + "\n")
    return found


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


def _fingerprint(source: Source, scenes: Sequence[Scene], bands: Sequence[int]) -> str:
    """Return a text that changes when the files, the bands or how they are read change."""
    parts: list[Any] = [_VERSION, type(source).__name__, *source.reading()]
    parts += [list(source.classes), [source.bands[band] for band in bands]]
    for scene in scenes:
        label = [_state(scene.label)] if isinstance(scene.label, Path) else scene.label
        parts.append([scene.name, scene.places, [_state(path) for path in scene.files], label])
    return hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()


def _state(path: Path) -> tuple[str, int, int]:
    try:
        state = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), state.st_size, state.st_mtime_ns
