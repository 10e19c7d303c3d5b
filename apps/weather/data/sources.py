"""Archives that a recipe names, opened: their variables, area, static fields, sums and parts."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from apps.weather.batch import Grid, Variables, WeatherFacts
from apps.weather.data.readers import Archive, open_archive
from apps.weather.data.regions import Rectangle, rectangle, same_positions
from apps.weather.data.settings import PARTS, ArchiveSource, TimeSplit
from apps.weather.data.windows import FieldSource
from core.data.cards import Card, load_card
from core.errors import UserError, listed
from core.files import data_folder

__all__ = ["open_source"]

_STEP = 6.0  # hours between states of an archive of a single time


def open_source(
    named: ArchiveSource,
    patch: int,
    trained: WeatherFacts | None,
    *,
    archive: Archive | None = None,
    room: str = "data.variables",
) -> tuple[FieldSource, list[str]]:
    """Return a named source and what was decided, for the user; no fields are read but the static ones.

    Args:
        named: What the recipe says.
        patch: Rows and columns must be a multiple of it.
        trained: Facts of the checkpoint that is tested, which may have the static fields.
        archive: What was opened of it already.
        room: Who asks for the variables, for messages.

    Raises:
        UserError: If it is not there, cannot be read, or lacks what is asked for.
    """
    card = None if named.card is None else load_card(named.card)
    if archive is None:
        path = _path(named) if card is None else _card_data(card, named.path)
        archive = open_archive(path, fill=named.fill, names=named.variables.names)
    if card is not None:
        archive = replace(archive, name=card.name, licences=(card.licence,))
    made = named.generate if card is None and not named.path else None
    # A store may hold more members than are asked for: the same numbers must mean the same split.
    members = archive.members if made is None else min(made.members, archive.members)
    variables = named.variables.of(archive, room)
    targets = None if named.targets is None else replace(named.targets.of(archive, "data.targets"), static=())
    archive = archive.narrowed(_joined(variables, targets, archive))
    notes = list(archive.notes)
    area = rectangle(archive.grid, named.region, patch, archive.name)
    variables, static = _static(archive, area, variables, named.variables.static_path, trained)
    if targets is None or targets == replace(variables, static=()):
        targets = variables
    hours = named.step or archive.step or _STEP
    split = named.split or (None if card is None else _card_split(card, archive)) or TimeSplit()
    source = FieldSource(
        archive=archive,
        area=area,
        variables=variables,
        targets=targets,
        static=static,
        step=float(hours),
        parts=split.parts(archive.times, members, archive.name),
        sums=_sums(archive, hours, {*variables.surface, *targets.surface}, notes),
    )
    return source, [*notes, area.note] if area.note else notes


def _path(named: ArchiveSource) -> str | list[str]:
    """Return where the data lie, once they are made."""
    if named.path or named.generate is None:
        return named.path or []
    from apps.weather.simulation import generate

    return str(generate(**asdict(named.generate)))


def _card_data(card: Card, path: str | list[str] | None) -> str | list[str]:
    """Return the files of a card, which may lie in the folder `path`, or its address.

    Raises:
        UserError: If they are not there.
    """
    if card.domain != "weather":
        raise UserError(f"the card '{card.name}' is of the domain {card.domain}; choose one of weather")
    if path is not None and not (isinstance(path, str) and card.files and Path(path).is_dir()):
        return path
    folder = data_folder() if path is None else Path(str(path))
    for base in (folder / card.name, folder):
        if card.files and all((base / file.path).is_file() for file in card.files):
            return [str(base / file.path) for file in card.files]
    if not card.files and (folder / card.name).exists():
        return str(folder / card.name)
    if not card.files and "address" in card.details:
        return card.details["address"]
    how = f"type 'dfm data fetch {card.name}'" if card.files else f"take them from {card.hub}"
    raise UserError(f"the data of card '{card.name}' are not in {folder}; {how}, or name them in data.path")


def _card_split(card: Card, archive: Archive) -> TimeSplit | None:
    """Return the split of a card: dates in its details, or rows, which are times of the archive."""
    if "split" in card.details:
        return TimeSplit(**card.details["split"])
    rows = {part: getattr(card.splits, part) for part in PARTS}
    if card.splits.kind != "rows" or max(span[1] for span in rows.values() if span) > len(archive.times):
        return None  # part of the card's data
    return TimeSplit(
        **{
            part: [str(archive.times[span[0]]), str(archive.times[span[1] - 1])]
            for part, span in rows.items()
            if span
        }
    )


def _joined(variables: Variables, targets: Variables | None, archive: Archive) -> Variables:
    """Return what must be stored at a time for it to count; static fields may come from elsewhere."""
    more = targets or variables
    return Variables(
        surface=tuple(dict.fromkeys((*variables.surface, *more.surface))),
        atmospheric=tuple(dict.fromkeys((*variables.atmospheric, *more.atmospheric))),
        static=tuple(name for name in variables.static if name in archive.variables.static),
    )


def _sums(archive: Archive, hours: float, used: set[str], notes: list[str]) -> dict[str, int]:
    """Return for each accumulated variable the records whose sum is that of a step of `hours`.

    Raises:
        UserError: If the step is no multiple of the archive's.
    """
    records = hours / (archive.step or hours)
    if records < 1 or abs(records - round(records)) > 1e-6:
        raise UserError(
            f"data.step is {hours:g} hours, but {archive.name} has a record every {archive.step:g} hours; "
            "give a multiple"
        )
    sums = {}
    for name in sorted(used & archive.accumulated.keys()):
        summed = archive.accumulated[name]
        if abs(summed - archive.step) < 1e-6:
            sums[name] = round(records)
            if records > 1:
                notes.append(f"{archive.name}: {name} is summed over the {hours:g} hours before each state")
        elif abs(summed - hours) > 1e-6:
            notes.append(
                f"{archive.name}: {name} stays the sum of {summed:g} hours; records every {archive.step:g} "
                f"hours give no sum of {hours:g}"
            )
    return sums


def _static(
    archive: Archive, area: Rectangle, variables: Variables, path: str | None, trained: WeatherFacts | None
) -> tuple[Variables, Tensor]:
    """Return the variables with their static ones, and these `(S, H, W)`, from wherever they are.

    Raises:
        UserError: If one is nowhere; all are named.
    """
    fields = {name: area.of(values) for name, values in archive.static.items()}
    names = variables.static
    if path is not None:
        more = open_archive(path)
        there = same_positions(area.grid, more.grid, path)
        fields = {name: there.of(values) for name, values in more.static.items()} | fields
        names = names if variables.static != archive.variables.static else tuple(fields)
    if trained is not None and trained.static is not None and set(names) - fields.keys():
        there = same_positions(area.grid, Grid(trained.latitude, trained.longitude), "the checkpoint")
        held = zip(trained.variables.static, trained.static.numpy(), strict=True)
        fields = {name: there.of(values) for name, values in held} | fields
    if lacking := [name for name in names if name not in fields]:
        raise UserError(
            f"{archive.name} lacks the static {listed(lacking, 6)}; name a file that has them in "
            "data.variables.static_path, or choose others by data.variables.static"
        )
    stacked = np.zeros((len(names), *area.grid.shape), dtype=np.float32)
    for number, name in enumerate(names):
        stacked[number] = fields[name]
    return replace(variables, static=tuple(names)), torch.from_numpy(stacked)
