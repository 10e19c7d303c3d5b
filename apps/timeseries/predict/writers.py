"""What `dfm timeseries predict` writes: the table, whole or not at all, and a PNG beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.errors import UserError
from core.inference.outputs import MARK, output
from core.tables import harmless

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from apps.timeseries.data.readers.series import Tables
    from apps.timeseries.predict.forecast import Forecast
    from apps.timeseries.predict.model import Forecaster

__all__ = ["COMMAND", "draw", "predict_to", "summary", "write_forecast"]

COMMAND = "dfm timeseries predict"
_SUFFIXES = (".csv", ".csv.gz", ".parquet", ".pq")


def predict_to(
    out: str | Path,
    forecaster: Forecaster,
    source: Tables,
    *,
    wide: bool = False,
    figure: bool = True,
    panels: int = 4,
    say: Callable[[str], None] | None = None,
    **settings: Any,
) -> list[Path]:
    """Forecast a source and write the table, a PNG of the first series, and what was not forecast.

    Args:
        out: A `.csv`, `.csv.gz` or `.parquet` file, or a folder, which gets `forecast.csv`.
        forecaster: The model.
        source: As for `Forecaster.forecast`.
        wide: One row per step.
        figure: Whether to draw.
        panels: Series and channels in the figure at most.
        say: Called with each line of `summary`.
        **settings: Further arguments of `Forecaster.run`.

    Returns:
        The files that were written: the table first, then the PNG, then `<name>.skipped.csv` where there is
        one.

    Raises:
        UserError: If nothing can be forecast, or `out` cannot be written.
    """
    path = _target(out)
    forecast = forecaster.run(source, **settings)
    for line in summary(forecast) if say is not None else ():
        say(line)
    written = [write_forecast(forecast.frame(wide=wide), path)]
    if figure:
        from core.figures.style import style

        image = path.with_name(_bare(path) + ".png")
        drawn = draw(forecast, panels=panels)
        with style(), output(image, COMMAND) as temporary:
            drawn.savefig(temporary, format="png", metadata={"Software": None, MARK: COMMAND})
        written.append(image)
    if forecast.skipped:
        import pandas as pd

        report = pd.DataFrame([{"id": one.id, "reason": one.reason} for one in forecast.skipped])
        written.append(write_forecast(report, path.with_name(_bare(path) + ".skipped.csv")))
    return written


def write_forecast(frame: pd.DataFrame, out: str | Path) -> Path:
    """Write a table to CSV (plain or gzip) or Parquet by the suffix; a folder gets `forecast.csv`.

    Raises:
        UserError: If the suffix is none of these, or the disk refuses.
    """
    path = _target(out)
    try:
        with output(path, COMMAND) as temporary:
            if path.suffix in (".parquet", ".pq"):
                plain = frame.copy(deep=False)
                plain.attrs = {}
                plain.to_parquet(temporary, index=False)
            else:
                compression = {"method": "gzip", "mtime": 0} if path.suffix == ".gz" else None
                words = frame.select_dtypes(exclude=["number", "datetime", "datetimetz"]).map(harmless)
                frame = frame.assign(**words).rename(columns=harmless)
                frame.to_csv(temporary, index=False, compression=compression, lineterminator="\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; give another --out") from error
    return path


def draw(forecast: Forecast, *, panels: int = 4) -> Figure:
    """Draw the first series and channels: three horizons of history, forecast, outer and inner band."""
    from apps.timeseries.figures import ForecastPanel, drawn_times, forecast_figure

    channels = [(one, number) for one in forecast.series for number in range(len(one.targets))]
    units = [_unit(one.past[:, n]) for one, n in channels[:panels]]
    drawn = [
        ForecastPanel(
            title=one.targets[n] if len(forecast.series) == 1 else f"{one.id} · {one.targets[n]}",
            past=one.past[:, n] / unit,
            past_times=drawn_times(one.past_times),
            times=drawn_times(one.times),
            prediction=one.point[:, n] / unit,
            unit=f"in {unit:g}" if unit != 1 else "",
            quantiles={
                level: one.quantiles[row, :, n] / unit
                for row, level in enumerate(forecast.levels)
                if np.isfinite(one.quantiles[row, :, n]).all()
            },
        )
        for (one, n), unit in zip(channels[:panels], units, strict=False)
    ]
    more = f"{len(drawn)} of {len(channels)} series and channels; " if len(channels) > len(drawn) else ""
    source = forecast.series[0].source
    return forecast_figure(drawn, note=f"{more}bands from: {source}", columns=1 if len(drawn) < 4 else 2)


def _unit(values: np.ndarray) -> float:
    """Return the power of ten to draw values in that are too large or too small for axes, else 1."""
    top = float(np.nanmax(np.abs(values), initial=0.0))
    return 10.0 ** np.floor(np.log10(top)) if top and not 1e-100 < top < 1e100 else 1.0


def summary(forecast: Forecast, *, limit: int = 5) -> list[str]:
    """Return what to tell the user: how many series, where the quantiles come from, what was left out."""
    sources = list(dict.fromkeys(one.source for one in forecast.series))
    steps = len(forecast.series[0].point) if forecast.series else 0
    made = f"{len(forecast.series)} series forecast, {steps} steps each"
    lines = [f"{made}; quantiles from: {'; '.join(sources[:3])}"]
    lines += forecast.notes[:limit]
    if forecast.skipped:
        lines.append(f"{len(forecast.skipped)} not forecast:")
        lines += [f"  {one.id}: {one.reason}" for one in forecast.skipped[:limit]]
        if len(forecast.skipped) > limit:
            lines.append(f"  and {len(forecast.skipped) - limit} more")
    return lines


def _target(out: str | Path) -> Path:
    path = Path(out)
    if path.is_dir() or str(out).endswith("/"):
        path = path / "forecast.csv"
    if not path.name.endswith(_SUFFIXES):
        raise UserError(f"--out {path} must end in {', '.join(_SUFFIXES)}, or be a folder")
    return path


def _bare(path: Path) -> str:
    return next(path.name[: -len(suffix)] for suffix in (".csv.gz", *_SUFFIXES) if path.name.endswith(suffix))
