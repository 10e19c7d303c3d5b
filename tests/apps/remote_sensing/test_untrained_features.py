"""Features without training: the recorded protocol, random filters, whitened patches, statistics."""

from __future__ import annotations

import pytest
import torch

from apps.remote_sensing.models.frozen.untrained import (
    Mosaiks,
    image_statistics,
    patches_of,
    whitened,
)
from apps.remote_sensing.parity_cases.resize_knn import run
from core.errors import UserError
from core.parity import load_case, run_case


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_recorded_protocol_is_reproduced(shared):
    path = shared / "parity" / "resize_knn" / "protocol.json"

    report = run_case(path)
    made = run(load_case(path))

    assert [check.name for check in report.checks if not check.passed] == []
    assert float(made["loss/accuracy_raw"]) == pytest.approx(0.8556, abs=5e-5)
    assert float(made["loss/accuracy_scaled"]) == pytest.approx(0.9889, abs=5e-5)
    assert float(made["loss/ml_map_macro"]) == pytest.approx(0.8367, abs=5e-5)
    assert float(made["loss/ml_map_micro"]) == pytest.approx(0.8263, abs=5e-5)


def test_random_filters_follow_their_seed_and_take_both_signs():
    x = numbers(2, 3, 9, 7)
    one, same, other = (Mosaiks(3, features=8, seed=seed) for seed in (1, 1, 2))
    answers = torch.nn.functional.conv2d(x, one.weight) - 1.0

    features = one(x)

    assert torch.equal(features, same(x))
    assert not torch.equal(features, other(x))
    assert torch.allclose(features[:, :4] - features[:, 4:], answers.mean((2, 3)), atol=1e-6)
    assert bool((features >= 0).all())


def test_filters_of_training_patches_are_whitened_twice():
    patches = patches_of(numbers(4, 2, 20, 20), 400)
    rows = patches.flatten(1).double()
    rows = rows - rows.mean(1, keepdim=True)
    rows = rows / rows.norm(dim=1, keepdim=True)

    values, vectors = torch.linalg.eigh(rows.T @ rows / 400)
    zca = vectors @ torch.diag((values + 1e-3).rsqrt()) @ vectors.T

    assert torch.allclose(whitened(patches).flatten(1).double(), rows @ zca @ zca.T, atol=1e-4)
    network = Mosaiks(2, features=800, patches="training")
    network.learn_from(numbers(4, 2, 20, 20))
    assert torch.equal(network.weight, whitened(patches))
    assert network(numbers(1, 2, 5, 5)).shape == (1, 800)


def test_statistics_of_an_image_stand_in_the_order_mean_deviation_maximum_minimum():
    x = torch.tensor([[[[1.0, 3.0]], [[0.0, 0.0]]]])

    assert image_statistics(x)[0].tolist() == pytest.approx([2, 0, 2**0.5, 0, 3, 0, 1, 0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Mosaiks(3, features=7), "must be even"),
        (lambda: Mosaiks(1, features=2)(torch.zeros(1, 1, 2, 9)), "fewer than a filter"),
    ],
)
def test_filters_that_do_not_fit_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        wrong()
