"""The data module of weather: archives, cards and our own world's members to batches of forecasts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import Dataset

from apps.weather.batch import Variables, WeatherFacts
from apps.weather.data.published import TENTH_DEGREE, published_scaling, published_statistics
from apps.weather.data.settings import ArchiveMixture, ArchiveSource, ForecastTest, TimeSplit, VariableChoice
from apps.weather.data.sources import SplitSource, open_split
from apps.weather.data.statistics import counted_moments, pooled, static_moments
from apps.weather.data.transforms import TRANSFORMS
from apps.weather.data.windows import BatchMixture, ForecastWindows
from core.data.checks import at_least, one_of
from core.data.module import DataModule
from core.errors import UserError

__all__ = ["BOUNDS", "Fields", "WeatherFields"]

BOUNDS: dict[str, tuple[float | None, float | None]] = {
    **dict.fromkeys(("q", "tp", "ro", "tcw", "tcwv", "swvl1", "swvl2", "swvl3", "swvl4", "r"), (0.0, None)),
    **dict.fromkeys(("pm1", "pm2p5", "pm10", "tcco", "tc_no", "tcno2", "tcso2", "gtco3"), (0.0, None)),
    **dict.fromkeys(("co", "no", "no2", "so2", "go3"), (0.0, None)),
    "tcc": (0.0, 1.0),
}
"""Least and greatest value that a variable can have."""


class WeatherFields(DataModule):
    """Windows of archives: `history` states and the `horizon` states that follow, in physical units.

    One of `path`, `card`, `generate` and `mixture` names the data; `card` with `path` says where the card's
    data lie.

    Args:
        path: A file, a folder, several files, or a Zarr store, also at `http(s)://` or `gs://`: whatever
            `apps.weather.data.readers.open_archive` reads.
        card: A data card: its files, or its address, and its split.
        variables: What goes in; null takes all of the archive.
        targets: What comes out; null takes the variables.
        history: States that go in.
        horizon: States to forecast in training.
        step: Hours between states, a multiple of the archive's; null takes the archive's.
        region: `[south, north, west, east]` in degrees, across Greenwich where west is negative.
        patch: The grid is cropped to a multiple of it (see `apps.weather.data.regions`).
        fill: How missing values are filled, as `open_archive` takes it; null refuses them.
        split: Times, or members, of training, validation and test.
        statistics: `aurora` for the published ones (`aurora_0.1`: with the static fields of 0.1 degrees), or
            location and scale by name, as `{2t: [278, 21], z_500: [54115, 3353]}`; others are counted.
        transforms: Variable to a transform before its statistics; null takes none, or the published ones.
        test: Steps and starts of the forecasts that are validated and tested.
        mixture: Several archives.
        batch_size: Samples in a batch.
        eval_batch_size: The same for validation, test and prediction.
        num_workers: Loader processes.
        seed: Seed of the order.
    """

    def __init__(
        self,
        *,
        path: str | list[str] | None = None,
        card: str | None = None,
        variables: VariableChoice | None = None,
        targets: VariableChoice | None = None,
        history: int = 2,
        horizon: int = 1,
        step: float | None = None,
        region: list[float] | None = None,
        patch: int = 1,
        fill: str | None = None,
        split: TimeSplit | None = None,
        statistics: str | dict[str, tuple[float, float]] | None = None,
        transforms: dict[str, str] | None = None,
        test: ForecastTest | None = None,
        mixture: ArchiveMixture | None = None,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, seed=seed
        )
        at_least(1, history=history, horizon=horizon, patch=patch)
        if isinstance(statistics, str):
            one_of(("aurora", "aurora_0.1"), statistics=statistics)
        for transform in (transforms or {}).values():
            one_of(TRANSFORMS, transforms=transform)
        common = {
            "variables": variables or VariableChoice(), "targets": targets, "region": region, "step": step,
            "fill": fill, "split": split,
        }  # fmt: skip
        if mixture is not None and (path or card):
            raise UserError("data.mixture and data.path or data.card are given, but only one of them may be")
        self.named = (
            [ArchiveSource(path=path, card=card, **common)]
            if mixture is None
            else [ArchiveSource.of(entry, common, n) for n, entry in enumerate(mixture.sources)]
        )
        self.history, self.horizon, self.patch = history, horizon, patch
        self.given, self.asked_transforms, self.mixture = statistics, transforms, mixture
        self.test, self.shuffled = test or ForecastTest(), mixture is None
        self._trained: WeatherFacts | None = None
        self._sources: list[SplitSource] | None = None
        self._facts: WeatherFacts | None = None
        self._said: set[str] = set()

    @property
    def facts(self) -> WeatherFacts:
        """What a task must know, enough to predict from a checkpoint alone."""
        if self._facts is None:
            self._facts = self._known()
        return self._facts

    @property
    def sources(self) -> list[SplitSource]:
        """The opened archives."""
        if self._sources is None:
            self._sources = [open_split(named, self.patch, self._trained) for named in self.named]
            self._say([note for one in self._sources for note in one.notes])
        return self._sources

    def use_statistics(self, facts: WeatherFacts) -> None:
        """Take a checkpoint's scales, transforms and, where the data lack them, static fields.

        To be called before data are read.
        """
        self._trained, self._sources, self._facts = facts, None, None

    def setup(self, stage: str | None = None) -> None:
        """Open the archives and say what was decided."""
        self.facts  # noqa: B018
        if stage == "fit" and self.test_set() is None:
            self._say([f"no forecast of {self.test_steps} steps is left for a test; data.split changes that"])

    @property
    def test_steps(self) -> int:
        """States that validation and test forecast."""
        return self.test.steps or self.horizon

    def train_set(self) -> Dataset:
        """Return the training windows of all sources."""
        sets = [self._windows(one, "train", self.horizon) for one in self.sources]
        for one, windows in zip(self.sources, sets, strict=True):
            if not len(windows):
                raise UserError(
                    f"{one.source.archive.name} has no {self.history + self.horizon} training states "
                    f"{one.source.step:g} hours apart; check data.split, or make data.horizon shorter"
                )
        if self.mixture is None:
            return sets[0]
        weights = [named.weight for named in self.named]
        _, world = self._place()
        mixed = BatchMixture(
            sets,
            None if None in weights else weights,  # type: ignore[arg-type]
            batch=self._share() * world,
            seed=self.seed,
            samples=self.mixture.samples,
            repeats=self.mixture.repeats,
        )
        epochs = self.trainer.max_epochs if self.trainer is not None else None
        if epochs and epochs > 0:
            mixed.mixture.check(epochs)
        return mixed

    def val_set(self) -> Dataset | None:
        """Return the forecasts of the validation part of the first source; None if there are none."""
        return self._evaluated("val")

    def test_set(self) -> Dataset | None:
        """Return the forecasts of the test part of the first source; None if there are none."""
        return self._evaluated("test")

    def predict_set(self) -> Dataset:
        """Return every history of the first source, without targets."""
        one = self.sources[0]
        seconds, members = one.source.seconds, max(one.source.archive.members, 1)
        whole = replace(one, parts={"all": ((int(seconds[0]), int(seconds[-1]) + 1), range(members))})
        return self._windows(whole, "all", 0, stride=self.test.stride)

    def _evaluated(self, part: str) -> Dataset | None:
        windows = self._windows(self.sources[0], part, self.test_steps, stride=self.test.stride)
        return windows if len(windows) else None

    def _windows(self, one: SplitSource, part: str, horizon: int, *, stride: int = 1) -> ForecastWindows:
        starts = one.starts(part, history=self.history, horizon=horizon, stride=stride)
        if starts.missing:
            windows = "1 window" if starts.missing == 1 else f"{starts.missing} windows"
            self._say([f"{one.source.archive.name}: {windows} with missing records left out of {part}"])
        return ForecastWindows(one.source, starts, history=self.history, horizon=horizon)

    def _known(self) -> WeatherFacts:
        sources = [one.source for one in self.sources]
        first = sources[0]
        variables = _union([one.variables for one in sources])
        targets = _union([one.targets for one in sources])
        statistics, transforms = self._statistics(variables, targets)
        every = {*variables.surface, *variables.atmospheric, *targets.surface, *targets.atmospheric}
        units = {name: unit for one in reversed(sources) for name, unit in one.archive.units.items()}
        wanted = {*every, *(f"static_{name}" for name in variables.static)}
        grid = first.part.grid
        places = ((), ()) if grid.curvilinear else (grid.latitude.tolist(), grid.longitude.tolist())
        return WeatherFacts(
            sources=tuple(one.archive.name for one in sources),
            licences=tuple(sorted({name for one in sources for name in one.archive.licences})),
            variables=variables,
            target_variables=targets,
            statistics=statistics,
            units={name: unit for name, unit in units.items() if name in wanted},
            latitude=tuple(places[0]),
            longitude=tuple(places[1]),
            static=first.static if len(first.static) else None,
            history=self.history,
            step=first.step,
            transforms=transforms,
            bounds={name: BOUNDS[name] for name in sorted(every & BOUNDS.keys())},
            patch=self.patch,
        )

    def _statistics(
        self, variables: Variables, targets: Variables
    ) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
        """Return location and scale of every field, and the transforms they are of."""
        names = {*variables.names, *targets.names, *(f"static_{name}" for name in variables.static)}
        known: dict[str, tuple[float, float]] = {}
        transforms = dict(self.asked_transforms or {})
        if self._trained is not None:
            known, transforms = dict(self._trained.statistics), dict(self._trained.transforms)
        elif isinstance(self.given, str):
            known = published_statistics() | (TENTH_DEGREE if self.given == "aurora_0.1" else {})
            surface = tuple(name for name in (*variables.surface, *targets.surface) if name in known)
            transforms = published_scaling(Variables(surface)).transforms | transforms
        elif self.given is not None:
            known = {name: (float(pair[0]), float(pair[1])) for name, pair in self.given.items()}
        if names - known.keys():
            known = self._measured(names - known.keys(), transforms) | known
        return {name: known[name] for name in sorted(names)}, transforms

    def _measured(self, lacking: set[str], transforms: dict[str, str]) -> dict[str, tuple[float, float]]:
        parts, fields = [], {}
        for one in self.sources:
            source = one.source
            fields |= static_moments(source.variables.static, source.static)
            for variables in dict.fromkeys((source.variables, source.targets)):
                wanted = _needed(variables, lacking)
                if wanted.names:
                    parts.append(counted_moments(source, wanted, one.times("train", wanted), transforms))
        return fields | pooled(parts)

    @rank_zero_only
    def _say(self, lines: Sequence[str]) -> None:
        """Print each line once."""
        for line in lines:
            if line not in self._said:
                print(f"data: {line}", file=sys.stderr)
        self._said.update(lines)


Fields = WeatherFields  # the name in recipes, which the fields of simulations have too


def _needed(variables: Variables, names: set[str]) -> Variables:
    """Return the variables of which any field is among the names, without static ones."""
    surface = tuple(name for name in variables.surface if name in names)
    atmospheric = tuple(
        name
        for name in variables.atmospheric
        if names & set(Variables(atmospheric=(name,), levels=variables.levels).names)
    )
    return Variables(surface, atmospheric, variables.levels if atmospheric else ())


def _union(groups: Sequence[Variables]) -> Variables:
    """Return every variable and level of several sources, in the order in which they come first."""
    return Variables(
        *(
            tuple(dict.fromkeys(name for one in groups for name in getattr(one, group)))
            for group in ("surface", "atmospheric", "levels", "static")
        )
    )
