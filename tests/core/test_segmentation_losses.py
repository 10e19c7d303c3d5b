"""Losses of maps and numbers: plain formulas again, blind to unknown pixels, with gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from core.data.batch import IGNORE
from core.errors import UserError
from core.objectives.numbers import NumberLoss
from core.objectives.segmentation import CrossEntropy, Dice, Focal, Jaccard, Lovasz, Mixed

ALL = [CrossEntropy(), Focal(), Dice(), Jaccard(), Lovasz(), Mixed([CrossEntropy(), Dice()])]


def drawn(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits `(2, 3, 6, 5)` and labels with unknown pixels."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 6, 5, generator=generator, dtype=torch.float64)
    return logits, torch.randint(-1, 3, (2, 6, 5), generator=generator)


def test_cross_entropy_is_a_mean_over_pixels_and_not_over_weights() -> None:
    logits, label = drawn()
    chosen = label != IGNORE
    each = F.cross_entropy(logits, label.clamp(min=0), reduction="none")
    weights = torch.tensor([0.3, 0.7, 2.0], dtype=torch.float64)
    wanted = (each * weights[label.clamp(min=0)])[chosen].mean()
    torch.testing.assert_close(CrossEntropy([0.3, 0.7, 2.0])(logits, label), wanted)


def test_focal_without_focus_is_cross_entropy() -> None:
    logits, label = drawn()
    made = Focal(0.0, [1.0, 2.0, 3.0])(logits, label)
    torch.testing.assert_close(made.double(), CrossEntropy([1, 2, 3])(logits, label), rtol=1e-5, atol=1e-6)


def test_dice_and_jaccard_are_their_formulas() -> None:
    logits, label = drawn()
    known = label != IGNORE
    shares, true = logits.softmax(1).movedim(1, -1)[known], F.one_hot(label[known], 3).double()
    shared, both = (shares * true).sum(0), shares.sum(0) + true.sum(0)
    dice = 1 - ((2 * shared + 1) / (both + 1)).mean()
    jaccard = 1 - ((shared + 1) / (both - shared + 1)).mean()
    torch.testing.assert_close(Dice()(logits, label).double(), dice, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(Jaccard()(logits, label).double(), jaccard, rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_lovasz_of_sure_predictions_is_one_less_the_intersection_over_union(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    guess = torch.randint(0, 3, (2, 6, 5), generator=generator)
    label = torch.randint(-1, 3, (2, 6, 5), generator=generator)
    logits = 1e4 * F.one_hot(guess, 3).movedim(-1, 1).double()
    known = label != IGNORE
    wanted = []
    for number in range(3):
        true, made = (label == number) & known, (guess == number) & known
        if true.any():
            wanted.append(1 - float((true & made).sum()) / float((true | made).sum()))
    assert float(Lovasz()(logits, label)) == pytest.approx(sum(wanted) / len(wanted), abs=1e-6)


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
def test_unknown_pixels_have_no_part(loss: nn.Module) -> None:
    logits, label = drawn()
    logits.requires_grad_()
    loss(logits, label).backward()
    unknown = (label == IGNORE)[:, None].expand_as(logits)
    assert logits.grad is not None
    assert logits.grad[unknown].abs().max() == 0
    assert logits.grad[~unknown].abs().max() > 0
    other = torch.where(unknown, logits.detach() + 5, logits.detach())
    torch.testing.assert_close(loss(other, label), loss(logits.detach(), label))


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
def test_a_batch_without_labels_is_finite(loss: nn.Module) -> None:
    logits, label = drawn()
    logits.requires_grad_()
    value = loss(logits, torch.full_like(label, IGNORE))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("kind", ["squared", "absolute", "huber"])
def test_losses_of_numbers_leave_unknown_values_out(kind: str) -> None:
    true = torch.tensor([1.0, math.nan, 3.0])
    made = torch.tensor([2.0, 9.0, 6.0], requires_grad=True)
    value = NumberLoss(kind)(made, true)  # type: ignore[arg-type]
    value.backward()
    assert float(value) == pytest.approx({"squared": 5.0, "absolute": 2.0, "huber": 1.5}[kind])
    assert made.grad is not None
    assert made.grad[1] == 0


def test_mistakes_are_one_sentence() -> None:
    logits, label = drawn()
    with pytest.raises(UserError, match="2 weights and the network 3 classes"):
        CrossEntropy([1.0, 2.0])(logits, label)
    with pytest.raises(UserError, match="give one weight for each"):
        Mixed([Dice()], [1.0, 2.0])
    with pytest.raises(UserError, match="must be one of squared"):
        NumberLoss("square")  # type: ignore[arg-type]


def test_weights_may_divide_as_torchs_do() -> None:
    logits, label = drawn()
    made = CrossEntropy([0.3, 0.7, 2.0], by_weight=True)(logits, label)
    wanted = F.cross_entropy(logits, label, logits.new_tensor([0.3, 0.7, 2.0]), ignore_index=IGNORE)
    torch.testing.assert_close(made, wanted, rtol=1e-6, atol=1e-6)


def test_dice_by_image_with_squares_is_that_of_mmsegmentation() -> None:
    logits, label = drawn()
    label = label.clamp(min=0)
    shares, true = logits.softmax(1).flatten(2), F.one_hot(label, 3).movedim(-1, 1).flatten(2).double()
    score = (2 * (shares * true).sum(2) + 1) / ((shares**2 + true**2).sum(2) + 1)
    made = Dice(exponent=2, by_image=True)(logits, label)
    torch.testing.assert_close(made.double(), 1 - score.mean(), rtol=1e-5, atol=1e-6)


def test_losses_are_computed_in_float32_under_autocast() -> None:
    logits, label = drawn()
    for loss in ALL:
        whole = loss(logits.float(), label)
        with torch.autocast("cpu", torch.bfloat16):
            half = loss(logits.bfloat16(), label)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, whole, rtol=2e-2, atol=2e-2)
