"""Windows over archives: a history of states and the states that follow, read when a batch is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from apps.weather.batch import States, Variables, WeatherBatch
from apps.weather.data.regions import Rectangle
from core.data.mixtures import Mixture, permuted
from core.data.randomness import key
from core.errors import UserError

if TYPE_CHECKING:
    from apps.weather.data.readers import Archive

__all__ = ["BatchMixture", "FieldSource", "ForecastWindows", "Starts"]

_HOUR = 3600


@dataclass(frozen=True, eq=False)
class FieldSource:
    """An archive as batches take it.

    Attributes:
        archive: What reads it.
        part: Its rows and columns.
        variables: What goes in.
        targets: What comes out.
        static: `(S, H, W)` static fields.
        step: Hours between states.
        sums: Accumulated variable to the records that make a step's sum.
    """

    archive: Archive
    part: Rectangle
    variables: Variables
    targets: Variables
    static: Tensor
    step: float
    sums: dict[str, int] = field(default_factory=dict)

    @cached_property
    def seconds(self) -> NDArray[np.int64]:
        """Times `(R,)` of the records, since 1970."""
        return self.archive.times.astype("datetime64[s]").astype(np.int64)

    @property
    def stride(self) -> int:
        """Seconds between states."""
        return round(self.step * _HOUR)

    def complete(self, seconds: NDArray[np.int64], offsets: Sequence[int]) -> NDArray[np.bool_]:
        """Return `(N,)` whether there is a record at each of the offsets from each time."""
        every = self.seconds
        good = np.ones(len(seconds), dtype=bool)
        for offset in offsets:
            records = np.minimum(np.searchsorted(every, seconds + offset), len(every) - 1)
            good &= every[records] == seconds + offset
        return good

    def behind(self, variables: Variables) -> list[int]:
        """Return the offsets in seconds of the records that are summed for a state."""
        most = max((self.sums.get(name, 1) for name in variables.surface), default=1)
        return [-round(number * self.archive.step * _HOUR) for number in range(most)]

    def states(self, members: NDArray[np.int64], seconds: NDArray[np.int64], variables: Variables) -> States:
        """Return states `(B, T, …)` at times `(B, T)` of ensemble members `(B,)`; sums are taken here."""
        records = np.searchsorted(self.seconds, seconds)
        summed = [name for name in variables.surface if self.sums.get(name, 1) > 1]
        if not summed:
            return self._read(members, records, variables)
        plain = [name for name in variables.surface if name not in summed]
        states = self._read(members, records, replace(variables, surface=tuple(plain)))
        surface = states.surface.new_empty(*seconds.shape, len(variables.surface), *self.part.grid.shape)
        surface[:, :, [variables.surface.index(name) for name in plain]] = states.surface
        for name in summed:
            hours = records[..., None] + np.arange(1 - self.sums[name], 1)
            parts = self._read(members, hours.reshape(len(hours), -1), Variables(surface=(name,))).surface
            total = parts.unflatten(1, hours.shape[1:]).sum(dim=2)
            surface[:, :, variables.surface.index(name)] = total[:, :, 0]
        return States(surface, states.atmospheric)

    def _read(self, members: NDArray[np.int64], records: NDArray[np.int64], variables: Variables) -> States:
        """Read records `(B, T)`; one that several samples of the batch share is read once."""
        count = len(self.archive.times)
        asked = (members[:, None] * count + records).ravel()
        unique, back = np.unique(asked, return_inverse=True)
        repeated = len(unique) < len(asked)
        numbers = unique if repeated else asked
        cuts = np.flatnonzero(np.diff(numbers // count)) + 1
        parts = [self._fields(run, count, variables) for run in np.split(numbers, cuts)]
        groups = []
        for pieces in zip(*parts, strict=True):
            values = torch.from_numpy(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))
            values = values[torch.from_numpy(back)] if repeated else values
            groups.append(values.unflatten(0, records.shape))
        return States(*groups)

    def _fields(self, numbers: NDArray[np.int64], count: int, variables: Variables) -> Any:
        member, records = int(numbers[0] // count), (numbers % count).tolist()
        which: dict[str, int] = {"member": member} if self.archive.members else {}
        return self.archive.read(records, variables, self.part.rows, self.part.columns, **which)


@dataclass(frozen=True, eq=False)
class Starts:
    """The current states that a part of a source has.

    Attributes:
        members: `(N,)` ensemble member of each window.
        seconds: `(N,)` time of its current state.
        missing: Windows that are left out since a record is missing.
        span: First second of the part, and the one after its last.
    """

    members: NDArray[np.int64]
    seconds: NDArray[np.int64]
    missing: int
    span: tuple[int, int]

    @classmethod
    def of(
        cls,
        source: FieldSource,
        span: tuple[int, int],
        members: range,
        *,
        history: int,
        horizon: int,
        stride: int = 1,
    ) -> Starts:
        """Return the windows that lie in a span of seconds, `stride` records apart in an evaluation."""
        before, after = (history - 1) * source.stride, horizon * source.stride
        past = [-number * source.stride for number in range(history)]
        future = [number * source.stride for number in range(1, horizon + 1)]
        offsets = {a + b for a in past for b in source.behind(source.variables)}
        offsets |= {a + b for a in future for b in source.behind(source.targets)}
        every, apart = source.seconds, max(round(source.archive.step * _HOUR), 1)
        first, last = max(int(every[0]), span[0]) + before, min(int(every[-1]), span[1] - 1) - after
        within = every[(every >= first) & (every <= last)]
        good = within[source.complete(within, sorted(offsets))]
        # What a regular archive would have had, from the first record of the span on.
        expected = (last - within[0]) // apart + 1 if len(within) else 0
        missing = max(int(expected) - len(good), 0)
        if stride > 1 and len(good):
            good = good[(good - good[0]) % (stride * apart) == 0]
        return cls(
            np.repeat(np.asarray(members, dtype=np.int64), len(good)),
            np.tile(good, len(members)),
            missing * len(members),
            span,
        )


class ForecastWindows(Dataset):
    """Batches of one source: `history` states, and `horizon` states that follow.

    Args:
        source: What they are read from.
        starts: Their current states.
        history: States that go in.
        horizon: States to forecast; 0 for prediction, without targets.
    """

    def __init__(self, source: FieldSource, starts: Starts, *, history: int, horizon: int) -> None:
        self.source, self.starts = source, starts
        self.history, self.horizon = history, horizon

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.starts.seconds)

    def __getitem__(self, where: tuple[int, int]) -> WeatherBatch:
        """Return the batch of one window `(epoch, index)`."""
        return self.__getitems__([where])

    def __getitems__(self, where: Sequence[tuple[int, int]]) -> WeatherBatch:
        """Return a batch of windows `(epoch, index)`."""
        rows = [index for _, index in where]
        source, history, horizon = self.source, self.history, self.horizon
        members, current = self.starts.members[rows], self.starts.seconds[rows]
        times = current[:, None] + source.stride * np.arange(1 - history, horizon + 1)
        targets = None
        if source.targets == source.variables:
            both = source.states(members, times, source.variables)
            inputs = both.at(slice(history))
            targets = both.at(slice(history, None)) if horizon else None
        else:
            inputs = source.states(members, times[:, :history], source.variables)
            if horizon:
                targets = source.states(members, times[:, history:], source.targets)
        return self._batch(inputs, targets, current)

    def reach(self, index: int) -> int:
        """Return how many states follow a window's current one without a gap, in its part of the archive."""
        return int(self._reaches[np.searchsorted(self.source.seconds, self.starts.seconds[index])])

    def later(self, indices: Sequence[int], lead: int) -> WeatherBatch:
        """Return a batch `lead` steps after the windows, without inputs (T is 0) and with one target."""
        source = self.source
        members = self.starts.members[list(indices)]
        current = self.starts.seconds[list(indices)] + lead * source.stride
        targets = source.states(members, current[:, None] + source.stride, source.targets)
        grid, variables = source.part.grid.shape, source.variables
        levels = (len(variables.atmospheric), len(variables.levels))
        inputs = States(
            torch.zeros(len(members), 0, len(variables.surface), *grid),
            torch.zeros(len(members), 0, *levels, *grid),
        )
        return self._batch(inputs, targets, current, lead)

    def _batch(
        self, inputs: States, targets: States | None, current: NDArray[np.int64], lead: int = 0
    ) -> WeatherBatch:
        source = self.source
        return WeatherBatch(
            inputs=inputs,
            static=source.static.expand(len(current), *source.static.shape),
            targets=targets,
            time=torch.from_numpy(current),
            variables=source.variables,
            target_variables=source.targets,
            grid=source.part.grid,
            step=source.step,
            rollout_step=lead,
            source=source.archive.name,
        )

    @cached_property
    def _reaches(self) -> NDArray[np.int64]:
        """Return of every record the number of states that follow it."""
        source, (first, end) = self.source, self.starts.span
        every = source.seconds
        good = source.complete(every, source.behind(source.targets)) & (every >= first) & (every < end)
        following = np.minimum(np.searchsorted(every, every + source.stride), len(every) - 1)
        follows = good[following] & (every[following] == every + source.stride)
        reaches = np.zeros(len(every), dtype=np.int64)
        for record in np.flatnonzero(follows)[::-1]:
            reaches[record] = reaches[following[record]] + 1
        return reaches


