"""`dfm remote-sensing predict` and `embed`: scenes of any size in, maps on their grid or features out."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from apps.remote_sensing.data.open_rasters import as_path, is_address
from core.cli.parser import Parser
from core.cli.predict import predict_parser, settle_checkpoint
from core.errors import UserError, did_you_mean
from core.inference.jobs import ON_ERROR, Job

__all__ = ["SUFFIXES", "embed", "main", "scene_files"]

_FORMATS = ("parquet", "geotiff")

SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".img")
"""Files of a folder that are taken for scenes."""


def main(argv: Sequence[str]) -> int:
    """Map the scenes that `argv` names and return the exit code: 2 if any could not be mapped.

    Raises:
        UserError: For an unknown option, a missing file, or a single scene that cannot be mapped.
    """
    about = "Scenes in, maps of the same grid out, whatever their size."
    parser = _parser("predict", about, out="the map, or a folder for several", checkpoint=True, figure=True)
    add = parser.add_argument
    add("--kind", help="classes, or scores: one band for each class; default: classes")
    add("--overlap", type=int, help="pixels that tiles share; default: an eighth of a tile")
    add("--uncertainty", action="store_true", help="write beside it how undecided the classes are")
    add("--gaps", help="a mask on the scene's grid: not 0 where a network that fills gaps is to fill")
    add("--map_nodata", type=float, help="what the map holds without data; default: 255 or NaN")
    add("--colours", nargs="+", help="'#rrggbb' of each class, the map's palette")
    add("--restart", action="store_true", help="drop what a killed run left of a map")
    options = parser.parse_args(list(argv))
    job = _job(options)
    settle_checkpoint(options)
    from apps.remote_sensing.predict.run import predict

    return predict(job, options)


def embed(argv: Sequence[str]) -> int:
    """Embed the scenes that `argv` names and return the exit code: 2 if any could not be read.

    Raises:
        UserError: For an unknown option, a missing file, or a single scene that does not fit the network.
    """
    about = "Scenes in, a vector for each tile or an image of features out."
    out = "a .parquet (or, of one scene, .tif) file, or a folder"
    parser = _parser("embed", about, out=out, checkpoint=False, figure=False)
    add = parser.add_argument
    add("--weights", help="published weights instead: a card, a file or a hub id")
    add("--network", help="their network: a named size such as prithvi_v2_100m_tl, or an import path")
    add("--reflectance", type=float, help="what a reflectance of 1 is in the files, for --weights")
    add("--format", help="parquet: a vector for each tile; geotiff: an image of the patches' features")
    add("--pool", default="mean", help="mean or max of the patches, or class: the class token")
    options = parser.parse_args(list(argv))
    if (options.ckpt_path is None) == (options.weights is None):
        raise UserError("give either --ckpt_path RUN.ckpt or --weights CARD|FILE")
    images = _form(options) == "geotiff"
    job = _job(options)
    if options.ckpt_path is not None:
        settle_checkpoint(options)
    from apps.remote_sensing.predict.run import embed

    return embed(job, options, images=images)


def scene_files(path: str | os.PathLike[str]) -> list[Path]:
    """Return the scene, or the scenes of a folder in the order of their names.

    Raises:
        UserError: If there is no such path, or the folder holds no scene.
    """
    given = Path(path)
    if given.is_file() or is_address(given):
        return [given]
    if not given.is_dir():
        raise UserError(f"there is no scene or folder {given}; check the path")
    files = sorted(file for file in given.iterdir() if file.suffix.lower() in SUFFIXES and not file.is_dir())
    if not files:
        raise UserError(f"{given} holds no scene ({', '.join(SUFFIXES)}); give a file or another folder")
    return files


def _parser(verb: str, description: str | None, *, out: str, checkpoint: bool, figure: bool) -> Parser:
    """Return a parser with the options that say which scenes are read and how.

    Args:
        verb: `predict` or `embed`.
        description: Of the verb.
        out: What `--out` may be.
        checkpoint: Whether `--ckpt_path` must be given.
        figure: Whether there is `--no_figure`.
    """
    parser = predict_parser(
        "remote-sensing", description, data="scenes, folders of them, or addresses", out=out,
        default_out=None, batch_size=4, paths=True, figure=figure, verb=verb, checkpoint_required=checkpoint,
    )  # fmt: skip
    add = parser.add_argument
    add("--stack", action="store_true", help="the files are the dates of one scene, or each folder is a date")
    add("--tile", type=int, help="pixels of a tile's side; default: that of training windows")
    add("--bands", nargs="+", help="the files' bands to use, by name or number, in the network's order")
    add("--band_names", nargs="+", help="names of the files' bands, where theirs are missing")
    add("--sensor", help="whose numbers the names are: sentinel2, landsat or sentinel1")
    add("--dates", nargs="+", help="YYYY-MM-DD of each date; default: from the files' names")
    add("--any_date", action="store_true", help="take pixels that lack data at some of the dates too")
    add("--nodata", type=float, help="number of the files that means no data, if they do not say it")
    add("--on_error", default="skip", help="with several scenes: skip one that fails, or stop")
    add("--overwrite", action="store_true", help="replace results of ours that were made otherwise")
    return parser


def _form(options: argparse.Namespace) -> str:
    by_name = {".tif": "geotiff", ".tiff": "geotiff", ".parquet": "parquet"}
    named = by_name.get(Path(options.out).suffix.lower())
    form = options.format or named or "parquet"
    if form not in _FORMATS:
        raise UserError(
            f"--format is '{form}'; it must be one of {', '.join(_FORMATS)}{did_you_mean(form, _FORMATS)}"
        )
    if named is not None and form != named and not Path(options.out).is_dir():
        raise UserError(f"--out {options.out} is the name of another format than {form}; give one that fits")
    return form


def _job(options: argparse.Namespace) -> Job:
    """Return the job that the options name.

    Raises:
        UserError: If a scene does not exist or comes twice, or lacks a date.
    """
    if options.on_error not in ON_ERROR:
        near = did_you_mean(options.on_error, ON_ERROR)
        raise UserError(f"--on_error is '{options.on_error}'; it must be {' or '.join(ON_ERROR)}{near}")
    paths = [as_path(path) for path in options.path]
    files = [file for path in paths for file in scene_files(path)]
    for file in files:
        if files.count(file) > 1:
            raise UserError(f"--data.path names {file} twice; give each scene once")
    scenes: list[tuple[Path, ...]] = [(file,) for file in files]
    by_date = options.stack and len(paths) > 1 and all(path.is_dir() for path in paths)
    if by_date:
        scenes = _same_names(paths)
    elif options.stack:
        scenes = [tuple(files)]
    alone = options.stack or not paths[0].is_dir()
    one = len(scenes) == 1 and alone and not by_date
    return Job(scenes, options.out, one=one, on_error=options.on_error, what=("scene", "mapped"))


def _same_names(folders: Sequence[Path]) -> list[tuple[Path, ...]]:
    """Return the files of the same name in folders, one of which is of one date."""
    named = [{file.name: file for file in scene_files(folder)} for folder in folders]
    for folder, known in zip(folders, named, strict=True):
        if missing := set().union(*named) - set(known):
            raise UserError(
                f"{folder} has no {min(missing)}, which another of the stacked folders has; each date's "
                "folder must hold the same scenes"
            )
    return [tuple(known[name] for known in named) for name in named[0]]
