"""Learning-rate schedules as pure functions of (optimizer step, total steps), relative to the peak rate.

Sources: warm-up, cosine, WSD and its decay shapes, infinite and re-warmed schedules as their papers define
them; WSD-S (arXiv 2410.05192) with the detail of its published code that the first two steps of a decay have
the same rate; MiniCPM's decay (arXiv 2404.06395); one cycle (arXiv 1708.07120) with the numbers of
`torch.optim.lr_scheduler.OneCycleLR`; FreezeOut (arXiv 1706.04983); HLAT's cosine with a floor (arXiv
2404.10630).

A duration is a number of steps if it is an `int` and a share of the whole run if it is a `float`. Step 0 is
the first update. In all schedules `warmup` is the length of a linear warm-up, and `start` the factor of the
first update where there is one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from core.errors import UserError
from core.optim.durations import (
    Duration,
    Ends,
    PositiveShare,
    Share,
    check_between,
    check_fields,
    check_length,
    cycle_of,
    steps_of,
    warm,
)

__all__ = [
    "WSD",
    "WSDS",
    "Constant",
    "Cosine",
    "FlooredCosine",
    "FreezeOut",
    "Infinite",
    "LinearRamp",
    "OneCycle",
    "Polynomial",
    "RewarmCosine",
    "Schedule",
    "Staircase",
]


class Schedule:
    """Factor of a learning rate at each optimizer step; subclasses are frozen dataclasses.

    Everything is a function of the step alone, so a resumed run has the same rates as an unbroken one. A
    field's type (`Duration`, `Share`, `Literal` …) says what is refused.
    """

    def __post_init__(self) -> None:
        check_fields(self)

    def factor(self, step: int, total: float) -> float:
        """Return the rate of update `step` (0 is the first) relative to the peak, in a run of `total`
        updates.

        Raises:
            UserError: If a duration is a share of the run and the run has no length.
        """
        raise TypeError(f"{type(self).__name__} defines no factor; name one of the schedules of core.optim")

    def layer_factor(self, step: int, total: float, *, layer: int, layers: int) -> float:
        """Return the factor for parameters of depth `layer` (0 is the input's side) of `layers`; here the
        same for all.
        """
        return self.factor(step, total)

    def momentum(self, step: int, total: float) -> float | None:
        """Return what momentum (or Adam's beta1) is set to at `step`; None leaves the optimizer's own."""
        return None


@dataclass(frozen=True)
class Constant(Schedule):
    """The peak rate throughout, after an optional warm-up."""

    warmup: Duration = 0
    start: Share = 0.0

    def factor(self, step: int, total: float) -> float:
        """Return the rate of update `step` relative to the peak."""
        return warm(step, steps_of(self.warmup, total), self.start)


@dataclass(frozen=True)
class LinearRamp(Schedule):
    """From `start` to `end` in equal steps over `duration`, then `end`: the rule of
    `torch.optim.lr_scheduler.LinearLR`.
    """

    start: Share = 1.0
    end: Share = 0.0
    duration: Duration = 1.0

    def factor(self, step: int, total: float) -> float:
        """Return the rate of update `step` relative to the peak."""
        length = steps_of(self.duration, total)
        return self.end if step >= length else self.start + (self.end - self.start) * step / length


@dataclass(frozen=True)
class Cosine(Schedule):
    """Warm-up, usually 1 to 10 % of the run, then half a cosine down to `minimum` at the last step."""

    warmup: Duration = 0.05
    minimum: Share = 0.1
    start: Share = 0.0

    def factor(self, step: int, total: float) -> float:
        """Return the rate of update `step` relative to the peak."""
        check_length(self, total)
        return _warm_cosine(step, steps_of(self.warmup, total), total, self.start, self.minimum)


@dataclass(frozen=True)
class FlooredCosine(Schedule):
    """Warm-up from 0, an optional constant stretch, and half a cosine towards 0 that is cut off at `floor`
    instead of being bent to end there.

    The rate flattens before the end: with a floor of 0.1 where 79.5 % of the cosine are done. A run may be
    shorter than the cosine, whose length then has to be given.

    Args:
        warmup: Length of the warm-up.
        plateau: Length of the constant stretch after it; most of the run makes this a warm-up-stable-decay.
        length: Step at which the cosine would reach 0, counted from the first update.
        floor: Smallest factor after the warm-up.
    """

    warmup: Duration = 2000
    plateau: Duration = 0
    length: Duration = 1.0
    floor: Share = 0.1

    def factor(self, step: int, total: float) -> float:
        """Return the rate of update `step` relative to the peak."""
        if isinstance(self.length, float):
            check_length(self, total)
        warmup, end = steps_of(self.warmup, total), steps_of(self.length, total)
        if step < warmup:
            return warm(step, warmup, 0.0)
        begin = warmup + steps_of(self.plateau, total)
        return max(self.floor, _decay("cosine", _progress(step, begin, end) if end > begin else 1.0, 0.0))


@dataclass(frozen=True)
class Polynomial(Schedule):
    """`(1 - step / total) ** power`, during the warm-up times a factor that rises from `start` to 1.

    Without warm-up it is `torch.optim.lr_scheduler.PolynomialLR`; with it, mmsegmentation's `poly` policy,
    whose warm-up scales the falling rate.
    """

    power: float = 1.0
    warmup: Duration = 0
    start: Share = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.power <= 0:
            raise UserError(f"Polynomial: power is {self.power}; it must be above 0")

    def factor(self, step: int, total: float) -> float:
        """Return the rate of update `step` relative to the peak."""
        fallen = (1 - min(step / steps_of(1.0, total), 1.0)) ** self.power
        length = steps_of(self.warmup, total)
        return fallen * (1 - (1 - step / length) * (1 - self.start) if step < length else 1.0)


@dataclass(frozen=True)
class Staircase(Schedule):
    """The peak times `gamma` to the number of `every` that have passed: `torch.optim.lr_scheduler.StepLR`."""

    every: Duration = 0.1
    gamma: Share = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.every:
            raise UserError("Staircase: every is 0; it must be at least one step")

    def factor(self, step: int, total: float) -> float:
        """Return the rate of update `step` relative to the peak."""
        return self.gamma ** (step // max(steps_of(self.every, total), 1))


@dataclass(frozen=True)
class WSD(Schedule):
    """Warm-up, constant peak, and a decay over the last steps of the run.

    Args:
        warmup: Length of the warm-up.
        decay: Length of the decay; 10 % of the steps, 20 % for short runs.
        shape: `linear`, `cosine`, `exp` (geometric), `inv` (linear in 1/rate), `sqrt` (1 − √p), or `half`,
            MiniCPM's `0.5^((t − S)/half_life)`.
        minimum: Factor at the end, above 0 for `exp` and `inv`; a floor for `half`.
        half_life: Duration in which shape `half` halves the rate.
        start: Factor of the first update.
    """

    warmup: Duration = 0.01
    decay: Duration = 0.1
    shape: Literal["linear", "cosine", "exp", "inv", "sqrt", "half"] = "sqrt"
    minimum: Share = 0.1
    half_life: Duration = 0.02
    start: Share = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shape in ("exp", "inv"):
            check_between(self, "minimum", 0.0, 1.0, above=True)
        if self.half_life == 0:
            raise UserError("WSD: half_life is 0; it must be above 0")

    def factor(self, step: int, total: float) -> float:
        """Return the rate of update `step` relative to the peak."""
        check_length(self, total)
        warmup = steps_of(self.warmup, total)
        begin = max(warmup, total - steps_of(self.decay, total))
        if step < begin:
            return warm(step, warmup, self.start)
        if self.shape == "half":
            return max(self.minimum, 0.5 ** ((step - begin) / max(1, steps_of(self.half_life, total))))
        return _decay(self.shape, _progress(step, begin, total), self.minimum)


@dataclass(frozen=True)
class WSDS(Schedule):
    """Several budgets in one run: for each end, constant peak then inverse decay, and at once back to the
    peak.

    The run goes on from the decayed weights. The decay of a cycle has `int(decay · its length)` steps D and
    the rate `1/((1/minimum − 1)·max(u, 1)/D + 1)`, u steps after it began: u = 0 and 1 give the same value,
    as in the published code.

    Args:
        ends: Where the budgets end, ascending; the last is normally the run's end.
        warmup: Length of the first cycle's warm-up.
        rewarmup: Length of the warm-up, from `minimum`, of every later cycle.
        decay: Share of each cycle that decays, or its number of steps.
        minimum: Factor at each end, above 0.
    """

    ends: Ends = (1.0,)
    warmup: Duration = 0.01
    rewarmup: Duration = 0
    decay: Duration = 0.1
    minimum: PositiveShare = 0.1

    def factor(self, step: int, total: float) -> float:
        """Return the rate of update `step` relative to the peak."""
        cycle, begin, end = cycle_of(self, self.ends, step, total)
        if step >= end:
            return self.minimum
        warmup = steps_of(self.warmup if cycle == 0 else self.rewarmup, total)
        if step - begin < warmup:
            return warm(step - begin, warmup, 0.0 if cycle == 0 else self.minimum)
        length = steps_of(self.decay, end - begin)
        since = step - (end - length)
        if since < 0:
            return 1.0
        return max(self.minimum, min(1.0, 1 / ((1 / self.minimum - 1) * max(since, 1) / length + 1)))


@dataclass(frozen=True)
class Infinite(Schedule):
    """Warm-up, cool-down to a constant level, the level for as long as wanted, and a geometric anneal.

    With durations in steps no total is needed. The next corpus goes on from a checkpoint of the constant
    phase, without warming up again.

    Args:
        warmup: Length of the warm-up.
        cooldown: Step at which the constant level is reached; about half of the first corpus.
        constant: Step at which the anneal begins; None never anneals.
        anneal: Length of the anneal, 10 to 20 % of the steps.
        level: Factor of the constant phase, usually 0.4 to 0.6.
        minimum: Factor after the anneal, above 0.
        shape: Cool-down along half a `cosine` or along `inverse_sqrt`, `1/√(1 + p((1/level)² − 1))`.
    """

    warmup: Duration = 0.01
    cooldown: Duration = 0.5
    constant: Duration | None = 0.85
    anneal: Duration = 0.15
    level: PositiveShare = 0.5
    minimum: PositiveShare = 0.01
    shape: Literal["cosine", "inverse_sqrt"] = "cosine"

    def factor(self, step: int, total: float) -> float:
        """Return the rate of update `step` relative to the peak."""
        warmup, cooldown = steps_of(self.warmup, total), steps_of(self.cooldown, total)
        if step < warmup:
            return warm(step, warmup, 0.0)
        if step < cooldown:
            p = (step - warmup) / (cooldown - warmup)
            if self.shape == "cosine":
                return _decay("cosine", p, self.level)
            return 1 / math.sqrt(1 + p * ((1 / self.level) ** 2 - 1))
        if self.constant is None or step <= steps_of(self.constant, total):
            return self.level
        begin = steps_of(self.constant, total)
        p = _progress(step, begin, begin + steps_of(self.anneal, total))
        return self.level * (self.minimum / self.level) ** p


@dataclass(frozen=True)
class RewarmCosine(Schedule):
    """For each new corpus: linear from the old rate to the peak, then half a cosine to `minimum` (arXiv
    2403.08763).

    Args:
        ends: Where the corpora end, ascending.
        warmup: Length of each warm-up; at least 100 updates where Adam's moments come from an earlier corpus.
        start: Factor of the very first update; later corpora start from `minimum`.
        minimum: Factor at each end.
    """

    ends: Ends = (1.0,)
    warmup: Duration = 0.01
    start: Share = 0.1
    minimum: Share = 0.1

    def factor(self, step: int, total: float) -> float:
        """Return the rate of update `step` relative to the peak."""
        cycle, begin, end = cycle_of(self, self.ends, step, total)
        start = self.start if cycle == 0 else self.minimum
        return _warm_cosine(step - begin, steps_of(self.warmup, total), end - begin, start, self.minimum)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """One cycle up and down, with momentum the other way, number for number
    `torch.optim.lr_scheduler.OneCycleLR`.

    Args:
        warmup: Share of the steps (or steps) in which the rate rises; torch's `pct_start`.
        shape: How the rate and the momentum move, along half a `cosine` or a `linear` ramp.
        divisor: The first rate is the peak divided by this; torch's `div_factor`.
        final_divisor: The last rate is the first one divided by this; torch's `final_div_factor`.
        three_phase: Come down to the first rate as fast as it rose, and only then to the last.
        cycle_momentum: Also move momentum, or Adam's beta1, from `max_momentum` to `base_momentum` and back.
        base_momentum: Momentum at the peak rate.
        max_momentum: Momentum at both ends.
    """

    warmup: Duration = 0.3
    shape: Literal["cosine", "linear"] = "cosine"
    divisor: float = 25.0
    final_divisor: float = 1e4
    three_phase: bool = False
    cycle_momentum: bool = True
    base_momentum: Share = 0.85
    max_momentum: Share = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("divisor", "final_divisor"):
            check_between(self, name, 0.0, math.inf, above=True)

    def factor(self, step: int, total: float) -> float:
        """Return the rate of update `step` relative to the peak."""
        first = 1 / self.divisor
        middle = (1.0, first) if self.three_phase else (1.0,)
        return self._between_phases(step, total, (first, *middle, first / self.final_divisor))

    def momentum(self, step: int, total: float) -> float | None:
        """Return the momentum at `step`, or None where it is not cycled."""
        if not self.cycle_momentum:
            return None
        tail = (self.max_momentum,) * (2 if self.three_phase else 1)
        return self._between_phases(step, total, (self.max_momentum, self.base_momentum, *tail))

    def _between_phases(self, step: int, total: float, values: tuple[float, ...]) -> float:
        """Interpolate `values`, one per border of a phase."""
        check_length(self, total)
        # torch rounds nothing here: a phase may end between two steps.
        share = float(self.warmup) if isinstance(self.warmup, int) else self.warmup * total
        borders = [share - 1, 2 * share - 2, total - 1] if self.three_phase else [share - 1, total - 1]
        begin = 0.0
        for i, end in enumerate(borders):
            if step <= end or i == len(borders) - 1:
                p = min(1.0, (step - begin) / (end - begin)) if end > begin else 1.0
                a, b = values[i], values[i + 1]
                if self.shape == "linear":
                    return a + (b - a) * p
                return b + (a - b) / 2 * (1 + math.cos(math.pi * p))
            begin = end
        return values[-1]


@dataclass(frozen=True)
class FreezeOut(Schedule):
    """Layer i of L anneals to 0 at `t_i = t0 + (1 − t0)·i/(L − 1)` of the run, early layers first (arXiv
    1706.04983).

    The groups need their depth: build them with `layer_decay=1.0`.

    Args:
        first: Share of the run after which the first layer is done, t0.
        cubic: Cube the t_i, so that early layers stop sooner.
        scaled: Divide each layer's rate by its t_i, so that all layers move as far.
    """

    first: PositiveShare = 0.8
    cubic: bool = True
    scaled: bool = True

    def factor(self, step: int, total: float) -> float:
        """Return the factor of the last layer."""
        return self.layer_factor(step, total, layer=1, layers=2)

    def layer_factor(self, step: int, total: float, *, layer: int, layers: int) -> float:
        """Return the factor for parameters of depth `layer` (0 is the input's side) of `layers`; 0 once it is
        frozen.
        """
        check_length(self, total)
        end = self.first + (1 - self.first) * (layer / (layers - 1) if layers > 1 else 1.0)
        end = end**3 if self.cubic else end
        peak = 1 / end if self.scaled else 1.0
        p = step / (end * total)
        return 0.0 if p >= 1 else peak * (1 + math.cos(math.pi * p)) / 2


def _warm_cosine(step: int, warmup: int, total: float, start: float, minimum: float) -> float:
    if step < warmup:
        return warm(step, warmup, start)
    return _decay("cosine", _progress(step, warmup, total), minimum)


def _decay(shape: str, p: float, minimum: float) -> float:
    """Return the factor after a share `p` of a decay from 1 to `minimum`."""
    if shape == "cosine":
        return minimum + (1 - minimum) * (1 + math.cos(math.pi * p)) / 2
    if shape == "exp":
        return minimum**p
    if shape == "inv":
        return 1 / (p / minimum + (1 - p))
    return minimum + (1 - minimum) * (1 - (math.sqrt(p) if shape == "sqrt" else p))


def _progress(step: float, begin: float, end: float) -> float:
    """Return how far `step` is from `begin` to `end`, 0 to 1; an empty stretch is over at once."""
    return 1.0 if step >= end else max(0.0, (step - begin) / (end - begin))
