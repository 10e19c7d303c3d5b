"""Packing sequences of many lengths into rows of one length, so that no step is spent on padding.

First-fit-decreasing into rows of the context's length, as in Krell et al. 2021 (arXiv 2107.02027); attention
and positions restart with each sequence. Dealing work out to ranks follows Zeng et al. 2022 (arXiv
2208.08124).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from core.data.batch import Batch
from core.data.randomness import key
from core.errors import UserError

__all__ = ["IGNORED", "Packed", "PackedBatch", "Piece", "bucket", "buckets_between", "cut", "deal", "pack"]

IGNORED = -100  # label of a token whose successor is not to be predicted


@dataclass(frozen=True)
class Piece:
    """Tokens `start` to `stop` (exclusive) of one sample; `ends` unless a later piece goes on with it."""

    sample: int
    start: int
    stop: int
    ends: bool = True

    def __len__(self) -> int:
        """Return the number of tokens."""
        return self.stop - self.start


def pack(lengths: Sequence[int], capacity: int, seed: int = 0) -> list[list[int]]:
    """Put samples of 1 to `capacity` tokens into as few rows as first-fit-decreasing finds; return for each
    row its samples' numbers, the longest first.

    The longest go first, each into the first row with room. Samples of equal length change places with the
    seed; the number of rows and the room left in them depend on the lengths alone.

    Raises:
        UserError: If a sample has no tokens or does not fit into a row.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if capacity < 1 or (sizes.size and not 1 <= int(sizes.min()) <= int(sizes.max()) <= capacity):
        found = f"{sizes.min()} to {sizes.max()}" if sizes.size else "none"
        raise UserError(f"lengths are {found}; to be packed they must be 1 to the row's {capacity} tokens")
    draw = np.random.Generator(np.random.Philox(key(seed, 0, 0, "packing"))).permutation(sizes.size)
    order = draw[np.argsort(-sizes[draw], kind="stable")]
    room = np.empty(0, dtype=np.int64)
    row_of = np.empty(sizes.size, dtype=np.int64)
    # Equal lengths at once: first-fit fills one row after the other with them.
    kinds, firsts = np.unique(-sizes[order], return_index=True)
    for size, first, last in zip(-kinds, firsts, [*firsts[1:], sizes.size], strict=True):
        count = last - first
        fits = np.minimum(np.cumsum(room // size), count)
        fits = np.diff(fits, prepend=0)
        left, each = count - int(fits.sum()), capacity // size
        new = np.full(-(-left // each), each, dtype=np.int64)
        if left % each:
            new[-1] = left % each
        taken = np.concatenate([fits, new])
        row_of[first:last] = np.repeat(np.arange(taken.size), taken)
        room = np.concatenate([room, np.full(new.size, capacity, dtype=np.int64)]) - taken * size
    rows: list[list[int]] = [[] for _ in range(room.size)]
    for sample, row in zip(order.tolist(), row_of.tolist(), strict=True):
        rows[row].append(sample)
    return rows


def cut(lengths: Sequence[int], capacity: int) -> list[Piece]:
    """Return the pieces to pack: whole samples, and of longer ones than a row
    pieces of `capacity` tokens and a rest; samples without tokens are left out.
    """
    return [
        Piece(sample, start, min(start + capacity, length), start + capacity >= length)
        for sample, length in enumerate(lengths)
        for start in range(0, length, capacity)
    ]


def deal(costs: Sequence[float], ranks: int) -> list[list[int]]:
    """Deal samples to ranks by their work and return each rank's samples' numbers: all have about the same
    work, and none more than its share of samples.

    The dearest go first, each to the rank with the least work so far that has fewer than
    `ceil(samples / ranks)` samples; ties go to the lowest rank. Where the ranks divide the samples, all get
    equally many.
    """
    if ranks < 1:
        raise UserError(f"work is dealt to {ranks} ranks; there must be at least 1")
    limit = -(-len(costs) // ranks)
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    work = [0.0] * ranks
    for sample in sorted(range(len(costs)), key=lambda number: (-costs[number], number)):
        open_ranks = (rank for rank in range(ranks) if len(dealt[rank]) < limit)
        rank = min(open_ranks, key=lambda number: (work[number], number))
        dealt[rank].append(sample)
        work[rank] += costs[sample]
    return dealt


@dataclass(frozen=True, eq=False)
class PackedBatch(Batch):
    """Rows of packed sequences; a row's unused end is one more sequence, which nothing is predicted in.

    Attributes:
        ids: `(B, S)` int64 tokens.
        labels: `(B, S)` int64: the token that follows in the same sequence, or `IGNORED`.
        positions: `(B, S)` int64, from 0 in each sequence.
        lengths: For each row the lengths of its sequences, which sum to S.
    """

    ids: Tensor
    labels: Tensor
    positions: Tensor
    lengths: tuple[tuple[int, ...], ...]

    @cached_property
    def cu_seqlens(self) -> Tensor:
        """`(N + 1,)` int32: where each sequence begins once the rows stand one after another, and B·S.

        N is rounded up to one of a few numbers, with sequences of no tokens at the end, so that a device that
        compiles a program for each shape sees few.
        """
        every = [length for row in self.lengths for length in row]
        wanted = bucket(len(every), buckets_between(8, max(8, self.ids.numel()), multiple=8))
        ends = np.cumsum([0, *every, *[0] * (wanted - len(every))], dtype=np.int32)
        return torch.from_numpy(ends).to(self.ids.device, non_blocking=True)

    @property
    def max_seqlen(self) -> int:
        """Length of the longest sequence."""
        return max(length for row in self.lengths for length in row)

    @property
    def tokens(self) -> int:
        """Number of tokens, those of unused ends too, for the count of tokens per second."""
        return self.ids.numel()

    @property
    def row_length(self) -> int:
        """Tokens of the row that a network is given: all rows one after another."""
        return self.ids.numel()

    @property
    def targets(self) -> int:
        """Number of tokens that are predicted."""
        return int((self.labels != IGNORED).sum())

    def arguments(self) -> dict[str, Any]:
        """Return what a decoder takes for the rows flattened to one: positions, bounds, longest length."""
        return {
            "positions": self.positions.reshape(1, -1),
            "cu_seqlens": self.cu_seqlens,
            "max_seqlen": self.max_seqlen,
        }

    def truncated(self, length: int) -> PackedBatch:
        """Return the first `length` tokens of every row; a sequence cut there predicts nothing at its end."""
        return self._columns(0, length)

    def reshaped(self, length: int) -> PackedBatch:
        """Return the rows cut into as many of `length` tokens as fit; a rest is left out.

        A sequence that is cut goes on in the next row as one of its own.
        """
        starts = range(0, self.ids.shape[1] - length + 1, length)
        parts = [self._columns(start, start + length) for start in starts]
        count, rows = len(parts), len(self)
        whole = PackedBatch.concatenate(parts)  # piece by piece; wanted row by row
        return whole.select([piece * rows + row for row in range(rows) for piece in range(count)])

    def _columns(self, first: int, last: int) -> PackedBatch:
        kept = tuple(_within(row, first, last) for row in self.lengths)
        ids, labels = self.ids[:, first:last], self.labels[:, first:last].clone()
        if last < self.ids.shape[1]:
            labels[:, -1] = IGNORED
        begins = torch.cat([_places(row) for row in kept]).view(len(kept), -1)
        return PackedBatch(ids, labels, begins.to(ids.device), kept)


class Packed(Dataset):
    """Rows of packed sequences from a data set of sequences; the rows are the samples.

    The rows of an epoch are a function of (seed, epoch), and there are equally many in each, so a sampler
    resumes at any row.

    Args:
        source: Data set of map style, indexed by `(epoch, index)`, of int64 tokens `(L,)`; a sample's length
            must not change.
        lengths: Tokens of each sample.
        capacity: Tokens of a row.
        seed: Decides which of equally long sequences share a row.

    Raises:
        UserError: If there is nothing to pack.
    """

    def __init__(self, source: Dataset, lengths: Sequence[int], *, capacity: int, seed: int) -> None:
        if capacity < 1:
            raise UserError(f"a packed row has {capacity} tokens; it must have at least 1")
        self.source, self.capacity, self.seed = source, capacity, seed
        self.pieces = cut(lengths, capacity)
        if not self.pieces:
            raise UserError(
                f"of {len(lengths)} sequences none is left to pack into rows of {capacity} tokens"
            )
        self._epoch, self._rows = 0, self._packed(0)

    def __len__(self) -> int:
        """Return the number of rows in every epoch."""
        return len(self._rows)

    def row(self, epoch: int, index: int) -> list[Piece]:
        """Return the pieces of one row."""
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, self._packed(epoch)
        return [self.pieces[piece] for piece in self._rows[index]]

    def __getitem__(self, where: tuple[int, int]) -> PackedBatch:
        """Return one row, without the batch dimension."""
        epoch, index = where
        pieces = self.row(epoch, index)
        ids = torch.zeros(self.capacity, dtype=torch.int64)
        labels = torch.full((self.capacity,), IGNORED, dtype=torch.int64)
        begin = 0
        for piece in pieces:
            tokens = self.source[epoch, piece.sample]  # type: ignore[index]
            ids[begin : begin + len(piece)] = tokens[piece.start : piece.stop]
            following = tokens[piece.start + 1 : piece.stop + (not piece.ends)]
            labels[begin : begin + len(following)] = following
            begin += len(piece)
        lengths = tuple(len(piece) for piece in pieces)
        lengths += (self.capacity - begin,) if begin < self.capacity else ()
        return PackedBatch(ids, labels, _places(lengths), lengths)  # type: ignore[arg-type]

    def deal(self, epoch: int, rows: Sequence[int], ranks: int) -> list[list[int]]:
        """Deal the rows of one global batch to the ranks by their attention, so that none waits long."""
        costs = [sum(len(piece) ** 2 for piece in self.row(epoch, row)) for row in rows]
        return [[rows[index] for index in share] for share in deal(costs, ranks)]

    def _packed(self, epoch: int) -> list[list[int]]:
        sizes = [len(piece) for piece in self.pieces]
        return pack(sizes, self.capacity, key(self.seed, epoch, 0, "rows"))


def _places(lengths: Sequence[int]) -> Tensor:
    """Return each token's place in its sequence, whole numbers from 0."""
    return torch.cat([torch.arange(length) for length in lengths])


def _within(lengths: Sequence[int], first: int, last: int) -> tuple[int, ...]:
    """Return the lengths of what lies between two places of a row."""
    kept, begin = [], 0
    for length in lengths:
        inside = min(begin + length, last) - max(begin, first)
        if inside > 0:
            kept.append(inside)
        begin += length
    return tuple(kept)


def buckets_between(smallest: int, largest: int, *, multiple: int = 64, growth: float = 1.5) -> list[int]:
    """Return lengths from `smallest` to `largest`, each a multiple and at most `growth` times the one before.

    With growth 1.5 padding is a third of a batch at worst, and eight lengths reach from 64 to 1024.

    Raises:
        ValueError: If a length or the multiple is below 1, or growth is not above 1.
    """
    if smallest < 1 or largest < smallest or multiple < 1 or growth <= 1:
        raise ValueError(f"no buckets from {smallest} to {largest} by {multiple}, growing {growth}")
    sizes = [-(-smallest // multiple) * multiple]
    while sizes[-1] < largest:
        sizes.append(max(int(sizes[-1] * growth) // multiple * multiple, sizes[-1] + multiple))
    sizes[-1] = max(-(-largest // multiple) * multiple, sizes[0])
    return sizes


def bucket(length: int, sizes: Sequence[int]) -> int:
    """Return the smallest of the rising `sizes` that holds `length`.

    Raises:
        ValueError: If none does.
    """
    index = bisect_left(sizes, length)
    if index == len(sizes):
        raise ValueError(f"length {length} is above the largest bucket, {sizes[-1] if sizes else 'none'}")
    return sizes[index]
