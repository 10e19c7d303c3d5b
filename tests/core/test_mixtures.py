"""Mixtures: exact shares, walks without replacement, and the same samples for any restart."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from core.data.batch import Batch, collate, identity
from core.data.mixtures import Mixture, permuted, shares
from core.data.sampler import ResumableSampler
from core.errors import UserError


@dataclass(frozen=True, eq=False)
class Mark(Batch):
    source: Tensor
    turn: Tensor
    sample: Tensor


class Source(Dataset):
    def __init__(self, number: int, length: int) -> None:
        self.number, self.length = number, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, where: tuple[int, int]) -> Mark:
        return Mark(*(torch.tensor(value) for value in (self.number, *where)))


class WholeSource(Source):
    def __getitems__(self, where: list[tuple[int, int]]) -> Mark:
        return Mark.stack([self[one] for one in where])


def mixture(lengths, weights, kind=Source, **more) -> Mixture:
    return Mixture([kind(number, size) for number, size in enumerate(lengths)], weights, **{"seed": 4} | more)


weights = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6)


@given(weights, st.integers(0, 10_000))
def test_shares_sum_to_the_total_and_are_off_by_less_than_one(weights, total):
    given_out = shares(weights, total)

    assert sum(given_out) == total
    exact = [weight / sum(weights) * total for weight in weights]
    assert all(abs(share - wanted) < 1 + 1e-6 for share, wanted in zip(given_out, exact, strict=True))


@given(st.integers(1, 300), st.integers(0, 2**63 - 1))
def test_permuted_is_a_permutation(length, secret):
    assert sorted(permuted(place, length, secret) for place in range(length)) == list(range(length))


def test_permuted_spreads_like_chance():
    hits = Counter(permuted(0, 10, secret * 7919) for secret in range(10_000))

    assert len(hits) == 10 and min(hits.values()) > 850 and max(hits.values()) < 1150


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 5)), min_size=1, max_size=4), st.integers(1, 6))
def test_no_sample_comes_twice_before_all_came_once(sources, epochs):
    mixed = mixture([size for size, _ in sources], [weight for _, weight in sources], length=40)

    drawn = [mixed.locate(epoch, index) for epoch in range(epochs) for index in range(40)]

    for number, (size, _) in enumerate(sources):
        counts = Counter(sample for source, _, sample in drawn if source == number)
        assert sum(counts.values()) == epochs * mixed.shares[number]
        assert max(counts.values()) - min(counts.get(sample, 0) for sample in range(size)) <= 1


def test_whole_batches_equal_single_samples_in_their_order():
    single = mixture([7, 30, 2], [1, 2, 0.5], length=20)
    whole = mixture([7, 30, 2], [1, 2, 0.5], kind=WholeSource, length=20)
    where = [(epoch, index) for index in (13, 2, 19, 0, 7) for epoch in (0, 3)]

    batch = whole.__getitems__(where)
    wanted = Mark.stack([single[one] for one in where])

    assert torch.equal(batch.source, wanted.source)
    assert torch.equal(batch.sample, wanted.sample)
    assert torch.equal(batch.turn, wanted.turn)


@pytest.mark.parametrize(("kind", "joiner"), [(Source, collate), (WholeSource, identity)])
def test_a_loader_reads_a_mixture_of_either_kind_from_any_start(kind, joiner):
    mixed = mixture([7, 30], [1, 1], kind=kind, length=12)

    def read(start: int) -> list[list[int]]:
        sampler = ResumableSampler(len(mixed), seed=0, batch_size=4, start=start)
        loader = DataLoader(mixed, batch_size=4, sampler=sampler, collate_fn=joiner)
        return [batch.sample.tolist() for batch in loader]

    assert read(4) == read(0)[1:]
    assert (getattr(mixed, "__getitems__", None) is None) == (kind is Source)


def test_passes_over_a_source_differ_and_so_do_seeds():
    mixed = mixture([10], [1])
    other = mixture([10], [1], seed=5)

    passes = [[mixed.locate(epoch, index)[2] for index in range(10)] for epoch in range(2)]

    assert passes[0] != passes[1]
    assert passes[0] != [other.locate(0, index)[2] for index in range(10)]


def test_epochs_seen_are_reported_and_too_many_refused_unless_allowed():
    mixed = mixture([10, 90], [1, 1], names=["small", "large"])

    with pytest.raises(UserError, match=r"small would be seen 10\.0 times in 2 epochs.*limit of 4"):
        mixed.check(2)
    allowed = mixture([10, 90], [1, 1], names=["small", "large"], allow_repeats=True)
    assert allowed.check(2) == {"small": 10.0, "large": pytest.approx(100 / 90)}
    assert mixed.check(0.5)["small"] == 2.5


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_that_are_not_positive_are_refused(weight):
    with pytest.raises(UserError, match=r"the weight of source 1 is .*positive"):
        mixture([3, 3], [1.0, weight])


def test_sources_and_weights_must_fit():
    with pytest.raises(UserError, match="2 sources has 1 weights"):
        mixture([3, 3], [1.0])
    with pytest.raises(UserError, match="source 1 of the mixture has no samples"):
        mixture([3, 0], [1.0, 1.0])
    with pytest.raises(UserError, match="source 1 gets none of the mixture's 6 samples"):
        mixture([3, 3], [1.0, 1e-6])
    with pytest.raises(IndexError):
        mixture([3], [1.0])[0, 3]
