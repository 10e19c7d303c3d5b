"""Scores of classes, labels and numbers, calibration and temperature, beside those of scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as known
from torchmetrics.functional.classification import multiclass_calibration_error

from core.data.batch import IGNORE
from core.metrics.classes import Calibration, ClassScores, LabelScores, NumberScores, Temperature

NAMES = ["dry", "water", "cloud", "never seen"]


@pytest.fixture
def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions and labels `(6, 9, 7)`, some unknown, of three of four classes."""
    generator = torch.Generator().manual_seed(1)
    predicted = torch.randint(0, 3, (6, 9, 7), generator=generator)
    label = torch.randint(-1, 3, (6, 9, 7), generator=generator)
    return predicted, label


def test_class_scores_are_those_of_scikit_learn(drawn: tuple[torch.Tensor, torch.Tensor]) -> None:
    predicted, label = drawn
    scores = ClassScores(NAMES)
    for row in range(3):
        scores.update(predicted[2 * row : 2 * row + 2], label[2 * row : 2 * row + 2])
    chosen = label != IGNORE
    guess, truth = predicted[chosen].numpy(), label[chosen].numpy()
    found = scores.compute()
    assert float(found["iou"]) == pytest.approx(known.jaccard_score(truth, guess, average="macro"))
    assert float(found["accuracy"]) == pytest.approx(known.accuracy_score(truth, guess))
    assert float(found["mean_accuracy"]) == pytest.approx(known.balanced_accuracy_score(truth, guess))
    assert float(found["f1"]) == pytest.approx(known.f1_score(truth, guess, average="macro"))
    assert float(found["kappa"]) == pytest.approx(known.cohen_kappa_score(truth, guess))
    rows = scores.by_class()
    assert math.isnan(float(rows["iou"][3])), "a class that was never met has no score"
    assert rows["pixels"].sum() == chosen.sum()


def test_class_scores_start_anew_after_a_reset(drawn: tuple[torch.Tensor, torch.Tensor]) -> None:
    scores = ClassScores(NAMES)
    scores.update(*drawn)
    scores.reset()
    scores.update(torch.tensor([1]), torch.tensor([1]))
    assert float(scores.compute()["accuracy"]) == 1.0


def test_label_scores_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(2)
    shares = torch.rand(40, 3, generator=generator)
    truth = (torch.rand(40, 3, generator=generator) > 0.6).float()
    scores = LabelScores(NAMES[:3])
    scores.update(shares[:25], truth[:25])
    scores.update(shares[25:], truth[25:])
    found = scores.compute()
    wanted = known.average_precision_score(truth, shares, average="macro")
    assert float(found["map_macro"]) == pytest.approx(wanted, abs=1e-6)
    wanted = known.average_precision_score(truth, shares, average="micro")
    assert float(found["map_micro"]) == pytest.approx(wanted, abs=1e-6)
    wanted = known.f1_score(truth, shares > 0.5, average="macro")
    assert float(found["f1_macro"]) == pytest.approx(wanted, abs=1e-6)
    assert float(found["exact"]) == pytest.approx(known.accuracy_score(truth, shares > 0.5))


def test_number_scores_leave_out_what_is_unknown() -> None:
    truth = torch.tensor([[1.0, 2.0, math.nan], [4.0, math.nan, 8.0]]) + 1e6
    guess = truth + torch.tensor([[0.5, -1.0, 7.0], [1.0, 7.0, 0.0]])
    scores = NumberScores()
    scores.update(guess[:1], truth[:1])
    scores.update(guess[1:], truth[1:])
    chosen = truth.isfinite()
    found = {name: float(value) for name, value in scores.compute().items()}
    assert found["mae"] == pytest.approx(known.mean_absolute_error(truth[chosen], guess[chosen]))
    assert found["rmse"] == pytest.approx(known.root_mean_squared_error(truth[chosen], guess[chosen]))
    assert found["r2"] == pytest.approx(known.r2_score(truth[chosen].double(), guess[chosen].double()))
    assert found["bias"] == pytest.approx(0.125)


def test_number_scores_of_nothing_are_nan() -> None:
    scores = NumberScores()
    scores.update(torch.zeros(2, 3), torch.full((2, 3), math.nan))
    assert all(math.isnan(float(value)) for value in scores.compute().values())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), parts=st.integers(1, 4))
def test_calibration_error_is_that_of_torchmetrics_however_it_comes(seed: int, parts: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shares = (3 * torch.randn(60, 4, generator=generator)).softmax(1)
    label = torch.randint(0, 4, (60,), generator=generator)
    scores = Calibration()
    for some, truth in zip(shares.chunk(parts), label.chunk(parts), strict=True):
        scores.update(some.amax(1), some.argmax(1) == truth, torch.ones_like(truth))
    wanted = multiclass_calibration_error(shares, label, 4, n_bins=15)
    assert float(scores.compute()["ece"]) == pytest.approx(float(wanted), abs=1e-6)


def test_the_temperature_of_honest_probabilities_is_found_again() -> None:
    generator = torch.Generator().manual_seed(3)
    honest = 2 * torch.randn(4, 5, 40, 40, generator=generator)
    label = torch.distributions.Categorical(logits=honest.movedim(1, -1)).sample()
    label[:, :5] = IGNORE
    scores = Temperature(most=10**6)
    scores.update(2.5 * honest, label)
    assert float(scores.compute()) == pytest.approx(2.5, rel=0.05)


def test_the_temperature_of_several_labels_is_found_again() -> None:
    generator = torch.Generator().manual_seed(4)
    honest = 2 * torch.randn(4000, 6, generator=generator)
    label = (torch.rand(4000, 6, generator=generator) < honest.sigmoid()).float()
    scores = Temperature(several=True)
    scores.update(honest / 2, label)
    assert float(scores.compute()) == pytest.approx(0.5, rel=0.05)


def test_no_label_leaves_the_temperature_at_one() -> None:
    scores = Temperature()
    scores.update(torch.randn(2, 3, 8, 8), torch.full((2, 8, 8), IGNORE))
    assert float(scores.compute()) == 1.0


def test_labels_that_nothing_has_are_left_out_of_means() -> None:
    generator = torch.Generator().manual_seed(6)
    shares = torch.rand(30, 3, generator=generator) * torch.tensor([1.0, 1.0, 0.4])
    truth = (torch.rand(30, 3, generator=generator) > 0.5).float()
    truth[:, 2] = 0
    scores = LabelScores(NAMES[:3])
    scores.update(shares, truth)
    found = scores.compute()
    wanted = known.average_precision_score(truth[:, :2], shares[:, :2], average="macro")
    assert float(found["map_macro"]) == pytest.approx(wanted, abs=1e-6)
    wanted = known.f1_score(truth[:, :2], shares[:, :2] > 0.5, average="macro")
    assert float(found["f1_macro"]) == pytest.approx(wanted, abs=1e-6)


def test_scores_of_a_single_class() -> None:
    scores = ClassScores(["all"])
    scores.update(torch.zeros(2, 3, dtype=torch.int64), torch.tensor([[0, 0, -1], [0, 0, 0]]))
    assert float(scores.compute()["iou"]) == 1.0
    assert scores.matrix().tolist() == [[5]]
