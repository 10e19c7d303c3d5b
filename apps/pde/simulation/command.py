"""`dfm data generate pde/<family>`: our solvers' trajectories, as a Zarr group or as they are published."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from core.cli.parser import Parser
from core.errors import UserError
from core.tables import text_table

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run the command with the words after `dfm data generate`, and return the exit code.

    Raises:
        UserError: For every mistake of the user.
    """
    options = _parser().parse_args(list(argv))
    if options.list:
        return _list()
    name = _named(options.family)
    parameters = dict(_assigned(text) for text in options.set)
    out: Path | None = options.out
    form = options.format or ("netcdf" if out is not None and out.suffix in (".nc", ".h5") else "zarr")
    if form == "zarr" and out is not None and out.suffix in (".nc", ".h5"):
        raise UserError(f"--out {out} names a file, but --format zarr writes a folder; use --format netcdf")
    if options.samples < 1:
        raise UserError(f"--samples is {options.samples}; it must be at least 1")

    from apps.pde.simulation.families import family as family_of
    from apps.pde.simulation.generate import ensure
    from apps.pde.simulation.pdegym_writer import published_layout, refuse_foreign, write_netcdf
    from core.data.sample_store import Store

    family = family_of(name)
    target = None
    if form == "netcdf":
        file = published_layout(family).file
        target = Path(file) if out is None else out / file if out.is_dir() or not out.suffix else out
        refuse_foreign(target)  # before the hours of work, not after them
    folder = None if form == "netcdf" else out
    try:
        path = ensure(
            family,
            options.samples,
            resolution=options.resolution,
            seed=options.seed,
            snapshots=options.snapshots,
            parameters=parameters,
            folder=folder,
            progress=not options.quiet,
            batch=options.batch,
            device=options.device,
            dtype=options.dtype,
        )
    except KeyboardInterrupt:
        print("what is complete is kept; the same command goes on", file=sys.stderr)
        raise
    if target is not None:
        path = write_netcdf(Store.open(path), family, target, samples=options.samples)
    print(path)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="dfm data generate pde/FAMILY",
        description="Make trajectories with the suite's own solvers. A run that was broken off goes on.",
    )
    add = parser.add_argument
    add("family", nargs="?", metavar="pde/FAMILY", help="what to make; --list shows them")
    add("--list", action="store_true", help="show the families and leave")
    add("--samples", type=int, default=16, metavar="N", help="trajectories in all (default 16)")
    add("--resolution", type=int, metavar="R", help="grid points along each axis (default: the family's)")
    add("--seed", type=int, default=0, metavar="S", help="seed of the samples (default 0)")
    add("--snapshots", type=int, metavar="T", help="frames of a trajectory (default: the family's)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a number of the equation; repeatable",
    )
    add("--out", type=Path, metavar="FOLDER|FILE", help="where to (default: zarr the cache, netcdf here)")
    add("--format", choices=("zarr", "netcdf"), help="ours, or the published layout (default: by --out)")
    add("--device", default="cpu", help="cpu, cuda or auto (default cpu)")
    add("--dtype", choices=("float32", "float64"), default="float64", help="precision of the solver")
    add("--batch", type=int, metavar="B", help="trajectories solved at a time; bounds the memory")
    add("--quiet", action="store_true", help="show no progress")
    return parser


def _list() -> int:
    from apps.pde.simulation.families import families

    rows = []
    for name, family in families().items():
        grid = " x ".join([str(family.resolution)] * family.space)
        frames = "steady" if family.steady else f"{family.snapshots} snapshots"
        rows.append((f"pde/{name}", grid, frames, family.title))
    print(text_table(rows))
    return 0


def _named(word: str | None) -> str:
    if word is None:
        raise UserError("say what to generate, as in pde/ns_sines; `dfm data generate --list` shows all")
    domain, mark, name = word.partition("/")
    if mark and domain.replace("-", "_") != "pde":
        raise UserError(f"'{word}' is not of the domain pde; write pde/{name}")
    if not (name or not mark):
        raise UserError("say which family, as in pde/ns_sines; `dfm data generate --list` shows all")
    return name if mark else domain


def _assigned(text: str) -> tuple[str, float]:
    name, mark, value = text.partition("=")
    try:
        if not (mark and name.strip()):
            raise ValueError
        return name.strip(), float(value)
    except ValueError:
        raise UserError(f"--set takes NAME=NUMBER, not '{text}'") from None
