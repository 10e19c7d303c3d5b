"""The task's loss and scores, and the baselines beside it, against what they are by definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.music.batch import IGNORE, TokenBatch, TokenFacts
from apps.music.data.corpus import corpus_of
from apps.music.data.module import Tokens
from apps.music.data.rows import Documents
from apps.music.data.tokenizers import Bytes
from apps.music.metrics import TokenScores, by_place, compressors, ngram_bits, ngrams, score_row
from apps.music.predict.model import Writer, extend
from apps.music.tasks import LanguageModelling
from core.backbones.generation import Sampling
from core.backbones.llama import Llama
from core.data.packing import Packed, PackedBatch
from core.errors import UserError
from core.objectives.next_token import next_token

BEST = Sampling(temperature=0.0, eos=(300,))


@pytest.fixture(scope="module")
def network() -> Llama:
    """A tiny Llama over bytes."""
    torch.manual_seed(0)
    return Llama(
        vocabulary=260, width=32, depth=2, heads=4, kv_heads=2, ffn=48, context=16, initial_std=0.2
    ).eval()


def batch_of(labels: torch.Tensor) -> TokenBatch:
    ids = torch.randint(0, 257, labels.shape, generator=torch.Generator().manual_seed(1))
    return TokenBatch(ids, labels, torch.arange(labels.shape[1]).expand(labels.shape).contiguous())


def test_the_loss_is_the_mean_over_the_tokens_that_count(network):
    labels = torch.randint(0, 257, (3, 8), generator=torch.Generator().manual_seed(2))
    labels[0, 1:] = IGNORE
    batch = batch_of(labels)
    each = torch.nn.functional.cross_entropy(
        network(batch.ids).logits.transpose(1, 2), labels, ignore_index=IGNORE, reduction="none"
    )

    loss = LanguageModelling(network).loss(batch)

    assert loss.item() == pytest.approx(each.sum().item() / 17, rel=1e-5)


@pytest.mark.parametrize("kind", [TokenBatch, PackedBatch])
def test_training_keeps_no_logits_and_learns_what_they_would_teach(network, kind):
    labels = torch.randint(0, 257, (3, 8), generator=torch.Generator().manual_seed(2))
    labels[0, 3:] = IGNORE
    rows = batch_of(labels)
    packed = PackedBatch(rows.ids, labels, rows.positions, ((8,), (8,), (8,)))
    batch = rows if kind is TokenBatch else packed
    task, outputs = LanguageModelling(network), []
    wanted = next_token(task.logits(batch), labels)
    gradients = torch.autograd.grad(wanted[0] / wanted[1], list(network.parameters()))

    with network.register_forward_hook(lambda module, given, output: outputs.append(output)):
        loss = task.loss(batch)

    assert [output.logits for output in outputs] == [None]
    torch.testing.assert_close(loss, wanted[0] / wanted[1])
    torch.testing.assert_close(torch.autograd.grad(loss, list(network.parameters())), gradients)


def test_a_network_that_takes_no_labels_is_asked_for_logits(network):
    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, ids: torch.Tensor, positions: torch.Tensor) -> object:
            return self.inner(ids, positions=positions)

    batch = batch_of(torch.randint(0, 257, (3, 8), generator=torch.Generator().manual_seed(2)))

    torch.testing.assert_close(LanguageModelling(Plain()).loss(batch), LanguageModelling(network).loss(batch))


def test_packed_documents_do_not_see_each_other(network):
    texts = [np.arange(5), np.arange(20, 27), np.arange(40, 44)]
    documents = Documents(corpus_of(texts, name="x", vocabulary=260), np.arange(3), vocabulary=260)
    packed = Packed(documents, documents.lengths, capacity=16, seed=0)
    batch = PackedBatch.stack([packed[0, 0]])
    alone = {int(text[0]): network(torch.as_tensor(text)[None]).logits[0] for text in texts}

    logits = LanguageModelling(network).logits(batch)[0]

    begins = (batch.positions[0] == 0).nonzero()[:, 0].tolist()
    for begin in begins[:3]:
        expected = alone[int(batch.ids[0, begin])]
        torch.testing.assert_close(logits[begin : begin + len(expected)], expected, rtol=1e-4, atol=1e-4)


def test_scores_are_sums_over_all_batches(network):
    labels = torch.randint(0, 257, (4, 8), generator=torch.Generator().manual_seed(3))
    labels[3, 5:] = IGNORE
    batch = batch_of(labels)
    logits = network(batch.ids).logits
    scores = TokenScores(8, Bytes().lengths)
    for first, last in ((0, 1), (1, 4)):
        part = TokenBatch(batch.ids[first:last], labels[first:last], batch.positions[first:last])
        scores.update(logits[first:last], part)

    nats, counts, size = scores.totals()

    whole = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    assert nats.sum() == pytest.approx(whole.item(), rel=1e-5)
    assert counts.tolist() == [4.0] * 5 + [3.0] * 3
    assert size == int((labels[labels != IGNORE] != 256).sum())
    places, losses = by_place(nats, counts)
    assert places[0] == 1
    assert losses[0] == pytest.approx(nats[0] / 4)


def test_bits_for_each_byte_are_the_loss_over_the_bytes():
    scores = score_row("x", bits=160.0, tokens=40.0, size=80.0)

    assert scores["bits_per_byte"] == 2.0
    assert scores["loss"] == pytest.approx(4 * math.log(2))
    assert scores["perplexity"] == pytest.approx(16.0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=3, max_size=40), st.integers(1, 4))
def test_an_ngrams_chances_sum_to_one_after_any_context(train, n):
    context = train[: n - 1] or train[:1]
    tests = [np.array([*context, word]) for word in range(4)]

    chances = [2 ** -ngram_bits(np.array(train), test, n=n, vocabulary=4)[-1] for test in tests]

    assert sum(chances) == pytest.approx(1.0)


def test_a_bigram_is_witten_bells():
    train, test = np.array([0, 1, 0, 1, 0, 2]), np.array([0, 1])
    unigram = 3 / 9  # counts of 0, 1, 2 are 3, 2, 1, and each id once more

    (bits,) = ngram_bits(train, test, n=2, vocabulary=3)

    assert 2**-bits == pytest.approx((2 + 2 * unigram) / (3 + 2))


def test_longer_contexts_pay_on_a_text_that_repeats():
    text = Bytes().encode("to be or not to be, that is the question. " * 60)
    bits = ngrams(text[:2000], text[2000:], vocabulary=257)

    assert bits["unigram"] > bits["bigram"] > bits["3-gram"] > bits["5-gram"]
    before, after = bytes(text[:2000].tolist()), bytes(text[2000:].tolist())
    assert all(cost < 0.5 * 8 * len(after) for cost in compressors(before, after).values())


def test_orders_that_do_not_fit_a_number_are_left_out():
    assert set(ngrams(np.arange(50), np.arange(9), vocabulary=84_000)) == {"unigram", "bigram", "3-gram"}


def test_a_continuation_is_greedy_decoding_within_the_context(network):
    ids = torch.tensor([[256, 65, 66]])
    row_ = ids
    for _ in range(10):
        row_ = torch.cat([row_, network(row_).logits[:, -1:].argmax(-1)], 1)

    made = extend(network, ids, new=10, context=16, sampling=BEST)

    assert made.tolist() == row_[:, 3:].tolist()


def test_a_continuation_goes_on_past_the_context(network):
    made = extend(network, torch.tensor([[256]]), new=50, context=16, sampling=BEST)
    last = torch.cat([torch.tensor([[256]]), made], 1)[:, :16]

    assert made.shape == (1, 50)
    following = network(last[:, -8:]).logits[:, -1].argmax(-1)
    assert made[0, 15] == following


def test_continuations_depend_on_seed_and_prompt_alone(network):
    facts = TokenFacts(context=16, vocabulary=257, tokenizer=Bytes().state(), start=256)
    writer = Writer(network, facts)
    first = writer.write(["ab", "cd"], new=12, samples=2, seed=1)
    again = writer.write(["cd"], new=12, samples=2, seed=1)
    other = writer.write(["cd"], new=12, samples=2, seed=2)

    assert first[2:] == again
    assert again != other
    assert all(token < 257 for one in first for token in one.tokens)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"vocabulary": 300, "context": 16}, "the network has 260 tokens and the data's tokeniser 300"),
        ({"vocabulary": 257, "context": 32}, "data.context is 32 and the network is meant for 16"),
    ],
)
def test_data_that_do_not_fit_the_network_are_refused(network, facts, words):
    with pytest.raises(UserError, match=words):
        LanguageModelling(network).check_facts(TokenFacts(**facts))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "no data is named"),
        ({"path": "a", "card": "python_text"}, "both given"),
        ({"card": "python_text", "context": 0}, "data.context is 0"),
        ({"card": "python_text", "fractions": [0.5, 0.6, 0.1]}, "shares that sum to 1"),
        ({"card": "python_text", "order": "publish"}, "did you mean 'published'"),
        ({"card": "python_text", "samples": 5}, "data.samples goes with"),
        ({"card": "python_text", "order": "published", "packing": "documents"}, "lays out chunks"),
        ({"card": "python_texts"}, "did you mean 'python_text'"),
        ({"card": "python_text:topic"}, "did you mean 'topics'"),
    ],
)
def test_wrong_arguments_are_one_sentence(arguments, words):
    with pytest.raises(UserError, match=words):
        Tokens(**arguments).setup()


def test_pythons_own_text_is_split_by_documents_and_nothing_is_imported():
    data = Tokens(card="python_text:topics", context=64)
    data.setup()
    documents = [set(part.tolist()) for part in data.parts]

    assert sum(map(len, documents)) == data.source.corpus.documents >= 60
    assert data.tokens(0) / data.source.corpus.tokens.size == pytest.approx(0.9, abs=0.06)
    assert data.facts.licences == ("PSF-2.0",)
