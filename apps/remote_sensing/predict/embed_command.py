"""`dfm remote-sensing embed`: scenes in, a vector for each tile or an image of features out."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from apps.remote_sensing.predict.options import job_of, scene_parser, wanted_of
from core.errors import UserError, did_you_mean
from core.inference.jobs import Job

if TYPE_CHECKING:
    from apps.remote_sensing.predict.embedding import Embedder
    from apps.remote_sensing.predict.fitting import Wanted
    from apps.remote_sensing.predict.mapping import SceneMap
    from apps.remote_sensing.predict.model import SceneModel
    from apps.remote_sensing.predict.settings import MapSettings
    from apps.remote_sensing.predict.tables import ParquetTable

__all__ = ["main"]

_FORMATS = ("parquet", "geotiff")


def main(argv: Sequence[str]) -> int:
    """Embed the scenes that `argv` names and return the exit code: 2 if any could not be read.

    Raises:
        UserError: For an unknown option, a missing file, or a single scene that does not fit the network.
    """
    options = _parser().parse_args(list(argv))
    if (options.ckpt_path is None) == (options.weights is None):
        raise UserError("give either --ckpt_path RUN.ckpt or --weights CARD|FILE")
    form = _form(options)
    job = job_of(options)
    from apps.remote_sensing.predict.embedding import Embedder, WeightsModel
    from apps.remote_sensing.predict.model import SceneModel
    from core.accelerators.choice import usable

    device = usable(options.device, order=("cuda", "cpu"))
    model: SceneModel
    if options.ckpt_path is not None:
        if options.network is not None or options.reflectance is not None:
            raise UserError("--network and --reflectance belong to --weights; a checkpoint knows them itself")
        model = SceneModel.from_checkpoint(options.ckpt_path, device=device)
    else:
        model = WeightsModel.from_weights(
            options.weights, options.network, reflectance=options.reflectance, device=device
        )
    embedder = Embedder(model.network, options.pool)
    run = _Run(options, model, embedder, _settings(options, model, embedder), wanted_of(options, model))
    return run.images(job) if form == "geotiff" else run.tables(job)


class _Run:
    """One call of the verb."""

    def __init__(
        self,
        options: argparse.Namespace,
        model: SceneModel,
        embedder: Embedder,
        settings: MapSettings,
        wanted: Wanted,
    ) -> None:
        self.options, self.model, self.embedder = options, model, embedder
        self.settings, self.wanted = settings, wanted

    def tables(self, job: Job) -> int:
        """Write tables with a vector for each tile."""
        from apps.remote_sensing.predict.tables import ParquetTable, write_tables

        def make(out: Path, paths: Sequence[Path]) -> ParquetTable:
            return ParquetTable(out, self._facts(paths), overwrite=self.options.overwrite)

        return write_tables(job, ".parquet", make, self._rows)

    def images(self, job: Job) -> int:
        """Write a GeoTIFF of features for each scene."""
        return job.run(job.outs((".tif",)), self._image)

    def _rows(self, paths: Sequence[Path], table: ParquetTable) -> SceneMap:
        from apps.remote_sensing.predict.mapping import SceneMap
        from apps.remote_sensing.predict.model import fitted
        from apps.remote_sensing.predict.scene import open_scene, tile_batches
        from apps.remote_sensing.predict.tables import tile_rows

        here, how, scene = fitted(paths, self.model, self.settings, self.wanted)
        with open_scene(paths, how) as source, table.scene():
            for batch in tile_batches(source, how, label=f"tiles of {paths[0].name}", progress=True):
                vectors = self.embedder.vectors(here, batch.pixels)
                table.add(tile_rows(batch, paths[0].name, scene), vectors)
            return SceneMap(table.path, source.shape)

    def _image(self, paths: Sequence[Path], out: Path) -> SceneMap:
        from apps.remote_sensing.predict.geotiff import GridTiff
        from apps.remote_sensing.predict.mapping import SceneMap
        from apps.remote_sensing.predict.model import fitted
        from apps.remote_sensing.predict.scene import open_scene, tile_batches

        here, how, _ = fitted(paths, self.model, self.settings, self.wanted)
        side = how.tile_size[0]
        with open_scene(paths, how) as source:
            facts = how.facts() | source.facts() | {"pool": "patches"}
            blank = np.zeros((1, len(source.numbers), side, side), dtype=np.float32)
            _, count, rows, _ = self._maps(here, blank).shape
            image = GridTiff(out, [f"feature_{number + 1}" for number in range(count)], facts)
            if image.finished(overwrite=self.options.overwrite):
                return SceneMap(out, source.shape, existed=True)
            if side % rows:
                raise UserError(f"a tile of {side} pixels has {rows} patches; give a --tile they divide")
            step = side // rows
            with image.written(source.dataset, (step, step), rows=rows) as grid:
                for batch in tile_batches(source, how, label=f"tiles of {paths[0].name}", progress=True):
                    found = self._maps(here, batch.pixels)
                    for tile, valid, values in zip(batch.tiles, batch.valid, found, strict=True):
                        values[:, ~_seen(valid, side, step)] = math.nan
                        grid.put(tile.start[0] // step, tile.start[1] // step, values)
            return SceneMap(out, source.shape)

    def _maps(self, model: SceneModel, tiles: Any) -> NDArray[np.float32]:
        import torch

        return self.embedder.maps(model, torch.as_tensor(tiles))

    def _facts(self, paths: Sequence[Path]) -> dict[str, Any]:
        """Return what the vectors of scenes depend on."""
        from apps.remote_sensing.predict.scene import file_version

        files = [[path.name, *file_version(path).values()] for path in paths]
        given = {"chosen": self.wanted.chosen, "names": self.wanted.names, "dates": self.wanted.dates}
        facts = self.settings.facts() | {"model": self.model.fingerprint(), "pool": self.embedder.pool}
        return {**facts, "files": files, "given": {name: list(v) if v else None for name, v in given.items()}}


def _seen(valid: NDArray[np.bool_], side: int, step: int) -> NDArray[np.bool_]:
    """Return which patches of a tile show any pixel with data."""
    whole = np.zeros((side, side), dtype=bool)
    whole[: valid.shape[0], : valid.shape[1]] = valid
    return whole.reshape(side // step, step, side // step, step).any(axis=(1, 3))


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


def _settings(options: argparse.Namespace, model: SceneModel, embedder: Embedder) -> MapSettings:
    from apps.remote_sensing.predict.settings import MapSettings

    step = max(embedder.step)
    side = model.facts.window or 224
    tile = max(side // step, 1) * step if options.tile is None and not model.facts.resize else side
    return MapSettings(
        names=("vector",),
        kind="scores",
        sensor=options.sensor or model.facts.sensor,
        dates=model.frames,
        needs="any" if options.any_date else "all",
        tile=tile if options.tile is None else options.tile,
        overlap=0,
        batch_size=options.batch_size,
        missing=options.nodata,
        fill=math.nan,
    )


def _parser() -> argparse.ArgumentParser:
    out = "a .parquet (or, of one scene, .tif) file, or a folder"
    parser = scene_parser("embed", __doc__, out=out, checkpoint=False, figure=False)
    add = parser.add_argument
    add("--weights", help="published weights instead: a card, a file or a hub id")
    add("--network", help="their network: a named size such as prithvi_v2_100m_tl, or an import path")
    add("--reflectance", type=float, help="what a reflectance of 1 is in the files, for --weights")
    add("--format", help="parquet: a vector for each tile; geotiff: an image of the patches' features")
    add(
        "--pool",
        default="mean",
        help="mean or max of the patches, or class: the class token",
    )
    return parser
