"""Settings of weather data: small frozen dataclasses that a recipe gives by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from apps.weather.batch import Variables, level_text
from core.data.checks import at_least
from core.errors import UserError, listed

if TYPE_CHECKING:
    from apps.weather.data.readers import Archive

__all__ = [
    "ArchiveMixture", "ArchiveSource", "ForecastTest", "MemberGeneration", "TimeSplit", "VariableChoice"
]  # fmt: skip

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class VariableChoice:
    """The fields that are taken of an archive; null takes all that it has, an empty list none.

    Attributes:
        surface: Single-level variables, as `2t`; one level of a variable is `z_500`.
        atmospheric: Variables on pressure levels.
        levels: Pressure levels in hPa.
        static: Fields that do not change, as `lsm`.
        static_path: A file that has these where the archive lacks them.
        names: Names in the files to ours, where they are none of the known ones.
    """

    surface: list[str] | None = None
    atmospheric: list[str] | None = None
    levels: list[float] | None = None
    static: list[str] | None = None
    static_path: str | None = None
    names: dict[str, str] | None = None

    def of(self, archive: Archive, room: str = "data.variables") -> Variables:
        """Return the chosen ones of an archive's; static fields are looked for later.

        Raises:
            UserError: If one is not there, or nothing is left.
        """
        stored, asked = archive.variables, self.levels
        surface = stored.surface if self.surface is None else tuple(self.surface)
        atmospheric = stored.atmospheric if self.atmospheric is None else tuple(self.atmospheric)
        # Fewer variables may share more levels; names that are not there are refused here.
        shared = archive.narrowed(Variables(surface, atmospheric)).variables.levels if atmospheric else ()
        if lacking := [level_text(level) for level in asked or () if level not in shared]:
            raise UserError(
                f"{archive.name} lacks {listed(lacking, 6)} hPa of {room}.levels in one of "
                f"{', '.join(atmospheric)} (they share {', '.join(map(level_text, shared)) or 'none'})"
            )
        levels = shared if asked is None else tuple(asked)
        atmospheric = atmospheric if levels else ()
        if not surface and not atmospheric:
            raise UserError(f"{archive.name}: no variable is left; check {room}")
        static = stored.static if self.static is None else tuple(self.static)
        return Variables(surface, atmospheric, levels if atmospheric else (), static)


@dataclass(frozen=True)
class TimeSplit:
    """The times of training, validation and test, each `[first, last]`, both included; none where others are.

    A number is a year; a text is a year, month, day or hour, as `2020`, `2020-06` or `2020-06-01T12`. A
    sample belongs to the part that holds all its states. With nothing given, the parts are the first 80, the
    next 10 and the last 10 of a hundred times, or of a hundred ensemble members (of three or more).

    Attributes:
        train: Of the training.
        val: Of the validation.
        test: Of the test.
        members: Numbers of ensemble members for training (the first), validation and test (the last).
    """

    train: list[int | str] | None = None
    val: list[int | str] | None = None
    test: list[int | str] | None = None
    members: list[int] | None = None

    def __post_init__(self) -> None:
        if self.members is not None and (len(self.members) != 3 or min(self.members) < 0):
            raise UserError(f"data.split.members is {self.members}; give three numbers, as [8, 1, 1]")
        for one, other in combinations(PARTS, 2):
            (first, end), (begin, stop) = self._span(one), self._span(other)
            if max(first, begin) < min(end, stop) and self.members is None:
                raise UserError(f"data.split.{one} and data.split.{other} share times; keep them apart")

    def parts(
        self, times: NDArray[np.datetime64], members: int, where: str
    ) -> dict[str, tuple[tuple[int, int], range]]:
        """Return of each part its first second, the one after its last, and its ensemble members.

        Raises:
            UserError: If the archive `where` does not have so many members.
        """
        seconds, everyone = times.astype("datetime64[s]").astype(np.int64), range(max(members, 1))
        dated = any(getattr(self, part) is not None for part in PARTS)
        counts = self.members
        if counts is None and members >= 3 and not dated:
            tenth = max(1, round(members / 10))
            counts = [members - 2 * tenth, tenth, tenth]
        if counts and sum(counts) > members:
            raise UserError(f"{where} has {members} members; data.split.members asks for {sum(counts)}")
        end = int(seconds[-1]) + 1
        cuts = [int(seconds[min(round(share * len(seconds)), len(seconds) - 1)]) for share in (0, 0.8, 0.9)]
        spans = list(zip(cuts, [*cuts[1:], end], strict=True))
        if dated:
            spans = [self._span(part) for part in PARTS]
        elif counts:
            spans = [(cuts[0], end)] * 3
        groups = [everyone] * 3
        if counts:
            before = counts[0] + counts[1]
            groups = [everyone[: counts[0]], everyone[counts[0] : before], everyone[members - counts[2] :]]
        return dict(zip(PARTS, zip(spans, groups, strict=True), strict=True))

    def _span(self, part: str) -> tuple[int, int]:
        given = getattr(self, part)
        if given is None:
            return 0, 0
        try:
            first, last = (np.datetime64(str(one).removesuffix("Z").replace(" ", "T")) for one in given)
        except ValueError as error:
            raise UserError(
                f"data.split.{part} is {given}; give the first and the last year or date, as in [1979, 2015] "
                "or [2019-03-01, 2019-03-22T15]"
            ) from error
        begin, end = (int(one.astype("datetime64[s]").astype(np.int64)) for one in (first, last + 1))
        if end <= begin:
            raise UserError(f"data.split.{part} is {given}; the first time must not be after the last")
        return begin, end


@dataclass(frozen=True)
class ForecastTest:
    """The forecasts of validation and test.

    Attributes:
        steps: States to forecast; null takes `data.horizon`.
        stride: Records of the archive between two starts.
    """

    steps: int | None = None
    stride: int = 1

    def __post_init__(self) -> None:
        at_least(1, room="data.test", steps=self.steps, stride=self.stride)


@dataclass(frozen=True)
class MemberGeneration:
    """Members of our own world (`dfm data generate weather/three_levels`), made where they are not there yet.

    Attributes:
        members: Independent weathers.
        days: Length of each.
        step: Hours between records.
        grid: Rows and columns; an odd number of rows has the poles.
        seed: Of the members.
    """

    members: int = 6
    days: int = 240
    step: int = 24
    grid: tuple[int, int] = (32, 64)
    seed: int = 0


@dataclass(frozen=True)
class ArchiveSource:
    """One archive of a mixture; options as those of the data module.

    Attributes:
        path: A file, a folder, several files, or a Zarr store.
        card: A data card.
        variables: What goes in.
        targets: What comes out.
        region: `[south, north, west, east]` in degrees.
        step: Hours between states.
        fill: How missing values are filled.
        split: Times, or members, of training, validation and test.
        generate: Members of our own world.
        weight: Its share of the samples; null: by its number of windows.
    """

    path: str | list[str] | None = None
    card: str | None = None
    variables: VariableChoice = field(default_factory=VariableChoice)
    targets: VariableChoice | None = None
    region: list[float] | None = None
    step: float | None = None
    fill: str | None = None
    split: TimeSplit | None = None
    generate: MemberGeneration | None = None
    weight: float | None = None

    def __post_init__(self) -> None:
        if not (self.path or self.card or self.generate):
            raise UserError("no data are named; give data.path, data.card, data.generate or data.mixture")


@dataclass(frozen=True)
class ArchiveMixture:
    """Several archives that are trained on together; each batch comes from one, and the first is evaluated.

    Attributes:
        sources: The archives; without weights their shares are their numbers of windows.
        samples: Training samples in an epoch; null: of all sources together.
        repeats: Times a source may be walked through; null for any number.
    """

    sources: list[ArchiveSource]
    samples: int | None = None
    repeats: float | None = None

    def __post_init__(self) -> None:
        at_least(1, room="data.mixture", samples=self.samples)
        if not self.sources:
            raise UserError("data.mixture.sources is empty; name at least one source")
