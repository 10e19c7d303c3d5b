"""SoftCon's networks: the recorded cases, sizes, layouts, other image sizes, stochastic depth."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from apps.remote_sensing.models import softcon
from apps.remote_sensing.models.dino.official import chunked
from apps.remote_sensing.models.dino.vit import DinoBlock as Block
from apps.remote_sensing.models.softcon import (
    KEY_MAP,
    SoftConResNet50,
    SoftConViT,
    from_official_config,
    key_maps,
    to_official_config,
)
from core.checkpoints.weights import load_weights
from core.errors import UserError
from core.parity import run_case

SMALL = {"width": 24, "depth": 3, "heads": 2, "patch": 4, "image": 16}


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def lively(network: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter a size at which a wrong term shows; LayerScale starts at almost nothing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


@pytest.mark.parametrize("case", ["vit_ms13", "vit_sar2", "loss_formula"])
def test_the_recorded_case_is_reproduced(shared, case):
    report = run_case(shared / "parity" / "softcon" / f"{case}.json")

    assert [check.name for check in report.checks if not check.passed] == []
    assert len(report.checks) >= 6


@pytest.mark.parametrize(
    ("size", "parameters", "tensors"),
    [
        ("softcon_vits14_s2", 22_381_824, 175),
        ("softcon_vitb14_s2", 87_230_976, 175),
        ("softcon_vits14_s1", 21_553_920, 175),
        ("softcon_vitb14_s1", 85_575_168, 175),
        ("softcon_rn50_s2", 23_539_392, 318),
        ("softcon_rn50_s1", 23_504_896, 318),
    ],
)
def test_sizes_have_the_number_of_parameters_of_the_released_files(size, parameters, tensors):
    with torch.device("meta"):
        network = getattr(softcon, size)()

    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(network.state_dict()) == tensors


def test_the_small_size_has_the_names_and_shapes_of_the_released_file():
    with torch.device("meta"):
        official = KEY_MAP.to_official(softcon.softcon_vits14_s2().state_dict())

    shapes = {name: tuple(tensor.shape) for name, tensor in official.items()}
    assert shapes["pos_embed"] == (1, 257, 384)
    assert shapes["mask_token"] == (1, 384)
    assert shapes["patch_embed.proj.weight"] == (384, 13, 14, 14)
    assert shapes["blocks.11.attn.qkv.weight"] == (1152, 384)
    assert shapes["blocks.0.ls2.gamma"] == (384,)
    assert shapes["blocks.0.mlp.fc1.bias"] == (1536,)
    assert {"cls_token", "norm.weight", "norm.bias"} <= shapes.keys()


@pytest.mark.parametrize("cut", ["registers", "patches"])
def test_a_case_with_registers_runs_however_its_maps_were_cut(tmp_path, cut):
    config = {"img_size": 16, "patch_size": 4, "in_chans": 2, "embed_dim": 24, "depth": 2, "num_heads": 2}
    config |= {"num_register_tokens": 4, "init_values": None, "block_chunks": 2, "drop_path_uniform": True}
    network = lively(from_official_config(config))
    x = images(2, 2, 16, 16)
    tokens = network.layer_tokens(x, [1])[0]
    maps = torch.cat([tokens.registers, tokens.patches], dim=1) if cut == "registers" else tokens.patches
    state = chunked(KEY_MAP, depth=2, chunks=2).to_official(network.state_dict())
    save_file(
        {f"state/{name}": tensor for name, tensor in state.items()}
        | {"input/x": x, "output/cls": network(x).contiguous(), "output/reg": tokens.registers.contiguous()}
        | {"output/inter_0": maps.reshape(2, 4, 4, -1).permute(0, 3, 1, 2).contiguous()},
        tmp_path / "registers.safetensors",
    )
    head = {"format": "parity-1", "system": "softcon", "kind": "vit", "case": "registers", "tolerance": {}}
    (tmp_path / "registers.json").write_text(
        json.dumps({**head, "config": config, "intermediate_layers": [1]})
    )

    report = run_case(tmp_path / "registers.json")

    assert [check.name for check in report.checks if not check.passed] == []
    assert len(report.checks) == 3


def test_a_case_of_other_options_and_images_runs(tmp_path):
    config = {"img_size": 16, "patch_size": 4, "in_chans": 2, "embed_dim": 24, "depth": 3, "num_heads": 2}
    config |= {"init_values": 1e-5, "block_chunks": 0}
    network = lively(SoftConViT(width=24, depth=3, heads=2, patch=4, image=16, bands=("VV", "VH"), eps=0.1))
    x, small = images(2, 2, 16, 16), images(1, 2, 8, 12)
    tensors = {f"state/{name}": tensor for name, tensor in KEY_MAP.to_official(network.state_dict()).items()}
    tensors |= {"input/x": x, "input/x_small": small, "output/cls": network(x)}
    tensors |= {"output/small_cls": network(small), "output/small_pos": network.positions(2, 3)}
    last = network.layer_tokens(x, [1, 2])
    tensors |= {f"output/inter_cls_{i}": tokens.cls for i, tokens in enumerate(last)}
    save_file(
        {name: tensor.detach().contiguous() for name, tensor in tensors.items()}, tmp_path / "a.safetensors"
    )
    head = {
        "format": "parity-1",
        "system": "softcon",
        "kind": "vit",
        "tolerance": {},
        "intermediate_layers": 2,
    }
    for name, place in (("a", head), ("b", config)):
        (tmp_path / f"{name}.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes())
        place["layer_norm_eps"] = 0.1
        (tmp_path / f"{name}.json").write_text(json.dumps({**head, "case": name, "config": config}))
        del place["layer_norm_eps"]

        report = run_case(tmp_path / f"{name}.json")

        assert [check.name for check in report.checks if not check.passed] == []
        assert len(report.checks) == 5


OPTIONS = [
    {},
    {"registers": 3, "layer_scale": None},
    {"ffn": "swiglufused", "bands": ("VV", "VH")},
    {"ffn": "swiglu", "antialias": True, "offset": 0.0, "drop_path": 0.3, "drop_path_uniform": True},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_keeps_its_weights_through_the_official_layout(options):
    network = lively(SoftConViT(**{**SMALL, **options}))
    x = images(2, len(network.bands), 16, 16)

    again = from_official_config(to_official_config(network)).eval()
    load_weights(KEY_MAP.to_official(network.state_dict()), again)

    assert torch.equal(again(x), network(x))
    assert again.bands == network.bands


@pytest.mark.parametrize("bands", [("VV", "VH")])
def test_the_resnet_keeps_its_weights_and_equals_torchvisions(bands):
    from torchvision.models import resnet50

    network = SoftConResNet50(bands).eval()
    official = KEY_MAP.to_official(network.state_dict())
    theirs = resnet50(weights=None)
    theirs.conv1 = torch.nn.Conv2d(len(network.bands), 64, 7, stride=2, padding=3, bias=False)
    theirs.fc = torch.nn.Identity()
    theirs.load_state_dict(official, strict=True)
    x = images(1, len(network.bands), 40, 33)

    again = from_official_config(to_official_config(network)).eval()
    load_weights({**official, "fc.bias": torch.zeros(1000)}, again)

    assert torch.equal(network(x), theirs.eval()(x))
    assert torch.equal(again(x), network(x))
    assert torch.allclose(network.feature_maps(x)[0].mean((2, 3)), network(x), atol=1e-6)


def test_the_transformer_equals_timms_where_positions_are_not_resized():
    from timm.models.vision_transformer import VisionTransformer

    network = lively(SoftConViT(**SMALL))
    theirs = VisionTransformer(
        img_size=16,
        patch_size=4,
        in_chans=13,
        embed_dim=24,
        depth=3,
        num_heads=2,
        init_values=1.0,
        num_classes=0,
    ).eval()
    official = KEY_MAP.to_official(network.state_dict())
    del official["mask_token"]
    theirs.load_state_dict(official, strict=True)
    x = images(2, 13, 16, 16)

    assert torch.allclose(network(x), theirs(x), atol=1e-5)


@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_files_with_chunked_blocks_are_read(chunks):
    network = lively(SoftConViT(**{**SMALL, "depth": 4}))
    names = chunked(KEY_MAP, depth=4, chunks=chunks)
    official = names.to_official(network.state_dict())
    again = SoftConViT(**{**SMALL, "depth": 4}).eval()

    load_weights(official, again, key_map=names)

    assert f"blocks.{chunks - 1}.3.norm1.weight" in official
    assert torch.equal(again(images(1, 13, 16, 16)), network(images(1, 13, 16, 16)))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.booleans(), st.sampled_from([0.0, 0.1]))
def test_any_grid_of_patches_runs_and_maps_have_its_shape(rows, columns, antialias, offset):
    network = SoftConViT(**SMALL, antialias=antialias, offset=offset).eval()
    x = images(1, 13, 4 * rows, 4 * columns)

    maps = network.feature_maps(x, layers=[0, 2])

    assert [tuple(m.shape) for m in maps] == [(1, 24, rows, columns)] * 2
    assert torch.isfinite(network(x)).all()


def test_positions_of_the_built_grid_are_the_table_itself():
    network = SoftConViT(**SMALL)

    assert network.positions(4, 4) is network.pos_embed
    assert network.positions(2, 8).shape == network.pos_embed.shape
    assert not torch.equal(network.positions(2, 8), network.pos_embed)


def test_masked_patches_are_not_seen_and_dropped_ones_cost_nothing():
    network = lively(SoftConViT(**SMALL))
    x = images(1, 13, 16, 16)
    changed = x.clone()
    changed[:, :, :4, :4] += 1.0
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[:, 0] = True
    kept = torch.arange(1, 16)[None]

    assert torch.equal(network(x, mask), network(changed, mask))
    assert not torch.equal(network(x), network(changed))
    assert torch.equal(network.encode(x, kept=kept).cls, network.encode(changed, kept=kept).cls)
    assert network.encode(x, kept=kept).patches.shape == (1, 15, 24)


def test_keeping_every_patch_in_any_order_changes_no_feature():
    network = lively(SoftConViT(**SMALL))
    x = images(2, 13, 16, 16)
    kept = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(i)) for i in range(2)])

    assert torch.allclose(network.encode(x, kept=kept).cls, network(x), atol=1e-5)


def test_frames_of_a_series_are_encoded_one_by_one():
    network = lively(SoftConViT(**SMALL))
    x = images(2, 13, 3, 16, 8)

    maps = network.feature_maps(x)[0]

    assert maps.shape == (2, 3 * 24, 4, 2)
    assert torch.allclose(maps[:, 24:48], network.feature_maps(x[:, :, 1])[0], atol=1e-6)
    assert torch.equal(network(x[:, :, :1]), network(x[:, :, 0]))


def test_a_probe_sees_class_tokens_of_the_last_blocks_and_the_mean_patch():
    network = lively(SoftConViT(**SMALL))
    x = images(2, 13, 16, 16)
    found = network.layer_tokens(x, [1, 2])

    features = network.probe_features(x, layers=2)

    expected = [found[0].cls, found[1].cls, found[1].patches.mean(1)]
    assert torch.equal(features, torch.cat(expected, dim=-1))
    assert torch.equal(network.probe_features(x), network(x))


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_stochastic_depth_keeps_the_mean_of_a_branch(rate):
    torch.manual_seed(0)
    block = lively(Block(8, 2, layer_scale=1.0, drop_path=rate))
    block.mlp.fc2.weight.data.zero_()
    block.mlp.fc2.bias.data.zero_()
    x = images(1, 3, 8).expand(64, -1, -1)

    with torch.no_grad():
        whole = block(x) - x
        block.train()
        part = torch.stack([block(x) - x for _ in range(64)]).mean((0, 1))

    assert torch.allclose(part, whole[0], atol=0.1 * float(whole.abs().max()))


def test_above_a_tenth_the_batch_is_subsampled_exactly():
    block = lively(Block(8, 2, layer_scale=1.0, drop_path=0.25)).train()
    block.mlp.fc2.weight.data.zero_()
    block.mlp.fc2.bias.data.zero_()
    x = images(8, 3, 8)

    changed = (block(x) != x).flatten(1).any(1)

    assert int(changed.sum()) == 6


def test_a_network_from_the_meta_device_is_written_completely():
    with torch.device("meta"):
        networks = [SoftConViT(**SMALL, registers=2), SoftConResNet50(2)]

    for network in networks:
        network.to_empty(device="cpu")
        for tensor in network.state_dict().values():
            tensor.fill_(3)
        network.reset_parameters()
        assert not any(bool((tensor == 3).all()) for tensor in network.state_dict().values())
        assert list(network.blocks())


def test_bands_carry_their_statistics_by_name():
    network = SoftConViT(("B12", "blue", "B8A"), **SMALL)

    assert network.bands == ("swir_2", "blue", "nir_narrow")
    assert network.mean == (1537.4, 1397.6, 2581.0)
    assert network.std == (1142.9, 854.3, 1345.9)
    assert network.scale == 10000.0
    assert SoftConViT(("VV", "VH"), **SMALL).mean == (-12.59, -20.26)


def test_the_layouts_that_files_come_in_are_told_apart():
    network = SoftConViT(**SMALL)

    official = chunked(KEY_MAP, depth=3, chunks=1).to_official(network.state_dict())
    own = network.state_dict()
    known = [sum(names.our_name(key) in own for key in official) for names in key_maps(network)]

    assert known[1] == len(network.state_dict())
    assert known[0] < known[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, "heads must divide the width"),
        ({"image": 15}, "the patch must divide the image"),
        ({"ffn": "glu"}, "must be mlp, swiglu or swiglufused"),
        ({"bands": ("B02", "blue")}, "none twice"),
        ({"bands": ()}, "at least one band"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        SoftConViT(**{**SMALL, **options})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 12, 16, 16), "it needs .B, 13, H, W."),
        ((1, 13, 2, 16, 16), "it needs .B, 13, H, W."),
        ((1, 13, 16, 15), "multiples of the patch"),
    ],
)
def test_images_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(UserError, match=message):
        SoftConViT(**SMALL)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"embed_dims": 4}, "did you mean 'embed_dim'"),
        ({"proj_bias": False}, "only True is known"),
        ({"img_size": [16, 32]}, "equal sides"),
    ],
)
def test_official_settings_of_another_network_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        from_official_config(config)
