"""Rows of tokens: every token predicted once, in any epoch, in the suite's order and in Megatron's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.music.batch import IGNORE, TokenBatch
from apps.music.data import megatron_order
from apps.music.data.corpus import TokenCorpus, corpus_of, split_documents
from apps.music.data.rows import Chunks, Documents, PublishedChunks, Rows
from core.data.packing import Packed
from core.errors import UserError

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=60)


def counting_corpus(lengths: list[int]) -> TokenCorpus:
    """Documents of these lengths whose tokens count from 0 on, so that each is told apart."""
    ends = np.cumsum(lengths)
    return corpus_of(
        (np.arange(end - size, end) for size, end in zip(lengths, ends, strict=True)),
        name="numbers",
        vocabulary=10_000,
    )


def rows_of(data: Chunks, epoch: int = 0) -> TokenBatch:
    return data.__getitems__([(epoch, index) for index in range(len(data))])


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.integers(1, 9), st.integers(0, 3))
def test_every_token_but_the_first_is_predicted_once_in_every_epoch(lengths, context, epoch):
    corpus = counting_corpus(lengths)
    if sum(lengths) < 2:
        return
    data = Chunks(corpus, np.arange(len(lengths)), Rows(context, 10_000), shuffle=True, tail=True)

    batch = rows_of(data, epoch)

    predicted = batch.labels[batch.labels != IGNORE].tolist()
    assert sorted([*predicted, int(batch.ids[0, 0])]) == list(range(sum(lengths)))


def test_labels_are_the_ids_one_place_on_and_rows_follow_each_other():
    data = Chunks(counting_corpus([7, 5, 9]), np.arange(3), Rows(4, 10_000))
    batch = rows_of(data)

    assert torch.equal(batch.labels[:, :-1], batch.ids[:, 1:])
    assert torch.equal(batch.labels[:-1, -1], batch.ids[1:, 0])
    assert batch.positions.tolist() == [[0, 1, 2, 3]] * 5


def test_documents_change_places_from_epoch_to_epoch_and_come_back_the_same():
    data = Chunks(counting_corpus([3] * 30), np.arange(30), Rows(3, 10_000, 4), shuffle=True)
    first, second = rows_of(data, 0), rows_of(data, 1)

    assert not torch.equal(first.ids, second.ids)
    assert torch.equal(rows_of(data, 0).ids, first.ids)
    mixed = data.__getitems__([(1, 2), (0, 2)])
    assert torch.equal(mixed.ids, torch.stack([second.ids[2], first.ids[2]]))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("id_", "hint"), [(12, "data.tokenizer"), (-7, "padding"), (-100, "padding"), (-1, "padding")]
)
def test_an_id_outside_the_vocabulary_is_named_with_its_sequence(packed, id_, hint):
    corpus = corpus_of([np.arange(6), np.array([1, 2, id_, 3, 4, 5])], name="ids", vocabulary=1 << 17)
    data = Chunks(corpus, np.arange(2), Rows(4, 10), tail=True)
    if packed:
        data = Packed(Documents(corpus, np.arange(2), vocabulary=10), [6, 6], capacity=12, seed=0)

    with pytest.raises(UserError, match=f"holds the id {id_} in sequence 1, .* the ids 0 to 9; .*{hint}"):
        for index in range(len(data)):
            data[0, index] if packed else data.__getitems__([(0, index)])


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.booleans())
def test_parts_share_no_token_and_miss_none(lengths, mixed):
    corpus, parts = split_documents(counting_corpus(lengths), (0.8, 0.1, 0.1), mixed=mixed)
    every = np.concatenate(parts)

    assert sorted(every.tolist()) == list(range(corpus.documents))
    documents = Documents(corpus, every, vocabulary=10_000)
    found = [token for index in range(len(documents)) for token in documents[0, index].tolist()]
    assert sorted(found) == list(range(sum(lengths)))


def test_few_documents_are_cut_at_the_shares():
    corpus, parts = split_documents(counting_corpus([100]), (0.8, 0.1, 0.1), mixed=True)

    assert [int(corpus.document_lengths()[part].sum()) for part in parts] == [80, 10, 10]
    assert parts[0].tolist() == [0]


def test_equal_documents_stay_in_one_part():
    texts = [np.array([number % 15, 1, 2]) for number in range(60)]
    corpus, parts = split_documents(corpus_of(texts, name="x", vocabulary=20), (0.5, 0.25, 0.25), mixed=True)
    kinds = [{int(corpus.tokens[corpus.starts[one]]) for one in part} for part in parts]

    assert not (kinds[0] & kinds[1] or kinds[0] & kinds[2] or kinds[1] & kinds[2])
    assert all(kinds)


def test_no_text_is_a_mistake():
    with pytest.raises(UserError, match="holds no text"):
        corpus_of([np.array([], dtype=np.int64)], name="empty.txt", vocabulary=9)


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.integers(1, 9), st.integers(1, 3))
def test_samples_begin_where_the_index_says(lengths, sequence, epochs):
    order = megatron_order.document_index(np.arange(len(lengths)), epochs)
    index = megatron_order.sample_index(np.array(lengths), order, sequence)
    ends = np.cumsum(np.array(lengths)[order])

    assert len(index) - 1 == (epochs * sum(lengths) - 1) // sequence
    for number, (place, offset) in enumerate(index):
        assert ends[place] - lengths[order[place]] + offset == number * sequence
        assert 0 <= offset < lengths[order[place]]


def test_the_published_order_is_numpys_of_the_seed():
    """One pass: documents stay, samples are shuffled by RandomState(seed), as in Megatron's GPT data set."""
    lengths = np.full(10, 8)
    order, samples = megatron_order.orders(lengths, np.arange(10), sequence=4, samples=19, seed=1234)
    expected = np.arange(19, dtype=np.uint32)
    np.random.RandomState(1234).shuffle(expected)

    assert order.tolist() == list(range(10))
    assert samples.tolist() == expected.tolist()


