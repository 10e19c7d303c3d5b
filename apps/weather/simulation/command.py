"""`dfm data generate weather/three_levels`: members of our own world as Zarr or netCDF."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from core.cli.parser import Parser
from core.errors import UserError, did_you_mean

__all__ = ["main"]

_WORLDS = {"three_levels": "quasi-geostrophic weather with rain, on 200, 500 and 800 hPa and at the surface"}


def main(argv: Sequence[str]) -> int:
    """Run the command with the words after `dfm data generate`, and return the exit code.

    Raises:
        UserError: For every mistake of the user.
    """
    options = _parser().parse_args(list(argv))
    if options.list:
        print("\n".join(f"weather/{name}  {about}" for name, about in _WORLDS.items()))
        return 0
    name = (options.what or "").partition("/")[2]
    if name not in _WORLDS:
        near = did_you_mean(name, _WORLDS)
        raise UserError(
            f"say what to generate: weather/{', weather/'.join(_WORLDS)}; not '{options.what}'{near}"
        )
    grid = re.fullmatch(r"(\d+)x(\d+)", options.grid)
    if grid is None:
        raise UserError(f"--grid is {options.grid}; write rows and columns, as in 32x64")
    netcdf, out = options.format == "netcdf", options.out
    if netcdf and out is not None and out.suffix:
        raise UserError(f"--out {out} must name a folder, into which --format netcdf puts three files")

    from apps.weather.simulation.store import generate, write_netcdf

    numbers = {name: getattr(options, name) for name in ("members", "days", "step", "seed")}
    shape = (int(grid[1]), int(grid[2]))
    try:
        path = generate(None if netcdf else out, grid=shape, progress=not options.quiet, **numbers)
    except KeyboardInterrupt:
        print("what is complete is kept; the same command goes on", file=sys.stderr)
        raise
    print(write_netcdf(path, out or "three_levels") if netcdf else path)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="dfm data generate weather/three_levels",
        description="Make weather of a world of our own. A run that was broken off goes on.",
    )
    add = parser.add_argument
    add("what", nargs="?", metavar="weather/three_levels", help="what to make; --list shows it")
    add("--list", action="store_true", help="show what can be made and leave")
    add("--members", type=int, default=1, metavar="N", help="independent members (default 1)")
    add("--days", type=int, default=240, metavar="D", help="days of each (default 240)")
    add("--step", type=int, default=6, metavar="H", help="hours between records (default 6)")
    add(
        "--grid",
        default="32x64",
        metavar="RxC",
        help="rows (odd: with the poles) and columns (default 32x64)",
    )
    add("--seed", type=int, default=0, metavar="S", help="seed of the members (default 0)")
    add("--out", type=Path, metavar="FOLDER", help="where to (default: the cache, netcdf here)")
    add("--format", choices=("zarr", "netcdf"), default="zarr", help="as WeatherBench 2, or as the CDS")
    add("--quiet", action="store_true", help="show no progress")
    return parser
