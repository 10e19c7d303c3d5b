"""Scores any forecast as WeatherBench 2 does, by variable, level, lead and region."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.cli.parser import Parser
from core.errors import UserError
from core.inference.outputs import check_replaceable, output

if TYPE_CHECKING:
    from apps.weather.metrics.verification import Verification

__all__ = ["COMMAND", "main"]

COMMAND = "dfm weather score"
_FILES = (
    "scores.csv", "scores.nc", "spectra.csv", "differences.csv", "openstl.csv", "score_card.png",
    "by_lead.png", "spectra.png", "map.png",
)  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Run `dfm weather score` with the words after it, and return the exit code."""
    options = _parser().parse_args(argv)
    if len(options.forecast) > 2:
        raise UserError("--forecast is given more than twice; two are compared at a time")
    if options.block_days <= 0 or options.openstl < 0:
        raise UserError(
            f"--block_days {options.block_days:g} and --openstl {options.openstl} must be above 0"
        )
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; give a folder")
    for name in _FILES:
        check_replaceable(out / name, COMMAND)
    from core.accelerators.choice import usable

    device = usable(options.device, order=("cuda", "cpu"))
    from apps.weather.metrics.verification import ScoreChoice, verify

    first, last = options.starts or (None, None)
    choice = ScoreChoice(
        variables=tuple(options.variables), levels=tuple(options.levels), leads=tuple(options.leads),
        first=first, last=last, regions=tuple(options.regions), weights=options.weights,
        spectra=not options.no_spectra, block_days=options.block_days, openstl=options.openstl,
    )  # fmt: skip
    result = verify(
        options.forecast, options.truth, climatology=options.climatology, choice=choice, device=device
    )
    for note in result.notes:
        print(note, file=sys.stderr)
    written = _write(result, out, options)
    for stale in {out / name for name in _FILES} - {*written}:  # of a former run, which had more to tell
        stale.unlink(missing_ok=True)
    print(result.text())
    print(f"wrote {', '.join(map(str, written))}")
    return 0


def _parser() -> Parser:
    parser = Parser(prog=COMMAND, description=__doc__)
    add = parser.add_argument
    add(
        "--forecast", action="append", required=True,
        help="a forecast in WeatherBench 2's layout, or persistence or climatology; twice: both are compared",
    )  # fmt: skip
    add("--truth", required=True, help="file, folder, Zarr store or its address with what came true")
    add("--climatology", help="a file of `dfm weather climatology`, for ACC, SEEPS and skill")
    add("--out", default="scores", help="folder of tables and figures")
    add("--variables", nargs="+", default=(), help="names, such as z t 2t; all that both have")
    add("--levels", nargs="+", type=float, default=(), help="hPa; all that both have")
    add("--leads", nargs="+", type=float, default=(), help="hours; all that the forecast has")
    add("--regions", nargs="+", default=(), help="such as global tropics europe_land; all on the grid")
    add("--weights", help="area (exact cells), bounded_area, cos or none; what suits the grid")
    add("--starts", nargs=2, metavar=("FIRST", "LAST"), help="first and last start, as 2020-01-01T00")
    add("--block_days", type=float, default=10.0, help="length of the blocks that the bootstrap draws")
    add("--openstl", type=int, default=0, metavar="BATCH", help="OpenSTL's errors too, by batches of starts")
    add("--no_spectra", action="store_true", help="keep no spectra")
    add("--no_figure", action="store_true", help="draw nothing")
    add("--device", default="auto", help="where sums are computed: auto, cpu or cuda")
    return parser


def _write(result: Verification, out: Path, options: Namespace) -> list[Path]:
    """Write tables and figures, and return their paths."""
    from core.tables import write_table

    tables = {"scores.csv": result.scores.table(), "spectra.csv": result.scores.spectra()}
    tables |= {"differences.csv": result.differences(), "openstl.csv": result.scores.openstl_rows()}
    if tables["differences.csv"] and not any("low" in row for row in tables["differences.csv"]):
        days = f"--block_days {options.block_days:g}"
        print(
            f"all starts lie within one block, so no interval is told; give less than {days}", file=sys.stderr
        )
    for name, rows in tables.items():
        if rows:
            with output(out / name, COMMAND) as temporary:
                write_table(temporary, rows)
    with output(out / "scores.nc", COMMAND) as temporary:
        result.scores.dataset(made_by=COMMAND).to_netcdf(temporary, engine="h5netcdf")
    written = [out / name for name, rows in tables.items() if rows] + [out / "scores.nc"]
    if options.no_figure:
        return written
    from apps.weather.figures import drawings

    model = (result.models or result.scores.models)[0]
    shown = {"example": result.example, "land": result.land, "units": result.units}
    for name, figure in drawings(result.scores, model, **shown):
        with output(out / f"{name}.png", COMMAND) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None, "made_by": COMMAND})
        written.append(out / f"{name}.png")
    return written
