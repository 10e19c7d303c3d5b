"""Files that SoftCon's networks start from: released ones, DINOv2's, timm's, other bands, other sizes."""

from __future__ import annotations

import pytest
import torch

from apps.remote_sensing.models.dino.official import chunked
from apps.remote_sensing.models.softcon import (
    KEY_MAP,
    Siamese,
    SoftConResNet50,
    SoftConViT,
    from_official_config,
    key_maps,
    to_official_config,
)
from core.checkpoints.weights import load_weights
from core.errors import UserError

SMALL = {"width": 24, "depth": 4, "heads": 2, "patch": 4, "image": 16}


def network(bands=13, seed=0, **options):
    torch.manual_seed(seed)
    return SoftConViT(bands, **{**SMALL, **options}).eval()


def saved(path, state):
    torch.save(state, path)
    return str(path)


def official(source):
    return {name: tensor.clone() for name, tensor in KEY_MAP.to_official(source.state_dict()).items()}


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "model.backbone."])
@pytest.mark.parametrize("chunks", [0, 1, 4])
def test_released_files_are_read_whatever_wraps_their_names(tmp_path, prefix, chunks):
    source, fresh = network(), network(seed=1)
    names = chunked(KEY_MAP, depth=4, chunks=chunks)
    state = {f"{prefix}{name}": tensor for name, tensor in names.to_official(source.state_dict()).items()}

    report = load_weights(saved(tmp_path / "B13_vits14_softcon.pth", state), fresh)

    x = torch.rand(1, 13, 16, 16)
    assert report.loaded == len(state)
    assert torch.equal(fresh(x), source(x))


def test_a_file_of_the_encoder_alone_leaves_the_mask_token_as_initialised(tmp_path):
    source, fresh = network(), network(seed=1)
    state = official(source)
    del state["mask_token"]

    load_weights(saved(tmp_path / "B13_vits14_softcon_enc.pth", state), fresh)

    x = torch.rand(1, 13, 16, 16)
    assert torch.equal(fresh(x), source(x))
    assert int(fresh.mask_token.count_nonzero()) == 0


def test_pre_training_goes_on_from_three_colours_and_a_larger_grid(tmp_path):
    colours, fresh = network(3, image=36), network(seed=1)
    before = fresh.patch_embed.weight.detach().clone()

    load_weights(saved(tmp_path / "dinov2_vits14_pretrain.pth", official(colours)), fresh)

    assert torch.equal(fresh.patch_embed.weight, before)
    assert torch.equal(fresh.patch_embed.bias, colours.patch_embed.bias)
    assert torch.allclose(fresh.pos_embed, colours.positions(4, 4))
    assert torch.equal(fresh.layers[2].attn.qkv.weight, colours.layers[2].attn.qkv.weight)


def test_bands_are_taken_by_name(tmp_path):
    source, fresh = network(), network(("B12", "B8A", "elevation"), seed=1)
    own = fresh.patch_embed.weight.detach().clone()

    load_weights(saved(tmp_path / "B13_vits14_softcon.pth", official(source)), fresh)

    weight, first = fresh.patch_embed.weight, source.patch_embed.weight
    assert torch.equal(weight[:, 0], first[:, 12])
    assert torch.equal(weight[:, 1], first[:, 8])
    assert torch.equal(weight[:, 2], own[:, 2])


def test_the_resnets_bands_are_taken_by_name_and_its_classifier_is_left():
    (names,) = key_maps(SoftConResNet50(("B04", "B03", "B02")))
    first = torch.rand(64, 13, 7, 7)

    found = names.from_official({"conv1.weight": first, "fc.weight": torch.zeros(9, 2048)})

    assert list(found) == ["body.conv1.weight"]
    assert torch.equal(found["body.conv1.weight"], first[:, [3, 2, 1]])


def test_a_file_of_another_width_is_refused_with_both_shapes(tmp_path):
    path = saved(tmp_path / "other.pth", official(network(width=16)))

    with pytest.raises(UserError, match=r"cls_token is .1, 1, 16. there and .1, 1, 24. here"):
        load_weights(path, network())


def test_our_own_checkpoint_goes_back_into_the_same_bands_untouched(tmp_path):
    source, fresh = network(("B04", "B03")), network(("B04", "B03"), seed=1)

    load_weights(saved(tmp_path / "own.pt", source.state_dict()), fresh)

    assert torch.equal(fresh.patch_embed.weight, source.patch_embed.weight)


def test_two_optical_bands_of_an_official_file_are_not_taken_for_radar(tmp_path):
    source, fresh = network(("B04", "B03")), network(("B04", "B03"), seed=1)

    load_weights(saved(tmp_path / "two.pt", official(source)), fresh)

    assert torch.equal(fresh.patch_embed.weight, source.patch_embed.weight)


def test_a_network_is_rebuilt_from_its_description():
    from core.checkpoints.networks import describe_network, instantiate

    source = network(("VV", "VH"), registers=2, drop_path=0.2)

    again = instantiate(describe_network(source), where="the test")

    assert again.bands == ("vv", "vh")
    assert again.settings == source.settings


def test_a_student_starts_from_a_released_file_and_gives_its_encoder_back(tmp_path):
    source, student = network(), Siamese(network(seed=1), projection=8, hidden=8)
    beside = ("projector.*", "predictor.*", "teacher.*")

    report = load_weights(saved(tmp_path / "start.pth", official(source)), student, reinitialise=beside)
    again = from_official_config(to_official_config(student)).eval()
    load_weights(KEY_MAP.to_official(student.state_dict()), again)

    x = torch.rand(1, 13, 16, 16)
    assert report.loaded == len(source.state_dict())
    assert torch.equal(student.encoder(x), source(x))
    assert torch.equal(again(x), source(x))
