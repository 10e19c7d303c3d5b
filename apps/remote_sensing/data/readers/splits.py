"""Which scenes a split has, by a list or by shares, and which bands are meant by names."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from apps.remote_sensing.data.bands import canonical
from core.data.randomness import key
from core.errors import UserError, did_you_mean

__all__ = ["SPLITS", "drawn_share", "positions", "read_lines", "read_names", "read_rows"]

SPLITS = ("train", "val", "test", "predict")


def positions(
    names: Sequence[str] | None, bands: Sequence[str], *, what: str, sensor: str | None = None
) -> list[int]:
    """Return where the named bands stand among `bands`; all of them for None.

    Raises:
        UserError: If there is no such band.
    """
    if names is None:
        return list(range(len(bands)))
    found = []
    for name in names:
        band = canonical(name, sensor=sensor)
        if band not in bands:
            raise UserError(
                f"{what} has no band '{name}'; it has {', '.join(bands)}{did_you_mean(band, bands)}"
            )
        found.append(list(bands).index(band))
    return found


def drawn_share(names: Sequence[str], split: str, *, fractions: Sequence[float], seed: int) -> list[str]:
    """Return the names of a split drawn by shares, sorted; `predict` is all.

    Args:
        names: All names.
        split: One of `SPLITS`.
        fractions: Shares of training, validation and test.
        seed: Of the draw.

    Raises:
        UserError: If the shares are not three that sum to 1.
    """
    if len(fractions) != 3 or min(fractions) < 0 or not 0.999 < sum(fractions) < 1.001:
        raise UserError(f"data.source.fractions is {list(fractions)}; give three shares that sum to 1")
    if split == "predict":
        return sorted(names)
    drawn = sorted(names, key=lambda name: key(seed, 0, name, "split"))
    first, second = round(len(drawn) * fractions[0]), round(len(drawn) * (fractions[0] + fractions[1]))
    parts = {"train": drawn[:first], "val": drawn[first:second], "test": drawn[second:]}
    return sorted(parts[split])


def read_names(path: Path) -> list[str]:
    """Return the names of a split file: one a line, the first column where there are several.

    Raises:
        UserError: If the file cannot be read.
    """
    return [name for line in read_lines(path) if (name := line.split(",")[0].strip().strip('"'))]


def read_lines(path: Path) -> list[str]:
    """Return the lines of a split file.

    Raises:
        UserError: If the file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise UserError(
            f"there is no split file {path}; check data.source.path, or get the data "
            "(`dfm data show NAME` says where)"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the split file {path} cannot be read ({error}); check data.source.path") from error


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a table with a header, a CSV in UTF-8.

    Args:
        path: The file.
        columns: Names of those that are needed.

    Raises:
        UserError: If the file cannot be read or lacks a column.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else f"it is no table in UTF-8: {error}"
        raise UserError(f"{path} cannot be read ({why}); check data.source.path") from error
    missing = [name for name in columns if rows and name not in rows[0]]
    if missing:
        raise UserError(f"{path} has no column {missing[0]}; it needs {', '.join(columns)}")
    return rows
