"""The replay buffer of roll-out training (Bodnar et al. 2025): states that are kept, drawn and added.

What a step does is a function of the seed and of the step alone, never of what the network predicts. So the
loader works the plan out ahead and reads the truth that a step needs, in workers too, and a resumed run takes
up the plan at its step.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import BatchSampler, Dataset

from core.data.batch import Batch
from core.data.mixtures import permuted
from core.data.randomness import generator, key
from core.data.sampler import ResumableSampler
from core.errors import UserError

__all__ = ["Replay", "ReplayBatch", "ReplayBatches", "ReplaySet", "ReplayStep"]


@dataclass(frozen=True)
class Replay:
    """Settings of the buffer (Bodnar et al. 2025, methods: roll-out fine-tuning).

    Attributes:
        capacity: Entries that a process keeps; each is a batch of states. Beyond it the oldest is dropped.
        refresh: Steps from one fresh initial condition to the next.
        leads: Training step to the longest lead time in hours from there on.

    Raises:
        UserError: If a value is out of its range.
    """

    capacity: int = 200
    refresh: int = 10
    leads: Mapping[int, float] = field(default_factory=lambda: {0: 96.0, 5000: 240.0})

    def __post_init__(self) -> None:
        for name in ("capacity", "refresh"):
            if getattr(self, name) < 1:
                raise UserError(f"model.replay.{name} is {getattr(self, name)}; it must be at least 1")
        if 0 not in self.leads or min(self.leads) < 0 or min(self.leads.values()) <= 0:
            raise UserError("model.replay.leads maps steps, the first of which is 0, to hours above 0")

    def longest(self, step: int) -> float:
        """Return the longest lead time in hours at a training step."""
        return self.leads[max(start for start in self.leads if start <= step)]


@dataclass(frozen=True)
class ReplayStep:
    """What happens at one training step.

    Attributes:
        fresh: Number of the entry that is put in before the draw, and the samples it starts from; or None.
        drawn: Number of the entry that is advanced.
        samples: Where it started.
        lead: Steps of the network it is away from there.
        added: Number that the prediction has as an entry, or None where it is not kept.
        dropped: Entries that go afterwards.
    """

    fresh: tuple[int, tuple[tuple[int, int], ...]] | None
    drawn: int
    samples: tuple[tuple[int, int], ...]
    lead: int
    added: int | None
    dropped: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ReplayBatch(Batch):
    """What a training step gets from the loader.

    Attributes:
        truth: What follows the drawn entry, without its inputs.
        fresh: The new initial condition, or None.
        step: The plan.
    """

    truth: Any
    fresh: Any | None
    step: ReplayStep


class ReplayBatches(BatchSampler):
    """The plan of one process, step by step; the data are walked over without regard to epochs.

    Args:
        sampler: Gives seed, epoch, sizes and where a resumed run begins.
        batch_size: Not used; Lightning may build the object anew with these names.
        drop_last: Not used, for the same reason.
        replay: The settings.
        reach: Sample to the number of states that follow it.
        hours: Of a step of the network.
    """

    def __init__(
        self,
        sampler: ResumableSampler,
        batch_size: int,
        drop_last: bool = False,
        *,
        replay: Replay,
        reach: Callable[[int], int],
        hours: float,
    ) -> None:
        super().__init__(sampler, batch_size, drop_last)  # type: ignore[arg-type]
        self.sampler: ResumableSampler = sampler  # type: ignore[assignment]
        self.replay, self.reach, self.hours = replay, reach, hours

    def __len__(self) -> int:
        """Return the steps of an epoch: as many as the data have batches."""
        return max(1, len(self.sampler) // self.sampler.batch_size)

    def __iter__(self) -> Iterator[list[ReplayStep]]:  # type: ignore[override]
        """Yield the steps of the epoch from where the run stands, each in a list of its own."""
        sampler = self.sampler
        first = sampler.epoch * len(self) + sampler.start // sampler.global_batch
        last = (sampler.epoch + 1) * len(self)
        for number, step in enumerate(self._steps(last)):
            if number >= first:
                yield [step]

    def _steps(self, count: int) -> Iterator[ReplayStep]:
        """Yield the plan from the run's first step, for what is in the buffer depends on all before."""
        entries: OrderedDict[int, tuple[tuple[tuple[int, int], ...], int, int]] = OrderedDict()
        serial = passed = 0
        for step in range(count):
            fresh = None
            if step % self.replay.refresh == 0 or not entries:
                samples = self._samples(passed)
                passed, fresh = passed + 1, (serial, samples)
                entries[serial] = (samples, 0, min(self.reach(index) for _, index in samples))
                serial += 1
            draw = generator(self.sampler.seed, self.sampler.rank, step, "replay")
            numbers = list(entries)
            drawn = numbers[int(torch.randint(len(numbers), (), generator=draw))]
            samples, lead, reach = entries[drawn]
            longest = min(reach, int(self.replay.longest(step) // self.hours))
            added = None
            if lead + 2 <= longest:
                added, serial = serial, serial + 1
                entries[added] = (samples, lead + 1, reach)
            dropped = tuple(list(entries)[: max(0, len(entries) - self.replay.capacity)])
            for number in dropped:
                del entries[number]
            yield ReplayStep(fresh, drawn, samples, lead, added, dropped)

    def _samples(self, passed: int) -> tuple[tuple[int, int], ...]:
        """Return `(pass over the data, index)` of this process's share of the next fresh batch."""
        sampler = self.sampler
        begin = passed * sampler.global_batch + sampler.rank * sampler.batch_size
        chosen = []
        for position in range(begin, begin + sampler.batch_size):
            turn, place = divmod(position, sampler.length)
            chosen.append((turn, permuted(place, sampler.length, key(sampler.seed, turn, 0, "fresh"))))
        return tuple(chosen)


class ReplaySet(Dataset):
    """Gives each step's truth and fresh states.

    Args:
        source: A training set with `later(indices, lead)`, batches of the states that follow, and `reach`.
    """

    def __init__(self, source: Any) -> None:
        self.source = source

    def __getitems__(self, steps: Sequence[ReplayStep]) -> ReplayBatch:
        """Return the one batch of a step."""
        (step,) = steps
        fresh = None if step.fresh is None else self.source.__getitems__(step.fresh[1])
        indices = [index for _, index in step.samples]
        return ReplayBatch(self.source.later(indices, step.lead), fresh, step)
