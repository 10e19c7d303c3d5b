"""Location and scale of fields, counted in one reading of the training times and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from apps.weather.batch import Variables, level_name
from apps.weather.data.transforms import TRANSFORMS
from apps.weather.data.windows import FieldSource
from core.data.counting import counted
from core.data.statistics import Moments, file_state, kept
from core.files import data_folder, locked

__all__ = ["FieldMoments", "counted_moments", "pooled"]

_VERSION = 1
_MOST = 50e9  # bytes that are read: of longer archives evenly spread times
_BLOCK = 64e6


@dataclass(frozen=True)
class FieldMoments:
    """Count, mean and sum of squared deviations of each field by name, of transformed values."""

    fields: Mapping[str, tuple[float, float, float]]


def counted_moments(source: FieldSource, variables: Variables, transforms: Mapping[str, str]) -> FieldMoments:
    """Return the moments of a source's dynamic fields, those of an earlier run where nothing has changed.

    Args:
        source: What reads them.
        variables: The fields.
        transforms: Variable to its transform.
    """
    name, grid = source.archive.name, source.area.grid
    used = {one: transforms[one] for one in (*variables.surface, *variables.atmospheric) if one in transforms}
    files, span = [file_state(path) for path in source.archive.files], source.parts["train"]
    times = (len(source.seconds), *source.seconds[[0, -1]].tolist(), *span, source.step, source.sums)
    positions = (grid.latitude.tolist(), grid.longitude.tolist())
    everything = (_VERSION, files, variables, source.archive.fill, times, used, positions)
    with locked(data_folder() / "statistics" / f"{name}.lock"):  # several processes ask at once
        return kept(
            name, everything, lambda: _count(source, variables, used), lambda plain: FieldMoments(**plain)
        )


def pooled(parts: Sequence[FieldMoments]) -> dict[str, tuple[float, float]]:
    """Return location and scale of each field over several sources; those without any value have none."""
    total: dict[str, Moments] = {}
    for part in parts:
        for name, values in part.fields.items():
            total[name] = total.get(name, Moments.none(1)) + Moments(*(np.array([one]) for one in values))
    return {name: (float(one.mean[0]), float(one.std[0])) for name, one in total.items() if one.count[0]}


def _count(source: FieldSource, variables: Variables, transforms: Mapping[str, str]) -> FieldMoments:
    times = source.training_times(variables)
    size = 4 * len(variables.names) * int(np.prod(source.area.grid.shape))
    every = max(1, -(-sum(len(each) for _, each in times) * size // int(_MOST)))
    times = [(member, each[::every]) for member, each in times if len(each)]
    moments = {name: Moments.none(1) for name in variables.names}
    total = sum(len(each) for _, each in times)
    with counted(f"data: statistics of {source.archive.name}", total, unit="times") as advance:
        for member, each in times:
            for block in np.array_split(each, min(len(each), 1 + len(each) * size // int(_BLOCK))):
                states = source.states(np.array([member]), block[None], variables)
                fields = {(name, name): states.surface[0, :, n] for n, name in enumerate(variables.surface)}
                for n, name in enumerate(variables.atmospheric):
                    for c, level in enumerate(variables.levels):
                        fields[name, level_name(name, level)] = states.atmospheric[0, :, n, c]
                for (variable, name), values in fields.items():
                    if variable in transforms:
                        values = TRANSFORMS[transforms[variable]][0](values)
                    moments[name] += Moments.of(values.reshape(1, -1).numpy())
                advance(len(block))
    return FieldMoments(
        {name: (one.count.item(), one.mean.item(), one.squares.item()) for name, one in moments.items()}
    )
