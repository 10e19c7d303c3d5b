"""Simulated landscapes as a folder of GeoTIFFs, written once: images, labels, clouds, splits, a table.

```
FOLDER/images/date_1/scene_0000.tif …   six bands, int16, reflectance times 10,000, nodata -9999
       labels/{land_cover,water,changed}/scene_0000.tif   uint8, 255 unknown
       labels/biomass/scene_0000.tif    float32, tonnes per hectare
       clouds/scene_0000.tif            a band for each date: 0 clear, 1 cloud, 2 shadow, 255 no measurement
       splits/{train,val,test}.txt      names of scenes
       scenes.csv                       dates, place, event, clouds and land covers of each scene
       landscapes.json                  the settings, written last
```
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apps.remote_sensing.data.bands import HLS
from apps.remote_sensing.simulation.ground import CLASSES, PIXEL
from apps.remote_sensing.simulation.scene import NODATA, UNKNOWN, Landscape, landscape
from core.data.counting import counted
from core.data.sample_store import made_once, settings_digest
from core.errors import UserError
from core.files import data_folder

__all__ = ["FRACTIONS", "PRESENT", "Settings", "ensure", "read_table"]

FRACTIONS = (0.6, 0.2, 0.2)
"""Shares of training, validation and test in `splits`."""

PRESENT = 0.02
"""Share of a scene's pixels from which on a land cover is present in it."""

_VERSION = 3  # raised whenever a scene changes
_SETTINGS = "landscapes.json"


