"""What `dfm timeseries predict` writes: the table, whole or not at all, and a PNG beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.errors import UserError
from core.files import replacing

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from apps.timeseries.predict.forecast import Forecast
    from apps.timeseries.predict.model import Forecaster

__all__ = ["draw", "predict_to", "summary", "write_forecast"]

_SUFFIXES = (".csv", ".csv.gz", ".parquet", ".pq")


def predict_to(
    out: str | Path,
    forecaster: Forecaster,
    source: pd.DataFrame | str | Path,
    *,
    horizon: int | None = None,
    known_future: pd.DataFrame | str | Path | None = None,
    quantiles: Sequence[float] | None = None,
    wide: bool = False,
    figure: bool = True,
    panels: int = 4,
    say: Callable[[str], None] | None = None,
    **columns: Any,
) -> list[Path]:
    """Forecast a source and write the table, a PNG of the first series, and what was not forecast.

    Args:
        out: A `.csv`, `.csv.gz` or `.parquet` file, or a folder, which gets `forecast.csv`.
        forecaster: The model.
        source: As for `Forecaster.forecast`.
        horizon: Steps.
        known_future: As for `Forecaster.forecast`.
        quantiles: Levels; by default 0.1 to 0.9.
        wide: One row per step.
        figure: Whether to draw.
        panels: Series and channels in the figure at most.
        say: Called with each line of `summary`.
        **columns: `frequency`, and roles of columns: `time`, `ids`, `targets`, `observable`, `control`, ….

    Returns:
        The files that were written: the table first, then the PNG, then `<name>.skipped.csv` where there is
        one.

    Raises:
        UserError: If nothing can be forecast, or `out` cannot be written.
    """
    from apps.timeseries.data.readers.roles import Roles
    from apps.timeseries.predict.model import DECILES

    path = _target(out)
    frequency = columns.pop("frequency", None)
    forecast = forecaster.run(
        source,
        horizon=horizon,
        known_future=known_future,
        quantiles=DECILES if quantiles is None else quantiles,
        roles=Roles.of(**columns),
        frequency=frequency,
    )
    for line in summary(forecast) if say is not None else ():
        say(line)
    written = [write_forecast(forecast.frame(wide=wide), path)]
    if figure:
        from core.figures.style import style

        image = path.with_name(_bare(path) + ".png")
        drawn = draw(forecast, panels=panels)
        with style(), replacing(image) as temporary:
            drawn.savefig(temporary, format="png", metadata={"Software": None})
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
        with replacing(path) as temporary:
            if path.suffix in (".parquet", ".pq"):
                plain = frame.copy(deep=False)
                plain.attrs = {}
                plain.to_parquet(temporary, index=False)
            else:
                compression = {"method": "gzip", "mtime": 0} if path.suffix == ".gz" else None
                frame.to_csv(temporary, index=False, compression=compression, lineterminator="\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; give another --out") from error
    return path


def draw(forecast: Forecast, *, panels: int = 4, history: int | None = None) -> Figure:
    """Draw the first series and channels: three horizons of history, forecast, outer and inner band."""
    from apps.timeseries.figures import forecast_figure

    drawn: list[dict[str, Any]] = []
    for one in forecast.series:
        for number, target in enumerate(one.targets):
            if len(drawn) == panels:
                break
            shown = min(len(one.table.values), history or max(3 * len(one.point), 48))
            times = one.table.times
            drawn.append(
                {
                    "title": target if len(forecast.series) == 1 else f"{one.table.id} · {target}",
                    "past": one.table.values[-shown:, number],
                    "past_times": None if times is None or one.times is None else np.asarray(times[-shown:]),
                    "times": None if one.times is None else np.asarray(one.times),
                    "prediction": one.point[:, number],
                    "quantiles": {
                        level: one.quantiles[row, :, number]
                        for row, level in enumerate(forecast.levels)
                        if np.isfinite(one.quantiles[row, :, number]).all()
                    },
                }
            )
    total = sum(len(one.targets) for one in forecast.series)
    more = f"{len(drawn)} of {total} series and channels; " if total > len(drawn) else ""
    source = forecast.series[0].source
    return forecast_figure(drawn, note=f"{more}bands from: {source}", columns=1 if len(drawn) < 4 else 2)


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
