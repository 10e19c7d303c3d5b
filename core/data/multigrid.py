"""Multigrid training (Wu et al. 2020, arXiv 1912.00998): small shapes in large batches first.

The long cycle runs through shapes from coarse to fine within every stage of the learning rate, with the batch
and the rate multiplied so that a step's work stays about the same; the short cycle changes the crop from one
step to the next. How long each shape lasts, and how shapes and epochs are rounded, is as in the published
code.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise

from core.errors import UserError

__all__ = ["Multigrid", "Shape", "Stage"]

_HALF = math.sqrt(0.5)


@dataclass(frozen=True)
class Shape:
    """A batch's shape: how many times the default batch, of how many frames and pixels a side."""

    batch: int
    frames: int
    crop: int


@dataclass(frozen=True)
class Stage:
    """A stretch of training in one shape of the long cycle.

    Attributes:
        decays: How many times the learning rate was decayed before.
        until: Epoch at which it ends.
        cycle: The shapes its steps alternate between.
    """

    decays: int
    until: int
    cycle: tuple[Shape, ...]

    @property
    def base(self) -> Shape:
        """The stage's own shape, the last of its cycle."""
        return self.cycle[-1]

    @property
    def mean(self) -> float:
        """Mean multiplier of the default batch."""
        return sum(shape.batch for shape in self.cycle) / len(self.cycle)


