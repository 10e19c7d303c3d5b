"""Several data sets as one, with given shares: a function of (seed, epoch, index), so it resumes exactly."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset

from core.data.batch import Batch
from core.data.randomness import key
from core.errors import UserError

__all__ = ["Mixture", "permuted", "shares"]

_ROUNDS = 6
_MASK = (1 << 64) - 1


class Mixture(Dataset):
    """A data set, indexed by `(epoch, index)`, that takes its samples from several with given shares.

    In every epoch each source gives its share of the samples. A source is walked without replacement: each of
    its samples comes once before any comes twice, across epochs too; a pass over the source has an order of
    its own. The sources are asked for `(pass, sample)`, so their own randomness differs from pass to pass.
    Nothing is stored but the sizes, so any epoch of sources of any size is reached at once.

    Args:
        sources: Data sets of map style, each indexed by `(epoch, index)`.
        weights: One positive number for each source; they need not sum to 1.
        seed: Decides the order within the passes.
        length: Samples in one epoch; None takes the sum of the sources' lengths.
        names: Names for messages and reports; None numbers the sources.
        limit: Passes over a source that `check` lets pass. Repeating text up to four times is about as good
            as new data (Muennighoff et al. 2023, arXiv 2305.16264), more is soon worth nothing.
        allow_repeats: True lets `check` pass any number.

    Raises:
        UserError: If the weights do not fit the sources, one is not a positive number, or a share is no
            sample.
    """

    def __init__(
        self,
        sources: Sequence[Dataset],
        weights: Sequence[float],
        *,
        seed: int,
        length: int | None = None,
        names: Sequence[str] | None = None,
        limit: float = 4.0,
        allow_repeats: bool = False,
    ) -> None:
        self.sources, self.seed = list(sources), seed
        self.names = [f"source {index}" for index in range(len(sources))] if names is None else list(names)
        self.limit, self.allow_repeats = limit, allow_repeats
        if len(weights) != len(self.sources) or len(self.names) != len(self.sources) or not self.sources:
            raise UserError(
                f"a mixture of {len(self.sources)} sources has {len(weights)} weights and {len(self.names)} "
                "names; give one of each for every source"
            )
        self.lengths = [len(source) for source in self.sources]  # type: ignore[arg-type]
        for name, weight, size in zip(self.names, weights, self.lengths, strict=True):
            if not (math.isfinite(weight) and weight > 0):
                raise UserError(f"the weight of {name} is {weight}; weights must be positive numbers")
            if size == 0:
                raise UserError(f"{name} of the mixture has no samples; leave it out")
        self.length = sum(self.lengths) if length is None else length
        self.shares = shares(weights, self.length)
        for name, share in zip(self.names, self.shares, strict=True):
            if share == 0:
                raise UserError(
                    f"{name} gets none of the mixture's {self.length} samples; make its weight or the length "
                    "larger"
                )
        self._ends = [sum(self.shares[: index + 1]) for index in range(len(self.shares))]
        if hasattr(type(self), "__getitems__") and not all(hasattr(s, "__getitems__") for s in self.sources):
            # The loader takes whole batches where the attribute is there, sample by sample where it is None.
            self.__getitems__ = None  # type: ignore[assignment, method-assign]

    def __len__(self) -> int:
        """Return the number of samples in one epoch."""
        return self.length

    def locate(self, epoch: int, index: int) -> tuple[int, int, int]:
        """Return (source, pass over it, its sample) for a sample of the mixture."""
        if not 0 <= index < self.length:
            raise IndexError(f"sample {index} of a mixture of {self.length}")
        source = bisect_right(self._ends, index)
        position = epoch * self.shares[source] + index - (self._ends[source] - self.shares[source])
        turn, position = divmod(position, self.lengths[source])
        return source, turn, permuted(position, self.lengths[source], key(self.seed, turn, source, "mixture"))

    def __getitem__(self, where: tuple[int, int]) -> Any:
        """Return one sample of its source."""
        source, turn, sample = self.locate(*where)
        return self.sources[source][turn, sample]  # type: ignore[index]

    def __getitems__(self, where: Sequence[tuple[int, int]]) -> Batch:
        """Return a batch, asking each source once for all its samples."""
        asked: dict[int, list[tuple[int, int]]] = {}
        rows: dict[int, list[int]] = {}
        for row, (epoch, index) in enumerate(where):
            source, turn, sample = self.locate(epoch, index)
            asked.setdefault(source, []).append((turn, sample))
            rows.setdefault(source, []).append(row)
        parts = [self.sources[source].__getitems__(pairs) for source, pairs in asked.items()]  # type: ignore
        position = {row: order for order, row in enumerate(row for part in rows.values() for row in part)}
        return type(parts[0]).concatenate(parts).select([position[row] for row in range(len(where))])

    def check(self, n_epochs: float) -> Mapping[str, float]:
        """Return how many times each source is walked through in `n_epochs` epochs of the mixture.

        Raises:
            UserError: If a source is walked more than `limit` times and `allow_repeats` is False.
        """
        passes = (n_epochs * share / size for share, size in zip(self.shares, self.lengths, strict=True))
        seen = dict(zip(self.names, passes, strict=True))
        worst = max(seen, key=lambda name: seen[name])
        if seen[worst] > self.limit and not self.allow_repeats:
            raise UserError(
                f"{worst} would be seen {seen[worst]:.1f} times in {n_epochs:g} epochs of the mixture, more "
                f"than the limit of {self.limit:g}; lower its weight, train for fewer epochs, or set "
                "allow_repeats to true"
            )
        return seen


def shares(weights: Sequence[float], total: int) -> list[int]:
    """Share `total` out by weights (method of largest remainders); the result sums to `total` exactly."""
    scale = math.fsum(weights)
    exact = [weight / scale * total for weight in weights]
    counts = [math.floor(value) for value in exact]
    by_remainder = sorted(range(len(weights)), key=lambda index: (counts[index] - exact[index], index))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts


def permuted(position: int, length: int, secret: int) -> int:
    """Return where a pseudo-random permutation of `range(length)` sends `place`.

    A Feistel network over the smallest even number of bits that holds `length`, walked until it falls inside
    the range (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"): no table, so that a source of
    any size costs the same few microseconds and no memory in any worker.
    """
    if not 0 <= position < length:
        raise IndexError(f"place {position} is outside range({length})")
    half = max(1, ((length - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = position >> half, position & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ (_mixed(right ^ (turn << 48) ^ secret) & mask)
        position = left << half | right
        if position < length:
            return position


def _mixed(value: int) -> int:
    """Scramble 64 bits (the finaliser of SplitMix64, Steele et al. 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK
    return value ^ value >> 31
