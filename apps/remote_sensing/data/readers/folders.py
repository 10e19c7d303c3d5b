"""A folder of GeoTIFFs: images and labels paired by name, split by files of names, folders or shares."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.remote_sensing.batch import IGNORE
from apps.remote_sensing.data.bands import canonical, names_that_serve
from apps.remote_sensing.data.dates_and_locations import dates_of, stamped
from apps.remote_sensing.data.raster import Window
from apps.remote_sensing.data.readers.source import SPLITS, Scene, Source, Target, drawn_share, read_names
from core.data.checks import at_least
from core.errors import UserError, did_you_mean

__all__ = ["GeoTiffFolder"]


class GeoTiffFolder(Source):
    """Images and labels of the user's own.

    Dates are those in the files' names, else those that the files are stamped with (TIFFTAG_DATETIME); an
    alpha band or mask in or beside a file says which pixels were measured.

    Args:
        path: The folder.
        images: Pattern of the images below it, such as `S2Hand/*_S2Hand.tif`; what the star of the file's
            name stands for is the scene's name. `{split}` stands for train, val and test where these are
            folders.
        labels: The same for label rasters, whose first band is read; None: there are none.
        bands: Names of the bands in the order of the files; None takes the descriptions in each file, which
            then may have them in any order.
        sensor: Whose numbers these names are (`sentinel2`, `landsat`, `sentinel1`), where they are.
        classes: Names of the classes 0, 1, …; needed for segmentation.
        target: `segmentation`, `regression` or `none`.
        frames: Dates stacked in a file, one date's bands after another's.
        later: Patterns of the files of later dates, one each, where dates are files of their own.
        splits: Split to a file of names, one a line, of the scenes or of files.
        fractions: Shares of training, validation and test scenes, without `splits` and `{split}`.
        label_offset: Added to the classes in the files; -1 where they begin at 1 and 0 means unknown.
        label_nodata: Value of labels that means unknown; None takes each file's own.
        mixed_crs: Accept scenes in several coordinate reference systems.
        nodata: The number that stands for no measurement; None takes each file's own.
        scale: Stored numbers are multiplied by it.
        seed: Of the shares.
    """

    name = "folder"

    def __init__(
        self,
        path: str,
        *,
        images: str = "images/*.tif",
        labels: str | None = "labels/*.tif",
        bands: Sequence[str] | None = None,
        sensor: str | None = None,
        classes: Sequence[str] = (),
        target: Target = "segmentation",
        frames: int = 1,
        later: Sequence[str] = (),
        splits: Mapping[str, str] | None = None,
        fractions: Sequence[float] = (0.8, 0.1, 0.1),
        label_offset: int = 0,
        label_nodata: float | None = None,
        mixed_crs: bool = False,
        nodata: float | None = None,
        scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(path, nodata=nodata)
        if target == "segmentation" and labels and not classes:
            raise UserError("data.source.classes is empty; name the classes of the labels in order")
        if unknown := set(splits or {}) - set(SPLITS):
            raise UserError(f"data.source.splits names '{min(unknown)}'; it may name {', '.join(SPLITS)}")
        at_least(1, room="data.source", frames=frames)
        if later and frames > 1:
            raise UserError(
                "data.source.frames and data.source.later are both given; a file of later has one date"
            )
        self.name, self.later, self.stacked = self.path.resolve().name, tuple(later), frames
        self.images, self.labels, self.sensor = images, labels, sensor
        self.named = tuple(canonical(band, sensor=sensor) for band in bands) if bands else None
        if self.named and len(set(self.named)) < len(self.named):
            raise UserError(f"data.source.bands is {', '.join(self.named)}; name each band once")
        self.classes = () if target == "regression" else tuple(classes)
        self.target = target if labels else "none"
        self.frames, self.split_files = frames + len(self.later), dict(splits or {})
        self.fractions = tuple(fractions)
        self.label_offset, self.label_nodata, self.mixed_crs = label_offset, label_nodata, mixed_crs
        self.scale, self.seed = scale, seed
        self._named = self.named
        self._crs: tuple[Path, str] | None = None

    def move(self, path: str) -> None:
        """Read another folder from now on."""
        super().move(path)
        self.name, self.named, self._crs = self.path.resolve().name, self._named, None

    def reading(self) -> tuple[Any, ...]:
        """Return what changes the numbers that `read` gives of the same files."""
        return (*super().reading(), self.label_offset, self.label_nodata)

    @property
    def bands(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the bands of one date."""
        if self.named is None:
            found = self._found(self.images.replace("{split}", "*"))
            if not found:
                raise self._without_images()
            self.named = self._names_of_first(list(found.values()))
        return self.named

    def scenes(self, split: str) -> list[Scene]:
        """Return the scenes of a split, sorted by name."""
        folder = "test" if split == "predict" else split
        images = self._found(self.images.replace("{split}", folder))
        labels = self._found(self.labels.replace("{split}", folder)) if self.labels else {}
        if not images and "{split}" not in self.images:
            raise self._without_images()
        later = [(pattern, self._found(pattern.replace("{split}", folder))) for pattern in self.later]
        names = self._split(split, sorted(images), (images, labels))
        if self.refused is not None and self._crs is None and not self.mixed_crs:
            self._crs = self._most_frequent(list(images.values()))
        found = []
        for name in names:
            try:
                if self.labels and split != "predict" and name not in labels:
                    raise UserError(
                        f"{images[name]} has no label that matches {self.path / self.labels}; add it, "
                        "leave the image out, or set data.source.labels to null"
                    )
                for pattern, files in later:
                    if name not in files:
                        raise UserError(
                            f"{images[name]} has no later date that matches {self.path / pattern}"
                        )
                files_of = (images[name], *(files[name] for _, files in later))
                found.append(self._scene(name, files_of, labels.get(name)))
            except UserError as error:
                if self.refused is None:
                    raise
                self.refused.append(str(error))
        return found

    def label(self, scene: Scene, window: Window) -> NDArray[Any] | None:
        """Return the label of a window of a scene.

        Raises:
            UserError: If the file calls the number of a class no data, and nobody said which one it is.
        """
        if isinstance(scene.label, Path) and self.target == "segmentation" and self.label_nodata is None:
            nodata = self.header(scene.label).nodata[0]
            number = -1 if nodata is None or nodata != nodata else nodata + self.label_offset
            if number in range(len(self.classes)):
                raise UserError(
                    f"{scene.label} calls {nodata:g} no data, which is the class "
                    f"'{self.classes[int(number)]}'; give data.source.label_nodata, the number of unknown "
                    "ones (another one for none)"
                )
        return super().label(scene, window)

    def classed(self, values: NDArray[Any], nodata: float | None) -> NDArray[np.int64]:
        """Return class numbers, moved by `label_offset`; below 0 is unknown."""
        missing = nodata if self.label_nodata is None else self.label_nodata
        labels = super().classed(values, missing)
        if self.label_offset:
            labels = np.where(labels >= 0, np.maximum(labels + self.label_offset, IGNORE), IGNORE)
        return labels

    def _numbers(self, values: NDArray[Any], nodata: float | None) -> NDArray[np.float32]:
        return super()._numbers(values, nodata if self.label_nodata is None else self.label_nodata)

    def _without_images(self) -> UserError:
        if not self.path.is_dir():
            return UserError(f"there is no folder {self.path}; check data.source.path")
        return UserError(f"no image matches {self.path / self.images}; check data.source.images")

    def _found(self, pattern: str) -> dict[str, Path]:
        """Return name to file of a pattern; the name is what the last part's stars stand for."""
        shape = re.escape(Path(pattern).name).replace(r"\*", "(.*)").replace(r"\?", "(.)")
        found: dict[str, Path] = {}
        for path in sorted(self.path.glob(pattern)):
            matched = re.fullmatch(shape, path.name)
            name = "_".join(matched.groups()) if matched and matched.groups() else path.stem
            if name in found:
                raise UserError(f"{found[name]} and {path} have one name; make data.source.images narrower")
            found[name] = path
        return found

    def _split(self, split: str, names: Sequence[str], files: Sequence[Mapping[str, Path]] = ()) -> list[str]:
        """Return the names of a split; a list may name scenes, or `files` of theirs."""
        if split in self.split_files:
            named: dict[str, set[str]] = {}  # scenes by what a list may call them
            for name in names:
                for word in (name, *(found[name].name for found in files if name in found)):
                    named.setdefault(word, set()).add(name)
                    named.setdefault(Path(word).stem, set()).add(name)
            picked = []
            for line in read_names(self.path / self.split_files[split]):
                word = PureWindowsPath(line).name
                scenes = {word} if word in names else named.get(word) or named.get(Path(word).stem, set())
                if len(scenes) != 1:
                    why = f"may be {' or '.join(sorted(scenes))}" if scenes else "has no image"
                    raise UserError(
                        f"{self.path / self.split_files[split]} names '{word}', which {why} in "
                        f"{self.path / self.images}; correct the list or add the file"
                    )
                picked += scenes
            return picked
        if split == "predict":
            return self._split("test", names, files) if "test" in self.split_files else list(names)
        if self.split_files:
            return []
        if "{split}" in self.images:
            return list(names)
        return drawn_share(names, split, fractions=self.fractions, seed=self.seed)

    def _scene(self, name: str, images: tuple[Path, ...], label: Path | None) -> Scene:
        orders = [self._ordered(image) for image in images]
        layers = tuple((number, band + 1) for number, order in enumerate(orders) for band in order)
        return Scene(name, images, layers, self.frames, label, self._dates(images))

    def _dates(self, images: tuple[Path, ...]) -> tuple[date, ...] | None:
        """Return the dates of a scene by the names of its files or their stamps, as for a scene to map."""
        stamps = [self.header(path).stamp for path in images]
        return dates_of(images, self.frames) or stamped(stamps, self.frames)

    def _names_of_first(self, images: Sequence[Path]) -> tuple[str, ...]:
        """Return the names of the bands of the first file, or of the first usable one."""
        for path in images if self.refused is not None else ():
            try:
                return self._names(path)
            except UserError:
                continue  # it is named as left out when the scenes are listed
        return self._names(images[0])

    def _most_frequent(self, images: Sequence[Path]) -> tuple[Path, str] | None:
        """Return the reference system that most images have, and one of these."""
        found: dict[str, Path] = {}
        counts: Counter[str] = Counter()
        for path in images:
            try:
                crs = self.header(path).crs
            except UserError:
                continue
            counts[crs] += 1
            found.setdefault(crs, path)
        return (found[best], best) if (best := next(iter(counts.most_common(1)), ("",))[0]) in found else None

    def _ordered(self, image: Path) -> Sequence[int]:
        """Return where the bands of all its dates stand in a file, once it is known to fit the others."""
        header = self.header(image)
        crs = (image, header.crs)
        self._crs = self._crs or crs
        if self._crs[1] != header.crs and not self.mixed_crs:
            raise UserError(
                f"{image} is in {header.crs or 'no reference system'} and {self._crs[0]} in "
                f"{self._crs[1] or 'none'}; warp them to one coordinate reference system, or set "
                "data.source.mixed_crs=true"
            )
        count = len(self.bands)
        measured = header.measured(count * self.stacked)
        names = header.names[:measured]
        if measured != count * self.stacked and (not all(names) or self.stacked > 1):
            raise UserError(
                f"{image} has {measured} bands, and {count} bands are named for each of {self.stacked} "
                "dates in a file; correct data.source.bands or data.source.frames"
            )
        step = measured // self.stacked
        per_date = [names[first : first + step] for first in range(0, measured, step)]
        if all(names) and any(date != per_date[0] for date in per_date):
            return range(measured)  # names that tell dates apart are none of bands
        order = self._order(image, per_date[0])
        return [first + band for first in range(0, measured, step) for band in order]

    def _order(self, path: Path, names: Sequence[str]) -> list[int]:
        """Return where the bands stand in a file, by its own names where it has any."""

        def other_order(sensor: str, own: Sequence[str]) -> UserError:
            return UserError(
                f"{path} calls its bands {', '.join(names)}, on {sensor} {', '.join(own)}, and "
                f"data.source.bands says {', '.join(self.bands)}; give data.source.sensor={sensor} to "
                "take them by name, or correct the order"
            )

        own = names_that_serve(names, self.bands, sensor=self.sensor, other_order=other_order)
        if own is None:
            return list(range(len(self.bands)))  # the user's names for a file that calls them differently
        for band in self.bands:
            if band not in own:
                raise UserError(
                    f"{path} has no band '{band}'; it has {', '.join(own)}{did_you_mean(band, own)}"
                )
            if own.count(band) > 1:
                raise UserError(
                    f"{path} calls {own.count(band)} bands '{band}' ({', '.join(names)}); name each "
                    "differently"
                )
        return [own.index(band) for band in self.bands]

    def _names(self, path: Path) -> tuple[str, ...]:
        header = self.header(path)
        measured = header.measured(None)
        own, per_date = header.names[:measured], measured // self.stacked
        if not all(own) or self.stacked > 1:
            raise UserError(
                f"{path} does not name its {measured} bands; give the names of {per_date} in "
                "data.source.bands"
            )
        return tuple(canonical(name, sensor=self.sensor) for name in own)
