"""Archives that a recipe names, opened: their variables, region, static fields and split."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apps.weather.batch import Grid, Variables, WeatherFacts
from apps.weather.data.readers import Archive, open_archive
from apps.weather.data.regions import Rectangle, rectangle, same_positions
from apps.weather.data.settings import ArchiveSource, TimeSplit
from apps.weather.data.windows import FieldSource, Starts
from core.errors import UserError, listed

__all__ = ["SplitSource", "open_split"]


@dataclass(frozen=True, eq=False)
class SplitSource:
    """A source and its parts.

    Attributes:
        source: The fields.
        parts: Training, validation and test: seconds of the first state and after the last, and members.
        notes: What was decided, for the user.
    """

    source: FieldSource
    parts: dict[str, tuple[tuple[int, int], range]]
    notes: tuple[str, ...]

    def starts(self, part: str, *, history: int, horizon: int, stride: int = 1) -> Starts:
        """Return the current states of a part's windows."""
        span, members = self.parts[part]
        return Starts.of(self.source, span, members, history=history, horizon=horizon, stride=stride)

    def times(self, part: str, variables: Variables) -> list[tuple[int, NDArray[np.int64]]]:
        """Return the seconds of a part whose sums are complete, of each member."""
        (first, end), members = self.parts[part]
        every = self.source.seconds
        every = every[(every >= first) & (every < end)]
        every = every[self.source.complete(every, self.source.behind(variables))]
        return [(member, every) for member in members]


def open_split(named: ArchiveSource, patch: int, trained: WeatherFacts | None = None) -> SplitSource:
    """Return a named source; no fields are read but the static ones.

    Args:
        named: What the recipe says.
        patch: Rows and columns must be a multiple of it.
        trained: Facts of the checkpoint that is tested, which may have the static fields.

    Raises:
        UserError: If it is not there, cannot be read, or lacks what is asked for.
    """
    choice, split = named.variables, named.split or TimeSplit()
    archive = open_archive(named.path, fill=named.fill, names=choice.names)
    where, notes = archive.name, list(archive.notes)
    step, sums, said = _step(archive, named.step)
    part = rectangle(archive.grid, named.region, patch, where)
    notes += [*said, *filter(None, [part.note])]
    variables = choice.of(archive.variables, where)
    targets = variables
    if named.targets is not None:
        targets = replace(named.targets.of(archive.variables, where, room="data.targets"), static=())
    variables, static = _static(archive, part, variables, choice.static_path, trained)
    if named.targets is not None and targets == replace(variables, static=()):
        targets = variables
    used = {*variables.surface, *targets.surface}
    source = FieldSource(
        archive=archive,
        part=part,
        variables=variables,
        targets=targets,
        static=static,
        step=step,
        sums={name: count for name, count in sums.items() if name in used},
    )
    return SplitSource(source, split.parts(archive.times, archive.members, where), tuple(notes))


def _step(archive: Archive, step: float | None) -> tuple[float, dict[str, int], list[str]]:
    """Return the hours between states, and for each accumulated variable the records to be summed."""
    hours = archive.step if step is None else step
    multiple = hours / archive.step
    if hours <= 0 or abs(multiple - round(multiple)) > 1e-6 or round(multiple) < 1:
        raise UserError(
            f"data.step is {hours:g} hours, but {archive.name} has a record every {archive.step:g} hours; "
            "give a multiple"
        )
    sums: dict[str, int] = {}
    notes = []
    for name, summed in archive.accumulated.items():
        count = round(hours / summed)
        if abs(hours / summed - count) < 1e-6 and abs(summed - archive.step) < 1e-6:
            sums[name] = count
            if count > 1:
                notes.append(f"{archive.name}: {name} is summed over the {hours:g} hours before each state")
        elif abs(summed - hours) > 1e-6:
            notes.append(
                f"{archive.name}: {name} stays the sum of {summed:g} hours, of which records every "
                f"{archive.step:g} hours give no sum of {hours:g}"
            )
    return float(hours), sums, notes


def _static(
    archive: Archive, part: Rectangle, variables: Variables, path: str | None, trained: WeatherFacts | None
) -> tuple[Variables, Tensor]:
    """Return the variables with their static ones, and these `(S, H, W)`.

    Raises:
        UserError: If one is nowhere; all are named.
    """
    fields = {name: part.of(values) for name, values in archive.static.items()}
    names = variables.static
    if path is not None:
        extra = open_archive(path)
        found = same_positions(part.grid, extra.grid, str(path))
        fields = {name: found.of(values) for name, values in extra.static.items()} | fields
        names = names if variables.static != archive.variables.static else tuple(fields)
    if trained is not None and trained.static is not None and set(names) - fields.keys():
        known = Grid(trained.latitude, trained.longitude)
        found = same_positions(part.grid, known, "the checkpoint")
        kept = dict(zip(trained.variables.static, trained.static.numpy(), strict=True))
        fields = {name: found.of(values) for name, values in kept.items()} | fields
    if lacking := [name for name in names if name not in fields]:
        raise UserError(
            f"{archive.name} lacks the static {listed(lacking, 6)}; name a file that has them in "
            "data.variables.static_path, or choose others by data.variables.static"
        )
    shape = (0, *part.grid.shape)
    stacked = np.stack([fields[name] for name in names]) if names else np.zeros(shape)
    return replace(variables, static=tuple(names)), torch.from_numpy(np.array(stacked, dtype=np.float32))