@dataclass(frozen=True)
class Settings:
    """Settings that a folder of landscapes depends on.

    Args:
        scenes: How many.
        size: Pixels along an edge.
        frames: Dates.
        seed: Scene i of a seed is the same however many there are.
        clouds: Whether clouds, their shadows and the edge of the swath are in the images.

    Raises:
        UserError: If a number is out of range.
    """

    scenes: int = 48
    size: int = 128
    frames: int = 3
    seed: int = 0
    clouds: bool = True

    def __post_init__(self) -> None:
        for name, low, high in (
            ("scenes", 1, 100_000),
            ("size", 32, 2048),
            ("frames", 1, 12),
            ("seed", 0, 2**62),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise UserError(
                    f"{name} of the landscapes is {value!r}; it must be a whole number from {low} to {high}"
                )

    @property
    def name(self) -> str:
        """Of the folder: readable, and different for everything that matters."""
        digest = settings_digest([_VERSION, asdict(self)], size=4)
        return f"landscapes-{self.scenes}x{self.size}x{self.frames}-{digest}"

    def place(self, folder: str | os.PathLike[str] | None = None) -> Path:
        """Return the folder: the one given, or one below the environment's DFM_DATA."""
        return Path(folder).expanduser() if folder is not None else data_folder() / self.name


def ensure(
    settings: Settings, folder: str | os.PathLike[str] | None = None, *, progress: bool = True
) -> Path:
    """Return the folder of these landscapes; it is made when it is not there.

    Args:
        settings: What to make.
        folder: Where; None is the cache.
        progress: Show how far it is.

    Raises:
        UserError: If the folder holds something else, or cannot be written.
    """
    path = settings.place(folder)
    return made_once(
        path, lambda: _holds(path, settings), lambda half: _write(half, settings, progress=progress)
    )


def read_table(folder: Path) -> dict[str, dict[str, str]]:
    """Return the row of `scenes.csv` of each scene."""
    with (folder / "scenes.csv").open(newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def _holds(path: Path, settings: Settings) -> bool:
    if not path.exists():
        return False
    wanted = {"version": _VERSION, **asdict(settings)}
    try:
        found = json.loads((path / _SETTINGS).read_text())
    except (OSError, ValueError):
        found = None
        if path.is_dir() and not any(path.iterdir()):
            return False
    if found is None:
        raise UserError(f"{path} exists and holds no landscapes; name another folder")
    for name, value in wanted.items():
        if found.get(name) != value:
            raise UserError(
                f"{path} holds landscapes with {name}={found.get(name)}, and {name}={value} is asked for; "
                "name another folder"
            )
    return True


def _write(folder: Path, settings: Settings, *, progress: bool) -> None:
    import rasterio

    from apps.remote_sensing.data.readers.source import drawn_share  # the readers import this module

    names = [f"scene_{number:04d}" for number in range(settings.scenes)]
    rows: list[dict[str, Any]] = []
    dates = [f"images/date_{frame + 1}" for frame in range(settings.frames)]
    kinds = ("labels/land_cover", "labels/water", "labels/changed", "labels/biomass", "clouds", "splits")
    for part in (*dates, *kinds):
        (folder / part).mkdir(parents=True, exist_ok=True)
    with (
        rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
        counted("data: landscapes", settings.scenes, unit="scenes", shown=progress) as advance,
    ):
        for number, name in enumerate(names):
            made = landscape(
                settings.seed, number, size=settings.size, frames=settings.frames, clouds=settings.clouds
            )
            _write_scene(folder, name, made)
            rows.append(_row(name, made))
            advance(1)
    with (folder / "scenes.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    for split in ("train", "val", "test"):
        chosen = drawn_share(names, split, fractions=FRACTIONS, seed=settings.seed)
        (folder / "splits" / f"{split}.txt").write_text("".join(f"{name}\n" for name in chosen))
    (folder / _SETTINGS).write_text(json.dumps({"version": _VERSION, **asdict(settings)}) + "\n")


def _write_scene(folder: Path, name: str, made: Landscape) -> None:
    size = made.cover.shape[0]
    grid = _grid(made, size)
    for frame, (image, day) in enumerate(zip(made.images, made.dates, strict=True), start=1):
        path = folder / "images" / f"date_{frame}" / f"{name}.tif"
        tags = {"TIFFTAG_DATETIME": f"{day:%Y:%m:%d} 10:30:00", "event": made.event}
        _raster(path, image, grid, nodata=NODATA, names=HLS, tags=tags)
    for kind, values in (("land_cover", made.cover), ("water", made.water), ("changed", made.changed)):
        _raster(folder / "labels" / kind / f"{name}.tif", values[None], grid, nodata=UNKNOWN)
    _raster(folder / "labels" / "biomass" / f"{name}.tif", made.biomass[None], grid, nodata=NODATA)
    _raster(folder / "clouds" / f"{name}.tif", made.clouds, grid, nodata=UNKNOWN)


def _grid(made: Landscape, size: int) -> dict[str, Any]:
    from rasterio import Affine
    from rasterio.warp import transform

    place = made.place
    crs = f"EPSG:{place.epsg}"
    x, y = transform("EPSG:4326", crs, [place.longitude], [place.latitude])
    west, north = (PIXEL * round((value + shift) / PIXEL) for value, shift in (
        (x[0], -size * PIXEL / 2), (y[0], size * PIXEL / 2)))  # fmt: skip
    return {"crs": crs, "transform": Affine(PIXEL, 0, west, 0, -PIXEL, north)}


def _raster(
    path: Path,
    values: np.ndarray[Any, Any],
    grid: dict[str, Any],
    *,
    nodata: float,
    names: Sequence[str] = (),
    tags: dict[str, str] | None = None,
) -> None:
    import rasterio

    count, height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=count, dtype=values.dtype, nodata=nodata,
        **grid,
    ) as file:  # fmt: skip
        file.write(values)
        for number, name in enumerate(names, start=1):
            file.set_band_description(number, name)
        file.update_tags(**(tags or {}))


def _row(name: str, made: Landscape) -> dict[str, Any]:
    known = made.cover[made.cover != UNKNOWN]
    shares = np.bincount(known, minlength=len(CLASSES)) / max(known.size, 1)
    present = [CLASSES[number] for number in np.flatnonzero(shares >= PRESENT)]
    return {
        "name": name,
        "dates": " ".join(day.isoformat() for day in made.dates),
        "latitude": round(made.place.latitude, 5),
        "longitude": round(made.place.longitude, 5),
        "event": made.event,
        "clouded": " ".join(f"{share:.3f}" for share in (made.clouds == 1).mean((1, 2))),
        "covers": ";".join(present),
    }
