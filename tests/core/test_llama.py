"""Llama: recorded cases, caches, packing, its loss, and generation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from core.backbones import cross_entropy as module
from core.backbones.cross_entropy import linear_cross_entropy
from core.backbones.generation import Sampling, generate, keep_top_k, keep_top_p, mark, penalise
from core.backbones.kv_cache import KVCache
from core.backbones.llama import Llama, llama_1b, llama_7b, llama_8b, llama_70b, llama_tiny
from core.backbones.parity import CASES as block_cases
from core.backbones.rope import Rope
from core.checkpoints.parity import CASES as core_cases
from core.errors import UserError
from core.objectives.next_token import next_token
from core.parity import run_case

SIZES = {"vocabulary": 40, "width": 24, "depth": 2, "ffn": 32, "initial_std": 0.3}


def network(**changes: object) -> Llama:
    torch.manual_seed(0)
    return Llama(**{**SIZES, "heads": 6, "kv_heads": 3, **changes}).double()


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, 40, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("case", ["llama/mha_theta1e4", "llama/gqa_tied_theta5e5", "yue/sampling_chain"])
def test_recorded_cases_pass(shared: Path, case: str) -> None:
    report = run_case(shared / "parity" / f"{case}.json", known={**core_cases, **block_cases})

    assert report.passed, [check for check in report.checks if not check.passed]


@pytest.mark.parametrize(
    ("size", "count"),
    [
        (llama_tiny, 164_160),
        (llama_1b, 1_235_814_400),
        (llama_7b, 6_738_415_616),
        (llama_8b, 8_030_261_248),
        (llama_70b, 68_976_648_192),
    ],
)
def test_named_sizes_have_the_published_number_of_parameters(size, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in size().parameters()) == count


def test_a_network_from_the_meta_device_equals_one_made_directly():
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    arguments = {**SIZES, "heads": 4, "rope_scaling": scaling}
    direct = Llama(**arguments)
    with torch.device("meta"):
        later = Llama(**arguments)

    later.to_empty(device="cpu")
    for llama in (direct, later):
        torch.manual_seed(0)
        llama.reset_parameters()

    assert not any(t.is_meta for t in [*later.parameters(), *later.buffers()])
    assert {k: v.tolist() for k, v in direct.named_buffers()} == {
        k: v.tolist() for k, v in later.named_buffers()
    }
    assert all(torch.equal(v, later.state_dict()[k]) for k, v in direct.state_dict().items())


def test_a_cast_of_the_network_leaves_the_rotary_frequencies_alone():
    rope = Rope(64)
    before = rope.frequencies.clone()

    assert torch.equal(rope.to(torch.bfloat16).frequencies, before)


def test_scaled_residual_matrices_begin_smaller():
    plain, scaled = (
        Llama(width=64, depth=8, heads=4, vocabulary=16, scaled_residual=on) for on in (False, True)
    )

    writes = [llama.layers[0].mlp.down_proj.weight.std().item() for llama in (plain, scaled)]
    assert writes[0] / writes[1] == pytest.approx(4.0, rel=0.1)
    assert scaled.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(0.02, rel=0.1)


@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(1, 11), max_size=3, unique=True))
def test_tokens_fed_in_pieces_give_the_logits_of_all_at_once(cuts):
    llama, ids = network(), tokens(2, 12)
    cache = KVCache(12)

    pieces = torch.tensor_split(ids, sorted(cuts), dim=1)
    logits = torch.cat([llama(piece, cache=cache).logits for piece in pieces], dim=1)

    assert torch.allclose(logits, llama(ids).logits, atol=1e-12)


def test_a_full_cache_says_so():
    with pytest.raises(UserError, match="5 tokens do not fit into a cache of 4"):
        network()(tokens(1, 5), cache=KVCache(4))


def test_left_padding_changes_nothing():
    llama, ids = network(), tokens(1, 7)
    padded = torch.cat((torch.zeros(1, 4, dtype=torch.int64), ids), dim=1)
    mask = torch.tensor([[0] * 4 + [1] * 7])

    assert torch.allclose(llama(padded, mask=mask).logits[:, 4:], llama(ids).logits, atol=1e-12)


def test_packed_sequences_do_not_see_each_other():
    llama, ids = network(), tokens(1, 12)
    bounds = torch.tensor([0, 5, 6, 12], dtype=torch.int32)

    packed = llama(ids, cu_seqlens=bounds, max_seqlen=6).logits

    alone = torch.cat([llama(part).logits for part in ids.split([5, 1, 6], dim=1)], dim=1)
    assert torch.allclose(packed, alone, atol=1e-12)


def test_grouped_heads_equal_repeated_ones():
    grouped = network()
    full = network(kv_heads=6)
    state = grouped.state_dict()
    for name in list(state):
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            state[name] = state[name].unflatten(0, (3, -1)).repeat_interleave(2, dim=0).flatten(0, 1)
    full.load_state_dict(state)

    assert torch.allclose(full(tokens(2, 9)).logits, grouped(tokens(2, 9)).logits, atol=1e-12)


def test_cheap_formulations_differentiate_as_plain_ones(monkeypatch):
    llama, ids = network(), tokens(2, 9)
    gradients = []
    for plain in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda plain=plain: plain)
        llama.zero_grad()
        llama(ids).logits.square().mean().backward()
        gradients.append([p.grad.clone() for p in llama.parameters()])

    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-14) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("chunk", [1, 1 << 28])
@pytest.mark.parametrize("tied", [False, True])
def test_the_loss_of_labels_equals_that_of_logits(monkeypatch, tied, chunk):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    llama, ids, labels = network(tied=tied), tokens(3, 150), tokens(3, 150).roll(1, 0)
    labels[0, :20] = -100
    results = []
    for way in ("torch", "logits", "labels"):
        llama.zero_grad()
        if way == "torch":
            logits = llama(ids).logits.flatten(0, 1)
            total, count = F.cross_entropy(logits, labels.flatten(), reduction="sum"), torch.tensor(430.0)
        elif way == "logits":
            total, count = next_token(llama(ids).logits, labels)
        else:
            total, count = llama(ids, labels=labels).loss
        (total / count).backward()
        results.append((total.detach(), float(count), [p.grad.clone() for p in llama.parameters()]))

    for total, count, gradients in results[1:]:
        assert torch.allclose(total, results[0][0], rtol=1e-13)
        assert count == 430
        assert all(torch.allclose(a, b, atol=1e-14) for a, b in zip(gradients, results[0][2], strict=True))


def test_extreme_logits_give_a_finite_loss():
    logits = torch.tensor([[[1e4, -1e4, 0.0], [-200.0, 300.0, 0.0]]])

    total, count = next_token(logits, torch.tensor([[1, 0]]))

    assert (float(total), float(count)) == (2e4 + 500, 2)


def test_a_loss_without_any_label_is_zero():
    x, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)

    total = linear_cross_entropy(x, weight, torch.full((3,), -100))
    total.backward()

    assert float(total) == 0
    assert not x.grad.any()
    assert not weight.grad.any()


def test_greedy_tokens_are_the_best_of_each_full_forward_also_beside_a_padded_row():
    llama, ids, other = network(), tokens(1, 4), tokens(1, 7)
    expected = ids
    for _ in range(6):
        expected = torch.cat((expected, llama(expected).logits[:, -1:].argmax(-1)), dim=1)
    batch = torch.cat((F.pad(ids, (3, 0)), other))
    mask = torch.tensor([[0] * 3 + [1] * 4, [1] * 7])

    alone = generate(llama, ids, max_new=6, sampling=Sampling(temperature=0))
    beside = generate(llama, batch, mask=mask, max_new=6, sampling=Sampling(temperature=0))

    assert torch.equal(alone, expected)
    assert torch.equal(beside[:1, 3:], expected)


def test_generation_is_repeated_by_its_generator_and_ends_at_the_end():
    llama, ids = network(), tokens(2, 3)

    def draw(sampling, **kw):
        random = torch.Generator().manual_seed(3)
        return generate(llama, ids, max_new=8, sampling=sampling, generator=random, **kw)

    chain = Sampling(temperature=0.9, top_k=30, top_p=0.9, repetition_penalty=1.1)
    assert torch.equal(draw(chain, guidance=1.5), draw(chain, guidance=1.5))
    only = torch.zeros(40, dtype=torch.bool)
    only[[7, 9]] = True
    ended = draw(Sampling(eos=(7, 9)), allowed=only)
    assert ended.shape == (2, 4)
    with pytest.raises(UserError, match=r"top_p is 1\.5; it must be above 0 and at most 1"):
        Sampling(top_p=1.5)


def test_guidance_of_one_and_none_are_the_same():
    llama, ids = network(), tokens(1, 3)

    best = Sampling(temperature=0)

    assert torch.equal(*(generate(llama, ids, max_new=5, sampling=best, guidance=g) for g in (None, 1.0)))


def test_an_end_is_held_back_until_the_least_length():
    scores = torch.tensor([[5.0, 0.0, 0.0]])
    chain = Sampling(temperature=0, min_new=2, eos=(0,))

    best = [int(chain.probabilities(scores, new=count).argmax()) for count in (0, 1, 2)]

    assert best == [1, 1, 0]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12), st.floats(0.05, 1.0), st.integers(1, 12))
def test_kept_tokens_are_the_fewest_that_are_asked_for(values, total, count):
    scores = torch.tensor([values], dtype=torch.float64)

    kept = keep_top_p(scores, total).isfinite()[0]
    best = keep_top_k(scores, count).isfinite()[0]

    shares = scores.softmax(1)[0]
    assert kept.any()
    assert float(shares[kept].sum()) >= total - 1e-9
    assert float(shares[kept].sum() - shares[kept].min()) < total + 1e-9
    assert int(best.sum()) >= min(count, len(values))
    assert float(scores[0][best].min()) >= float(scores[0].sort(descending=True).values[:count][-1])


def test_a_penalty_makes_tokens_of_the_context_less_likely_but_not_those_of_padding():
    seen = mark(torch.tensor([[0, 1, 1]]), 4, real=torch.tensor([[0, 1, 1]]))

    assert penalise(torch.tensor([[2.0, -2.0, 1.0, 0.0]]), seen, 2.0).tolist() == [[2.0, -4.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"heads": 5}, "5 heads must divide the width 24"),
        ({"heads": 6, "kv_heads": 4}, "4 key/value heads must divide 6 heads"),
        ({"heads": 8}, "the head width 3 must be even"),
        ({"heads": 6, "rope_scaling": {"rope_type": "yarn"}}, "of type 'yarn'; known are"),
        ({"heads": 6, "rope_scaling": {"rope_type": "linear"}}, "lacks factor"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_in_one_sentence(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        Llama(**{**SIZES, **arguments})
