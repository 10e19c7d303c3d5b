"""Sen1Floods11: 446 chips of Sentinel-1 and -2 with floods labelled by hand (Bonafilia et al. 2020)."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Literal

from apps.remote_sensing.data.bands import SENSORS
from apps.remote_sensing.data.readers.source import Scene, Source, read_names
from core.data.checks import one_of

__all__ = ["Sen1Floods11"]

_SPLITS = {"train": "train", "val": "valid", "test": "test", "predict": "test", "bolivia": "bolivia"}
_UNKNOWN = date(1998, 10, 13)
"""What the published readers give an event whose date nobody knows."""

_MEAN = (
    0.16450718, 0.1412956, 0.13795798, 0.12353792, 0.1481099, 0.23991728, 0.28587557, 0.26345379, 0.30902815,
    0.04911151, 0.00652506, 0.2044958, 0.11912015,
)  # fmt: skip
_STD = (
    0.06977374, 0.07406382, 0.07370365, 0.08692279, 0.07778555, 0.09105416, 0.10690993, 0.10096586,
    0.11798815, 0.03380113, 0.01463465, 0.09772074, 0.07659938,
)  # fmt: skip
_FIRST_MEAN = (0.14245495, 0.13921481, 0.12434631, 0.31420089, 0.20743526, 0.12046503)
_FIRST_STD = (0.04036231, 0.04186983, 0.05267646, 0.0822221, 0.06834774, 0.05294205)
_SIX = ("blue", "green", "red", "nir_narrow", "swir_1", "swir_2")


class Sen1Floods11(Source):
    """Classes dry and water at 10 m, one date; as published below `v1.1`.

    Sentinel-2 is top-of-atmosphere reflectance times 10,000, Sentinel-1 is in decibels.

    Args:
        path: The folder that holds `v1.1`, or `v1.1` itself.
        images: `s2`, `s1` or `both`.
        statistics: `v2` (all 13 bands) or `v1` (the six of Prithvi 1.0).
        test: The published `test` chips, or the hold-out event `bolivia`.
        present_only: Leave chips out that are listed but have no image, instead of stopping.
    """

    name = "sen1floods11"
    classes = ("dry", "water")
    licence = "none stated; cite Bonafilia et al. 2020"

    def __init__(
        self,
        path: str | None = None,
        *,
        images: Literal["s2", "s1", "both"] = "s2",
        statistics: Literal["v1", "v2"] = "v2",
        test: Literal["test", "bolivia"] = "test",
        present_only: bool = False,
    ) -> None:
        super().__init__(path)
        one_of(("s2", "s1", "both"), room="data.source", images=images)
        one_of(("v1", "v2"), room="data.source", statistics=statistics)
        one_of(("test", "bolivia"), room="data.source", test=test)
        self.images, self.test, self.present_only = images, test, present_only
        optical, radar = tuple(SENSORS["sentinel2"].values()), tuple(SENSORS["sentinel1"].values())
        self.bands = {"s2": optical, "s1": radar, "both": optical + radar}[images]
        self.sensor = "sentinel1" if images == "s1" else "sentinel2"
        self.scale = 1e-4 if images == "s2" else 1.0
        if images == "s2":
            names, mean, std = (
                (optical, _MEAN, _STD) if statistics == "v2" else (_SIX, _FIRST_MEAN, _FIRST_STD)
            )
            self.mean, self.std = dict(zip(names, mean, strict=True)), dict(zip(names, std, strict=True))
        self._dates: dict[str, dict[str, date]] | None = None

    def move(self, path: str) -> None:
        """Read another folder from now on."""
        super().move(path)
        self._dates = None

    def scenes(self, split: str) -> list[Scene]:
        """Return the chips of a published list, in its order."""
        root = self.path / "v1.1" if (self.path / "v1.1").is_dir() else self.path
        part = self.test if split == "test" else _SPLITS[split]
        names = read_names(root / "splits" / "flood_handlabeled" / f"flood_{part}_data.txt")
        folder = root / "data" / "flood_events" / "HandLabeled"
        kinds = {"s2": ("S2Hand",), "s1": ("S1Hand",), "both": ("S2Hand", "S1Hand")}[self.images]
        counts = {"S2Hand": 13, "S1Hand": 2}
        layers = tuple((n, band) for n, kind in enumerate(kinds) for band in range(1, counts[kind] + 1))
        found = []
        for name in (name.split("_S1Hand")[0] for name in names):
            files = tuple(folder / kind / f"{name}_{kind}.tif" for kind in kinds)
            if self.present_only and not files[0].is_file():
                continue
            label = folder / "LabelHand" / f"{name}_LabelHand.tif"
            found.append(Scene(name, files, layers, 1, label, (self._date(root, name),)))
        return found

    def _date(self, root: Path, name: str) -> date:
        if self._dates is None:
            path = root / "Sen1Floods11_Metadata.geojson"
            try:
                events = json.loads(path.read_text())["features"]
            except (OSError, ValueError, KeyError):
                events = []
            self._dates = {
                event["properties"]["location"]: {
                    kind: date(*(int(part) for part in text.split("/")))
                    for kind in ("s1_date", "s2_date")
                    if (text := event["properties"].get(kind))
                }
                for event in events
            }
        kind = "s1_date" if self.images == "s1" else "s2_date"
        return self._dates.get(name.split("_")[0], {}).get(kind, _UNKNOWN)