class BatchMixture(Dataset):
    """Batches of several sources with given shares, each batch from one; in its final order.

    Sources may have other variables, levels and grids. Which batch stands where is a function of seed and
    epoch; a source is walked without replacement.

    Args:
        sets: The windows of each source.
        weights: Share of each; None takes the number of its windows.
        batch: Samples in a batch of all processes together.
        seed: Of the order.
        samples: Samples of an epoch; None takes the sum.
        repeats: Passes over a source that are let pass; None for any number.
    """

    def __init__(
        self,
        sets: Sequence[ForecastWindows],
        weights: Sequence[float] | None,
        *,
        batch: int,
        seed: int,
        samples: int | None = None,
        repeats: float | None = None,
    ) -> None:
        self.sets, self.batch, self.seed = list(sets), batch, seed
        for windows in sets:
            if len(windows) < batch:
                raise UserError(
                    f"{windows.source.archive.name} has {len(windows)} training windows, fewer than the "
                    f"{batch} of a batch; make data.batch_size smaller or leave it out of data.mixture"
                )
        sizes = [len(windows) // batch for windows in sets]
        self.mixture = Mixture(
            [range(size) for size in sizes],  # type: ignore[misc]
            sizes if weights is None else weights,
            seed=seed,
            length=None if samples is None else max(samples // batch, 1),
            names=[windows.source.archive.name for windows in sets],
            limit=repeats or 1.0,
            allow_repeats=repeats is None,
        )

    def __len__(self) -> int:
        """Return the samples of an epoch, a multiple of the batch."""
        return len(self.mixture) * self.batch

    def __getitem__(self, where: tuple[int, int]) -> WeatherBatch:
        """Return the batch of one sample `(epoch, index)`."""
        return self.__getitems__([where])

    def __getitems__(self, where: Sequence[tuple[int, int]]) -> WeatherBatch:
        """Return a batch; its samples stand in one batch of all processes."""
        epoch, index = where[0]
        total = len(self.mixture)
        number = permuted(index // self.batch, total, key(self.seed, epoch, 0, "batches"))
        source, turn, part = self.mixture.locate(epoch, number)
        windows = self.sets[source]
        secret = key(self.seed, turn, source, "windows")
        return windows.__getitems__(
            [
                (turn, permuted(part * self.batch + sample % self.batch, len(windows), secret))
                for _, sample in where
            ]
        )

    def reach(self, index: int) -> int:
        """Refuse: roll-outs follow one archive."""
        raise UserError("roll-out training follows one archive; give data.path in place of data.mixture")
