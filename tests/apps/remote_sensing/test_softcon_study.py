"""The resize study in small: its table of preparations, and scores of frozen features in one call."""

from __future__ import annotations

import pytest
import torch

from apps.remote_sensing.models.frozen.resize_study import DATA_SETS, WEIGHTS, preparation
from apps.remote_sensing.models.frozen.untrained import image_statistics
from core.errors import UserError
from core.metrics.probe_table import LabelledFeatures, probe, share


@pytest.mark.parametrize("data", DATA_SETS)
def test_statistics_have_one_number_for_each_band(data):
    found = DATA_SETS[data]

    assert len(found.bands) == len(set(found.bands)) == len(found.mean) == len(found.std)
    assert len(found.low) == len(found.high)
    assert all(std > 0 for std in found.std)


def test_data_sets_of_sentinel_2_agree_on_which_band_is_dark():
    names = ("eurosat", "bigearthnet", "so2sat", "treesatai")

    near, red = (
        [dict(zip(DATA_SETS[n].bands, DATA_SETS[n].mean, strict=True))[b] for n in names]
        for b in ("nir_narrow", "red")
    )

    assert all(bright > 1.5 * dark for bright, dark in zip(near, red, strict=True))
    assert DATA_SETS["eurosat"].bands[-1] == "nir_narrow"


@pytest.mark.parametrize("weights", WEIGHTS)
def test_each_set_of_weights_has_its_size_and_normalisation(weights):
    images = 100 * torch.rand(2, 3, 16, 16)

    prepared = preparation(weights, "resisc45")(images)

    assert prepared.shape[-1] == (16 if weights in ("mosaiks", "image_statistics") else 224)
    assert torch.isfinite(prepared).all()
    assert preparation("moco", "eurosat").divisor == 10000.0
    assert preparation("imagenet", "sat6").mean[0] == 112.3398


def test_frozen_features_are_scored_by_every_probe_in_one_call():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    colours = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])[labels]
    images = colours[:, :, None, None] + 0.4 * torch.randn(90, 2, 6, 6, generator=generator)
    features = image_statistics(images)
    train, test = LabelledFeatures(features[:60], labels[:60]), LabelledFeatures(features[60:], labels[60:])

    results = list(probe(train, test))

    assert [(result.method, result.scaled) for result in results] == [
        ("knn", False),
        ("linear", False),
        ("knn", True),
        ("linear", True),
    ]
    assert all(result.scores(test.labels)["accuracy"] > 0.8 for result in results)


def test_multi_labels_are_scored_by_average_precision():
    features = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    labels = (features[:, :2] > 0).long()
    train, test = LabelledFeatures(features[:40], labels[:40]), LabelledFeatures(features[40:], labels[40:])

    rows = [result.scores(test.labels) for result in probe(train, test, scaled=(False,))]

    assert all(row["map_macro"] > 0.8 for row in rows)
    assert {"map_micro", "f1_weighted", "subset_accuracy"} <= rows[0].keys()


def test_a_share_of_the_training_data_follows_its_seed():
    split = LabelledFeatures(torch.arange(200.0)[:, None], torch.arange(200))

    part = share(split, 0.05, seed=1)

    assert len(part.features) == 10
    assert torch.equal(part.labels, share(split, 0.05, seed=1).labels)
    assert not torch.equal(part.labels, share(split, 0.05, seed=2).labels)
    assert torch.equal(share(split, 1.0).labels, split.labels)


def test_what_the_study_does_not_know_is_refused():
    split = LabelledFeatures(torch.zeros(4, 2), torch.arange(4))
    several = LabelledFeatures(torch.zeros(4, 2), torch.zeros(4, 2))

    with pytest.raises(UserError, match="did you mean 'imagenet'"):
        preparation("imagenets", "eurosat")
    with pytest.raises(UserError, match="is no data set"):
        preparation("imagenet", "mars")
    with pytest.raises(UserError, match="is no probe"):
        next(probe(split, split, methods=["svm"]))
    with pytest.raises(UserError, match="as many labels"):
        next(probe(split, several))
    with pytest.raises(UserError, match="above 0 and at most 1"):
        share(split, 0.0)
