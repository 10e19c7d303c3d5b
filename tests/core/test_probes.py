"""Probes on frozen features: scikit-learn's numbers, ties and limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from core.metrics.probes import (
    Scaler,
    average_precision,
    class_scores,
    fit_linear,
    label_scores,
    nearest,
    vote,
    vote_labels,
)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def clusters(count: int, classes: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    centres = torch.randn(classes, 8, generator=torch.Generator().manual_seed(99))
    return centres[labels] + 1.2 * torch.randn(count, 8, generator=generator), labels


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 7), st.integers(0, 1000), st.integers(2, 5))
def test_neighbours_and_votes_are_those_of_scikit_learn(k, seed, classes):
    from sklearn.neighbors import KNeighborsClassifier

    train, test = numbers(30, 4, seed=seed), numbers(11, 4, seed=seed + 1)
    labels = torch.randint(-1, classes, (30,), generator=torch.Generator().manual_seed(seed))
    several = torch.randint(0, 2, (30, 3), generator=torch.Generator().manual_seed(seed))

    found = nearest(train, test, k=k)
    theirs = KNeighborsClassifier(n_neighbors=k, algorithm="brute").fit(train.numpy(), labels.numpy())
    multi = KNeighborsClassifier(n_neighbors=k, algorithm="brute").fit(train.numpy(), several.numpy())

    assert np.array_equal(found.numpy(), theirs.kneighbors(test.numpy(), return_distance=False))
    assert np.array_equal(vote(found, labels).numpy(), theirs.predict(test.numpy()))
    assert np.array_equal(vote_labels(found, several)[1].numpy(), multi.predict(test.numpy()))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(-1e4, 1e4), st.floats(1e-3, 1e3))
def test_neighbours_do_not_change_when_all_features_are_moved_or_stretched_alike(seed, shift, factor):
    train, test = numbers(40, 3, seed=seed).double(), numbers(9, 3, seed=seed + 1).double()

    moved = nearest(factor * train + shift, factor * test + shift)

    assert torch.equal(moved, nearest(train, test))


def test_equally_near_rows_are_taken_in_their_order_and_tied_votes_go_to_the_smallest_class():
    train = torch.zeros(6, 2)
    labels = torch.tensor([7, 3, 7, 3, 3, 3])

    found = nearest(train, torch.zeros(1, 2), k=4)

    assert found.tolist() == [[0, 1, 2, 3]]
    assert vote(found, labels).tolist() == [3]
    assert vote_labels(found, (labels == 7).long()[:, None])[1].tolist() == [[0]]


def test_small_parts_of_the_test_set_give_the_same_neighbours(monkeypatch):
    train, test = numbers(50, 6), numbers(23, 6, seed=1)
    whole = nearest(train, test)

    monkeypatch.setattr("core.metrics.probes._CHUNK", 100)

    assert torch.equal(nearest(train, test), whole)


def test_close_rows_far_from_the_origin_are_told_apart():
    train = torch.tensor([[1e4, 0.003], [1e4, 0.001], [1e4, 0.002]])

    assert nearest(train, torch.tensor([[1e4, 0.0]]), k=3).tolist() == [[1, 2, 0]]


def test_scaling_is_that_of_scikit_learn_and_leaves_constants():
    from sklearn.preprocessing import StandardScaler

    train, test = 5 + 3 * numbers(20, 4), numbers(7, 4, seed=1)
    train[:, 2] = 0.1

    ours, theirs = Scaler.fit(train), StandardScaler().fit(train.numpy())

    assert np.allclose(ours(test).numpy(), theirs.transform(test.numpy()), atol=1e-6)
    assert float(ours.std[2]) == 1.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 20), st.integers(2, 4), st.integers(2, 6))
def test_scores_of_labels_are_those_of_scikit_learn(seed, rows, labels, levels):
    from sklearn.metrics import accuracy_score, average_precision_score, precision_recall_fscore_support

    generator = np.random.default_rng(seed)
    scores = generator.integers(0, levels, (rows, labels)) / levels
    true, guess = generator.integers(0, 2, (rows, labels)), (scores > 0.5).astype(int)
    true[0] = 1

    found = label_scores(torch.tensor(scores), torch.tensor(guess), torch.tensor(true))

    assert found["subset_accuracy"] == pytest.approx(accuracy_score(true, guess))
    for average in ("micro", "macro", "weighted"):
        expected = average_precision_score(true, scores, average=average)
        parts = precision_recall_fscore_support(true, guess, average=average, zero_division=0)
        assert found[f"map_{average}"] == pytest.approx(expected)
        assert [found[f"{n}_{average}"] for n in ("precision", "recall", "f1")] == pytest.approx(parts[:3])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 20), st.integers(2, 5))
def test_scores_of_classes_are_those_of_scikit_learn(seed, rows, classes):
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    generator = np.random.default_rng(seed)
    true, guess = generator.integers(0, classes, rows), generator.integers(1, classes + 1, rows)

    found = class_scores(torch.tensor(guess), torch.tensor(true))

    assert found["accuracy"] == pytest.approx(accuracy_score(true, guess))
    for average in ("micro", "macro", "weighted"):
        parts = precision_recall_fscore_support(true, guess, average=average, zero_division=0)
        assert [found[f"{n}_{average}"] for n in ("precision", "recall", "f1")] == pytest.approx(parts[:3])


def test_a_label_that_no_row_has_scores_zero():
    assert average_precision(torch.rand(4, 1), torch.zeros(4, 1)).tolist() == [0.0]


@pytest.mark.parametrize("strength", [0.1, 1.0, None])
def test_the_linear_probe_is_scikit_learns_logistic_regression(strength):
    from sklearn.linear_model import LogisticRegression

    train, labels = clusters(120, 4)
    test, _ = clusters(40, 4, seed=1)
    c = np.inf if strength is None else strength

    ours = fit_linear(train, labels, strength=strength)
    theirs = LogisticRegression(C=c, max_iter=3000).fit(train.double().numpy(), labels.numpy())

    assert ours.converged
    assert np.allclose(ours.scores(test).numpy(), theirs.predict_proba(test.double().numpy()), atol=1e-4)
    assert np.array_equal(ours(test).numpy(), theirs.predict(test.double().numpy()))


def test_labels_of_one_image_are_fitted_at_once_as_they_would_be_one_by_one():
    from sklearn.linear_model import LogisticRegression

    train, classes = clusters(100, 3)
    several = torch.stack([classes == 0, classes < 2], dim=1).long()

    probe = fit_linear(train, several, tolerance=1e-7)

    for i in range(2):
        alone = LogisticRegression(max_iter=3000, tol=1e-7).fit(train.double().numpy(), several[:, i].numpy())
        expected = alone.predict_proba(train.double().numpy())[:, 1]
        assert np.allclose(probe.scores(train)[:, i].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: nearest(torch.zeros(3, 2), torch.zeros(3, 4)), "of one network"),
        (lambda: nearest(torch.zeros(3, 2), torch.zeros(3, 2), k=4), "must be 1 to 3"),
        (lambda: nearest(torch.full((3, 2), torch.nan), torch.zeros(3, 2), k=1), "3 of 3 training rows"),
        (lambda: fit_linear(torch.zeros(3, 2), torch.zeros(3).long()), "at least two"),
        (lambda: fit_linear(torch.zeros(3, 2), torch.zeros(2).long()), "3 rows of features and 2"),
        (lambda: fit_linear(torch.zeros(2, 2), torch.arange(2), strength=0.0), "above 0"),
    ],
)
def test_what_cannot_be_probed_is_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        wrong()
