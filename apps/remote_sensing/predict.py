"""`dfm remote-sensing predict`: scenes in, maps of the same grid out, whatever their size."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.cli.words import Parser
from core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from apps.remote_sensing.mapping_model import SceneModel
    from apps.remote_sensing.scenes.fitting import Wanted
    from apps.remote_sensing.scenes.mapping import SceneMap
    from apps.remote_sensing.scenes.settings import MapSettings

__all__ = ["main"]

_TIFF = (".tif", ".tiff")
_LARGEST = 1024  # side of a tile that is chosen without being asked for


def main(argv: Sequence[str]) -> int:
    """Map the scenes that `argv` names and return the exit code: 2 if any could not be mapped.

    Raises:
        UserError: For an unknown option, a missing file, or a single scene that cannot be mapped.
    """
    options = _parser().parse_args(list(argv))
    from apps.remote_sensing.scenes.batch import each_scene

    files = scene_list(options.path)
    from apps.remote_sensing.mapping_model import SceneModel
    from core.accelerators.choice import usable

    device = usable(options.device, order=("cuda", "cpu"))
    model = SceneModel.from_checkpoint(options.ckpt_path, device=device)
    settings, wanted = _settings(options, model), wanted_of(options, model)
    one = options.stack or (len(files) == 1 and Path(options.path[0]).is_file())
    outs = out_files(files, options.out, suffixes=_TIFF, one=one)

    def work(scene: Path, out: Path) -> SceneMap:
        made = _map(files if options.stack else [scene], out, model, settings, wanted, options)
        for path in (made.path, *made.beside):
            print(path, flush=True)
        return made

    if one:
        ((out, scene),) = outs.items()
        work(scene, out)
        return 0
    report = each_scene(outs, work, on_error=options.on_error)
    print(report.summary(), file=sys.stderr)
    return 2 if report.failed else 0


def scene_list(paths: Sequence[str]) -> list[Path]:
    """Return the files that the user names, those of folders in the order of their names.

    Raises:
        UserError: If one does not exist, or comes twice.
    """
    from apps.remote_sensing.scenes.batch import scene_files

    files = [file for path in paths for file in scene_files(Path(path).expanduser())]
    for file in files:
        if files.count(file) > 1:
            raise UserError(f"--data.path names {file} twice; give each scene once")
    return files


def out_files(files: Sequence[Path], out: str, *, suffixes: Sequence[str], one: bool) -> dict[Path, Path]:
    """Return where each result goes, and its scene.

    Args:
        files: The scenes; with `one`, the files of a single scene.
        out: As the user says: a file for a single scene, or a folder.
        suffixes: Of results; the first is that of files in a folder.
        one: Whether there is a single scene.

    Raises:
        UserError: If a file is given for several scenes, has another suffix, or is a scene itself.
    """
    from apps.remote_sensing.scenes.batch import outputs_for

    path = Path(out).expanduser()
    single = path.suffix.lower() in suffixes and not path.is_dir()
    if single and not one:
        raise UserError(f"--out {out} is a file and there are {len(files)} scenes; give a folder")
    if one and not single and path.suffix and not path.is_dir():
        raise UserError(f"--out {out} ends in {path.suffix}; it must be a folder or end in {suffixes[0]}")
    if not single and path.is_file():
        raise UserError(f"--out {out} is a file; give a folder")
    outs = {path: files[0]} if single else outputs_for(files[:1] if one else files, path, suffix=suffixes[0])
    known = {file.resolve() for file in files}
    for made in outs:
        if made.resolve() in known:
            raise UserError(f"--out {made} is a scene itself; choose another name or folder")
    return outs


def wanted_of(options: argparse.Namespace, model: SceneModel) -> Wanted:
    """Return what a model takes of a scene, with what the user says of the files."""
    from apps.remote_sensing.scenes.fitting import Wanted

    chosen = tuple(int(band) if band.isdigit() else band for band in options.bands or ())
    return Wanted(
        bands=model.bands,
        frames=model.frames,
        chosen=chosen or None,
        names=tuple(options.band_names) if options.band_names else None,
        sensor=options.sensor or model.sensor,
        dates=tuple(options.dates) if options.dates else None,
        timed=model.timed,
        placed=model.placed,
    )


def _settings(options: argparse.Namespace, model: SceneModel) -> MapSettings:
    from apps.remote_sensing.scenes.settings import MapSettings

    kind = options.kind or ("scores" if model.kind == "regression" else "classes")
    if kind not in ("classes", "scores"):
        choices = ("classes", "scores")
        raise UserError(f"--kind is '{kind}'; it must be classes or scores{did_you_mean(kind, choices)}")
    if kind == "classes" and model.kind == "regression":
        raise UserError("--kind is classes and the network gives numbers; leave it out")
    tile = options.tile or min(model.window or 224, _LARGEST)
    return MapSettings(
        names=model.names,
        kind=kind,
        sensor=options.sensor or model.sensor,
        dates=model.frames,
        needs="any" if options.any_date else "all",
        tile=tile,
        overlap=tile // 8 if options.overlap is None else options.overlap,
        batch_size=options.batch_size,
        fill=math.nan,
        nodata=options.nodata,
        colours=_colours(options, model) if kind == "classes" else None,
    )


def _colours(options: argparse.Namespace, model: SceneModel) -> tuple[tuple[int, int, int], ...] | None:
    if not options.colours:
        given = model.facts.get("colours")
        return tuple((int(r), int(g), int(b)) for r, g, b in given) if given else None
    if len(options.colours) != len(model.names):
        raise UserError(
            f"--colours gives {len(options.colours)} colours and there are {len(model.names)} classes "
            f"({', '.join(model.names)}); give one for each"
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
    from apps.remote_sensing.scenes.fitting import found
    from apps.remote_sensing.scenes.mapping import map_scene

    scene = found(paths, wanted)
    scene.tell()
    here = model.at(dates=scene.dates, place=scene.place)
    how = replace(settings, bands=scene.bands, band_names=scene.names, model=here.fingerprint())
    given: Any = paths[0] if len(paths) == 1 else paths
    return map_scene(given, out, here, how, overwrite=options.overwrite, restart=options.restart)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="dfm remote-sensing predict", description=__doc__)
    parser.add_argument("--ckpt_path", required=True, help="a checkpoint of a task of remote sensing")
    parser.add_argument(
        "--data.path", dest="path", nargs="+", required=True, help="scenes, or folders of them"
    )
    parser.add_argument("--out", required=True, help="the map, or a folder for several")
    parser.add_argument("--stack", action="store_true", help="the files are the dates of one scene, in order")
    parser.add_argument("--kind", help="classes, or scores: one band for each class; default: classes")
    parser.add_argument("--tile", type=int, help="pixels of a tile's side; default: that of training windows")
    parser.add_argument("--overlap", type=int, help="pixels that tiles share; default: an eighth of a tile")
    parser.add_argument("--batch_size", type=int, default=4, help="tiles at once")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--bands", nargs="+", help="the files' bands to use, by name or number, in order")
    parser.add_argument("--band_names", nargs="+", help="names of the files' bands, where theirs are missing")
    parser.add_argument("--sensor", help="whose numbers the names are: sentinel2, landsat or sentinel1")
    parser.add_argument("--dates", nargs="+", help="YYYY-MM-DD of each date; default: from the files' names")
    parser.add_argument("--any_date", action="store_true", help="map pixels that lack data at some dates too")
    parser.add_argument("--nodata", type=float, help="what the map holds without data; default: 255 or NaN")
    parser.add_argument("--colours", nargs="+", help="'#rrggbb' of each class, the map's palette")
    parser.add_argument(
        "--on_error", default="skip", help="with several scenes: skip one that fails, or stop"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace maps of ours that were made otherwise"
    )
    parser.add_argument("--restart", action="store_true", help="drop what a killed run left of a map")
    return parser
