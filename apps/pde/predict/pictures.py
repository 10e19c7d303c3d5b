"""The pictures that `dfm pde predict` puts beside its file: fields over time, their spread, a movie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.inference.netcdf import Solutions

__all__ = ["pictures"]


def pictures(
    out: Path,
    solutions: Solutions,
    mean: NDArray[np.float32],
    std: NDArray[np.float32] | None = None,
    *,
    truth: NDArray[np.float32] | None = None,
    shown: Sequence[str] = (),
    title: str = "",
) -> list[Path]:
    """Draw one trajectory and return the files, named after `out`.

    Args:
        out: The file of the fields.
        solutions: Names, times and units in it.
        mean: `(K, C', *space)`, physical.
        std: The same of an ensemble's deviation.
        truth: The same, where it is known.
        shown: Fields that are drawn, the first in the movie; default: all.
        title: Above everything.
    """
    from core.figures.pictures import uncertainty_figure

    if shown:
        places = [list(solutions.fields).index(name) for name in shown]
        solutions, mean = replace(solutions, fields=list(shown)), mean[:, places]
        std, truth = (None if one is None else one[:, places] for one in (std, truth))
    times = [0.0] if solutions.times is None else solutions.times.tolist()
    if "time" in solutions.axis_names:
        known, spread = (None if one is None else one[0] for one in (truth, std))
        drawn = _bands(solutions, mean[0], spread, known, title)
        return [_saved(drawn, out.with_suffix(".png"))]
    made = [_saved(_fields(solutions, mean, truth, times, title), out.with_suffix(".png"))]
    first = solutions.fields[0]
    unit = solutions.units.get(first, "1")
    if std is not None and mean.ndim == 3 and "time" not in solutions.axis_names:
        when = f"{title}, t = {times[-1]:.3g}" if len(times) > 1 else title
        drawn = _bands(solutions, mean[-1], std[-1], None if truth is None else truth[-1], when)
        made.append(_saved(drawn, out.with_name(f"{out.stem}-uncertainty.png")))
    if std is not None and mean.ndim > 3:
        drawn = uncertainty_figure(
            mean[-1, 0],
            std[-1, 0],
            None if truth is None else truth[-1, 0],
            name=first,
            unit=unit,
            title=title,
        )
        made.append(_saved(drawn, out.with_name(f"{out.stem}-uncertainty.png")))
    if len(times) > 1 and mean.ndim > 3:
        from core.figures.movies import rollout_frames, write_movie

        known, guess = (mean[:, 0], None) if truth is None else (truth[:, 0], mean[:, 0])
        frames = rollout_frames(known, guess, times=times, name=first, unit=unit)
        made.append(write_movie(out.with_suffix(".gif"), frames, limit=1_000_000))
    return made


def _fields(
    solutions: Solutions,
    mean: NDArray[np.float32],
    truth: NDArray[np.float32] | None,
    times: list[float],
    title: str,
) -> Any:
    from core.figures.curves import labelled, profile_figure, shown_times
    from core.figures.pictures import gallery_figure, rollout_figure

    names = list(solutions.fields)
    if truth is not None:
        return rollout_figure(
            truth,
            mean,
            channels=names,
            times=times,
            units=solutions.units,
            coordinates=list(solutions.coordinates),
            title=title,
        )
    picked = shown_times(len(times), 6)
    if mean.ndim == 3:
        return profile_figure(
            solutions.coordinates[0],
            {"prediction": mean[picked]},
            channels=names,
            times=[times[k] for k in picked],
            units=solutions.units,
            title=title,
        )
    panels = [
        (f"{labelled(name, solutions.units)}\nt = {times[k]:.4g}", mean[k, place])
        for place, name in enumerate(names)
        for k in picked
    ]
    return gallery_figure(panels, columns=len(picked), title=title)


def _bands(
    solutions: Solutions,
    mean: NDArray[np.float32],
    std: NDArray[np.float32] | None,
    truth: NDArray[np.float32] | None,
    title: str,
) -> Any:
    """Draw fields `(C', X)` on one axis, with a band where there is a deviation."""
    from apps.pde.figures import band_panels
    from core.figures.curves import band_figure, labelled

    panels = band_panels(solutions.fields, solutions.units, mean, std, truth)
    axis = labelled(solutions.axis_names[0], solutions.units)
    return band_figure(solutions.coordinates[0], panels, x_label=axis, title=title)


def _saved(figure: Any, path: Path) -> Path:
    from core.figures.style import style
    from core.files import replacing

    with style(), replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return path
