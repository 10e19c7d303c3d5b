"""Packing loses no token, crosses no sequence, and is the same for one (seed, epoch)."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset

from core.backbones.llama import llama_tiny
from core.data.packing import IGNORED, Packed, PackedBatch, bucket, buckets_between, cut, deal, pack
from core.data.sampler import ResumableSampler
from core.errors import UserError
from core.objectives.next_token import next_token

LENGTHS = st.lists(st.integers(1, 32), min_size=1, max_size=80)


class Sentences(Dataset):
    """Sequence n is n * 100, n * 100 + 1, …"""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, where: tuple[int, int]) -> Tensor:
        return torch.arange(self.lengths[where[1]]) + 100 * where[1]


def rows_of(lengths: list[int], capacity: int, seed: int) -> Packed:
    return Packed(Sentences(lengths), lengths, capacity=capacity, seed=seed)


def plain_first_fit(lengths: list[int], capacity: int) -> list[int]:
    room: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row, free in enumerate(room) if free >= length]
        if not fitting:
            room.append(capacity)
        room[fitting[0] if fitting else -1] -= length
    return room


@settings(deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 5), spare=st.integers(0, 40))
def test_packing_is_first_fit_decreasing_and_each_sample_comes_once(
    lengths: list[int], seed: int, spare: int
) -> None:
    capacity = max(lengths) + spare
    rows = pack(lengths, capacity, seed)
    assert sorted(sample for row in rows for sample in row) == list(range(len(lengths)))
    assert [capacity - sum(lengths[s] for s in row) for row in rows] == plain_first_fit(lengths, capacity)
    assert rows == pack(lengths, capacity, seed)


def test_seeds_exchange_samples_of_equal_length() -> None:
    assert len({str(pack([5] * 20, 20, seed)) for seed in range(5)}) > 1


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 100), min_size=1, max_size=20))
def test_every_successor_is_predicted_once_and_only_from_its_own_sequence(
    lengths: list[int],
) -> None:
    rows = rows_of(lengths, 24, 1)
    batch = PackedBatch.stack([rows[3, row] for row in range(len(rows))])
    pairs = [(int(a), int(b)) for a, b in zip(batch.ids.flatten(), batch.labels.flatten(), strict=True)]
    predicted = sorted(pair for pair in pairs if pair[1] != IGNORED)
    wanted = [(100 * n + t, 100 * n + t + 1) for n, size in enumerate(lengths) for t in range(size - 1)]
    assert predicted == sorted(wanted)
    assert all(sum(row) == 24 for row in batch.lengths)
    assert torch.equal(batch.positions == 0, begins(batch))
    assert int(batch.cu_seqlens[-1]) == batch.ids.numel() and batch.targets == len(wanted)


def begins(batch: PackedBatch) -> Tensor:
    flat = torch.zeros(batch.ids.numel(), dtype=torch.bool)
    flat[batch.cu_seqlens[:-1].long()[batch.cu_seqlens.diff() > 0]] = True
    return flat.view_as(batch.ids)


def test_bounds_come_in_few_sizes_for_devices_that_compile_each() -> None:
    sizes, counts = set(), set()
    for seed in range(40):
        lengths = torch.randint(1, 60, (64,), generator=torch.Generator().manual_seed(seed)).tolist()
        rows = rows_of(lengths, 64, 1)
        batch = PackedBatch.stack([rows[0, row] for row in range(16)])
        bounds = batch.cu_seqlens
        assert len(bounds) > sum(map(len, batch.lengths)) and (bounds.diff() >= 0).all()
        sizes.add(len(bounds))
        counts.add(sum(map(len, batch.lengths)))
    assert len(sizes) <= 3 < len(counts)


def test_rows_are_a_function_of_seed_and_epoch_and_equally_many() -> None:
    lengths = [3, 3, 3, 7, 7, 2, 2, 2, 9, 5] * 4
    one, other = (rows_of(lengths, 10, 2) for _ in range(2))
    there = [one.row(epoch, row) for epoch in (0, 1, 2) for row in range(len(one))]
    back = [other.row(epoch, row) for epoch in (2, 1, 0) for row in range(len(other))]
    size = len(one)
    assert there == back[2 * size :] + back[size : 2 * size] + back[:size]
    assert there[:size] != there[size : 2 * size]


def test_what_is_longer_than_a_row_is_cut() -> None:
    assert [(p.start, p.stop, p.ends) for p in cut([10], 4)] == [(0, 4, False), (4, 8, False), (8, 10, True)]
    with pytest.raises(UserError, match="none is left to pack"):
        rows_of([0], 4, 0)
    with pytest.raises(UserError, match="0 to 3"):
        pack([0, 3], 4)


@given(costs=LENGTHS, ranks=st.integers(1, 8))
def test_work_is_dealt_evenly_and_samples_equally(costs: list[int], ranks: int) -> None:
    dealt = deal(costs, ranks)
    assert sorted(sample for share in dealt for sample in share) == list(range(len(costs)))
    assert max(map(len, dealt)) <= -(-len(costs) // ranks)
    work = [sum(costs[s] for s in share) for share in dealt]
    assert len(costs) % ranks or max(work) - min(work) <= max(costs)


def test_balancing_is_better_than_taking_turns() -> None:
    lengths = [100, 90, 10, 10, 50, 40, 60, 40]
    assert sorted(sum(lengths[s] for s in share) for share in deal(lengths, 2)) == [200, 200]


def test_a_truncated_or_reshaped_batch_keeps_its_sequences_apart() -> None:
    rows = rows_of([5, 4, 3, 9, 3], 12, 0)
    batch = PackedBatch.stack([rows[0, 0], rows[0, 1]])
    short = batch.truncated(8)
    assert short.ids.shape == (2, 8) and all(sum(row) == 8 for row in short.lengths)
    assert (short.labels[:, -1] == IGNORED).all()
    pieces = batch.reshaped(4)
    assert torch.equal(pieces.ids.view(2, 12), batch.ids)
    assert all(sum(row) == 4 for row in pieces.lengths)
    assert torch.equal(pieces.positions == 0, begins(pieces))


@pytest.mark.parametrize("kernel", ["sequences", "mask"])
def test_a_packed_llama_learns_what_a_padded_one_does(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.backbones.packed_attention.packed_kernel", lambda *_, **__: kernel)
    torch.manual_seed(0)
    network = llama_tiny(vocabulary=512, width=32, heads=4, kv_heads=2)
    lengths = [5, 17, 1, 9, 24, 3, 3, 12]
    rows = rows_of(lengths, 24, 0)
    batch = PackedBatch.stack([rows[0, row] for row in range(len(rows))])
    kept = PackedBatch(batch.ids % 512, batch.labels % 512, batch.positions, batch.lengths)
    kept.labels[batch.labels == IGNORED] = IGNORED
    total, count = next_token(
        network(kept.ids.view(1, -1), **kept.arguments()).logits, kept.labels.view(1, -1)
    )
    packed = torch.autograd.grad(total / count, list(network.parameters()))

    sentences = [(torch.arange(length) + 100 * number) % 512 for number, length in enumerate(lengths)]
    ids = torch.nn.utils.rnn.pad_sequence(sentences, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(s) for s in sentences], batch_first=True)
    labels = torch.where(mask.roll(-1, 1).bool(), ids.roll(-1, 1), IGNORED)
    labels[:, -1] = IGNORED
    padded_total, padded_count = next_token(network(ids, mask=mask).logits, labels)
    padded = torch.autograd.grad(padded_total / padded_count, list(network.parameters()))

    assert count == padded_count
    torch.testing.assert_close(total / count, padded_total / padded_count, rtol=1e-6, atol=1e-6)
    for one, other in zip(packed, padded, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_ranks_share_the_rows_of_a_batch_by_their_work() -> None:
    lengths = [64, 32, 32, 16, 16, 16, 16, *[8] * 8, *[4] * 16]
    rows = rows_of(lengths, 64, 0)
    how = {"seed": 3, "batch_size": 2, "world": 2}
    ranks = [list(ResumableSampler(len(rows), rank=rank, deal=rows.deal, **how)) for rank in (0, 1)]
    alone = list(ResumableSampler(len(rows), seed=3, batch_size=4))
    first = [place for rank in ranks for place in rank[:2]]
    assert sorted(first) == sorted(alone[:4]) and len(ranks[0]) == len(ranks[1])
    dealt = rows.deal(0, [index for _, index in alone[:4]], 2)
    assert [[index for _, index in rank[:2]] for rank in ranks] == dealt


@given(st.integers(1, 500), st.integers(0, 5000), st.integers(1, 128), st.floats(1.05, 3))
def test_buckets_rise_to_the_largest_length(smallest: int, more: int, multiple: int, growth: float) -> None:
    largest = smallest + more

    sizes = buckets_between(smallest, largest, multiple=multiple, growth=growth)

    assert sizes == sorted(set(sizes))
    assert all(size % multiple == 0 for size in sizes)
    assert sizes[-1] - multiple < largest <= sizes[-1]
    assert all(after <= max(before * growth, before + multiple) for before, after in pairwise(sizes))


@given(st.integers(1, 1024))
def test_a_length_goes_into_the_smallest_bucket_that_holds_it(length: int) -> None:
    sizes = buckets_between(64, 1024)

    found = bucket(length, sizes)

    assert found >= length
    assert not [size for size in sizes if length <= size < found]


def test_a_length_above_all_buckets_is_refused() -> None:
    with pytest.raises(ValueError, match="above the largest bucket, 8"):
        bucket(9, [4, 8])
