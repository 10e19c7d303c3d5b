"""Order of samples: N ranks see the batches of one process, and any start goes on exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data.sampler import EvaluationBatches, EvaluationShare, ResumableSampler

sizes = {"length": st.integers(0, 60), "batch": st.integers(1, 7), "world": st.integers(1, 5)}


def batches(sampler: ResumableSampler) -> list[list[tuple[int, int]]]:
    pairs = list(sampler)
    return [pairs[first : first + sampler.batch_size] for first in range(0, len(pairs), sampler.batch_size)]


def ranks(length: int, batch: int, world: int, **more) -> list[ResumableSampler]:
    how = {"seed": 3, "batch_size": batch, "world": world, **more}
    return [ResumableSampler(length, rank=rank, **how) for rank in range(world)]


@given(**sizes)
def test_ranks_together_see_the_batches_of_one_process(length, batch, world):
    per_rank = [batches(sampler) for sampler in ranks(length, batch, world)]
    one = batches(ResumableSampler(length, seed=3, batch_size=batch * world))

    together = [[pair for part in parts for pair in part] for parts in zip(*per_rank, strict=True)]

    full = length // (batch * world)
    assert together[:full] == one[:full]
    rest = one[full] if full < len(one) else []
    kept = len(rest) // world * world
    assert together[full:] == ([rest[:kept]] if kept else [])


@given(**sizes, drop_last=st.booleans())
def test_ranks_yield_equally_many_batches_of_equal_size(length, batch, world, drop_last):
    samplers = ranks(length, batch, world, drop_last=drop_last)

    shapes = [[len(part) for part in batches(sampler)] for sampler in samplers]

    assert all(shape == shapes[0] for shape in shapes)
    assert [len(sampler) for sampler in samplers] == [sum(shape) for shape in shapes]


@given(**sizes, done=st.integers(0, 10))
def test_start_continues_the_epoch_exactly(length, batch, world, done):
    start = min(done * batch * world, length)

    resumed = ranks(length, batch, world, start=start)
    for whole, rest in zip(ranks(length, batch, world), resumed, strict=True):
        assert list(rest) == list(whole)[done * batch :]
        assert len(rest) == len(whole)


@given(length=st.integers(1, 60), start=st.integers(0, 60))
def test_start_may_be_any_sample(length, start):
    start = min(start, length)
    whole = ResumableSampler(length, seed=1, batch_size=4)

    assert list(ResumableSampler(length, seed=1, batch_size=3, start=start)) == list(whole)[start:]


def test_every_sample_comes_once_an_epoch_and_the_order_depends_on_seed_and_epoch_alone():
    orders = []
    for seed, epoch in [(0, 0), (0, 1), (1, 0)]:
        sampler = ResumableSampler(50, seed=seed, batch_size=8)
        sampler.set_epoch(epoch)
        pairs = list(sampler)
        assert sorted(index for _, index in pairs) == list(range(50))
        assert {number for number, _ in pairs} == {epoch}
        assert pairs == list(sampler)
        orders.append([index for _, index in pairs])

    assert len({tuple(order) for order in orders}) == 3


def test_set_epoch_keeps_the_start_of_the_present_epoch_only():
    sampler = ResumableSampler(20, seed=0, batch_size=4, start=8)

    sampler.set_epoch(0)
    assert len(list(sampler)) == 12
    sampler.set_epoch(1)
    assert len(list(sampler)) == 20


def test_without_shuffling_the_order_is_that_of_the_data():
    sampler = ResumableSampler(5, seed=0, batch_size=2, shuffle=False)

    assert [index for _, index in sampler] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"world": 0}, {"rank": 2, "world": 2}, {"start": 11}, {"start": -1}]
)
def test_sizes_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        ResumableSampler(10, **{"seed": 0, "batch_size": 2} | wrong)


@given(length=st.integers(1, 80), batch=st.integers(1, 9), world=st.integers(1, 5))
def test_evaluation_covers_every_sample_once_with_equal_batch_counts(length, batch, world):
    shares = [EvaluationShare(length, rank=rank, world=world) for rank in range(world)]
    loaders = [EvaluationBatches(share, batch, share=share) for share in shares]

    parts = [list(loader) for loader in loaders]

    assert [index for part in parts for one in part for _, index in one] == list(range(length))
    assert [len(loader) for loader in loaders] == [len(part) for part in parts]
    assert all(0 < len(one) <= batch for part in parts for one in part)
    assert batch == 1 or length < world or len({len(part) for part in parts}) == 1
