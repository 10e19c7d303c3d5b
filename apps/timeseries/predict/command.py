"""`dfm timeseries predict`: a table of series in, future time stamps, forecasts and quantiles out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from apps.timeseries import ROLES
from core.cli.predict import check_options, predict_parser

__all__ = ["main"]

_DATA = "a CSV or Parquet file, or a folder of them"


def main(argv: Sequence[str]) -> int:
    """Forecast what `argv` names, write the table and the picture, and return the exit code.

    Raises:
        UserError: For an unknown option, a missing file, or data that cannot be forecast.
    """
    parser = predict_parser(
        "timeseries",
        __doc__,
        data=_DATA,
        out=".csv, .csv.gz or .parquet, or a folder",
        default_out="forecast.csv",
        batch_size=256,
    )
    add = parser.add_argument
    add("--data.horizon", dest="horizon", type=int, help="steps; default: the network's own")
    add("--data.known_future", dest="known_future", help="rows after the end")
    add("--data.frequency", dest="frequency", help="sampling rate, if it cannot be inferred")
    for role in ROLES:
        add(f"--data.{role}", dest=role, nargs="+", help=f"columns in the role '{role}'")
    add("--quantiles", type=float, nargs="+", help="levels; default: 0.1 to 0.9")
    add("--wide", action="store_true", help="one row per step")
    options = parser.parse_args(list(argv))
    check_options(options, data=_DATA)
    from apps.timeseries.data.readers.columns import Roles
    from apps.timeseries.predict.model import Forecaster
    from apps.timeseries.predict.writers import predict_to
    from core.accelerators.choice import usable

    device = usable(options.device, order=("cuda", "cpu"))
    settings = {"quantiles": options.quantiles} if options.quantiles else {}
    written = predict_to(
        options.out,
        Forecaster.from_checkpoint(options.ckpt_path, device=device, batch_size=options.batch_size),
        options.path,
        horizon=options.horizon,
        known_future=options.known_future,
        wide=options.wide,
        figure=not options.no_figure,
        frequency=options.frequency,
        say=lambda line: print(line, file=sys.stderr),
        roles=Roles.of(**{role: getattr(options, role) for role in ROLES}),
        **settings,
    )
    for path in written:
        print(path)
    return 0
