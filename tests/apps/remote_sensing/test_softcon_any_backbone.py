"""Backbones of timm and torchvision by name: bands, statistics, maps, weights."""

from __future__ import annotations

import pytest
import torch

from apps.remote_sensing.models.any_backbone import (
    KEY_MAP,
    AnyBackbone,
    from_official_config,
    to_official_config,
)
from apps.remote_sensing.models.frozen.resizing import preparation_for
from core.checkpoints.weights import load_weights
from core.errors import UserError

BANDS = ("blue", "green", "red", "nir_narrow")
TIMM_VIT = {"name": "vit_tiny_patch16_224", "options": {"img_size": 32, "depth": 2}}


@pytest.mark.parametrize("given", [{"name": "resnet10t"}, TIMM_VIT, {"name": "torchvision/resnet18"}])
def test_a_backbone_reads_any_bands_and_gives_features_and_true_maps(given):
    network = AnyBackbone(**given, bands=BANDS).eval()
    x = torch.rand(2, 4, 32, 32)

    with torch.no_grad():
        features, maps = network(x), network.feature_maps(x)
        series = network.feature_maps(x[:, :, None].expand(-1, -1, 3, -1, -1))

    assert features.shape == (2, network.width)
    assert maps[0].shape[:2] == (2, network.width)
    assert series[0].shape[1] == 3 * network.width
    assert torch.allclose(series[0][:, : network.width], maps[0], atol=1e-4)
    assert list(network.blocks())


def test_a_torchvision_network_equals_its_own_but_for_the_classifier():
    from torchvision.models import resnet18

    network, theirs = AnyBackbone("torchvision/resnet18").eval(), resnet18(weights=None).eval()
    load_weights(theirs.state_dict(), network)
    theirs.fc = torch.nn.Identity()
    x = torch.rand(1, 3, 40, 40)

    assert torch.equal(network(x), theirs(x))


def test_normalisation_is_the_backbones_own_unless_given():
    network = AnyBackbone("resnet10t", BANDS)
    own = AnyBackbone("resnet10t", ("red",), mean=(0.1,), std=(0.2,))

    assert network.mean[2] == 0.485
    assert network.mean[3] == pytest.approx((0.485 + 0.456 + 0.406) / 3)
    assert preparation_for(network).size == network.image
    assert preparation_for(own).normalise(torch.full((1, 1, 1, 1), 0.3)).item() == pytest.approx(1.0)


def test_a_backbone_from_the_meta_device_is_written_completely():
    with torch.device("meta"):
        network = AnyBackbone(**TIMM_VIT, bands=BANDS)
    network.to_empty(device="cpu")
    for tensor in network.state_dict().values():
        tensor.fill_(3)

    network.reset_parameters()

    assert not any(bool((tensor == 3).all()) for tensor in network.state_dict().values())


def test_a_backbone_is_rebuilt_from_its_description():
    network = AnyBackbone(**TIMM_VIT, bands=BANDS).eval()

    again = from_official_config(to_official_config(network)).eval()
    load_weights(KEY_MAP.to_official(network.state_dict()), again)

    x = torch.rand(1, 4, 32, 32)
    assert torch.equal(again(x), network(x))
    assert again.mean == network.mean


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: AnyBackbone("resnet5O"), "did you mean 'resnet50'"),
        (lambda: AnyBackbone("torchvision/resnet500"), "torchvision has no classifier"),
        (lambda: AnyBackbone("resnet10t", mean=(1.0,)), "give one each"),
        (lambda: AnyBackbone("resnet10t", options={"no": 1}), "with these options"),
        (lambda: AnyBackbone("resnet10t")(torch.zeros(1, 4, 32, 32)), "it needs .B, 3, H, W."),
        (
            lambda: AnyBackbone("resnet10t").eval().feature_maps(torch.zeros(1, 3, 32, 32), layers=[9]),
            "has stages",
        ),
        (lambda: from_official_config({}), "names no architecture"),
    ],
)
def test_what_there_is_not_is_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        wrong()
