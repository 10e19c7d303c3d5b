"""Packing sequences of many lengths into rows of one length, so that no step is spent on padding.

First-fit-decreasing into rows of the context's length, as in Krell et al. 2021 (arXiv 2107.02027); attention
and positions restart with each sequence. Dealing work out to ranks follows Zeng et al. 2022 (arXiv
2208.08124).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from core.data.batch import Batch
from core.data.buckets import bucket, buckets_between
from core.data.randomness import key
from core.errors import UserError, did_you_mean

__all__ = ["IGNORED", "Packed", "PackedBatch", "Piece", "balance", "cut", "pack"]

IGNORED = -100  # label of a token whose successor is not to be predicted
Longer = Literal["chunk", "truncate", "drop", "refuse"]


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
    """Put samples into as few rows of `capacity` tokens as first-fit-decreasing finds.

    The longest go first, each into the first row with room. Samples of equal length change places with the
    seed; the number of rows and the room left in them depend on the lengths alone.

    Args:
        lengths: Tokens of each sample, at least 1 and at most `capacity`.
        capacity: Tokens of a row.
        seed: Decides which of equally long samples goes where.

    Returns:
        For each row its samples' numbers, the longest first.

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


def cut(lengths: Sequence[int], capacity: int, longer: Longer = "chunk") -> list[Piece]:
    """Return the pieces to pack: whole samples, and what becomes of those longer than a row.

    Args:
        lengths: Tokens of each sample; those without are left out.
        capacity: Tokens of a row.
        longer: What happens to a sample that does not fit: `chunk` cuts it into pieces of `capacity` tokens
            and a rest, `truncate` keeps its beginning, `drop` leaves it out, `refuse` is an error.

    Raises:
        UserError: If a sample is too long and `longer` is `refuse`, or `longer` is none of these.
    """
    if longer not in (allowed := ("chunk", "truncate", "drop", "refuse")):
        hint = did_you_mean(longer, allowed)
        raise UserError(f"longer is '{longer}'; it must be one of {', '.join(allowed)}{hint}")
    pieces: list[Piece] = []
    for sample, length in enumerate(lengths):
        if length <= capacity:
            pieces += [Piece(sample, 0, length)] if length else []
        elif longer == "chunk":
            starts = range(0, length, capacity)
            stops = (min(start + capacity, length) for start in starts)
            pieces += [Piece(sample, a, b, b == length) for a, b in zip(starts, stops, strict=True)]
        elif longer == "truncate":
            pieces.append(Piece(sample, 0, capacity))
        elif longer == "refuse":
            raise UserError(
                f"sample {sample} has {length} tokens and a row {capacity}; make the row longer, or set "
                "longer to chunk, truncate or drop"
            )
    return pieces


def balance(
    lengths: Sequence[int], ranks: int, cost: Literal["tokens", "attention"] = "tokens"
) -> list[list[int]]:
    """Deal samples to ranks so that all have about the same work, and none more than its share of samples.

    The longest first, each to the rank with the least work so far that has fewer than `ceil(samples / ranks)`
    samples; ties go to the lowest rank. Where the ranks divide the samples, all get equally many.

    Args:
        lengths: Tokens of each sample.
        ranks: Number of processes.
        cost: `tokens` makes the sums of lengths equal, `attention` those of their squares.

    Returns:
        For each rank its samples' numbers.
    """
    if cost not in ("tokens", "attention"):
        raise UserError(f"cost is '{cost}'; it must be tokens or attention")
    return deal([length if cost == "tokens" else length * length for length in lengths], ranks)


def deal(costs: Sequence[float], ranks: int) -> list[list[int]]:
    """Deal things of known costs as `balance` does."""
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
        source: Data set of map style, indexed by `(epoch, index)`, of int64 tokens `(L,)`, or of pairs
            (tokens, labels) where `labels[t]` is what is predicted at t; a sample's length must not change.
        lengths: Tokens of each sample; None reads them all once.
        capacity: Tokens of a row.
        seed: Decides which of equally long sequences share a row.
        longer: What happens to a sample longer than a row; see `cut`.
        padding: Token in a row's unused end.
        cost: What is dealt evenly to the ranks: `tokens` or `attention`.

    Raises:
        UserError: If there is nothing to pack, or `cut` refuses.
    """

    def __init__(
        self,
        source: Dataset,
        lengths: Sequence[int] | None = None,
        *,
        capacity: int,
        seed: int,
        longer: Longer = "chunk",
        padding: int = 0,
        cost: Literal["tokens", "attention"] = "attention",
    ) -> None:
        if capacity < 1:
            raise UserError(f"a packed row has {capacity} tokens; it must have at least 1")
        if lengths is None:
            lengths = [len(_tokens(source[0, index])[0]) for index in range(len(source))]  # type: ignore
        self.source, self.capacity, self.seed, self.padding = source, capacity, seed, padding
        self.cost = cost
        self.pieces = cut(lengths, capacity, longer)
        if not self.pieces:
            raise UserError(
                f"of {len(lengths)} sequences none is left to pack into rows of {capacity} tokens"
            )
        self._epoch, self._rows = 0, self._packed(0)

    def __len__(self) -> int:
        """Return the number of rows in every epoch."""
        return len(self._rows)

    @property
    def padding_share(self) -> float:
        """Share of the rows' tokens that are padding."""
        return 1 - sum(map(len, self.pieces)) / (len(self) * self.capacity)

    def row(self, epoch: int, index: int) -> list[Piece]:
        """Return the pieces of one row."""
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, self._packed(epoch)
        return [self.pieces[number] for number in self._rows[index]]

    def __getitem__(self, where: tuple[int, int]) -> PackedBatch:
        """Return one row, without the batch dimension."""
        epoch, index = where
        pieces = self.row(epoch, index)
        ids = torch.full((self.capacity,), self.padding, dtype=torch.int64)
        labels = torch.full((self.capacity,), IGNORED, dtype=torch.int64)
        begin = 0
        for piece in pieces:
            tokens, own = _tokens(self.source[epoch, piece.sample])  # type: ignore[index]
            end = begin + len(piece)
            ids[begin:end] = tokens[piece.start : piece.stop]
            if own is not None:
                labels[begin:end] = own[piece.start : piece.stop]
                if piece.ends:
                    labels[end - 1] = IGNORED
            else:
                following = tokens[piece.start + 1 : piece.stop + (not piece.ends)]
                labels[begin : begin + len(following)] = following
            begin = end
        lengths = tuple(len(piece) for piece in pieces)
        lengths += (self.capacity - begin,) if begin < self.capacity else ()
        return PackedBatch(ids, labels, _places(lengths), lengths)  # type: ignore[arg-type]

    def deal(self, epoch: int, rows: Sequence[int], ranks: int) -> list[list[int]]:
        """Deal the rows of one global batch to the ranks, so that no rank waits long for another."""
        power = 1 if self.cost == "tokens" else 2
        costs = [sum(len(piece) ** power for piece in self.row(epoch, row)) for row in rows]
        return [[rows[number] for number in share] for share in deal(costs, ranks)]

    def _packed(self, epoch: int) -> list[list[int]]:
        sizes = [len(piece) for piece in self.pieces]
        return pack(sizes, self.capacity, key(self.seed, epoch, 0, "rows"))


def _tokens(sample: Any) -> tuple[Tensor, Tensor | None]:
    return sample if isinstance(sample, tuple) else (sample, None)


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
