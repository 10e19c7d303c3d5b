"""Scenes of one class each, in a folder named after it; EuroSAT is such a set (Helber et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from apps.remote_sensing.data.bands import canonical
from apps.remote_sensing.data.readers.source import Scene, Source, Target, drawn_share, read_names
from core.data.checks import one_of
from core.errors import UserError

__all__ = ["ClassFolders", "EuroSAT"]


class ClassFolders(Source):
    """Images in folders that name their class.

    Args:
        path: The folder of these folders.
        bands: Names of the bands in the order of the files.
        sensor: Whose numbers these names are, where they are.
        classes: Names of the folders in the order of the classes; None takes all, sorted.
        pattern: Of the images in a class's folder.
        fractions: Shares of training, validation and test scenes.
        seed: Of the shares.
        nodata: The number that stands for no measurement; None takes each file's own.
        scale: Stored numbers are multiplied by it.
    """

    name = "class_folders"
    target: Target = "classification"

    def __init__(
        self,
        path: str | None,
        *,
        bands: Sequence[str],
        sensor: str | None = None,
        classes: Sequence[str] = (),
        pattern: str = "*.tif",
        fractions: Sequence[float] = (0.8, 0.1, 0.1),
        seed: int = 0,
        nodata: float | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__(path, nodata=nodata)
        self.sensor, self.pattern = sensor, pattern
        self.bands = tuple(canonical(band, sensor=sensor) for band in bands)
        self._classes = self._given = tuple(classes)
        self.fractions, self.seed, self.scale = tuple(fractions), seed, scale

    def move(self, path: str) -> None:
        """Read another folder from now on."""
        super().move(path)
        self._classes = self._given

    @property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the classes."""
        if not self._classes:
            if not self.path.is_dir():
                raise UserError(f"there is no folder {self.path}; check data.source.path")
            self._classes = tuple(sorted(one.name for one in self.path.iterdir() if one.is_dir()))
        return self._classes

    def scenes(self, split: str) -> list[Scene]:
        """Return the scenes of a split, sorted by name."""
        found = {
            f"{name}/{file.relative_to(self._folder() / name).as_posix()}": (file, number)
            for number, name in enumerate(self.classes)
            for file in sorted((self._folder() / name).glob(self.pattern))
        }
        if not found:
            raise UserError(
                f"{self._folder()} has no folder of a class with images {self.pattern}; check "
                "data.source.path"
            )
        names = drawn_share(list(found), split, fractions=self.fractions, seed=self.seed)
        return [self._scene(*found[name], name=name) for name in names]

    def _folder(self) -> Path:
        return self.path

    def _scene(self, file: Path, number: int, *, name: str) -> Scene:
        layers = tuple((0, band + 1) for band in range(len(self.bands)))
        return Scene(name, (file,), layers, 1, (number,))


_EUROSAT = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
_MEAN = (
    1354.40546513, 1118.24399958, 1042.92983953, 947.62620298, 1199.47283961, 1999.79090914, 2369.22292565,
    2296.82608323, 732.08340178, 12.11327804, 1819.01027855, 1118.92391149, 2594.14080798,
)  # fmt: skip
_STD = (
    245.71762908, 333.00778264, 395.09249139, 593.75055589, 566.4170017, 861.18399006, 1086.63139075,
    1117.98170791, 404.91978886, 4.77584468, 1002.58768311, 761.30323499, 1231.58581042,
)  # fmt: skip
_PARTS = {"train": "train", "val": "val", "test": "test", "predict": "test"}
_FOLDERS = ("", "ds/images/remote_sensing/otherDatasets/sentinel_2/tif", "EuroSAT_MS", "EuroSAT_RGB", "2750")


class EuroSAT(ClassFolders):
    """Ten classes of 64 x 64 pixels at 10 m, 27,000 scenes of Sentinel-2.

    The files have narrow near-infrared (B8A) last.

    Args:
        path: The folder of the classes' folders, or one that holds it as published.
        images: `all` for 13 bands (TIFF), `rgb` for the published pictures.
        splits: `published` reads `eurosat-train.txt`, `-val` and `-test` in `path`; `shares` draws 60, 20 and
            20 per cent.
        seed: Of the shares.
    """

    name = "eurosat"
    licence = "MIT"

    def __init__(
        self,
        path: str | None = None,
        *,
        images: Literal["all", "rgb"] = "all",
        splits: Literal["published", "shares"] = "published",
        seed: int = 0,
    ) -> None:
        one_of(("all", "rgb"), room="data.source", images=images)
        one_of(("published", "shares"), room="data.source", splits=splits)
        bands = _EUROSAT if images == "all" else ("red", "green", "blue")
        super().__init__(
            path,
            bands=bands,
            sensor="sentinel2",
            classes=(
                "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture",
                "PermanentCrop", "Residential", "River", "SeaLake",
            ),
            pattern="*.tif" if images == "all" else "*.jpg",
            fractions=(0.6, 0.2, 0.2),
            seed=seed,
        )  # fmt: skip
        self.splits = splits
        if images == "all":
            self.mean = dict(zip(self.bands, _MEAN, strict=True))
            self.std = dict(zip(self.bands, _STD, strict=True))

    def scenes(self, split: str) -> list[Scene]:
        """Return the scenes of a published list in its order, or those drawn."""
        if self.splits == "shares":
            return super().scenes(split)
        folder, suffix = self._folder(), self.pattern.removeprefix("*")
        found = []
        for line in read_names(self.path / f"eurosat-{_PARTS[split]}.txt"):
            stem = Path(line).stem
            label = stem.rpartition("_")[0]
            if label not in self.classes:
                raise UserError(
                    f"{self.path / f'eurosat-{_PARTS[split]}.txt'} names '{line}', whose class is none of "
                    f"{', '.join(self.classes)}; correct the list"
                )
            found.append(
                self._scene(folder / label / f"{stem}{suffix}", self.classes.index(label), name=stem)
            )
        return found

    def _folder(self) -> Path:
        for folder in _FOLDERS:
            if (self.path / folder / self.classes[0]).is_dir():
                return self.path / folder
        raise UserError(f"{self.path} has no folder {self.classes[0]}; check data.source.path")
