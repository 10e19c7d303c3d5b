"""Order of the samples: a function of (seed, epoch), cut so that N processes see the batches of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch.utils.data import BatchSampler, Sampler

from core.data.randomness import generator

__all__ = ["EvaluationBatches", "EvaluationShare", "ResumableSampler"]


class ResumableSampler(Sampler[tuple[int, int]]):
    """Yield `(epoch, index)` for one rank of a training run that can go on at any sample.

    The global list of an epoch is cut into global batches of `batch_size * world`; rank r takes the r-th
    contiguous slice of each. The ranks together therefore see exactly the batches of one process with the
    global batch size. The last, incomplete global batch is shared equally too: up to `world - 1` samples that
    cannot be are left out, others in each epoch, so that all ranks yield equally many batches of equal size
    (a rank with none would hang the others, one with fewer would weigh its samples more).

    Args:
        length: Number of samples of the data set.
        seed: The order of epoch e is a function of (seed, e), the same on all ranks.
        batch_size: Samples of one rank in one batch.
        shuffle: False keeps the order of the data set in every epoch.
        rank: This process's place among the data-parallel ones.
        world: Number of data-parallel processes.
        start: Global samples of the first epoch that are already done.
        drop_last: Leave the incomplete last global batch out altogether.
        deal: Maps (epoch, indices of a global batch, world) to each rank's indices, equally many; None cuts
            contiguous slices.

    Raises:
        ValueError: If a size is below 1, or rank or start lies outside its range.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int,
        batch_size: int,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        drop_last: bool = False,
        deal: Callable[[int, list[int], int], list[list[int]]] | None = None,
    ) -> None:
        if batch_size < 1 or world < 1 or length < 0:
            raise ValueError(f"length {length}, batch_size {batch_size}, world {world}: must be positive")
        if not 0 <= rank < world:
            raise ValueError(f"rank is {rank}; with {world} processes it must be 0 to {world - 1}")
        if not 0 <= start <= length:
            raise ValueError(f"start is {start}; for {length} samples it must be 0 to {length}")
        self.length, self.seed, self.batch_size, self.shuffle = length, seed, batch_size, shuffle
        self.rank, self.world, self.start, self.drop_last = rank, world, start, drop_last
        self.epoch, self.deal = 0, deal

    @property
    def global_batch(self) -> int:
        """Samples in one batch of all ranks together."""
        return self.batch_size * self.world

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of another epoch (the present one keeps its start); Lightning calls it."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def order(self, epoch: int) -> torch.Tensor:
        """Return the global order of an epoch, whole numbers `(length,)`."""
        if not self.shuffle:
            return torch.arange(self.length)
        # half the memory: ten million windows are ten million numbers
        dtype = torch.int32 if self.length < 2**31 else torch.int64
        return torch.randperm(self.length, generator=generator(self.seed, epoch, 0, "order"), dtype=dtype)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield this rank's `(epoch, index)` from `start` to the end of the epoch."""
        # A loader asks for the iterator before Lightning sets the epoch: nothing is read before the first
        # sample.
        epoch, order = self.epoch, self.order(self.epoch)
        for first in range(self.start, self.length, self.global_batch):
            share = self._share(min(self.global_batch, self.length - first))
            if self.deal is None or self.world == 1:
                begin = first + self.rank * share
                indices = order[begin : begin + share].tolist()
            else:
                whole = order[first : first + share * self.world].tolist()
                indices = self.deal(epoch, whole, self.world)[self.rank]
            for index in indices:
                yield epoch, index

    def __len__(self) -> int:
        """Return this rank's samples in a whole epoch, whatever `start` is, as Lightning counts batches."""
        full, rest = divmod(self.length, self.global_batch)
        return full * self.batch_size + self._share(rest)

    def _share(self, samples: int) -> int:
        if samples < self.global_batch and self.drop_last:
            return 0
        return samples // self.world


class EvaluationShare(Sampler[tuple[int, int]]):
    """Yield `(0, index)` of one rank's contiguous part of a data set: every sample once, none twice.

    `rank` is this process's place among the `world` data-parallel ones.
    """

    def __init__(self, length: int, *, rank: int = 0, world: int = 1) -> None:
        self.length, self.rank, self.world = length, rank, world
        self.first, self.last = length * rank // world, length * (rank + 1) // world

    @property
    def largest(self) -> int:
        """The number of samples of the rank that has most."""
        return -(-self.length // self.world)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield the pairs in the order of the data set."""
        return ((0, index) for index in range(self.first, self.last))

    def __len__(self) -> int:
        """Return the number of samples of this rank."""
        return self.last - self.first


class EvaluationBatches(BatchSampler):
    """Batches of an `EvaluationShare`, equally many on all ranks.

    Sharded networks gather their weights in every forward pass, so a rank with a batch fewer would hang the
    others: where a share ends one sample before the next batch would begin, its last batch is split in two.
    Only where that one batch holds a single sample (or a rank has none) do the numbers differ.

    Args:
        sampler: Not used: Lightning builds the object anew for prediction and puts a sampler of its own here.
        batch_size: Samples of one rank in one batch.
        drop_last: Not used, for the same reason; the last batch is always kept.
        share: The part of the data set to cut into batches.
    """

    def __init__(
        self, sampler: object, batch_size: int, drop_last: bool = False, *, share: EvaluationShare
    ) -> None:
        super().__init__(share, batch_size, drop_last=False)  # type: ignore[arg-type]
        self.share = share

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:  # type: ignore[override]
        """Yield lists of `(0, index)`."""
        share = self.share
        cuts = [*range(share.first, share.last, self.batch_size), share.last]
        if 0 < len(cuts) - 1 < len(self):
            cuts.insert(-1, share.last - 1)
        for first, end in pairwise(cuts):  # a list of a million pairs would be 100 MB
            yield [(0, index) for index in range(first, end)]

    def __len__(self) -> int:
        """Return the number of batches."""
        batches = -(-len(self.share) // self.batch_size)
        wanted = -(-self.share.largest // self.batch_size)
        return wanted if wanted == batches or (self.batch_size > 1 and batches > 0) else batches
