"""One call of `predict` or `embed`: a network, how it reads scenes, and the results that it writes."""

from __future__ import annotations

import argparse
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from apps.remote_sensing.predict.embedding import Embedder, WeightsModel
from apps.remote_sensing.predict.fitting import Found, Wanted, found
from apps.remote_sensing.predict.geotiff import GridTiff
from apps.remote_sensing.predict.mapping import SceneMap, map_scene
from apps.remote_sensing.predict.model import SceneModel
from apps.remote_sensing.predict.scene import SceneTiles, TileBatch, file_version, open_scene, tile_batches
from apps.remote_sensing.predict.settings import MapSettings
from apps.remote_sensing.predict.tables import CsvTable, ParquetTable, tile_rows, write_tables
from core.accelerators.choice import usable
from core.errors import UserError, did_you_mean
from core.inference.jobs import Job

__all__ = ["embed", "predict"]

_LARGEST = 1024  # side of a tile that is chosen without being asked for


def predict(job: Job, options: argparse.Namespace) -> int:
    """Map scenes and return the exit code: 2 if any could not be mapped.

    Raises:
        UserError: If the checkpoint gives no map, or a single scene cannot be mapped.
    """
    device = usable(options.device, order=("cuda", "cpu"))
    model = SceneModel.from_checkpoint(options.ckpt_path, device=device)
    model.check_maps()
    return _Maps(options, model).work(job)


def embed(job: Job, options: argparse.Namespace, *, images: bool) -> int:
    """Write features of scenes and return the exit code: 2 if any could not be read.

    Args:
        job: The scenes.
        options: Of the verb.
        images: Whether images of the patches' features are written in place of tables of tiles.

    Raises:
        UserError: If the weights cannot be read, or a single scene does not fit the network.
    """
    device = usable(options.device, order=("cuda", "cpu"))
    if options.ckpt_path is not None:
        if options.network is not None or options.reflectance is not None:
            raise UserError("--network and --reflectance belong to --weights; a checkpoint knows them itself")
        model = SceneModel.from_checkpoint(options.ckpt_path, device=device)
    else:
        model = WeightsModel.from_weights(
            options.weights, options.network, reflectance=options.reflectance, device=device
        )
    run = _Features(options, model)
    return run.images(job) if images else run.tables(job)


class _Run(ABC):
    """What the verbs share.

    Args:
        options: Of the verb.
        model: What reads the scenes.
    """

    def __init__(self, options: argparse.Namespace, model: SceneModel) -> None:
        self.options, self.model = options, model
        chosen = tuple(int(band) if band.isdecimal() else band for band in options.bands or ())
        self.settings = self._settings()
        self.wanted = Wanted(
            bands=model.bands,
            frames=model.frames,
            chosen=chosen or None,
            names=tuple(options.band_names) if options.band_names else None,
            sensor=options.sensor or model.facts.sensor,
            dates=tuple(options.dates) if options.dates else None,
            timed=model.reads("time"),
            located=model.reads("location"),
        )

    @abstractmethod
    def _settings(self) -> MapSettings: ...

    def fitted(self, paths: Sequence[Path]) -> tuple[SceneModel, MapSettings, Found]:
        """Return the model told of a scene, and the settings that read this scene's bands for it.

        Raises:
            UserError: If the scene does not fit.
        """
        scene = found(paths, self.wanted)
        scene.tell(paths[0], self.model.said)
        here = self.model.at(dates=scene.dates, location=scene.location)
        how = replace(self.settings, bands=scene.bands, band_names=scene.names, model=here.fingerprint())
        if how.missing is None and scene.nodata is None:
            how = replace(how, missing=self.model.facts.nodata)  # as the training's reader took it
        return here, how, scene


