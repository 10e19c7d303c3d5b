"""`dfm timeseries predict`: a table of series in, future time stamps, forecasts and quantiles out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from core.cli.words import Parser
from core.errors import UserError

__all__ = ["main"]

ROLES = (
    "time", "ids", "targets", "observable", "control", "conditional", "categorical", "static_categorical",
)  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Forecast what `argv` names, write the table and the picture, and return the exit code.

    Raises:
        UserError: For an unknown option, a missing file, or data that cannot be forecast.
    """
    arguments = _parser().parse_args(list(argv))
    data = Path(arguments.path)
    if not data.exists():
        raise UserError(f"--data.path {data} does not exist; give a CSV or Parquet file, or a folder of them")
    checkpoint = arguments.ckpt_path
    if checkpoint.endswith(".ckpt") and not Path(checkpoint).exists():
        raise UserError(f"checkpoint {checkpoint} does not exist; `dfm checkpoint list` shows what there is")
    from apps.timeseries.predict.model import Forecaster
    from apps.timeseries.predict.writers import predict_to
    from core.accelerators.choice import usable

    device = usable(arguments.device, order=("cuda", "cpu"))
    forecaster = Forecaster.from_checkpoint(checkpoint, device=device, batch_size=arguments.batch_size)
    written = predict_to(
        arguments.out,
        forecaster,
        data,
        horizon=arguments.horizon,
        known_future=arguments.known_future,
        quantiles=arguments.quantiles,
        wide=arguments.wide,
        figure=not arguments.no_figure,
        frequency=arguments.frequency,
        say=lambda line: print(line, file=sys.stderr),
        **{role: getattr(arguments, role) for role in ROLES},
    )
    for path in written:
        print(path)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="dfm timeseries predict", description=__doc__)
    parser.add_argument("--ckpt_path", required=True, help="own checkpoint, folder, weights card or hub id")
    parser.add_argument("--data.path", dest="path", required=True, help="CSV or Parquet file, or a folder")
    parser.add_argument("--data.horizon", dest="horizon", type=int, help="steps; default: the network's own")
    parser.add_argument("--out", default="forecast.csv", help=".csv, .csv.gz or .parquet, or a folder")
    parser.add_argument("--data.known_future", dest="known_future", help="rows after the end")
    parser.add_argument("--data.frequency", dest="frequency", help="sampling rate, if it cannot be inferred")
    for role in ROLES:
        parser.add_argument(f"--data.{role}", dest=role, nargs="+", help=f"columns in the role '{role}'")
    parser.add_argument("--quantiles", type=float, nargs="+", help="levels; default: 0.1 to 0.9")
    parser.add_argument("--wide", action="store_true", help="one row per step")
    parser.add_argument("--no_figure", action="store_true", help="write the table alone")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps or neuron")
    parser.add_argument("--batch_size", type=int, default=256, help="windows at once; changes nothing else")
    return parser
