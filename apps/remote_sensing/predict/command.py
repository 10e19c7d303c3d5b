"""`dfm remote-sensing predict`: scenes in, maps of the same grid out, whatever their size."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from apps.remote_sensing.predict.options import job_of, scene_parser, wanted_of
from core.errors import UserError, did_you_mean
from core.inference.jobs import Job

if TYPE_CHECKING:
    from apps.remote_sensing.predict.fitting import Wanted
    from apps.remote_sensing.predict.mapping import SceneMap
    from apps.remote_sensing.predict.model import SceneModel
    from apps.remote_sensing.predict.scene import SceneTiles, TileBatch
    from apps.remote_sensing.predict.settings import MapSettings

__all__ = ["main"]

_TIFF = (".tif", ".tiff")
_LARGEST = 1024  # side of a tile that is chosen without being asked for


def main(argv: Sequence[str]) -> int:
    """Map the scenes that `argv` names and return the exit code: 2 if any could not be mapped.

    Raises:
        UserError: For an unknown option, a missing file, or a single scene that cannot be mapped.
    """
    options = _parser().parse_args(list(argv))
    job = job_of(options)
    from apps.remote_sensing.predict.model import SceneModel
    from core.accelerators.choice import usable

    device = usable(options.device, order=("cuda", "cpu"))
    model = SceneModel.from_checkpoint(options.ckpt_path, device=device)
    model.check_maps()
    settings, wanted = _settings(options, model), wanted_of(options, model)
    if model.whole and job.out.suffix.lower() != ".tif":
        return _tables(job, model, settings, wanted, options)
    outs = job.outs(_TIFF)
    for out, scene in outs.items() if options.uncertainty else ():
        if _doubt(out) in outs:
            raise UserError(
                f"the uncertainty of {scene} and the map of {outs[_doubt(out)]} would both be {_doubt(out)}; "
                "rename one, or map them apart"
            )
    return job.run(
        outs,
        lambda paths, out: _map(paths, out, model, settings, wanted, options),
    )


def _settings(options: argparse.Namespace, model: SceneModel) -> MapSettings:
    from apps.remote_sensing.predict.settings import MapSettings

    kind = _kind(options, model)
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
        colours=_colours(options, model) if kind == "classes" else None,
    )


def _kind(options: argparse.Namespace, model: SceneModel) -> Literal["classes", "scores"]:
    if options.kind not in (None, "classes", "scores"):
        near = did_you_mean(options.kind, ("classes", "scores"))
        raise UserError(f"--kind is '{options.kind}'; it must be classes or scores{near}")
    if options.kind == "classes" and model.numbers:
        raise UserError(f"--kind is classes and the network is for {model.facts.kind}; leave it out")
    if options.uncertainty and (model.numbers or model.whole):
        raise UserError(
            f"--uncertainty is of maps of classes, and the network is for {model.facts.kind}; leave it out"
        )
    return "scores" if model.numbers or options.kind == "scores" else "classes"


def _colours(options: argparse.Namespace, model: SceneModel) -> tuple[tuple[int, int, int], ...] | None:
    if not options.colours:
        from apps.remote_sensing.figures import class_colours

        given = class_colours(model.channels)
        return tuple((int(r), int(g), int(b)) for r, g, b in given) if len(given) < 256 else None
    if len(options.colours) != len(model.channels):
        raise UserError(
            f"--colours gives {len(options.colours)} colours and there are {len(model.channels)} classes "
            f"({', '.join(model.channels)}); give one for each"
        )
    found = []
    for word in options.colours:
        digits = word.removeprefix("#")
        try:
            red, green, blue = bytes.fromhex(digits)
        except ValueError as error:
            raise UserError(f"--colours {word} is no colour; write it as '#1f77b4'") from error
        found.append((red, green, blue))
    return tuple(found)


def _map(
    paths: Sequence[Path],
    out: Path,
    model: SceneModel,
    settings: MapSettings,
    wanted: Wanted,
    options: argparse.Namespace,
) -> SceneMap:
    from apps.remote_sensing.predict.mapping import map_scene
    from apps.remote_sensing.predict.model import fitted

    here, how, scene = fitted(paths, model, settings, wanted)
    if model.whole:
        return _tile_image(paths, out, here, how, options)
    how = model.for_scene(how, scene, paths[0], nodata=options.map_nodata)
    made = map_scene(
        paths,
        out,
        here,
        how,
        overwrite=options.overwrite,
        restart=options.restart,
        uncertainty=_doubt(out) if options.uncertainty else None,
    )
    if not options.no_figure:
        from apps.remote_sensing.predict.quick_look import quick_look

        picture = quick_look(made, paths, model, how)
        made = replace(made, beside=(*made.beside, *((picture,) if picture else ())))
    return made


def _doubt(out: Path) -> Path:
    """Return where the uncertainty of a map goes."""
    return out.with_name(f"{out.stem}_uncertainty.tif")


def _tile_image(
    paths: Sequence[Path], out: Path, model: SceneModel, settings: MapSettings, options: argparse.Namespace
) -> SceneMap:
    """Write a GeoTIFF with a pixel for each tile: the class, or the scores."""
    from apps.remote_sensing.predict.geotiff import GridTiff
    from apps.remote_sensing.predict.mapping import SceneMap
    from apps.remote_sensing.predict.scene import open_scene

    classes, (rows, columns) = settings.kind == "classes", settings.tile_size
    with open_scene(paths, settings) as source:
        image = GridTiff(
            out,
            ("class",) if classes else settings.names,
            settings.facts() | source.facts(),
            dtype=str(settings.map_dtype),
            nodata=settings.map_nodata,
            classes=settings.names if classes else (),
            colours=settings.colours,
            cloud=True,
        )
        if image.finished(overwrite=options.overwrite):
            return SceneMap(out, source.shape, existed=True)
        with image.written(source.dataset, settings.tile_size) as grid:
            for batch, scores in _scored(source, model, settings, paths[0]):
                for tile, score in zip(batch.tiles, scores, strict=True):
                    values = np.array([score.argmax()]) if classes else score
                    grid.put(tile.start[0] // rows, tile.start[1] // columns, values[:, None, None])
        return SceneMap(out, source.shape)


def _tables(
    job: Job, model: SceneModel, settings: MapSettings, wanted: Wanted, options: argparse.Namespace
) -> int:
    """Write tables with a row for each tile."""
    from apps.remote_sensing.predict.mapping import SceneMap
    from apps.remote_sensing.predict.model import fitted
    from apps.remote_sensing.predict.scene import open_scene
    from apps.remote_sensing.predict.tables import CsvTable, tile_rows, write_tables

    def add(paths: Sequence[Path], table: CsvTable) -> SceneMap:
        here, how, scene = fitted(paths, model, settings, wanted)
        with open_scene(paths, how) as source, table.scene():
            for batch, scores in _scored(source, here, how, paths[0]):
                rows = tile_rows(batch, paths[0].name, scene)
                table.add([[*row, *here.row(score)] for row, score in zip(rows, scores, strict=True)])
            return SceneMap(table.path, source.shape)

    def make(out: Path, paths: Sequence[Path]) -> CsvTable:
        return CsvTable(out, model.columns(), overwrite=options.overwrite)

    return write_tables(job, ".csv", make, add)


def _scored(
    source: SceneTiles, model: SceneModel, settings: MapSettings, path: Path
) -> Iterator[tuple[TileBatch, NDArray[np.float32]]]:
    import torch

    from apps.remote_sensing.predict.scene import tile_batches

    for batch in tile_batches(source, settings, label=f"tiles of {path.name}", progress=True):
        with torch.inference_mode():
            yield batch, model(batch.pixels).cpu().numpy()


def _parser() -> argparse.ArgumentParser:
    out = "the map, or a folder for several"
    parser = scene_parser("predict", __doc__, out=out, checkpoint=True, figure=True)
    add = parser.add_argument
    add("--kind", help="classes, or scores: one band for each class; default: classes")
    add("--overlap", type=int, help="pixels that tiles share; default: an eighth of a tile")
    add("--uncertainty", action="store_true", help="write beside it how undecided the classes are")
    add("--gaps", help="a mask on the scene's grid: not 0 where a network that fills gaps is to fill")
    add("--map_nodata", type=float, help="what the map holds without data; default: 255 or NaN")
    add("--colours", nargs="+", help="'#rrggbb' of each class, the map's palette")
    add("--restart", action="store_true", help="drop what a killed run left of a map")
    return parser