class _Maps(_Run):
    """Maps of scenes, or what networks of whole images say of their tiles."""

    def work(self, job: Job) -> int:
        """Write the results that `--out` asks for."""
        if self.model.whole and job.out.suffix.lower() != ".tif":
            return write_tables(job, ".csv", self._table, self._rows)
        outs = job.outs((".tif", ".tiff"))
        for out, scene in outs.items() if self.options.uncertainty else ():
            if _doubt(out) in outs:
                raise UserError(
                    f"the uncertainty of {scene} and the map of {outs[_doubt(out)]} would both be "
                    f"{_doubt(out)}; rename one, or map them apart"
                )
        return job.run(outs, self._tile_image if self.model.whole else self._map)

    def _settings(self) -> MapSettings:
        options, model = self.options, self.model
        kind = self._kind()
        side = min(model.facts.window or 224, _LARGEST) if options.tile is None else options.tile
        tile = model.tile_side(side, asked=options.tile is not None)
        model.check_gaps(options.gaps)
        return MapSettings(
            names=model.channels,
            kind=kind,
            sensor=options.sensor or model.facts.sensor,
            dates=model.frames,
            needs="any" if options.any_date else model.needs,
            gaps=options.gaps,
            tile=tile,
            overlap=tile // 8 if options.overlap is None else options.overlap,
            batch_size=options.batch_size,
            fill=math.nan,
            nodata=options.map_nodata,
            missing=options.nodata,
            stored=model.facts.stored,
            colours=self._colours() if kind == "classes" else None,
        )

    def _kind(self) -> Literal["classes", "scores"]:
        kind, model = self.options.kind, self.model
        if kind not in (None, "classes", "scores"):
            near = did_you_mean(kind, ("classes", "scores"))
            raise UserError(f"--kind is '{kind}'; it must be classes or scores{near}")
        if kind == "classes" and model.numbers:
            raise UserError(f"--kind is classes and the network is for {model.facts.kind}; leave it out")
        if self.options.uncertainty and (model.numbers or model.whole):
            raise UserError(
                f"--uncertainty is of maps of classes, and the network is for {model.facts.kind}; leave "
                "it out"
            )
        return "scores" if model.numbers or kind == "scores" else "classes"

    def _colours(self) -> tuple[tuple[int, int, int], ...] | None:
        names, words = self.model.channels, self.options.colours
        if not words:
            from apps.remote_sensing.figures import class_colours

            usual = class_colours(names)
            return tuple((int(r), int(g), int(b)) for r, g, b in usual) if len(names) < 256 else None
        if len(words) != len(names):
            raise UserError(
                f"--colours gives {len(words)} colours and there are {len(names)} classes "
                f"({', '.join(names)}); give one for each"
            )
        colours = []
        for word in words:
            try:
                red, green, blue = bytes.fromhex(word.removeprefix("#"))
            except ValueError as error:
                raise UserError(f"--colours {word} is no colour; write it as '#1f77b4'") from error
            colours.append((red, green, blue))
        return tuple(colours)

    def _map(self, paths: Sequence[Path], out: Path) -> SceneMap:
        options = self.options
        here, how, scene = self.fitted(paths)
        how = self.model.for_scene(how, scene, paths[0], nodata=options.map_nodata)
        doubt = _doubt(out) if options.uncertainty else None
        made = map_scene(
            paths, out, here, how, overwrite=options.overwrite, restart=options.restart, uncertainty=doubt
        )
        if not options.no_figure:
            from apps.remote_sensing.predict.quick_look import quick_look

            picture = quick_look(made, paths, self.model, how)
            made = replace(made, beside=(*made.beside, *((picture,) if picture else ())))
        return made

    def _tile_image(self, paths: Sequence[Path], out: Path) -> SceneMap:
        """Write a GeoTIFF with a pixel for each tile: the class, or the scores."""
        here, how, _ = self.fitted(paths)
        classes, (rows, columns) = how.kind == "classes", how.tile_size
        with open_scene(paths, how) as source:
            image = GridTiff(
                out,
                ("class",) if classes else how.names,
                how.facts() | source.facts(),
                dtype=str(how.map_dtype),
                nodata=how.map_nodata,
                classes=how.names if classes else (),
                colours=how.colours,
                cloud=True,
            )
            if image.finished(overwrite=self.options.overwrite):
                return SceneMap(out, source.shape, existed=True)
            with image.written(source.dataset, how.tile_size) as grid:
                for batch, scores in _scored(source, here, how, paths[0]):
                    for tile, score in zip(batch.tiles, scores, strict=True):
                        values = np.array([score.argmax()]) if classes else score
                        grid.put(tile.start[0] // rows, tile.start[1] // columns, values[:, None, None])
            return SceneMap(out, source.shape)

    def _table(self, out: Path, paths: Sequence[Path]) -> CsvTable:
        return CsvTable(out, self.model.columns(), overwrite=self.options.overwrite)

    def _rows(self, paths: Sequence[Path], table: CsvTable) -> SceneMap:
        here, how, scene = self.fitted(paths)
        with open_scene(paths, how) as source, table.scene():
            for batch, scores in _scored(source, here, how, paths[0]):
                rows = tile_rows(batch, paths[0].name, scene)
                table.add([[*row, *here.row(score)] for row, score in zip(rows, scores, strict=True)])
            return SceneMap(table.path, source.shape)


class _Features(_Run):
    """Features of scenes: a vector for each tile, or images of the patches' features."""

    def __init__(self, options: argparse.Namespace, model: SceneModel) -> None:
        self.embedder = Embedder(model.network, options.pool)
        super().__init__(options, model)

    def tables(self, job: Job) -> int:
        """Write tables with a vector for each tile."""
        return write_tables(job, ".parquet", self._table, self._rows)

    def images(self, job: Job) -> int:
        """Write a GeoTIFF of features for each scene."""
        return job.run(job.outs((".tif",)), self._image)

    def _settings(self) -> MapSettings:
        options, model = self.options, self.model
        step, side = max(self.embedder.step), model.facts.window or 224
        if options.tile is not None:
            side = options.tile
        elif not model.facts.resize:
            side = max(side // step, 1) * step
        return MapSettings(
            names=("vector",),
            kind="scores",
            sensor=options.sensor or model.facts.sensor,
            dates=model.frames,
            needs="any" if options.any_date else "all",
            tile=side,
            overlap=0,
            batch_size=options.batch_size,
            missing=options.nodata,
            stored=model.facts.stored,
            fill=math.nan,
        )

    def _table(self, out: Path, paths: Sequence[Path]) -> ParquetTable:
        files = [[path.name, *file_version(path).values()] for path in paths]
        told = {"chosen": self.wanted.chosen, "names": self.wanted.names, "dates": self.wanted.dates}
        facts: dict[str, Any] = self.settings.facts()
        facts |= {"model": self.model.fingerprint(), "pool": self.embedder.pool, "files": files}
        facts["given"] = {name: list(words) if words else None for name, words in told.items()}
        return ParquetTable(out, facts, overwrite=self.options.overwrite)

    def _rows(self, paths: Sequence[Path], table: ParquetTable) -> SceneMap:
        here, how, scene = self.fitted(paths)
        with open_scene(paths, how) as source, table.scene():
            for batch in tile_batches(source, how, label=f"tiles of {paths[0].name}", progress=True):
                vectors = self.embedder.vectors(here, batch.pixels)
                table.add(tile_rows(batch, paths[0].name, scene), vectors)
            return SceneMap(table.path, source.shape)

    def _image(self, paths: Sequence[Path], out: Path) -> SceneMap:
        here, how, _ = self.fitted(paths)
        side = how.tile_size[0]
        with open_scene(paths, how) as source:
            facts = how.facts() | source.facts() | {"pool": "patches"}
            blank = torch.zeros(1, len(source.numbers), side, side)
            _, count, rows, _ = self.embedder.maps(here, blank).shape
            image = GridTiff(out, [f"feature_{number + 1}" for number in range(count)], facts)
            if image.finished(overwrite=self.options.overwrite):
                return SceneMap(out, source.shape, existed=True)
            if side % rows:
                raise UserError(f"a tile of {side} pixels has {rows} patches; give a --tile they divide")
            step = side // rows
            with image.written(source.dataset, (step, step), rows=rows) as grid:
                for batch in tile_batches(source, how, label=f"tiles of {paths[0].name}", progress=True):
                    features = self.embedder.maps(here, batch.pixels)
                    for tile, valid, values in zip(batch.tiles, batch.valid, features, strict=True):
                        values[:, ~_seen(valid, side, step)] = math.nan
                        grid.put(tile.start[0] // step, tile.start[1] // step, values)
            return SceneMap(out, source.shape)


def _doubt(out: Path) -> Path:
    """Return where the uncertainty of a map goes."""
    return out.with_name(f"{out.stem}_uncertainty.tif")


def _scored(
    source: SceneTiles, model: SceneModel, settings: MapSettings, path: Path
) -> Iterator[tuple[TileBatch, NDArray[np.float32]]]:
    for batch in tile_batches(source, settings, label=f"tiles of {path.name}", progress=True):
        with torch.inference_mode():
            yield batch, model(batch.pixels).cpu().numpy()


def _seen(valid: NDArray[np.bool_], side: int, step: int) -> NDArray[np.bool_]:
    """Return which patches of a tile show any pixel with data."""
    whole = np.zeros((side, side), dtype=bool)
    whole[: valid.shape[0], : valid.shape[1]] = valid
    return whole.reshape(side // step, step, side // step, step).any(axis=(1, 3))
