"""Any map-style data set of TorchGeo, or one that gives samples as it does, behind a thin adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.remote_sensing.batch import IGNORE
from apps.remote_sensing.data.bands import canonical
from apps.remote_sensing.data.raster import Window
from apps.remote_sensing.data.readers.source import SPLITS, Cut, Pixels, Scene, Source, Target
from core.errors import UserError, did_you_mean

__all__ = ["TorchGeoSet"]


class TorchGeoSet(Source):
    """Samples that are dictionaries of `image` (C, H, W) or (T, C, H, W), and `mask` or `label`.

    Args:
        dataset: Name of a class in `torchgeo.datasets`, such as `EuroSAT`.
        arguments: Its arguments, but for the split.
        split_argument: Name of its argument for the split; an empty one has none, and all is `predict`.
        splits: Our splits to its names; several may be the same.
        datasets: Ready data sets by split, in place of all these.
        bands: Names of the bands; None takes the data set's `bands` or `all_bands`.
        sensor: Whose numbers these names are.
        classes: Names of the classes; None takes the data set's `classes`.
        target: What the labels are.
        frames: Dates of a sample.
        nodata: The number that stands for no measurement.
        ignore: Class of a mask that means unknown, as well as -1.
        scale: Numbers are multiplied by it before a normalisation that is given.
    """

    name = "torchgeo"
    keeps_statistics = False

    def __init__(
        self,
        dataset: str | None = None,
        *,
        arguments: Mapping[str, Any] | None = None,
        split_argument: str = "split",
        splits: Mapping[str, str] | None = None,
        datasets: Mapping[str, Any] | None = None,
        bands: Sequence[str] | None = None,
        sensor: str | None = "sentinel2",
        classes: Sequence[str] | None = None,
        target: Target = "segmentation",
        frames: int = 1,
        nodata: float | None = None,
        ignore: int | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__(".", nodata=nodata)
        if (dataset is None) == (datasets is None):
            raise UserError(
                "give data.source.dataset (a class of torchgeo.datasets) or ready datasets, not both"
            )
        self.dataset, self.arguments = dataset, dict(arguments or {})
        self.split_argument = split_argument
        self.split_names = dict(splits or {"train": "train", "val": "val", "test": "test", "predict": "test"})
        self.ready = dict(datasets or {})
        if unknown := (set(self.split_names) | set(self.ready)) - set(SPLITS):
            raise UserError(f"a split is called '{min(unknown)}'; it must be one of {', '.join(SPLITS)}")
        self.sensor, self.target, self.frames, self.ignore, self.scale = sensor, target, frames, ignore, scale
        self.name = dataset or type(next(iter(self.ready.values()))).__name__
        self._bands, self._classes = bands, classes

    def move(self, path: str) -> None:
        """Refuse: a data set of TorchGeo knows its folder itself.

        Raises:
            UserError: Always.
        """
        raise UserError(
            f"data.path is {path}, but {self.name} is a data set of TorchGeo; give its folder in "
            "data.source.arguments, as root"
        )

    @property
    def bands(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the bands."""
        named = self._bands or self._of_any("bands") or self._of_any("all_bands") or self._of_any("BANDS")
        if not named or isinstance(named, str):
            raise UserError(f"{self.name} does not name its bands; give them in data.source.bands")
        return tuple(canonical(band, sensor=self.sensor) for band in named)

    @property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the classes."""
        return tuple(str(name) for name in (self._classes or self._of_any("classes") or ()))

    def scenes(self, split: str) -> list[Scene]:
        """Return one scene for each index of the data set of a split."""
        held = self._held(split)
        if held is None:
            return []
        try:
            count = len(held)
        except TypeError as error:
            raise UserError(
                f"{self.name} has no length; only data sets indexed by a number can be read"
            ) from error
        return [Scene(f"{split}/{row}", (), ((row, 0),), self.frames) for row in range(count)]

    def size(self, scene: Scene) -> tuple[int, int]:
        """Return rows and columns of a sample."""
        image = self._sample(scene)["image"]
        return int(image.shape[-2]), int(image.shape[-1])

    def location(self, scene: Scene) -> tuple[float, float] | None:
        """Return None: samples do not say where they are."""
        return None

    def read(self, scene: Scene, bands: Sequence[int], cut: Cut) -> Pixels:
        """Return a window of a sample.

        Raises:
            UserError: If the sample has another number of bands, or a class is out of range.
        """
        sample = self._sample(scene)
        image = np.asarray(sample["image"])
        image = image[None] if image.ndim == 3 else image
        if image.shape[0] * image.shape[1] == self.frames * len(self.bands):
            image = image.reshape(self.frames, len(self.bands), *image.shape[2:])
        if image.shape[:2] != (self.frames, len(self.bands)):
            raise UserError(
                f"sample {scene.name} of {self.name} has {image.shape[0]} dates of "
                f"{image.shape[1]} bands, and "
                f"{len(self.bands)} bands are named for {self.frames} dates; correct "
                "data.source.bands or frames"
            )
        window = cut(*image.shape[-2:])
        top, left, rows, columns = window
        part = image[:, list(bands), top : top + rows, left : left + columns]
        valid = np.isfinite(part).all(1)
        if self.nodata is not None:
            valid &= (part != self.nodata).any(1) if self.nodata == 0 else (part != self.nodata).all(1)
        return Pixels(part, valid, self._label(sample, window, scene))

    def _label(self, sample: Mapping[str, Any], window: Window, scene: Scene) -> NDArray[Any] | None:
        value = sample.get("mask", sample.get("label"))
        if value is None or self.target == "none":
            return None
        values = np.asarray(value)
        if self.target == "multilabel":
            return values.astype(np.float32)
        if self.target == "classification":
            return values.astype(np.int64)
        top, left, rows, columns = window
        values = values.reshape(values.shape[-2:])[top : top + rows, left : left + columns]
        if self.target == "regression":
            return values.astype(np.float32)
        labels = values.astype(np.int64)
        if self.ignore is not None:
            labels[values == self.ignore] = IGNORE
        return self._checked(labels, f"sample {scene.name} of {self.name}")

    def _sample(self, scene: Scene) -> Mapping[str, Any]:
        return self._held(scene.name.split("/")[0])[scene.layers[0][0]]  # type: ignore[no-any-return]

    def _held(self, split: str) -> Any:
        if split not in self.ready and self.dataset is not None and split in self.split_names:
            self.ready[split] = self._opened(split)
        return self.ready.get(split)

    def _of_any(self, attribute: str) -> Any:
        held = next(iter(self.ready.values()), None) or self._held(next(iter(self.split_names)))
        return getattr(held, attribute, None)

    def _opened(self, split: str) -> Any:
        try:
            from torchgeo import datasets
        except ImportError as error:
            raise UserError(
                f"the data set {self.dataset} needs TorchGeo, which is not installed; pip "
                "install torchgeo, or use "
                "a reader of apps.remote_sensing.data.readers"
            ) from error
        kind = getattr(datasets, str(self.dataset), None)
        if kind is None:
            hint = did_you_mean(str(self.dataset), dir(datasets))
            raise UserError(f"torchgeo.datasets has no '{self.dataset}'{hint}")
        which = {self.split_argument: self.split_names[split]} if self.split_argument else {}
        try:
            return kind(**self.arguments, **which)
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            said = str(error).split("\n")[0]
            raise UserError(f"{self.dataset} of TorchGeo refuses its arguments: {said}") from error
