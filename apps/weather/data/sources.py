"""Archives that a recipe names, opened: their variables, region, static fields and split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apps.weather.batch import Grid, Variables, WeatherFacts
from apps.weather.data.readers import Archive, open_archive
from apps.weather.data.regions import Rectangle, rectangle, same_positions
from apps.weather.data.settings import PARTS, ArchiveDetails, ArchiveSource, TimeSplit
from apps.weather.data.windows import FieldSource, Starts
from core.data.cards import Card, load_card
from core.errors import UserError, listed
from core.files import data_folder

__all__ = ["SplitSource", "open_split"]

_STEP = 6.0  # hours between states of an archive of a single time


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


def open_split(
    named: ArchiveSource,
    patch: int,
    trained: WeatherFacts | None = None,
    *,
    archive: Archive | None = None,
    room: str = "data.variables",
) -> SplitSource:
    """Return a named source; no fields are read but the static ones.

    Args:
        named: What the recipe says.
        patch: Rows and columns must be a multiple of it.
        trained: Facts of the checkpoint that is tested, which may have the static fields.
        archive: What was opened of it already.
        room: Who asks for the variables, for messages.

    Raises:
        UserError: If it is not there, cannot be read, or lacks what is asked for.
    """
    choice, split = named.variables, named.split
    card = None if named.card is None else load_card(named.card)
    details = ArchiveDetails.of(card)
    if archive is None:
        archive = open_archive(_path(named, card, details), fill=named.fill, names=choice.names)
    if card is not None:
        archive = replace(archive, name=card.name, licences=(card.licence,))
        split = split or details.split or _by_rows(card, archive)
    where = archive.name
    variables = choice.of(archive, room)
    targets = None
    if named.targets is not None:
        targets = replace(named.targets.of(archive, "data.targets"), static=())
    archive = archive.narrowed(_joined(variables, targets, archive.variables))
    notes = list(archive.notes)
    step, sums, said = _step(archive, named.step)
    part = rectangle(archive.grid, named.region, patch, where)
    notes += [*said, *filter(None, [part.note])]
    variables, static = _static(archive, part, variables, choice.static_path, trained)
    if targets is None or targets == replace(variables, static=()):
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
    return SplitSource(
        source, (split or TimeSplit()).parts(archive.times, archive.members, where), tuple(notes)
    )


def _joined(variables: Variables, targets: Variables | None, stored: Variables) -> Variables:
    """Return what must be stored at a time for it to count; missing static fields may come later."""
    more = targets or variables
    return Variables(
        surface=tuple(dict.fromkeys((*variables.surface, *more.surface))),
        atmospheric=tuple(dict.fromkeys((*variables.atmospheric, *more.atmospheric))),
        static=tuple(name for name in variables.static if name in stored.static),
    )


def _path(named: ArchiveSource, card: Card | None, details: ArchiveDetails) -> Any:
    """Return what is opened: the path, or the files or the address of a card.

    Raises:
        UserError: If a card's data are not there.
    """
    if card is None:
        return named.path
    if card.domain != "weather":
        raise UserError(f"the card '{card.name}' is of the domain {card.domain}; choose one of weather")
    if named.path is not None and not (isinstance(named.path, str) and Path(named.path).is_dir()):
        return named.path
    folder = data_folder() if named.path is None else Path(str(named.path))
    for base in (folder / card.name, folder):
        if card.files and all((base / file.path).is_file() for file in card.files):
            return [base / file.path for file in card.files]
    if not card.files and (named.path is not None or (folder / card.name).exists()):
        return folder if named.path is not None else folder / card.name
    if details.address is not None:
        return details.address
    how = f"type 'dfm data fetch {card.name}'" if card.files else f"take them from {card.hub}"
    raise UserError(
        f"the data of card '{card.name}' are not in {folder}; {how}, or name their folder in data.path"
    )


def _by_rows(card: Card, archive: Archive) -> TimeSplit | None:
    """Return the split of a card that counts records, as times."""
    if card.splits.kind != "rows":
        return None
    spans: dict[str, list[int | str]] = {}
    for part in PARTS:
        if isinstance(rows := getattr(card.splits, part), list):
            first, end = rows[0], min(rows[1], len(archive.times))
            spans[part] = [str(archive.times[first]), str(archive.times[end - 1])]
    return TimeSplit(**spans)


def _step(archive: Archive, step: float | None) -> tuple[float, dict[str, int], list[str]]:
    """Return the hours between states, and for each accumulated variable the records to be summed."""
    hours = step or archive.step or _STEP
    multiple = hours / (archive.step or hours)
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
