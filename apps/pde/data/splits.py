"""Training, validation and test trajectories by position."""

from __future__ import annotations

from apps.pde.data.card_details import SplitCounts
from apps.pde.data.settings import FieldSettings
from apps.pde.data.sources import OpenSource
from core.errors import UserError

__all__ = ["fractions", "part_rows", "split"]


def split(counts: SplitCounts, train: int = -1) -> tuple[range, range, range]:
    """Return the trajectories of training, validation and test, by position.

    Validation begins at `total - val - test`, the test set is the last `test`: neither depends on how many
    are trained on.

    Args:
        counts: How many there are.
        train: The first n; -1 for all, -2 for half, -8 for an eighth of those left.

    Raises:
        UserError: If there are not so many.
    """
    left = counts.total - counts.val - counts.test
    n = left // -train if train < 0 else train
    if train == 0 or n > left or (n == 0 and left > 0):
        raise UserError(
            f"data.trajectories is {train}, but {left} of {counts.total} are for training; give 1 to {left}, "
            "or -1 for all, -2 for half, -8 for an eighth"
        )
    return range(n), range(left, left + counts.val), range(counts.total - counts.test, counts.total)


def fractions(total: int, val: float = 0.1, test: float = 0.1) -> SplitCounts:
    """Return the counts of a set without a published split; at least one for each part from three on."""
    least = 1 if total >= 3 else 0
    return SplitCounts(total, max(least, round(val * total)), max(least, round(test * total)))


def part_rows(settings: FieldSettings, source: OpenSource, notes: list[str]) -> list[range]:
    """Return the trajectories of training, validation and test, each counted in its own file.

    Args:
        settings: With the numbers that the recipe gives.
        source: The files.
        notes: Takes what was decided, for the user.

    Raises:
        UserError: If there are not so many.
    """
    asked = (settings.val_trajectories, settings.test_trajectories)
    total, published = source.train.trajectories, source.details.split
    if published is not None and published.total != total and source.val is None and source.test is None:
        if None in asked:
            notes.append(
                f"{source.name} has {total} trajectories, published are {published.total}; a tenth each is "
                "for validation and test"
            )
        published = None
    usual = fractions(total) if published is None else SplitCounts(total, published.val, published.test)
    val, test = (
        own if wanted is None else wanted for wanted, own in zip(asked, (usual.val, usual.test), strict=True)
    )
    counts = SplitCounts(total, 0 if source.val else val, 0 if source.test else test)
    rows = list(split(counts, settings.trajectories))
    for part, file, limit in ((1, source.val, asked[0]), (2, source.test, asked[1])):
        if file is not None:
            if limit is not None and limit > file.trajectories:
                raise UserError(f"{file.path} has {file.trajectories} trajectories, {limit} are asked for")
            rows[part] = range(file.trajectories if limit is None else limit)
    return rows
