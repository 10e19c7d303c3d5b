"""A scene, which knows its files, and the pixels of a window of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from apps.remote_sensing.data.raster import Window

__all__ = ["Cut", "Pixels", "Scene", "Target"]

Target = Literal["segmentation", "regression", "classification", "multilabel", "none"]

Cut = Callable[[int, int], Window]
"""From rows and columns of a scene to the window wanted."""


@dataclass(frozen=True)
class Scene:
    """One place: where each band of each date stands.

    Args:
        name: Unique in its data set.
        files: Rasters of the image.
        places: File number and band in it, from 1, of each band of each date; the band varies fastest.
        frames: Dates.
        label: A raster, another file the reader understands, class numbers, or None.
        dates: Of each frame, or None.
        location: Latitude and longitude in degrees where the reader knows them without opening a file.
        statistics: Band whose statistics normalise each place, where that is not the place's own band.
    """

    name: str
    files: tuple[Path, ...]
    places: tuple[tuple[int, int], ...]
    frames: int = 1
    label: Path | tuple[int, ...] | None = None
    dates: tuple[date, ...] | None = None
    location: tuple[float, float] | None = None
    statistics: tuple[int, ...] | None = None


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
