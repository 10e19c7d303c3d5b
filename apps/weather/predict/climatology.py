"""Writes what is normal for each hour and day of the year, as WeatherBench 2 defines it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from core.cli.parser import Parser
from core.errors import UserError
from core.inference.netcdf import check_suffix

__all__ = ["COMMAND", "main"]

COMMAND = "dfm weather climatology"


def main(argv: Sequence[str]) -> int:
    """Run `dfm weather climatology` with the words after it, and return the exit code."""
    parser = Parser(prog=COMMAND, description=__doc__)
    add = parser.add_argument
    add("--data.path", dest="path", nargs="+", required=True, help="files, folder, store or its address")
    add("--years", nargs=2, type=int, required=True, metavar=("FIRST", "LAST"), help="as in 1990 2019")
    add("--out", required=True, help="a .zarr or .nc; WeatherBench 2's layout")
    add("--variables", nargs="+", default=(), help="names, such as z t 2t; all by default")
    add("--hours", type=int, default=6, help="between two hours of the day")
    add("--memory", type=float, default=1.0, help="GiB for sums; less takes more passes")
    options = parser.parse_args(argv)
    if options.years[0] > options.years[1]:
        raise UserError(f"--years {options.years[0]} {options.years[1]} end before they begin")
    if not 1 <= options.hours <= 24 or options.memory <= 0:
        raise UserError(
            f"--hours {options.hours} and --memory {options.memory:g} must be 1 to 24 and above 0"
        )
    out = check_suffix(options.out, COMMAND)
    if any(os.path.realpath(path) == os.path.realpath(out) for path in options.path):
        raise UserError(f"--out {out} is the data; choose another name")
    from apps.weather.data.readers import open_archive
    from apps.weather.metrics.climatology import write_climatology

    paths = options.path if len(options.path) > 1 else options.path[0]
    archive = open_archive(paths, fill="keep")
    if options.variables:
        has = archive.variables
        surface, atmospheric = (
            tuple(name for name in names if name in options.variables)
            for names in (has.surface, has.atmospheric)
        )
        unknown = [name for name in options.variables if name not in (*surface, *atmospheric)]
        if unknown:
            raise UserError(f"--variables {unknown[0]} is not in {archive.name}: {', '.join(has.names)}")
        archive = archive.narrowed(replace(has, surface=surface, atmospheric=atmospheric, static=()))
    notes = write_climatology(
        archive, tuple(options.years), out, command=COMMAND, hours=options.hours, memory=options.memory
    )
    for note in notes:
        print(note, file=sys.stderr)
    print(f"wrote {out}")
    return 0
