"""Official files of networks with other bands than usual: each weight goes to the band it belongs to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from apps.remote_sensing.data.bands import HLS
from apps.remote_sensing.models import any_backbone, prithvi, softcon
from apps.remote_sensing.models.any_backbone import AnyBackbone
from apps.remote_sensing.models.band_maps import first_layer
from apps.remote_sensing.models.prithvi import Prithvi, PrithviMAE, PrithviSegmenter
from apps.remote_sensing.models.softcon import SoftConResNet50, SoftConViT
from core.checkpoints.exchange import export_weights, write_own
from core.checkpoints.weights import load_weights, network_from

SMALL = {"resolution": 8, "frames": 1, "patch": (1, 4, 4), "width": 16, "depth": 1, "heads": 2}
DECODER = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
TOKENS = {"width": 16, "depth": 1, "heads": 2, "patch": 4, "image": 8}
COLOURS_FIRST = ("red", "green", "blue", "nir_narrow", "swir_1", "swir_2")
OTHERS = ("vv", "vh", "red", "nir_broad", "red_edge_1", "blue")
S2 = tuple(softcon.S2.bands)

NETWORKS = {
    "encoder": lambda bands: Prithvi(bands=bands, **SMALL),
    "autoencoder": lambda bands: PrithviMAE(bands=bands, **SMALL, **DECODER),
    "segmentation": lambda bands: PrithviSegmenter(bands=bands, channels=8, **SMALL),
    "tokens": lambda bands: SoftConViT(bands=bands, **TOKENS),
}


def drawn(network: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.1, generator=generator)
    return network.eval()


def home(kind: str):
    return softcon if kind == "tokens" else prithvi


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(other.state_dict()[name], own) for name, own in one.state_dict().items())


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("bands", [COLOURS_FIRST, OTHERS, (*HLS, "vv"), S2[::-1]], ids=len)
def test_a_network_of_any_bands_goes_to_official_names_and_back(kind, bands):
    source, again = (drawn(NETWORKS[kind](bands), seed) for seed in (1, 2))
    names, other = (home(kind).key_maps(one)[0] for one in (source, again))

    load_weights(names.to_official(source.state_dict()), again, key_map=other)

    assert equal(source, again)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("bands", [COLOURS_FIRST, OTHERS, (*HLS, "vv"), S2[::-1]], ids=len)
def test_an_exported_folder_gives_every_band_its_weights(kind, bands, tmp_path: Path):
    source = drawn(NETWORKS[kind](bands), 1)
    own = write_own(source, tmp_path / "own.ckpt", described=None, record={})

    again = network_from(export_weights(own, tmp_path / "official"))

    assert equal(source, again)


def test_an_exported_folder_of_other_bands_serves_a_network_by_name(tmp_path: Path):
    source = drawn(NETWORKS["autoencoder"](COLOURS_FIRST), 1)
    own = write_own(source, tmp_path / "own.ckpt", described=None, record={})
    network, encoder = drawn(NETWORKS["autoencoder"](HLS), 2), drawn(NETWORKS["encoder"](HLS), 3)
    folder = export_weights(own, tmp_path / "official")

    load_weights(folder, network)
    load_weights(folder, encoder)

    turned = [COLOURS_FIRST.index(band) for band in HLS]
    x = torch.rand(2, 6, 1, 8, 8)
    noise = torch.rand(2, 4)
    images = [
        one.image(one(given, noise=noise).prediction, (1, 2, 2))
        for one, given in ((network, x[:, turned]), (source, x))
    ]
    assert torch.allclose(images[0], images[1][:, turned], atol=1e-5)
    assert torch.equal(encoder.patch_embed.proj.weight, network.encoder.patch_embed.proj.weight)


@pytest.mark.parametrize("official", [False, True])
def test_predicted_bands_are_matched_by_name_and_new_ones_stay_as_drawn(official, tmp_path: Path):
    source = drawn(NETWORKS["autoencoder"](HLS), 1)
    network = drawn(NETWORKS["autoencoder"](("vv", "red")), 2)
    before = network.decoder.predict.weight.detach().clone()
    if official:
        torch.save(prithvi.KEY_MAP.to_official(source.state_dict()), tmp_path / "weights.pt")
        load_weights(tmp_path / "weights.pt", network)
    else:
        load_weights(write_own(source, tmp_path / "own.ckpt", described=None, record={}), network)

    rows = network.decoder.predict.weight.unflatten(0, (16, 2))
    assert torch.equal(rows[:, 1], source.decoder.predict.weight.unflatten(0, (16, 6))[:, 2])
    assert torch.equal(rows[:, 0], before.unflatten(0, (16, 2))[:, 0])
    assert network.decoder.predict.bias.shape == (32,)


def test_six_channels_without_a_word_are_those_of_hls(tmp_path: Path):
    source, network = drawn(NETWORKS["encoder"](HLS), 1), NETWORKS["encoder"](COLOURS_FIRST)
    torch.save(prithvi.KEY_MAP.to_official(source.state_dict()), tmp_path / "weights.pt")

    load_weights(tmp_path / "weights.pt", network)

    turned = [HLS.index(band) for band in COLOURS_FIRST]
    assert torch.equal(network.patch_embed.proj.weight, source.patch_embed.proj.weight[:, turned])


@pytest.mark.parametrize(
    "names", [("B04", "B03", "B02", "B05", "B06", "B07"), ("B04", "B03", "B02", "B8A", "B11", "B12")]
)
def test_numbers_of_a_configuration_are_those_of_landsat_or_sentinel(names, tmp_path: Path):
    source, network = drawn(NETWORKS["encoder"](COLOURS_FIRST), 1), NETWORKS["encoder"](HLS)
    torch.save(prithvi.KEY_MAP.to_official(source.state_dict()), tmp_path / "weights.pt")
    config = prithvi.to_official_config(source)
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {**config, "bands": list(names)}}))

    load_weights(tmp_path, network)

    turned = [COLOURS_FIRST.index(band) for band in HLS]
    assert torch.equal(network.patch_embed.proj.weight, source.patch_embed.proj.weight[:, turned])
    assert prithvi.from_official_config({**config, "bands": list(names)}).bands == COLOURS_FIRST


def test_a_marked_state_can_be_saved_and_read_again(tmp_path: Path):
    source = drawn(NETWORKS["encoder"](COLOURS_FIRST), 1)
    torch.save(prithvi.key_maps(source)[0].to_official(source.state_dict()), tmp_path / "weights.pt")
    again = NETWORKS["encoder"](COLOURS_FIRST)

    load_weights(tmp_path / "weights.pt", again)

    assert equal(source, again)
    assert torch.load(tmp_path / "weights.pt", weights_only=True).keys()


def test_the_resnets_bands_come_back_in_any_order():
    names = softcon.key_maps(SoftConResNet50(S2[::-1]))[0]
    first = torch.rand(64, 13, 7, 7)

    assert torch.equal(
        names.from_official(names.to_official({"body.conv1.weight": first}))["body.conv1.weight"], first
    )
    assert torch.equal(names.from_official({"conv1.weight": first})["body.conv1.weight"], first.flip(1))


# --- backbones of timm and torchvision ---


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "torchvision/resnet18"])
def test_colours_of_published_weights_go_to_the_bands_of_their_names(name):
    options = {"img_size": 32, "depth": 1} if name.startswith("vit") else None
    source = drawn(AnyBackbone(name, options=options), 1)
    turned = AnyBackbone(name, ("blue", "green", "red"), options=options).eval()
    more = AnyBackbone(name, ("blue", "nir_narrow", "red", "green"), options=options).eval()
    for network in (turned, more):
        (names,) = any_backbone.key_maps(network)
        load_weights(any_backbone.KEY_MAP.to_official(source.state_dict()), network, key_map=names)
    x = torch.rand(1, 3, 32, 32)

    assert torch.allclose(turned(x.flip(1)), source(x), atol=1e-4)
    grey = first_layer(more)[1]
    own = first_layer(source)[1]
    assert torch.allclose(grey[:, [2, 3, 0]], own * 0.75)
    assert torch.allclose(grey[:, 1], own.mean(1) * 0.75, atol=1e-6)


def test_fetched_weights_put_each_colour_on_its_band(tmp_path: Path):
    source = drawn(AnyBackbone("resnet10t"), 1)
    torch.save(source.body.state_dict(), tmp_path / "resnet10t.pth")
    options = {"pretrained_cfg_overlay": {"file": str(tmp_path / "resnet10t.pth"), "num_classes": 0}}

    turned = AnyBackbone("resnet10t", ("blue", "green", "red"), pretrained=True, options=options).eval()

    weight = first_layer(turned)[1]
    assert torch.equal(weight, first_layer(source)[1].flip(1))
    assert torch.equal(turned.body.layer1[0].conv1.weight, source.body.layer1[0].conv1.weight)


def test_a_backbone_of_own_bands_goes_to_official_names_and_back():
    source, again = (drawn(AnyBackbone("resnet10t", ("nir_narrow", "red", "vv")), seed) for seed in (1, 2))

    load_weights(any_backbone.key_maps(source)[0].to_official(source.state_dict()), again)

    assert equal(source, again)
