"""What the verbs on scenes share: files and folders in, results out, and how files are read."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from apps.remote_sensing.data.open_rasters import is_address
from core.cli.parser import Parser
from core.cli.predict import predict_parser
from core.errors import UserError, did_you_mean
from core.inference.jobs import ON_ERROR, Job

if TYPE_CHECKING:
    from apps.remote_sensing.predict.fitting import Wanted
    from apps.remote_sensing.predict.model import SceneModel

__all__ = ["SUFFIXES", "job_of", "scene_files", "scene_parser", "wanted_of"]


def job_of(options: argparse.Namespace) -> Job:
    """Return the job that the options name.

    Raises:
        UserError: If a scene does not exist or comes twice, or lacks a date.
    """
    from apps.remote_sensing.data.open_rasters import as_path

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


def wanted_of(options: argparse.Namespace, model: SceneModel) -> Wanted:
    """Return what a model takes of a scene, with what the user says of the files."""
    from apps.remote_sensing.predict.fitting import Wanted

    chosen = tuple(int(band) if band.isdecimal() else band for band in options.bands or ())
    return Wanted(
        bands=model.bands,
        frames=model.frames,
        chosen=chosen or None,
        names=tuple(options.band_names) if options.band_names else None,
        sensor=options.sensor or model.facts.sensor,
        dates=tuple(options.dates) if options.dates else None,
        timed=model.reads("time"),
        located=model.reads("location"),
    )


def scene_parser(verb: str, description: str | None, *, out: str, checkpoint: bool, figure: bool) -> Parser:
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


SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".img")
"""Files of a folder that are taken for scenes."""


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
