"""`dfm weather predict`: fields in, forecasts out, step by step; several checkpoints are members."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from core.cli.predict import predict_parser, settle_checkpoint
from core.errors import UserError

__all__ = ["main"]

_DATA = "files, a folder or a Zarr store, also at http(s):// or gs://"


def main(argv: Sequence[str]) -> int:
    """Forecast from the fields that `argv` names, write the file, and return the exit code.

    Raises:
        UserError: For an unknown option, a missing file, or fields that do not fit the network.
    """
    options = _parser().parse_args(list(argv))
    settle_checkpoint(options)
    if options.steps < 1:
        raise UserError(f"--steps is {options.steps}; it must be at least 1")
    local = [Path(path).expanduser() for path in options.path if "://" not in path]
    for path in local:
        if not path.exists():
            raise UserError(f"--data.path {path} does not exist; give {_DATA}")
        if os.path.realpath(Path(options.out).expanduser()) == os.path.realpath(path):
            raise UserError(f"--out {options.out} is the file of the data; choose another name")
    from apps.weather.predict.model import WeatherForecaster
    from apps.weather.predict.writers import COMMAND, ForecastJob
    from core.accelerators.choice import usable
    from core.data.statistics import file_state
    from core.inference.netcdf import check_suffix

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    out = check_suffix(options.out, COMMAND)
    device = usable(options.device, order=("cuda", "cpu"))
    forecaster = WeatherForecaster.from_checkpoint(
        options.ckpt_path, device=device, batch_size=options.batch_size
    )
    windows, notes = forecaster.histories(
        options.path if len(options.path) > 1 else options.path[0],
        region=options.region,
        fill=options.fill,
        names=dict(_pair(word) for word in options.name),
        static=options.static,
    )
    rows = forecaster.starts(windows, options.start, member=options.member)
    files = [*options.ckpt_path, *local]
    job = ForecastJob(forecaster, windows, rows, options.steps, options.south_pole, say, progress=True)
    for note in notes:
        say(note)
    states = [file_state(Path(file).expanduser().resolve()) for file in files]
    job.write(out, {"files": states, "fill": options.fill})
    if options.start is None:
        last = windows.current[rows[-1]].astype("datetime64[s]")
        say(f"started from {last}, the last state that has its history; --start TIME takes another")
    print(out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = predict_parser(
        "weather", __doc__, data=_DATA, out="a .zarr folder or a .nc file", default_out="forecast.zarr",
        batch_size=1, several=True, paths=True, figure=False,
    )  # fmt: skip
    add = parser.add_argument
    add(
        "--data.region",
        dest="region",
        type=float,
        nargs=4,
        help="south north west east; default: as trained",
    )
    add("--data.fill", dest="fill", help="how missing values are filled, as in training; default: refused")
    add(
        "--data.name",
        dest="name",
        action="append",
        default=[],
        help="THEIRS=OURS: a name in the files",
    )
    add("--data.static", dest="static", help="a file of static fields, where data and checkpoint lack them")
    add("--start", nargs="+", help="times as 2020-01-01T00, in UTC; default: the last with its history")
    add("--steps", type=int, default=4, help="states to forecast")
    add("--member", type=int, default=0, help="of data that are an ensemble")
    add("--south_pole", action="store_true", help="append the row that whole patches leave out")
    return parser


def _pair(word: str) -> tuple[str, str]:
    theirs, _, ours = word.partition("=")
    if not theirs or not ours:
        raise UserError(f"--data.name {word} is not THEIRS=OURS, such as T2=2t")
    return theirs, ours
