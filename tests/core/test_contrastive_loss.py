"""The soft contrastive loss: its definition, its limits, and batches spread over ranks."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from core.objectives.contrastive import label_similarity, soft_contrastive


def pairs(
    count: int = 6, width: int = 5, *, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count, 9), generator=generator)
    return (
        torch.randn(count, width, generator=generator),
        torch.randn(count, width, generator=generator),
        labels,
    )


def test_the_terms_are_the_written_formula():
    q, k, labels = pairs()

    found = soft_contrastive(q, k, labels, temperature=0.3, soft_weight=0.7, soft_temperature=2.0)

    contrastive, soft = 0.0, 0.0
    for i in range(6):
        s = [float(torch.cosine_similarity(q[i], k[j], dim=0)) for j in range(6)]
        contrastive -= s[i] / 0.3 - math.log(sum(math.exp(v / 0.3) for v in s))
        for j in range(6):
            t = 1.0 if i == j else float(torch.cosine_similarity(labels[i].float(), labels[j].float(), dim=0))
            p = 1 / (1 + math.exp(-s[j] / 2.0))
            soft -= t * math.log(p) + (1 - t) * math.log(1 - p)
    assert float(found.contrastive) == pytest.approx(contrastive / 6, rel=1e-5)
    assert float(found.soft) == pytest.approx(soft / 36, rel=1e-5)
    assert float(found.total) == pytest.approx(contrastive / 6 + 0.7 * soft / 36, rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.integers(0, 10_000), st.floats(0.1, 50.0))
def test_the_length_of_a_projection_and_the_order_of_the_batch_do_not_matter(count, seed, factor):
    q, k, labels = pairs(count, seed=seed)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))

    loss = soft_contrastive(q, k, labels).total

    assert torch.allclose(soft_contrastive(factor * q, k / factor, labels).total, loss, atol=1e-5)
    assert torch.allclose(soft_contrastive(q[order], k[order], labels[order]).total, loss, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=8))
def test_similarities_of_labels_are_symmetric_within_their_range_and_one_on_the_diagonal(rows):
    similarity = label_similarity(torch.tensor(rows))

    assert torch.equal(similarity, similarity.T)
    assert bool(((similarity >= 0) & (similarity <= 1)).all())
    assert torch.equal(similarity.diagonal(), torch.ones(len(rows)))


def test_a_scene_without_labels_is_like_no_other_or_left_out():
    q, k, labels = pairs()
    labels[2] = 0

    plain = soft_contrastive(q, k, labels)
    ignoring = soft_contrastive(q, k, labels, ignore_unlabelled=True)

    logits = torch.nn.functional.binary_cross_entropy_with_logits(
        plain.similarity, plain.target, reduction="none"
    )
    counted = torch.ones(6, 6, dtype=torch.bool)
    counted[2], counted[:, 2], counted[2, 2] = False, False, True
    assert plain.target[2].tolist() == [0, 0, 1, 0, 0, 0]
    assert torch.allclose(ignoring.soft, logits[counted].mean())


def test_ranks_that_share_their_keys_have_the_loss_and_gradient_of_the_whole_batch():
    q, k, labels = pairs(8)
    whole, parts = q.clone().requires_grad_(), q.clone().requires_grad_()

    soft_contrastive(whole, k, labels).total.backward()
    halves = [
        soft_contrastive(parts[i : i + 4], k, labels[i : i + 4], key_labels=labels, first=i).total
        for i in (0, 4)
    ]
    (sum(halves) / 2).backward()

    assert torch.allclose(parts.grad, whole.grad, atol=1e-6)


def test_no_gradient_reaches_the_teacher():
    q, k, labels = pairs()
    k.requires_grad_()

    soft_contrastive(q.requires_grad_(), k, labels).total.backward()

    assert k.grad is None
    assert q.grad is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "must be above 0"),
        ({"first": 1}, "every query needs one"),
        ({"labels": torch.zeros(5, 9)}, "each needs a row"),
        ({"keys": torch.zeros(6, 4)}, "of its own width"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    q, k, labels = pairs()

    with pytest.raises(UserError, match=message):
        soft_contrastive(**{"queries": q, "keys": k, "labels": labels, **change})


def test_cosines_keep_float32_in_a_run_of_lower_precision():
    queries, keys, labels = pairs(12, 16, seed=3)

    whole = soft_contrastive(queries, keys, labels)
    with torch.autocast("cpu", torch.bfloat16):
        within = soft_contrastive(queries, keys, labels)

    assert within.similarity.dtype == within.target.dtype == torch.float32
    assert torch.equal(within.similarity, whole.similarity)
    assert torch.equal(within.target, whole.target)
    assert torch.equal(within.total, whole.total)
