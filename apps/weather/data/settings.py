"""Settings of weather data: small frozen dataclasses that a recipe gives by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apps.weather.batch import Variables, level_text
from core.data.checks import at_least
from core.errors import UserError, did_you_mean, listed

__all__ = ["ArchiveMixture", "ArchiveSource", "ForecastTest", "TimeSplit", "VariableChoice"]

PARTS = ("train", "val", "test")
_SHARES = (0.8, 0.1, 0.1)


@dataclass(frozen=True)
class VariableChoice:
    """The fields that are taken of an archive; null takes all that it has, an empty list none.

    Attributes:
        surface: Names of single-level variables, as `2t`.
        atmospheric: Names of variables on pressure levels.
        levels: Pressure levels in hPa.
        static: Names of fields that do not change, as `lsm`.
        static_path: A file that has these where the archive lacks them.
        names: Names in the files to ours, where they are none of the known ones.
    """

    surface: list[str] | None = None
    atmospheric: list[str] | None = None
    levels: list[float] | None = None
    static: list[str] | None = None
    static_path: str | None = None
    names: dict[str, str] | None = None

    def of(self, stored: Variables, where: str, *, room: str = "data.variables") -> Variables:
        """Return the chosen ones of those that the archive `where` has; static fields are looked for later.

        Raises:
            UserError: If one is not there; all are named.
        """
        groups: dict[str, tuple[Any, ...]] = {}
        for group in ("surface", "atmospheric", "levels"):
            have, asked = getattr(stored, group), getattr(self, group)
            groups[group] = have if asked is None else tuple(asked)
            text = level_text if group == "levels" else str
            if lacking := [text(one) for one in groups[group] if one not in have]:
                near = did_you_mean(lacking[0], [text(one) for one in have])
                known = ", ".join(map(text, have)) or "none"
                raise UserError(
                    f"{where} lacks {listed(lacking, 6)} of {room}.{group}{near} (it has {known})"
                )
        if not groups["atmospheric"] or not groups["levels"]:
            groups["atmospheric"] = groups["levels"] = ()
        if not groups["surface"] and not groups["atmospheric"]:
            raise UserError(f"{where}: no variable is left; check {room}")
        return Variables(**groups, static=stored.static if self.static is None else tuple(self.static))


@dataclass(frozen=True)
class TimeSplit:
    """The times of training, validation and test: `[first, last]`, both included.

    A number is a year; a text is a year, month, day or hour, as `2020`, `2020-06`, `2020-06-01` or
    `2020-06-01T12`. A sample belongs to a part that holds all its states, so parts share none. With nothing
    given they are the first 80, the next 10 and the last 10 of a hundred times, or ensemble members.

    Attributes:
        train: Of the training.
        val: Of the validation; null with `train` or `test` given: none.
        test: Of the test.
        members: Number of members for training, validation and test, where there is an ensemble: the first,
            the next and the last ones. Each part then takes all times unless they are given too.
    """

    train: list[int | str] | None = None
    val: list[int | str] | None = None
    test: list[int | str] | None = None
    members: list[int] | None = None

    def __post_init__(self) -> None:
        spans = {part: self._span(part) for part in PARTS if getattr(self, part) is not None}
        for part, (first, end) in spans.items():
            for other, (begin, stop) in spans.items():
                if part < other and first < stop and begin < end and self.members is None:
                    raise UserError(f"data.split.{part} and data.split.{other} share times; keep them apart")
        if self.members is not None and (len(self.members) != 3 or min(self.members) < 0):
            raise UserError(
                f"data.split.members is {self.members}; give three numbers: members of train, val and test"
            )

    @property
    def dated(self) -> bool:
        """Whether any part has times."""
        return any(getattr(self, part) is not None for part in PARTS)

    def parts(
        self, times: NDArray[np.datetime64], members: int, where: str
    ) -> dict[str, tuple[tuple[int, int], range]]:
        """Return of each part the first second and the one after its last, and its ensemble members.

        Raises:
            UserError: If there are not so many members.
        """
        seconds = times.astype("datetime64[s]").astype(np.int64)
        whole = (int(seconds[0]), int(seconds[-1]) + 1)
        everyone = dict.fromkeys(PARTS, range(max(members, 1)))
        by_member = self.members is not None or (members >= 3 and not self.dated)
        if by_member:
            counts = self.members or _least_one(members)
            if sum(counts) > members:
                raise UserError(f"{where} has {members} members, data.split.members asks for {sum(counts)}")
            train, val, test = counts
            numbers = range(members)
            last = members - test
            everyone = {
                "train": numbers[:train],
                "val": numbers[train : train + val],
                "test": numbers[last:],
            }
        if self.dated:
            spans = {p: self._span(p) if getattr(self, p) is not None else (0, 0) for p in PARTS}
        elif by_member:
            spans = dict.fromkeys(PARTS, whole)
        else:
            cuts = np.round(np.cumsum((0.0, *_SHARES)) * len(seconds)).astype(int)
            edges = [*(int(seconds[cut]) for cut in cuts[:-1] if cut < len(seconds)), whole[1]]
            edges += [whole[1]] * (len(PARTS) + 1 - len(edges))
            spans = dict(zip(PARTS, pairwise(edges), strict=True))
        return {part: (spans[part], everyone[part]) for part in PARTS}

    def _span(self, part: str) -> tuple[int, int]:
        given = getattr(self, part)
        try:
            first, last = (np.datetime64(str(one).removesuffix("Z")) for one in given)
        except ValueError as error:
            raise UserError(
                f"data.split.{part} is {given}; give the first and the last year or date, as in "
                "[1979, 2015] or [2019-03-01, 2019-03-22T15]"
            ) from error
        begin = int(first.astype("datetime64[s]").astype(np.int64))
        end = int((last + 1).astype("datetime64[s]").astype(np.int64))
        if end <= begin:
            raise UserError(f"data.split.{part} is {given}; the first time must not be after the last")
        return begin, end


@dataclass(frozen=True)
class ForecastTest:
    """The forecasts that validation and test take.

    Attributes:
        steps: States to forecast; null takes `data.horizon`.
        stride: Records of the archive between two starts.
    """

    steps: int | None = None
    stride: int = 1

    def __post_init__(self) -> None:
        at_least(1, room="data.test", steps=self.steps, stride=self.stride)


@dataclass(frozen=True)
class ArchiveMixture:
    """Several archives that are trained on together; each batch comes from one, and the first is evaluated.

    Attributes:
        sources: Entries with the options `path`, `card`, `generate`, `variables`, `targets`, `region`,
            `step`, `fill` and `split` of the data module, each with an optional `weight`, its share.
        samples: Training samples in an epoch; null: of all sources together.
        repeats: Times a source may be walked through; null for any number.
    """

    sources: list[dict[str, Any]]
    samples: int | None = None
    repeats: float | None = None

    def __post_init__(self) -> None:
        at_least(1, room="data.mixture", samples=self.samples)
        if not self.sources:
            raise UserError("data.mixture.sources is empty; name at least one source")


@dataclass(frozen=True, kw_only=True)
class ArchiveSource:
    """One archive as a recipe names it; attributes as the arguments of the data module."""

    path: str | list[str] | None = None
    card: str | None = None
    variables: VariableChoice = field(default_factory=VariableChoice)
    targets: VariableChoice | None = None
    region: list[float] | None = None
    step: float | None = None
    fill: str | None = None
    split: TimeSplit | None = None
    weight: float | None = None

    def __post_init__(self) -> None:
        if not (self.path or self.card):
            raise UserError("no data are named; give data.path, data.card, data.generate or data.mixture")

    @classmethod
    def of(cls, entry: Mapping[str, Any], common: Mapping[str, Any], number: int) -> ArchiveSource:
        """Return the source of an entry of a mixture; what it does not give is in `common`.

        Raises:
            UserError: If it has an entry that is unknown or wrong.
        """
        room = f"data.mixture.sources.{number}"
        known = [one.name for one in fields(cls)]
        if unknown := [name for name in entry if name not in known]:
            near = did_you_mean(unknown[0], known)
            raise UserError(f"{room} has the entry '{unknown[0]}'{near}; known: {', '.join(known)}")
        kinds = {"variables": VariableChoice, "targets": VariableChoice, "split": TimeSplit}
        try:
            values = {
                name: kinds[name](**value) if name in kinds and isinstance(value, Mapping) else value
                for name, value in entry.items()
            }
        except TypeError as error:
            raise UserError(f"{room} is wrong: {error}") from error
        return cls(**{**common, **values})


def _least_one(members: int) -> list[int]:
    """Return a tenth of the members for validation and test each, at least one."""
    tenth = max(1, round(members / 10))
    return [members - 2 * tenth, tenth, tenth]
