"""Official checkpoints of Prithvi in every layout that is around, and bands matched by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from apps.remote_sensing.data.bands import HLS, canonical
from apps.remote_sensing.models.prithvi import (
    KEY_MAP,
    Prithvi,
    PrithviMAE,
    PrithviSegmenter,
    encoder_map,
    from_official_config,
    to_official_config,
)
from core.checkpoints.exchange import export_weights, import_weights, write_own
from core.checkpoints.weights import load_weights, network_from
from core.errors import UserError

SMALL = {"resolution": 16, "frames": 2, "patch": (1, 4, 4), "width": 32, "depth": 2, "heads": 2}
DECODER = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
TL = {"coordinates": ("time", "location"), "learn_scale": True}
State = dict[str, Tensor]


def drawn(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Fill a network with numbers that tell it from another one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.1, generator=generator)
    return network.eval()


def official(network: torch.nn.Module) -> State:
    return KEY_MAP.to_official(network.state_dict())


def flat(state: State) -> State:
    return {name.partition(".")[2]: tensor for name, tensor in state.items()}


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def with_wrapped_blocks(state: State) -> State:
    return {name.replace(".blocks.", "._timm_module.blocks."): tensor for name, tensor in state.items()}


LAYOUTS = {
    "version 2": lambda state: state,
    "version 1, flat": flat,
    "a trainer's, model.": prefixed("model."),
    "a trainer's, module.": prefixed("module."),
    "a trainer's, both": prefixed("module.model."),
    "inside state_dict": lambda state: {"state_dict": prefixed("model.")(state)},
    "_timm_module. inside": with_wrapped_blocks,
    "flat and wrapped": lambda state: prefixed("model.")(flat(state)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", [{}, TL], ids=["plain", "TL"])
def test_the_autoencoder_takes_every_layout(layout: str, options: dict, tmp_path: Path) -> None:
    source, network = (drawn(PrithviMAE(**SMALL, **DECODER, **options), seed) for seed in (1, 2))
    torch.save(LAYOUTS[layout](official(source)), tmp_path / "weights.pt")

    report = load_weights(tmp_path / "weights.pt", network)

    assert report.initialised == []
    assert all(torch.equal(network.state_dict()[k], v) for k, v in source.state_dict().items())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_encoder_takes_every_layout_of_the_autoencoder(layout: str, tmp_path: Path) -> None:
    source, network = drawn(PrithviMAE(**SMALL, **DECODER, **TL), 1), drawn(Prithvi(**SMALL, **TL), 2)
    torch.save(LAYOUTS[layout](official(source)), tmp_path / "weights.pt")

    load_weights(tmp_path / "weights.pt", network)

    assert all(torch.equal(network.state_dict()[k], v) for k, v in source.encoder.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_version_1_segmentation_takes_its_files(prefix: str, tmp_path: Path) -> None:
    source, network = (drawn(PrithviSegmenter(classes=3, channels=8, **SMALL), seed) for seed in (1, 2))
    source.decode_head.convs[0].bn.running_mean.fill_(0.5)
    state = prefixed(prefix)(official(source))
    torch.save({"state_dict": state}, tmp_path / "weights.pth")
    x = torch.randn(1, 6, 2, 16, 16)

    load_weights(tmp_path / "weights.pth", network)

    assert f"{prefix}backbone.blocks.0.attn.qkv.weight" in state
    assert f"{prefix}decode_head.convs.0.bn.running_mean" in state
    assert f"{prefix}auxiliary_head.convs.1.conv.weight" in state
    assert network(x).shape == (1, 3, 16, 16)
    assert torch.equal(network(x), source(x))
    assert [t.shape for t in network.with_auxiliary(x)] == [(1, 3, 16, 16)] * 2


def test_the_encoder_of_a_fine_tuned_file_is_read_without_its_heads(tmp_path: Path) -> None:
    source, network = drawn(PrithviSegmenter(channels=8, **SMALL), 1), drawn(Prithvi(**SMALL), 2)
    torch.save(official(source), tmp_path / "weights.pth")

    load_weights(tmp_path / "weights.pth", network)

    assert torch.equal(network.layers[1].mlp.fc1.weight, source.backbone.layers[1].mlp.fc1.weight)


def test_tables_of_another_number_of_frames_and_size_are_computed_not_loaded(tmp_path: Path) -> None:
    source = drawn(PrithviMAE(**SMALL, **DECODER), 1)
    network = PrithviMAE(**{**SMALL, **DECODER, "frames": 3, "resolution": 24})
    fresh = PrithviMAE(**{**SMALL, **DECODER, "frames": 3, "resolution": 24})
    torch.save(official(source), tmp_path / "weights.pt")

    load_weights(tmp_path / "weights.pt", network)

    assert torch.equal(network.encoder.pos_embed, fresh.encoder.pos_embed)
    assert torch.equal(network.decoder.layers[0].mlp.fc1.weight, source.decoder.layers[0].mlp.fc1.weight)


def test_a_missing_or_unknown_parameter_is_named(tmp_path: Path) -> None:
    state = official(PrithviMAE(**SMALL, **DECODER))
    state["encoder.extra"] = state.pop("decoder.mask_token")
    torch.save(state, tmp_path / "weights.pt")

    with pytest.raises(UserError, match=r"decoder\.mask_token.*encoder\.extra"):
        load_weights(tmp_path / "weights.pt", PrithviMAE(**SMALL, **DECODER))


def test_bands_are_matched_by_name_and_others_stay_as_drawn(tmp_path: Path) -> None:
    source = drawn(PrithviMAE(**SMALL, **DECODER), 1)
    torch.save(official(source), tmp_path / "weights.pt")
    network = Prithvi(**SMALL, bands=("vv", "red", "blue", "swir_2"))
    drawn_before = network.patch_embed.proj.weight.detach().clone()
    limit = (6.0 / (32 + 4 * 16)) ** 0.5

    load_weights(tmp_path / "weights.pt", network)

    weight, known = network.patch_embed.proj.weight, source.encoder.patch_embed.proj.weight
    assert torch.equal(weight[:, 0], drawn_before[:, 0])
    assert torch.equal(weight[:, 1:], known[:, [2, 0, 5]])
    assert drawn_before.abs().max() <= limit


def test_as_many_bands_in_another_order_are_matched_by_name_too() -> None:
    source, turned = drawn(Prithvi(**SMALL), 1), Prithvi(**SMALL, bands=HLS[::-1])
    load_weights(official(source), turned)
    turned.eval()
    x = torch.randn(1, 6, 2, 16, 16)

    assert torch.allclose(turned(x.flip(1)), source(x), atol=1e-5)


def test_weights_of_a_network_with_other_bands_come_back(tmp_path: Path) -> None:
    source = drawn(Prithvi(**SMALL, bands=("vv", "vh")), 1)

    again = from_official_config(to_official_config(source))
    load_weights(official(source), again)

    assert again.bands == ("vv", "vh")
    assert torch.equal(again.patch_embed.proj.weight, source.patch_embed.proj.weight)


def test_bands_of_our_own_checkpoints_are_matched_by_name_too(tmp_path: Path) -> None:
    source = drawn(PrithviMAE(**SMALL, **DECODER, bands=("vv", "red", "vh")), 1)
    own = write_own(source, tmp_path / "own.ckpt", described=None, record={})
    network = PrithviMAE(**SMALL, **DECODER, bands=("red", "blue", "vv"))
    fresh = network.encoder.patch_embed.proj.weight.detach().clone()

    load_weights(own, network)

    weight, known = network.encoder.patch_embed.proj.weight, source.encoder.patch_embed.proj.weight
    assert torch.equal(weight[:, [0, 2]], known[:, [1, 0]])
    assert torch.equal(weight[:, 1], fresh[:, 1])


def test_a_network_that_holds_an_encoder_reads_its_weights_under_any_name() -> None:
    source, encoder = drawn(PrithviMAE(**SMALL, **DECODER), 1), Prithvi(**SMALL)
    holder = torch.nn.ModuleDict({"eyes": encoder})

    load_weights(flat(official(source)), holder, key_map=encoder_map(encoder, holder="eyes."))

    assert torch.equal(encoder.norm.weight, source.encoder.norm.weight)


@pytest.mark.parametrize(
    "network",
    [
        Prithvi(**SMALL, **TL),
        PrithviMAE(**SMALL, **DECODER, norm_pix=True, mask_ratio=0.5, eps=1e-6, statistics="v1"),
        PrithviSegmenter(classes=4, channels=8, outputs=20, **SMALL),
    ],
    ids=["encoder", "autoencoder", "segmentation"],
)
def test_an_exported_network_comes_back_whole(network: torch.nn.Module, tmp_path: Path) -> None:
    drawn(network, 3)
    own = write_own(network, tmp_path / "own.ckpt", described=None, record={})
    folder = export_weights(own, tmp_path / "official")
    back = import_weights(folder, tmp_path / "again.ckpt")
    again = network_from(back)

    assert type(again) is type(network)
    assert again.settings.keys() == network.settings.keys()
    assert all(torch.equal(again.state_dict()[k], v) for k, v in network.state_dict().items())
    assert KEY_MAP.to_official(again.state_dict()).keys() == official(network).keys()


def test_a_fetched_card_gives_the_network_and_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = drawn(PrithviMAE(**SMALL, **DECODER, **TL), 1)
    folder = tmp_path / "prithvi-eo-2-300m-tl"
    folder.mkdir()
    torch.save(official(source), folder / "Prithvi_EO_V2_300M_TL.pt")
    config = {**to_official_config(source), "model_type": "other"}
    (folder / "config.json").write_text(json.dumps({"pretrained_cfg": config}))
    monkeypatch.setenv("DFM_WEIGHTS", str(tmp_path))

    network = network_from("prithvi-eo-2-300m-tl")

    assert all(torch.equal(network.state_dict()[k], v) for k, v in source.state_dict().items())


def test_published_configurations_are_read() -> None:
    second = {"architecture": "prithvi_eo_v2_300_tl", "pretrained_cfg": {
        "img_size": 32, "num_frames": 4, "patch_size": [1, 16, 16], "in_chans": 6, "embed_dim": 32,
        "depth": 1, "num_heads": 2, "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2,
        "mlp_ratio": 4,
        "coords_encoding": ["time", "location"], "coords_scale_learn": True,
        "bands": ["B02", "B03", "B04", "B05", "B06", "B07"], "mean": [1087.0], "std": [2248.0],
    }}  # fmt: skip
    first = {"model_args": {
        "img_size": 32, "num_frames": 3, "patch_size": 16, "tubelet_size": 1, "in_chans": 6, "embed_dim": 32,
        "depth": 1, "num_heads": 2, "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2,
    }, "train_params": {"data_mean": [775.2290211032589]}}  # fmt: skip

    newer, older = from_official_config(second), from_official_config(first)

    assert newer.encoder.bands == older.encoder.bands == HLS
    assert newer.encoder.time_code is not None
    assert newer.encoder.mean[0] == 1087.0
    assert older.encoder.mean[0] == 775.2290211032589
    assert older.encoder.patch == (1, 16, 16)


def test_band_names_are_one_word_whatever_the_sensor_calls_them() -> None:
    assert canonical("B8A", sensor="sentinel2") == canonical("b5", sensor="landsat") == "nir_narrow"
    assert canonical("NIR-Narrow") == canonical("nir narrow") == "nir_narrow"
    assert canonical("Slope") == "slope"
    with pytest.raises(UserError, match="without its sensor"):
        canonical("B05")
    with pytest.raises(UserError, match="did you mean 'sentinel2'"):
        canonical("B05", sensor="sentinel-2")
