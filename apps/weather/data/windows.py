"""Windows over archives: a history of states and the states that follow, read when a batch is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

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

__all__ = ["BatchMixture", "FieldSource", "ForecastWindows"]

Seconds = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FieldSource:
    """An archive as batches take it.

    Attributes:
        archive: What reads it.
        area: Its rows and columns.
        variables: What goes in.
        targets: What comes out.
        static: `(S, H, W)` static fields.
        step: Hours between states.
        parts: Part to its first second, the one after its last, and its ensemble members.
        sums: Accumulated variable to the records that make a step's sum.
    """

    archive: Archive
    area: Rectangle
    variables: Variables
    targets: Variables
    static: Tensor
    step: float
    parts: dict[str, tuple[tuple[int, int], range]] = field(default_factory=dict)
    sums: dict[str, int] = field(default_factory=dict)

    @cached_property
    def seconds(self) -> Seconds:
        """Times `(R,)` of the records, since 1970."""
        return self.archive.times.astype("datetime64[s]").astype(np.int64)

    @property
    def stride(self) -> int:
        """Seconds between states."""
        return round(self.step * 3600)

    def behind(self, variables: Variables) -> Seconds:
        """Return the offsets, from a state's time, of the records that are read for it; the last is 0."""
        most = max((self.sums.get(name, 1) for name in variables.surface), default=1)
        return np.arange(1 - most, 1) * round(self.archive.step * 3600)

    def complete(self, seconds: Seconds, offsets: Seconds) -> NDArray[np.bool_]:
        """Return `(N,)` whether there is a record at each of the offsets from each time."""
        good = np.ones(len(seconds), dtype=bool)
        for offset in offsets:  # one by one, for there may be a million times
            good &= np.isin(seconds + offset, self.seconds, assume_unique=True)
        return good

    def training_times(self, variables: Variables) -> list[tuple[int, Seconds]]:
        """Return each training member and the times of the training part whose sums are complete."""
        (first, end), members = self.parts["train"]
        times = self.seconds[(self.seconds >= first) & (self.seconds < end)]
        return [(member, times[self.complete(times, self.behind(variables))]) for member in members]

    @cached_property
    def _with_gaps(self) -> Archive:
        """The archive for targets, which may be unknown (NaN) at places, such as the sea's soil."""
        return replace(self.archive, fill=self.archive.fill or "keep")

    def states(self, members: NDArray[np.int64], seconds: Seconds, variables: Variables) -> States:
        """Return states `(B, T, …)` at times `(B, T)` of ensemble members `(B,)`; sums are taken here."""
        summed = [name for name in variables.surface if self.sums.get(name, 1) > 1]
        if not summed:
            return self._read(members, seconds, variables)
        plain = [name for name in variables.surface if name not in summed]
        states = self._read(members, seconds, replace(variables, surface=tuple(plain)))
        columns = dict(zip(plain, states.surface.unbind(2), strict=True))
        for name in summed:
            hours = seconds[..., None] + self.behind(Variables((name,)))
            parts = self._read(members, hours.reshape(len(hours), -1), Variables((name,))).surface
            columns[name] = parts[:, :, 0].unflatten(1, hours.shape[1:]).sum(dim=2)
        return replace(states, surface=torch.stack([columns[name] for name in variables.surface], dim=2))

    def _read(self, members: NDArray[np.int64], seconds: Seconds, variables: Variables) -> States:
        """Read times `(B, T)`; one that several samples of the batch share is read once."""
        first, span = int(self.seconds[0]), int(self.seconds[-1] - self.seconds[0]) + 1
        asked = (members[:, None] * span + seconds - first).ravel()
        unique, back = np.unique(asked, return_inverse=True)
        repeated = len(unique) < len(asked)
        numbers = unique if repeated else asked
        inputs = set(variables.names) <= set(self.variables.names)
        archive, parts = self.archive if inputs else self._with_gaps, []
        for run in np.split(numbers, np.flatnonzero(np.diff(numbers // span)) + 1):  # of one member each
            which = {"member": int(run[0] // span)} if self.archive.members else {}
            times = (run % span + first).tolist()
            parts.append(archive.read(times, variables, self.area.rows, self.area.columns, **which))
        groups = []
        for pieces in zip(*parts, strict=True):
            values = torch.from_numpy(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))
            groups.append((values[back] if repeated else values).unflatten(0, seconds.shape))
        return States(*groups)


class ForecastWindows(Dataset):
    """Batches of one part of a source: `history` states, and `horizon` states that follow.

    Args:
        source: What they are read from.
        part: `train`, `val` or `test`; None takes all times and members.
        history: States that go in.
        horizon: States to forecast; 0 gives no targets.
        stride: Records between the current states.

    Attributes:
        missing: Windows that a regular archive would have too.
    """

    def __init__(
        self, source: FieldSource, part: str | None, *, history: int, horizon: int, stride: int = 1
    ) -> None:
        self.source, self.history, self.horizon = source, history, horizon
        every = source.seconds
        whole = (int(every[0]), int(every[-1]) + 1), range(max(source.archive.members, 1))
        self.span, members = whole if part is None else source.parts[part]
        past, future = np.arange(1 - history, 1), np.arange(1, horizon + 1)
        needed = [(past * source.stride)[:, None] + source.behind(source.variables)]
        needed += [(future * source.stride)[:, None] + source.behind(source.targets)]
        first = max(whole[0][0], self.span[0]) + (history - 1) * source.stride
        last = min(whole[0][1], self.span[1]) - 1 - horizon * source.stride
        within = every[(every >= first) & (every <= last)]
        current = within[source.complete(within, np.unique(np.concatenate([x.ravel() for x in needed])))]
        apart = max(round(source.archive.step * 3600), 1)
        regular = (last - int(within[0])) // apart + 1 if len(within) else 0
        self.missing = max(regular - len(current), 0) * len(members)
        if stride > 1 and len(current):
            current = current[(current - current[0]) % (stride * apart) == 0]
        self.members = np.repeat(np.asarray(members, dtype=np.int64), len(current))
        self.current = np.tile(current, len(members))

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.current)

    def __getitem__(self, where: tuple[int, int]) -> WeatherBatch:
        """Return the batch of one window `(epoch, index)`."""
        return self.__getitems__([where])

    def __getitems__(self, where: Sequence[tuple[int, int]]) -> WeatherBatch:
        """Return a batch of windows `(epoch, index)`."""
        rows = [index for _, index in where]
        source, history = self.source, self.history
        members, current, targets = self.members[rows], self.current[rows], None
        times = current[:, None] + source.stride * np.arange(1 - history, self.horizon + 1)
        if source.targets == source.variables:
            both = source.states(members, times, source.variables)
            inputs, targets = both.at(slice(history)), both.at(slice(history, None)) if self.horizon else None
        else:
            inputs = source.states(members, times[:, :history], source.variables)
            if self.horizon:
                targets = source.states(members, times[:, history:], source.targets)
        return self._batch(inputs, targets, current)

    def reach(self, index: int) -> int:
        """Return how many states follow a window's current one without a gap, in its part of the archive."""
        return int(self._reaches[np.searchsorted(self.source.seconds, self.current[index])])

    def later(self, indices: Sequence[int], lead: int) -> WeatherBatch:
        """Return a batch `lead` steps after the windows, without inputs (T is 0) and with one target."""
        source, rows = self.source, list(indices)
        current = self.current[rows] + lead * source.stride
        targets = source.states(self.members[rows], current[:, None] + source.stride, source.targets)
        variables, grid = source.variables, source.area.grid.shape
        levels = (len(variables.atmospheric), len(variables.levels))
        inputs = [torch.zeros(len(rows), 0, *kind, *grid) for kind in ((len(variables.surface),), levels)]
        return self._batch(States(*inputs), targets, current, lead)

    def _batch(self, inputs: States, targets: States | None, current: Seconds, lead: int = 0) -> WeatherBatch:
        source = self.source
        return WeatherBatch(
            inputs=inputs,
            static=source.static.expand(len(current), *source.static.shape),
            targets=targets,
            time=torch.from_numpy(current),
            variables=source.variables,
            target_variables=source.targets,
            grid=source.area.grid,
            step=source.step,
            rollout_step=lead,
            source=source.archive.name,
        )

    @cached_property
    def _reaches(self) -> NDArray[np.int64]:
        """Return of every record the number of states that follow it."""
        source, every = self.source, self.source.seconds
        good = source.complete(every, source.behind(source.targets)) & (every < self.span[1])
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
        sizes = [len(windows) // batch for windows in sets]
        names = [windows.source.archive.name for windows in sets]
        if 0 in sizes:
            raise UserError(
                f"{names[sizes.index(0)]} has fewer training windows than the {batch} of a batch, which is "
                "of one source; make data.batch_size smaller"
            )
        self.mixture = Mixture(
            [range(size) for size in sizes],  # type: ignore[misc]
            sizes if weights is None else weights,
            seed=seed,
            length=None if samples is None else max(samples // batch, 1),
            names=names,
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
        """Return a batch of samples that stand in one batch of all processes."""
        epoch, index = where[0]
        secret = key(self.seed, epoch, 0, "batches")
        source, turn, part = self.mixture.locate(
            epoch, permuted(index // self.batch, len(self.mixture), secret)
        )
        windows, secret = self.sets[source], key(self.seed, turn, source, "windows")
        places = [part * self.batch + sample % self.batch for _, sample in where]
        return windows.__getitems__([(turn, permuted(place, len(windows), secret)) for place in places])

    def reach(self, index: int) -> int:
        """Refuse: roll-outs follow one archive."""
        raise UserError("roll-out training follows one archive; give data.path in place of data.mixture")