def test_documents_are_shuffled_before_the_samples_where_asked():
    lengths = np.full(10, 8)
    order, samples = megatron_order.orders(
        lengths, np.arange(10), sequence=4, samples=19, seed=7, documents=True
    )
    random = np.random.RandomState(7)
    first, second = np.arange(10, dtype=np.int32), np.arange(19, dtype=np.uint32)
    random.shuffle(first)
    random.shuffle(second)

    assert order.tolist() == first.tolist()
    assert samples.tolist() == second.tolist()


@pytest.mark.parametrize(("samples", "apart"), [(25, True), (36, False)])
def test_a_small_rest_of_an_epoch_is_shuffled_by_itself(samples, apart):
    """80 tokens give 19 samples a pass; 25 need 6 of a second pass (below 80 %), 36 need 17."""
    _, order = megatron_order.orders(np.full(10, 8), np.arange(10), sequence=4, samples=samples, seed=3)
    late = {int(one) for one in order[:19] if one >= 19}

    assert sorted(order.tolist()) == list(range(39))
    assert (not late) is apart


def test_published_rows_are_read_in_their_order():
    corpus = counting_corpus([5] * 8)
    data = PublishedChunks(corpus, np.arange(8), Rows(4, 10_000, 5))
    _, order = megatron_order.orders(corpus.lengths, np.arange(8), sequence=4, samples=9, seed=5)

    assert rows_of(data).ids[:, 0].tolist() == [4 * int(one) for one in order]


def test_packed_rows_hold_whole_documents():
    corpus = counting_corpus([3, 4, 5, 2])
    documents = Documents(corpus, np.arange(4), vocabulary=10_000)
    packed = Packed(documents, documents.lengths, capacity=7, seed=0)
    rows = [packed[0, index] for index in range(len(packed))]
    labels = torch.cat([row.labels for row in rows])

    assert len(packed) == 2
    assert sorted(labels[labels != IGNORE].tolist()) == [1, 2, 4, 5, 6, 8, 9, 10, 11, 13]


def test_slices_of_a_sequence_join_to_the_whole():
    batch = rows_of(Chunks(counting_corpus([33]), np.arange(1), Rows(8, 10_000)))
    parts = [batch.part(rank, 4) for rank in range(4)]

    assert torch.equal(torch.cat([part.labels for part in parts], 1), batch.labels)
    assert parts[1].positions[0].tolist() == [2, 3]
    with pytest.raises(ValueError, match="8 tokens cannot be cut into 3"):
        batch.part(0, 3)
