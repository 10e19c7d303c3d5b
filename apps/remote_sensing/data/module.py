"""The data module of images of the Earth: a reader's scenes to batches of normalised windows."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader

from apps.remote_sensing.batch import Coordinates, SceneFacts
from apps.remote_sensing.data.normalisation import Normalisation
from apps.remote_sensing.data.readers.source import Scene, Source
from apps.remote_sensing.data.samples import SceneSet, Style, tile_windows
from apps.remote_sensing.data.settings import Augment, Normalise, Rule, Tiles
from apps.remote_sensing.data.statistics import Statistics, stored, usable
from core.data.checks import at_least, one_of
from core.data.counting import counted
from core.data.module import DataModule
from core.errors import UserError

__all__ = ["Scenes"]


class Scenes(DataModule):
    """Windows of scenes, with bands by name, one normalisation, and places and dates where they are known.

    Args:
        source: A reader of `apps.remote_sensing.data.readers`, or of the user's own.
        bands: Names of the bands in the order the network wants; None takes all.
        normalise: Where mean and deviation come from (`auto`, `published`, `statistics`, `none`), or all of
            `apps.remote_sensing.data.Normalise`.
        crop: Side of training windows, at random; None takes whole scenes or tiles.
        eval_crop: Side of the windows in the middle that are validated and tested; None takes all.
        tiles: Cuts every scene into tiles, each a sample.
        repeats: Training windows of each scene or tile in an epoch.
        resize: Side to which windows are resized.
        augment: Mirrors and turns training windows.
        coordinates: Which dates and places are given, and how.
        limit: Training scenes used, the first of the list in an order drawn by `seed`: a number, or a share
            below 1.
        bad_files: `stop` at a scene that cannot be used, or `skip` it: then all scenes are read once before
            the run, and those left out are listed (and in `skipped`).
        path: Folder of the data set, in place of the source's own.
        split: Which split `predict` maps; `predict` is the test split without its labels for most readers.
        statistics_folder: Where statistics are kept.
        batch_size: Windows in a batch.
        eval_batch_size: The same for validation, test and prediction.
        num_workers: Loader processes.
        seed: Of the order, of windows, mirrors and gaps.
        drop_last: Leave an epoch's incomplete last batch out.
    """

    def __init__(
        self,
        source: Source,
        *,
        bands: list[str] | None = None,
        normalise: Rule | Normalise = "auto",
        crop: int | None = None,
        eval_crop: int | None = None,
        tiles: Tiles = Tiles(),  # noqa: B008
        repeats: int = 1,
        resize: int | None = None,
        augment: Augment = Augment(),  # noqa: B008
        coordinates: Coordinates = Coordinates(),  # noqa: B008
        limit: float | None = None,
        bad_files: Literal["stop", "skip"] = "stop",
        path: str | None = None,
        split: Literal["predict", "train", "val", "test"] = "predict",
        statistics_folder: str | None = None,
        batch_size: int = 8,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(
            batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed,
            drop_last=drop_last,
        )  # fmt: skip
        self.normalise = normalise if isinstance(normalise, Normalise) else Normalise(normalise)
        one_of(get_args(Rule), normalise=self.normalise.rule)
        one_of(("stop", "skip"), bad_files=bad_files)
        at_least(1, crop=crop, eval_crop=eval_crop, repeats=repeats, resize=resize)
        if bands and len(set(bands)) < len(bands):
            raise UserError(f"data.bands is {', '.join(bands)}; name each band once")
        if limit is not None and not limit > 0:
            raise UserError(f"data.limit is {limit}; it must be above 0")
        if path is not None:
            source.move(path)
        self.source, self.bands, self.coordinates = source, bands, coordinates
        self.crop, self.eval_crop, self.tiles, self.augment = crop, eval_crop, tiles, augment
        self.repeats, self.resize, self.limit = repeats, resize, limit
        self.bad_files, self.split = bad_files, split
        self.statistics_folder = Path(statistics_folder) if statistics_folder else None
        self.skipped: list[str] = []
        source.refused = self.skipped if bad_files == "skip" else None
        self._known: SceneFacts | None = None
        self._scenes: dict[str, list[Scene]] = {}
        self._style: Style | None = None
        self._side: int | None = None
        self._order: tuple[tuple[int, int], ...] | None = None
        self._constants: Mapping[str, tuple[float, float]] = {}
        self._counted: Statistics | None = None

    # --- what tasks and figures ask for ---

    @property
    def facts(self) -> SceneFacts:
        """What a task must know, enough to map another scene from a checkpoint alone."""
        style, source = self.style, self.source
        bands = tuple(source.bands[band] for band in style.bands)
        return SceneFacts(
            bands=bands,
            sensor=source.sensor,
            frames=source.frames,
            target=source.target,
            classes=tuple(source.classes),
            scale=style.normalisation.scale,
            mean=tuple(self._constants[band][0] for band in bands),
            std=tuple(self._constants[band][1] for band in bands),
            fill=self.normalise.fill,
            fill_before=self.normalise.fill_before,
            coordinates=style.coordinates,
            resize=self.resize,
            window=self._side,
            order=self._order,
            nodata=source.default_nodata if source.nodata is None else source.nodata,
            stored=source.stored,
            class_counts=self._counted.classes if self._counted else (),
            sources=(source.name,),
            licences=(source.licence or f"{source.name}: not stated",),
        )

    def use_statistics(self, facts: SceneFacts) -> None:
        """Take bands, normalisation and coordinates of a checkpoint; to be called before data are read."""
        self._known = facts
        self._style = None

    @property
    def style(self) -> Style:
        """What is done to every sample; statistics are computed on the first use."""
        if self._style is None:
            self._style = self._decided()
        return self._style

    @property
    def statistics(self) -> Statistics:
        """Statistics of the training scenes, computed on the first use and kept for the next run."""
        if self._counted is None:
            bands = self.source.positions(self._names())
            self._counted = stored(self.source, self._of("train"), bands, folder=self.statistics_folder)
        return self._counted

    # --- hooks of the base class ---

    def setup(self, stage: str | None = None) -> None:
        """List the scenes and decide the normalisation, once."""
        self.style  # noqa: B018

    def train_set(self) -> SceneSet | None:
        """Return the training windows, or None if there are none."""
        style = replace(self.style, crop=self.crop, augment=self.augment)
        samples = self._samples(self._of("train"))
        repeated = [sample for sample in samples for _ in range(self.repeats)]
        return SceneSet(self.source, repeated, style, training=True) if samples else None

    def val_set(self) -> SceneSet | None:
        """Return the validation windows, or None if there are none."""
        return self._evaluated("val")

    def test_set(self) -> SceneSet | None:
        """Return the test windows, or None if there are none."""
        return self._evaluated("test")

    def predict_set(self) -> SceneSet | None:
        """Return the windows to predict, or None if there are none."""
        return self._evaluated(self.split)

    def in_order(self, split: str) -> DataLoader:
        """Return a loader of a split's windows in their order, none of them drawn or mirrored."""
        return self._in_order(self._present(self._evaluated(split), split), self.eval_batch_size)

    # --- helpers ---

    def _evaluated(self, split: str) -> SceneSet | None:
        samples = self._samples(self._of(split))
        return SceneSet(self.source, samples, self.style, training=False) if samples else None

    def _samples(self, scenes: Sequence[Scene]) -> list[tuple[Scene, Any]]:
        if self.tiles.side is None:
            return [(scene, None) for scene in scenes]
        found = []
        with counted("data: sizes of scenes", len(scenes), unit="scenes") as advance:
            for scene in scenes:
                height, width = self.source.size(scene)
                windows = tile_windows(height, width, tile=self.tiles.side, stride=self.tiles.stride)
                found += [(scene, window) for window in windows]
                advance(1)
        return found

    def _of(self, split: str) -> list[Scene]:
        """Return the usable scenes of a split, listed once."""
        if split not in self._scenes:
            before = len(self.skipped)
            scenes = self.source.scenes(split)
            new = [one for one in dict.fromkeys(self.skipped[before:]) if one not in self.skipped[:before]]
            self.skipped[before:] = new  # a scene of two splits is told once
            _say([f"left out: {sentence}" for sentence in new])
            limit = self.limit if split == "train" else None
            if self.bad_files == "skip":
                scenes = self._usable(scenes, limit)
            elif limit is not None:
                kept = self._drawn(len(scenes))[: _count(limit, len(scenes))]
                scenes = [scenes[row] for row in sorted(kept)]
            self._scenes[split] = scenes
        return self._scenes[split]

    def _drawn(self, count: int) -> list[int]:
        return torch.randperm(count, generator=torch.Generator().manual_seed(self.seed)).tolist()

    def _usable(self, scenes: Sequence[Scene], limit: float | None) -> list[Scene]:
        """Return the scenes that can be read, as many as are wanted, in their order."""
        bands = self.source.positions(self._names())
        enough = int(limit) if limit is not None and limit >= 1 else len(scenes)
        order = range(len(scenes)) if limit is None else self._drawn(len(scenes))

        def skip(why: str) -> None:
            self.skipped.append(why)
            _say([f"left out: {why}"])

        kept = usable(self.source, scenes, bands, order=order, enough=enough, skip=skip)
        if limit is not None:
            kept = kept[: _count(limit, len(kept))]
        return [scenes[row] for row in sorted(kept)]

    def _names(self) -> list[str] | None:
        return self.bands or (list(self._known.bands) if self._known else None)

    def _decided(self) -> Style:
        source = self.source
        bands = source.positions(self._names())
        names = [source.bands[band] for band in bands]
        scale, self._constants = self._numbers(names)
        scenes = self._first()
        if note := source.note(scenes[0]):
            _say([note])
        mean, std = self._spread(scenes[0], names)
        self._order = scenes[0].mixed(bands, len(source.bands))
        self._side = self.crop or self.tiles.side or max(source.size(scenes[0]))
        wanted, how = self.coordinates, self.normalise
        return Style(
            bands=tuple(bands),
            normalisation=Normalisation(mean, std, scale=scale, fill=how.fill, fill_before=how.fill_before),
            crop=self.eval_crop,
            resize=self.resize,
            coordinates=replace(
                wanted,
                time=wanted.time and all(scene.dates is not None for scene in scenes),
                location=wanted.location and source.location(scenes[0]) is not None,
            ),
            seed=self.seed,
        )

    def _first(self) -> list[Scene]:
        """Return the scenes of the first split that has any.

        Raises:
            UserError: If none has: what is wrong with the first that cannot be listed.
        """
        wrong: list[UserError] = []
        for split in ("train", "val", "test", "predict"):
            try:
                if scenes := self._of(split):
                    return scenes
            except UserError as error:
                wrong.append(error)
        if wrong:
            raise wrong[0]
        where = f"{self.source.name} has no scenes in {self.source.path}"
        if self.skipped:
            raise UserError(f"{where} that can be used; the first left out: {self.skipped[0]}")
        raise UserError(f"{where}; check data.source.path")

    def _numbers(self, names: Sequence[str]) -> tuple[float, dict[str, tuple[float, float]]]:
        """Return the scale, and mean and deviation of each band."""
        source, known, how = self.source, self._known, self.normalise
        scale = source.scale if how.scale is None else how.scale
        if how.mean is not None and how.std is not None:
            if not len(how.mean) == len(how.std) == len(names):
                raise UserError(
                    f"data.normalise.mean and std have {len(how.mean)} and {len(how.std)} numbers for "
                    f"{len(names)} bands ({', '.join(names)}); give one each"
                )
            return scale, dict(zip(names, zip(how.mean, how.std, strict=True), strict=True))
        if known and set(names) <= set(known.bands):
            pairs = zip(known.bands, zip(known.mean, known.std, strict=True), strict=True)
            return (known.scale if how.scale is None else how.scale), dict(pairs)
        if how.rule == "none":
            return scale, {name: (0.0, 1.0) for name in names}
        published = all(name in source.mean and name in source.std for name in names)
        if published and how.rule != "statistics":
            others = [name for name in source.mean if name in source.std]  # they may be layers'
            return scale, {name: (source.mean[name], source.std[name]) for name in others}
        if how.rule == "published":
            lacking = ", ".join(name for name in names if name not in source.mean)
            raise UserError(
                f"{source.name} publishes no mean of {lacking}; use data.normalise=statistics, "
                "or give data.normalise.mean and data.normalise.std"
            )
        found = self.statistics
        scaled = [(m * scale, s * scale) for m, s in zip(found.mean, found.std, strict=True)]
        return scale, dict(zip(names, scaled, strict=True))

    def _spread(self, scene: Scene, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of each wanted band and date, `(C, T)` float64."""
        count = len(self.source.bands)
        rows = []
        for name in names:
            position = self.source.bands.index(name)
            owners = [
                scene.statistics[frame * count + position] if scene.statistics else position
                for frame in range(scene.frames)
            ]
            lacking = [
                self.source.bands[own] for own in owners if self.source.bands[own] not in self._constants
            ]
            if lacking:
                raise UserError(
                    f"data.bands lacks {lacking[0]}, whose numbers {self.source.name} gives to {name} in "
                    "this order; name all bands, or leave out what changes the normalisation"
                )
            rows.append([self._constants[self.source.bands[owner]] for owner in owners])
        both = torch.tensor(rows, dtype=torch.float64)  # C T 2
        return both[..., 0], both[..., 1]


def _count(limit: float, scenes: int) -> int:
    return max(1, round(scenes * limit)) if limit < 1 else int(limit)


@rank_zero_only
def _say(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"data: {line}", file=sys.stderr)
