"""BigEarthNet: patches of Sentinel-1 and -2 with the land cover in them (Sumbul et al. 2019, 2021)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from apps.remote_sensing.data.bands import SENSORS
from apps.remote_sensing.data.raster import Window
from apps.remote_sensing.data.readers.source import Scene, Source, Target, drawn_share, read_lines, read_names
from core.data.checks import one_of
from core.errors import UserError

__all__ = ["BigEarthNet"]

_NUMBERS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
_MEAN = (
    340.76769064, 429.9430203, 614.21682446, 590.23569706, 950.68368468, 1792.46290469, 2075.46795189,
    2218.94553375, 2266.46036911, 2246.0605464, 1594.42694882, 1009.32729131,
)  # fmt: skip
_STD = (
    554.81258967, 572.41639287, 582.87945694, 675.88746967, 729.89827633, 1096.01480586, 1273.45393088,
    1365.45589904, 1356.13789355, 1302.3292881, 1079.19066363, 818.86747235,
)  # fmt: skip

# The 19 classes, each with those of CORINE's 43 that it joins.
_JOINED: dict[str, tuple[str, ...]] = {
    "Urban fabric": ("Continuous urban fabric", "Discontinuous urban fabric"),
    "Industrial or commercial units": ("Industrial or commercial units",),
    "Arable land": ("Non-irrigated arable land", "Permanently irrigated land", "Rice fields"),
    "Permanent crops": (
        "Vineyards",
        "Fruit trees and berry plantations",
        "Olive groves",
        "Annual crops associated with permanent crops",
    ),
    "Pastures": ("Pastures",),
    "Complex cultivation patterns": ("Complex cultivation patterns",),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
    ),
    "Agro-forestry areas": ("Agro-forestry areas",),
    "Broad-leaved forest": ("Broad-leaved forest",),
    "Coniferous forest": ("Coniferous forest",),
    "Mixed forest": ("Mixed forest",),
    "Natural grassland and sparsely vegetated areas": ("Natural grassland", "Sparsely vegetated areas"),
    "Moors, heathland and sclerophyllous vegetation": ("Moors and heathland", "Sclerophyllous vegetation"),
    "Transitional woodland, shrub": ("Transitional woodland/shrub",),
    "Beaches, dunes, sands": ("Beaches, dunes, sands",),
    "Inland wetlands": ("Inland marshes", "Peatbogs"),
    "Coastal wetlands": ("Salt marshes", "Salines"),
    "Inland waters": ("Water courses", "Water bodies"),
    "Marine waters": ("Coastal lagoons", "Estuaries", "Sea and ocean"),
}
_LEFT_OUT = (
    "Road and rail networks and associated land", "Port areas", "Airports", "Mineral extraction sites",
    "Dump sites", "Construction sites", "Green urban areas", "Sport and leisure facilities", "Bare rock",
    "Burnt areas", "Intertidal flats",
)  # fmt: skip


class BigEarthNet(Source):
    """Several classes of land cover in patches of 1.2 km, 120 x 120 pixels at 10 m.

    Sentinel-2 is surface reflectance times 10,000 without B10, one file a band at 10, 20 or 60 m, brought to
    10 m; Sentinel-1 is in decibels. A patch of which no label is among the 19 has none.

    Args:
        path: The folder of the patches' folders, or of `BigEarthNet-S2…` and `BigEarthNet-S1…` (version 1).
        images: `s2`, `s1` or `both`.
        labels: 19 joined classes, or 43 as they are in CORINE, in alphabetical order.
        splits: Split to a list of Sentinel-2 patches below `path` (with their Sentinel-1 names in a second
            column or not); by default `train.csv`, `val.csv` and `test.csv` where they are.
        fractions: Shares of training, validation and test patches where there is no list.
        seed: Of the shares.
        resampling: How coarser bands are brought to 10 m, as rasterio names it.
    """

    name = "bigearthnet"
    target: Target = "multilabel"
    licence = "CDLA-Permissive-1.0"

    def __init__(
        self,
        path: str | None = None,
        *,
        images: Literal["s2", "s1", "both"] = "s2",
        labels: Literal[19, 43] = 19,
        splits: Mapping[str, str] | None = None,
        fractions: Sequence[float] = (0.5, 0.25, 0.25),
        seed: int = 0,
        resampling: str = "bilinear",
    ) -> None:
        super().__init__(path, resampling=resampling)
        one_of(("s2", "s1", "both"), room="data.source", images=images)
        if labels not in (19, 43):
            raise UserError(f"data.source.labels is {labels}; it must be 19 or 43")
        optical = tuple(SENSORS["sentinel2"][number] for number in _NUMBERS)
        radar = tuple(SENSORS["sentinel1"].values())
        self.images = images
        self.bands = {"s2": optical, "s1": radar, "both": optical + radar}[images]
        self.sensor = "sentinel1" if images == "s1" else "sentinel2"
        if images == "s2":
            self.mean = dict(zip(optical, _MEAN, strict=True))
            self.std = dict(zip(optical, _STD, strict=True))
        originals = [name for names in _JOINED.values() for name in names]
        self.classes = tuple(_JOINED) if labels == 19 else tuple(sorted([*originals, *_LEFT_OUT]))
        self._class_of = (
            {name: number for number, names in enumerate(_JOINED.values()) for name in names}
            if labels == 19
            else {name: number for number, name in enumerate(self.classes)}
        )
        self.given = dict(splits or {})
        self.fractions, self.seed = tuple(fractions), seed

    @property
    def splits(self) -> dict[str, str]:
        """Split to its list: those given, else those of the usual names that are there."""
        usual = {name: f"{name}.csv" for name in ("train", "val", "test")}
        return self.given or {k: v for k, v in usual.items() if (self.path / v).is_file()}

    def scenes(self, split: str) -> list[Scene]:
        """Return the patches of a split, in the order of its list or sorted by name."""
        folder = self._folder("S1" if self.images == "s1" else "S2")
        splits = self.splits
        part = "test" if split == "predict" and splits else split
        if part in splits:
            names = read_names(self.path / splits[part])
        elif splits:
            return []
        else:
            names = sorted(one.name for one in folder.iterdir() if one.is_dir())
            names = drawn_share(names, part, fractions=self.fractions, seed=self.seed)
        pairs = self._pairs() if self.images == "both" or (self.images == "s1" and splits) else {}
        return [self._scene(name, pairs) for name in names]

    def label(self, scene: Scene, window: Window) -> NDArray[Any] | None:
        """Return 0 and 1 for each class, `(K,)`.

        Raises:
            UserError: If the file of labels is damaged or names one that is not known.
        """
        assert isinstance(scene.label, Path)
        try:
            names = json.loads(scene.label.read_text())["labels"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the labels {scene.label} cannot be read ({error}); replace the file or leave the patch out"
            ) from error
        for name in names:
            if name not in self._class_of and name not in _LEFT_OUT:
                raise UserError(
                    f"{scene.label} has the label '{name}', which is none of CORINE's 43; correct it"
                )
        return self.marked([self._class_of[name] for name in names if name in self._class_of])

    def _folder(self, kind: str) -> Path:
        prefixes = {"S2": ("BigEarthNet-S2", "BigEarthNet-v1"), "S1": ("BigEarthNet-S1",)}[kind]
        if not self.path.is_dir():
            raise UserError(f"there is no folder {self.path}; check data.source.path")
        for one in sorted(self.path.iterdir()):
            if one.is_dir() and one.name.startswith(prefixes):
                return one
        if self.images == "both":
            raise UserError(f"{self.path} has no folder {prefixes[0]}…; it needs both sensors' folders")
        return self.path

    def _scene(self, name: str, pairs: Mapping[str, str]) -> Scene:
        optical = [] if self.images == "s1" else self._bands("S2", name, _NUMBERS)
        radar_name = pairs.get(name, name)
        if self.images == "both" and radar_name == name:
            raise UserError(
                f"{name} has no Sentinel-1 patch in {self._folder('S1')}; take data.source.images=s2"
            )
        radar = [] if self.images == "s2" else self._bands("S1", radar_name, ("VV", "VH"))
        kind, owner = ("S1", radar_name) if self.images == "s1" else ("S2", name)
        files = tuple([*optical, *radar])
        label = self._folder(kind) / owner / f"{owner}_labels_metadata.json"
        found = re.search(r"_(\d{4})(\d{2})(\d{2})T", owner)
        dates = (date(*(int(part) for part in found.groups())),) if found else None
        return Scene(owner, files, tuple((n, 1) for n in range(len(files))), 1, label, dates)

    def _bands(self, kind: str, name: str, numbers: Sequence[str]) -> list[Path]:
        return [self._folder(kind) / name / f"{name}_{number}.tif" for number in numbers]

    def _pairs(self) -> dict[str, str]:
        """Return the Sentinel-1 patch of each Sentinel-2 patch, as the lists or the labels' files say."""
        found: dict[str, str] = {}
        for listed in self.splits.values():
            for line in read_lines(self.path / listed):
                first, _, second = (part.strip().strip('"') for part in line.partition(","))
                if second:
                    found[first] = second
        if found:
            return found
        for path in sorted(self._folder("S1").glob("*/*_labels_metadata.json")):
            try:
                found[json.loads(path.read_text())["corresponding_s2_patch"]] = path.parent.name
            except (OSError, ValueError, KeyError) as error:
                raise UserError(f"{path} does not name its Sentinel-2 patch ({error}); replace it") from error
        return found