@dataclass(frozen=True)
class Multigrid:
    """The schedule of shapes and rates.

    An epoch is a pass over the data, whatever the shape. Step and stage are joined by shares of the run: a
    stage of n epochs with m times the default batch takes n / m of it.

    Args:
        frames: Frames of a default sample; 1 for data without time.
        crop: Pixels a side of a default sample.
        borders: Epochs of the baseline at which it decays the learning rate.
        epochs: Epochs of the baseline.
        gamma: Factor of each decay.
        epoch_factor: Epochs of the multigrid run for one of the baseline.
        long_cycle: Whether shapes change from stage to stage.
        short_cycle: Whether the crop changes from step to step.
        long_factors: (factor of the frames, factor of the crop), coarse to fine.
        short_factors: Factors of the default crop in the short cycle, before the stage's own crop.

    Raises:
        UserError: If a number is out of range.
    """

    frames: int = 32
    crop: int = 224
    borders: tuple[int, ...] = (94, 154, 196)
    epochs: int = 239
    gamma: float = 0.1
    epoch_factor: float = 1.5
    long_cycle: bool = True
    short_cycle: bool = True
    long_factors: tuple[tuple[float, float], ...] = ((0.25, _HALF), (0.5, _HALF), (0.5, 1.0), (1.0, 1.0))
    short_factors: tuple[float, ...] = (0.5, _HALF)

    def __post_init__(self) -> None:
        for name in ("borders", "short_factors"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "long_factors", tuple((t, s) for t, s in self.long_factors))
        if self.frames < 1 or self.crop < 1 or self.epochs < 1 or self.epoch_factor <= 0 or self.gamma <= 0:
            raise UserError(
                f"Multigrid: frames {self.frames}, crop {self.crop}, epochs {self.epochs}, epoch_factor "
                f"{self.epoch_factor} and gamma {self.gamma} must be positive"
            )
        limits = [0, *self.borders, self.epochs]
        if not self.borders or any(b <= a for a, b in pairwise(limits)):
            raise UserError(
                f"Multigrid: borders {list(self.borders)} must rise between 0 and the baseline's "
                f"{self.epochs} epochs, and there must be one at least"
            )
        factors = [*self.short_factors, *(value for pair in self.long_factors for value in pair)]
        if not self.long_factors or not all(0 < value <= 1 for value in factors):
            raise UserError("Multigrid: factors of frames and crop must be above 0 and at most 1")

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The stretches in order: all shapes within each stage of the rate, and the default shape at last."""
        if not self.long_cycle:
            ends = [int(end * self.epoch_factor) for end in (*self.borders, self.epochs)]
            base = Shape(batch=1, frames=self.frames, crop=self.crop)
            return tuple(self._stage(number, base, end) for number, end in enumerate(ends))
        limits = [0, *self.borders]
        shapes = [self._planned(*factors) for factors in self.long_factors]
        total = sum(mean for mean, _ in shapes)
        stretches: list[tuple[int, Shape, float]] = []
        updates = 0.0
        for decays, (begin, end) in enumerate(pairwise(limits)):
            for mean, base in shapes:
                epochs = (end - begin) * mean / total
                updates += epochs / mean
                stretches.append((decays, base, epochs))
        # The last stage saves as many updates as those before it.
        mean, base = shapes[-1]
        saving = limits[-1] / updates
        stretches.append((len(self.borders), base, (self.epochs - limits[-1]) / saving * mean))
        scale = self.epochs * self.epoch_factor / sum(epochs for *_, epochs in stretches)
        ends_at = accumulate(epochs * scale for *_, epochs in stretches)
        return tuple(
            self._stage(decays, base, round(end))
            for (decays, base, _), end in zip(stretches, ends_at, strict=True)
        )

    @cached_property
    def rates(self) -> tuple[tuple[int, float], ...]:
        """(Epoch, rate relative to the baseline's first) from each change of the rate on.

        The second half of the last stage is decayed once more than its first, which keeps the rate before.
        """
        begins = [0, *(stage.until for stage in self.stages)]
        rates = [self.gamma**stage.decays * stage.base.batch for stage in self.stages]
        if not self.long_cycle:
            return tuple(zip(begins[:-1], rates, strict=True))
        begins[-1] = (begins[-2] + begins[-1]) // 2
        return tuple(zip(begins, [*rates[:-1], rates[-2], rates[-1]], strict=True))

    @cached_property
    def work(self) -> float:
        """Length of the run in epochs' worth of default batches: what the trainer counts as epochs."""
        return sum(self._parts)

    @cached_property
    def _parts(self) -> list[float]:
        """Length of each stage in epochs' worth of default batches."""
        begins = (0, *(stage.until for stage in self.stages))
        return [(stage.until - begin) / stage.mean for begin, stage in zip(begins, self.stages, strict=False)]

    def shape(self, step: int, total: int) -> Shape:
        """Return the shape of step `step` in a run of `total` steps."""
        stage, begin, _ = self._stage_at(step, total)
        cycle = self.stages[stage].cycle
        return cycle[(step - begin) % len(cycle)]

    def batches_before(self, step: int, total: int) -> int:
        """Return how many default batches' worth of samples the steps before `step` take."""
        starts, taken = _starts(self, total), 0
        for stage, begin, end in zip(self.stages, starts[:-1], [*starts[1:-1], step], strict=True):
            turns, rest = divmod(max(0, min(step, end) - begin), len(stage.cycle))
            sizes = [shape.batch for shape in stage.cycle]
            taken += turns * sum(sizes) + sum(sizes[:rest])
        return taken

    def rate(self, step: int, total: int) -> float:
        """Return the rate of step `step`, relative to the baseline's first."""
        stage, first, last = self._stage_at(step, total)
        begin, end = self.stages[stage - 1].until if stage else 0, self.stages[stage].until
        epoch = begin + (end - begin) * min((step - first) / max(last - first, 1), 1.0)
        return self.rates[bisect_right([at for at, _ in self.rates], epoch) - 1][1]

    def _stage_at(self, step: int, total: int) -> tuple[int, int, int]:
        """Return the number of a step's stage, the stage's first step and the next one's."""
        starts = _starts(self, total)
        stage = min(bisect_right(starts, step) - 1, len(self.stages) - 1)
        return stage, starts[stage], starts[stage + 1]

    @property
    def _short(self) -> list[float]:
        """Sides of the short cycle before the stage's own."""
        return [factor * self.crop for factor in self.short_factors] if self.short_cycle else []

    def _planned(self, frames: float, crop: float) -> tuple[float, Shape]:
        """Return a shape of the long cycle, and the mean batch its length is planned with."""
        base_frames, base_crop = max(1, round(self.frames * frames)), max(1, round(self.crop * crop))
        size = self.frames * self.crop**2
        batches = [max(1, round(size / (base_frames * side * side))) for side in (*self._short, base_crop)]
        return sum(batches) / len(batches), Shape(batches[-1], base_frames, base_crop)

    def _stage(self, decays: int, base: Shape, until: int) -> Stage:
        cycle = [
            Shape(base.batch * max(1, round((base.crop / side) ** 2)), base.frames, max(1, round(side)))
            for side in self._short
        ]
        return Stage(decays, until, (*cycle, base))


@lru_cache(maxsize=8)
def _starts(grid: Multigrid, total: int) -> tuple[int, ...]:
    """Return the first step of every stage in a run of `total` steps, and `total`."""
    return (0, *(round(end / grid.work * total) for end in accumulate(grid._parts)))
