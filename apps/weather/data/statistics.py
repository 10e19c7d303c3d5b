"""Location and scale of fields, counted in one reading of the training times and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from apps.weather.batch import Variables, level_name
from apps.weather.data.transforms import TRANSFORMS
from apps.weather.data.windows import FieldSource
from core.data.counting import counted
from core.data.statistics import Moments, file_state, kept
from core.files import data_folder, locked

__all__ = ["FieldMoments", "counted_moments", "pooled", "static_moments"]

_VERSION = 1
_MOST = 50e9  # bytes that are read: of longer archives evenly spread times
_BLOCK = 64e6


@dataclass(frozen=True)
class FieldMoments:
    """Counts, means and sums of squared deviations by name of a field; of transformed values."""

    names: tuple[str, ...]
    count: tuple[float, ...]
    mean: tuple[float, ...]
    squares: tuple[float, ...]
    times: int

    @property
    def moments(self) -> dict[str, Moments]:
        """Those of each field."""
        rows = zip(self.names, self.count, self.mean, self.squares, strict=True)
        return {name: Moments(*(np.array([value]) for value in values)) for name, *values in rows}


def counted_moments(
    source: FieldSource,
    variables: Variables,
    times: Sequence[tuple[int, NDArray[np.int64]]],
    transforms: Mapping[str, str],
) -> FieldMoments:
    """Return the moments of a source's fields, those of an earlier run where nothing has changed.

    Args:
        source: What reads them.
        variables: The fields; static ones are not counted.
        times: Ensemble member and seconds `(N,)` of its training times.
        transforms: Variable to its transform.
    """
    name, grid = source.archive.name, source.part.grid
    files = [file_state(path) for path in source.archive.files]
    spans = [(member, len(each), each[:1].tolist(), each[-1:].tolist()) for member, each in times]
    used = {one: transforms[one] for one in (*variables.surface, *variables.atmospheric) if one in transforms}
    grid_state = (grid.latitude.tolist(), grid.longitude.tolist())
    state = (_VERSION, files, variables, source.step, source.sums, spans, used, grid_state)
    with locked(data_folder() / "statistics" / f"{name}.lock"):  # several processes ask at once
        return kept(
            name,
            state,
            lambda: _count(source, variables, times, transforms),
            lambda plain: FieldMoments(**{key: _tupled(value) for key, value in plain.items()}),
        )


def pooled(parts: Sequence[FieldMoments]) -> dict[str, tuple[float, float]]:
    """Return location and scale of each field over several sources; finite values only."""
    total: dict[str, Moments] = {}
    for part in parts:
        for name, moments in part.moments.items():
            total[name] = total[name] + moments if name in total else moments
    return {name: (float(one.mean[0]), float(one.std[0])) for name, one in total.items() if one.count[0]}


def static_moments(names: Sequence[str], static: torch.Tensor) -> dict[str, tuple[float, float]]:
    """Return location and scale of static fields `(S, H, W)`."""
    moments = Moments.of(static.flatten(1).numpy())
    pairs = zip(moments.mean.tolist(), moments.std.tolist(), strict=True)
    return dict(zip((f"static_{name}" for name in names), pairs, strict=True))


def _count(
    source: FieldSource,
    variables: Variables,
    times: Sequence[tuple[int, NDArray[np.int64]]],
    transforms: Mapping[str, str],
) -> FieldMoments:
    size = 4 * len(variables.names) * int(np.prod(source.part.grid.shape))
    total = sum(len(each) for _, each in times)
    every = max(1, -(-total * size // int(_MOST)))
    moments = [Moments.none(1) for _ in variables.names]
    count = sum(len(each[::every]) for _, each in times)
    with counted(f"data: statistics of {source.archive.name}", count, unit="times") as advance:
        for member, each in times:
            chosen = each[::every]
            for block in np.array_split(chosen, min(len(chosen), 1 + len(chosen) * size // int(_BLOCK))):
                states = source.states(np.array([member]), block[None], variables)
                fields = {name: states.surface[0, :, n] for n, name in enumerate(variables.surface)}
                for n, name in enumerate(variables.atmospheric):
                    for c, level in enumerate(variables.levels):
                        fields[level_name(name, level)] = states.atmospheric[0, :, n, c]
                for n, (name, values) in enumerate(fields.items()):
                    variable = name if name in variables.surface else name.partition("_")[0]
                    moments[n] += Moments.of(_transformed(values, transforms.get(variable)))
                advance(len(block))
    return FieldMoments(
        variables.names,
        *(tuple(float(getattr(one, part)[0]) for one in moments) for part in ("count", "mean", "squares")),
        times=count,
    )


def _transformed(values: torch.Tensor, transform: str | None) -> NDArray[np.float32]:
    if transform is not None:
        values = TRANSFORMS[transform][0](values)
    return values.reshape(1, -1).numpy()


def _tupled(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
