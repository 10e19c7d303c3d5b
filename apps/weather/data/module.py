"""The data module of weather: archives, cards and our own world's members to batches of forecasts."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import Dataset

from apps.weather.batch import Variables, WeatherFacts
from apps.weather.data.published import TENTH_DEGREE, published_scaling, published_statistics
from apps.weather.data.settings import (
    ArchiveMixture,
    ArchiveSource,
    ForecastTest,
    MemberGeneration,
    TimeSplit,
    VariableChoice,
)
from apps.weather.data.sources import open_source
from apps.weather.data.statistics import counted_moments, pooled
from apps.weather.data.transforms import BOUNDS, TRANSFORMS
from apps.weather.data.windows import BatchMixture, FieldSource, ForecastWindows
from core.data.checks import at_least, one_of
from core.data.module import DataModule
from core.data.statistics import Moments
from core.errors import UserError, listed

__all__ = ["Fields", "WeatherFields"]


class WeatherFields(DataModule):
    """Windows of archives: `history` states and the `horizon` states that follow, in physical units.

    One of `path`, `card`, `generate` and `mixture` names the data; `card` with `path` says where the card's
    data lie.

    Args:
        path: What `apps.weather.data.readers.open_archive` reads: a file, a folder, several files, or a Zarr
            store, also at `http(s)://` or `gs://`.
        card: A data card: its files, or its address, and its split.
        generate: Members of our own world, which `path` or `card` supersede.
        variables: What goes in; null takes all of the archive.
        targets: What comes out; null takes the variables.
        history: States that go in.
        horizon: States to forecast in training.
        step: Hours between states, a multiple of the archive's; null takes that. tp and e are summed over it.
        region: `[south, north, west, east]` in degrees; west may be negative.
        patch: The grid is cropped to a multiple of it (see `apps.weather.data.regions`).
        fill: How missing values are filled, as `open_archive` takes it; null refuses them.
        split: Times, or members, of training, validation and test.
        statistics: `aurora` for the published ones (`aurora_0.1`: with the static fields of 0.1 degrees), or
            location and scale by name, as `{2t: [278, 21], z_500: [54115, 3353]}`; others are counted.
        transforms: Variable to a transform before its statistics, beside the published ones of `aurora`.
        test: Forecasts of validation and test.
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
        generate: MemberGeneration | None = None,
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
        if mixture is not None and (path or card):
            raise UserError("data.mixture and data.path or data.card are given, but only one of them may be")
        alone = () if mixture is not None else (
            ArchiveSource(
                path, card, variables or VariableChoice(), targets, region, step, fill, split, generate
            ),
        )  # fmt: skip
        self.named = alone or tuple(mixture.sources)  # type: ignore[union-attr]
        self.history, self.horizon, self.patch = history, horizon, patch
        self.statistics, self.transforms = statistics, transforms or {}
        self.test, self.mixture, self.shuffled = test or ForecastTest(), mixture, mixture is None
        self._trained: WeatherFacts | None = None
        self._sources: list[FieldSource] | None = None
        self._facts: WeatherFacts | None = None
        self._said: set[str] = set()

    @property
    def facts(self) -> WeatherFacts:
        """What a task must know, enough to predict from a checkpoint alone."""
        if self._facts is None:
            self._facts = self._known()
        return self._facts

    @property
    def sources(self) -> list[FieldSource]:
        """The opened archives."""
        if self._sources is None:
            opened = [open_source(named, self.patch, self._trained) for named in self.named]
            self._sources = [source for source, _ in opened]
            self._say([note for _, notes in opened for note in notes])
        return self._sources

    def use_statistics(self, facts: WeatherFacts) -> None:
        """Take a checkpoint's scales, transforms and, where the data lack them, static fields.

        To be called before data are read.
        """
        self._trained, self._sources, self._facts = facts, None, None

    def begin_from(self, facts: WeatherFacts) -> None:
        """Keep the scales that a network learnt with when it is trained further, unless others are given."""
        if self.statistics is None:
            self.use_statistics(facts)

    def setup(self, stage: str | None = None) -> None:
        """Open the archives and say what was decided, and what cannot be tested after the training."""
        self.facts  # noqa: B018
        if stage == "fit" and self.test_set() is None:
            self._say(["no forecast is left for a test; data.split or data.test.steps changes that"])

    @property
    def test_steps(self) -> int:
        """States that validation and test forecast."""
        return self.test.steps or self.horizon

    def train_set(self) -> Dataset:
        """Return the training windows of all sources."""
        sets = [self._windows(source, "train", self.horizon) for source in self.sources]
        for windows in sets:
            if not len(windows):
                raise UserError(
                    f"{windows.source.archive.name} has no {self.history + self.horizon} training states "
                    f"{windows.source.step:g} hours apart; check data.split, or make data.horizon smaller"
                )
        if self.mixture is None:
            return sets[0]
        weights = [named.weight for named in self.named]
        mixed = BatchMixture(
            sets,
            None if None in weights else weights,  # type: ignore[arg-type]
            batch=self._share() * self._place()[1],
            seed=self.seed,
            samples=self.mixture.samples,
            repeats=self.mixture.repeats,
        )
        if self.trainer is not None and (self.trainer.max_epochs or 0) > 0:
            mixed.mixture.check(self.trainer.max_epochs)
        return mixed

    def val_set(self) -> Dataset | None:
        """Return the forecasts of the validation part of the first source; None if there are none."""
        return self.forecasts("val")

    def test_set(self) -> Dataset | None:
        """Return the forecasts of the test part of the first source; None if there are none."""
        return self.forecasts("test")

    def predict_set(self) -> Dataset:
        """Return every history of the first source, without targets."""
        return self._windows(self.sources[0], None, 0, stride=self.test.stride)

    def forecasts(self, part: str) -> Dataset | None:
        """Return the windows of a part of the first source with the states that a test forecasts."""
        windows = self._windows(self.sources[0], part, self.test_steps, stride=self.test.stride)
        return windows if len(windows) else None

    def _windows(
        self, source: FieldSource, part: str | None, horizon: int, *, stride: int = 1
    ) -> ForecastWindows:
        windows = ForecastWindows(source, part, history=self.history, horizon=horizon, stride=stride)
        if count := windows.missing:
            words = f"{count} window{'s' if count > 1 else ''} of {part or 'all times'}"
            self._say([f"{source.archive.name}: {words} with a missing record left out"])
        return windows

    def _known(self) -> WeatherFacts:
        sources = self.sources
        first, grid = sources[0], sources[0].area.grid
        variables = _union([one.variables for one in sources])
        targets = _union([one.targets for one in sources])
        statistics, transforms = self._scales(variables, targets)
        units = {name: unit for one in reversed(sources) for name, unit in one.archive.units.items()}
        names = {*variables.surface, *variables.atmospheric, *targets.surface, *targets.atmospheric}
        wanted = names | {f"static_{name}" for name in variables.static}
        return WeatherFacts(
            sources=tuple(one.archive.name for one in sources),
            licences=tuple(sorted({name for one in sources for name in one.archive.licences})),
            variables=variables,
            target_variables=targets,
            statistics=statistics,
            units={name: unit for name, unit in units.items() if name in wanted},
            latitude=() if grid.curvilinear else tuple(grid.latitude.tolist()),
            longitude=() if grid.curvilinear else tuple(grid.longitude.tolist()),
            static=first.static if len(first.static) else None,
            history=self.history,
            step=first.step,
            transforms=transforms,
            bounds={name: BOUNDS[name] for name in sorted(names & BOUNDS.keys())},
            patch=self.patch,
        )

    def _scales(
        self, variables: Variables, targets: Variables
    ) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
        """Return location and scale of every field, and the transforms that they are of."""
        names = {name for one in self.sources for name in (*one.variables.names, *one.targets.names)}
        names |= {f"static_{name}" for name in variables.static}
        known: dict[str, tuple[float, float]] = {}
        transforms = dict(self.transforms)
        if self._trained is not None:
            before = self._trained.transforms
            other = {name for name, one in transforms.items() if before.get(name) != one}  # scaled anew
            transforms = dict(before) | transforms
            known = {
                name: pair
                for name, pair in self._trained.statistics.items()
                if not {name, name.split("_")[0]} & other
            }
        elif isinstance(self.statistics, str):
            known = published_statistics() | (TENTH_DEGREE if self.statistics == "aurora_0.1" else {})
            surface = [name for name in (*variables.surface, *targets.surface) if name in known]
            names |= {"10u_wave", "10v_wave"} if "dwi" in names else set()  # made of it by the network
            transforms = published_scaling(Variables(tuple(surface))).transforms | transforms
        elif self.statistics is not None:
            known = {name: (float(mean), float(std)) for name, (mean, std) in self.statistics.items()}
        if lacking := names - known.keys():
            known = self._counted(lacking, transforms) | known
        if lacking := sorted(names - known.keys()):
            raise UserError(
                f"no training times are there to count statistics of {listed(lacking, 6)} on; check "
                f"data.split, or give data.statistics, as in '{{{lacking[0]}: [MEAN, DEVIATION]}}'"
            )
        return {name: known[name] for name in sorted(names)}, transforms

    def _counted(self, lacking: set[str], transforms: dict[str, str]) -> dict[str, tuple[float, float]]:
        parts, scales = [], {}
        for source in self.sources:
            still = Moments.of(source.static.flatten(1).numpy())
            pairs = zip(still.mean.tolist(), still.std.tolist(), strict=True)
            scales |= dict(zip((f"static_{name}" for name in source.variables.static), pairs, strict=True))
            for each in dict.fromkeys((source.variables, source.targets)):
                surface = tuple(name for name in each.surface if name in lacking)
                levels = {v: Variables(atmospheric=(v,), levels=each.levels).names for v in each.atmospheric}
                atmospheric = tuple(name for name, fields in levels.items() if lacking & set(fields))
                if surface or atmospheric:
                    fields = Variables(surface, atmospheric, each.levels)
                    parts.append(counted_moments(source, fields, transforms))
        return scales | pooled(parts)

    @rank_zero_only
    def _say(self, lines: Sequence[str]) -> None:
        """Print each line once."""
        for line in lines:
            if line not in self._said:
                print(f"data: {line}", file=sys.stderr)
        self._said.update(lines)


Fields = WeatherFields  # the name in recipes, which the fields of simulations have too


def _union(groups: Sequence[Variables]) -> Variables:
    """Return every variable and level of several sources, in the order in which they come first."""
    kinds = ("surface", "atmospheric", "levels", "static")
    return Variables(
        *(tuple(dict.fromkeys(n for one in groups for n in getattr(one, kind))) for kind in kinds)
    )
