"""Llama's official layouts: names, configurations, Meta's row order, fused weights, shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from core.backbones.llama import Llama
from core.checkpoints.exchange import export_weights, import_weights
from core.checkpoints.official.llama import (
    KEY_MAP,
    from_official_config,
    fuse_qkv,
    half_split,
    interleaved,
    meta_key_map,
    split_qkv,
    to_official_config,
)
from core.checkpoints.sources import read_folder
from core.checkpoints.weights import load_weights, network_from
from core.errors import UserError

SIZES = {"vocabulary": 20, "width": 24, "depth": 2, "heads": 6, "kv_heads": 3, "ffn": 32}
HEADS = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))  # groups, heads a group, pairs


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("layout", ["hub", "meta"])
def test_official_names_and_layouts_survive_both_ways(layout, tied):
    network = Llama(**SIZES, tied=tied)
    key_map = KEY_MAP if layout == "hub" else meta_key_map(heads=6, kv_heads=3)
    state = network.state_dict()

    official = key_map.to_official(state)

    assert same(key_map.from_official(official), state)
    assert same(key_map.to_official(key_map.from_official(official)), official)


@settings(max_examples=25, deadline=None)
@given(HEADS)
def test_reordered_and_fused_rows_come_back(sizes):
    groups, served, pairs = sizes
    heads, width = groups * served, 2 * pairs
    query = torch.randn(heads * width, 5)
    key, value = torch.randn(2, groups * width, 5)

    fused = fuse_qkv(query, key, value, heads=heads, kv_heads=groups)

    assert torch.equal(interleaved(half_split(query, heads), heads), query)
    parts = split_qkv(fused, heads=heads, kv_heads=groups)
    assert all(torch.equal(a, b) for a, b in zip(parts, (query, key, value), strict=True))
    assert torch.equal(fused[served * width : (served + 1) * width], key[:width])


def test_meta_weights_turn_as_their_interleaved_pairs_do():
    width, heads = 8, 2
    weight, x = torch.randn(heads * width, 6), torch.randn(6)
    angles = torch.rand(width // 2)
    pairs = torch.view_as_complex((weight @ x).view(heads, width // 2, 2))
    expected = torch.view_as_real(pairs * torch.polar(torch.ones(width // 2), angles))

    first, second = (half_split(weight, heads) @ x).view(heads, 2, width // 2).unbind(1)
    turned = torch.stack(
        (first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()), -1
    )

    assert torch.allclose(turned, expected, atol=1e-6)


def test_a_configuration_survives_both_ways():
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    network = Llama(**SIZES, head_width=10, theta=5e5, rope_scaling=scaling, tied=True, eps=1e-6, context=64)

    again = from_official_config(json.loads(json.dumps(to_official_config(network))))

    assert again.settings == {**network.settings, "scaled_residual": False}


def test_older_and_metas_configurations_are_read():
    older = {
        "vocab_size": 20,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "rope_theta": 5e5,
        "rope_scaling": {"type": "linear", "factor": 2.0},
        "pretraining_tp": 1,
    }
    params = {
        "dim": 4096,
        "n_layers": 1,
        "n_heads": 32,
        "n_kv_heads": 8,
        "vocab_size": 9,
        "multiple_of": 1024,
    }
    params |= {"ffn_dim_multiplier": 1.3, "norm_eps": 1e-5, "rope_theta": 5e5, "use_scaled_rope": True}

    network = from_official_config(older)
    with torch.device("meta"):
        meta = from_official_config(params)

    assert (network.settings["theta"], network.settings["kv_heads"]) == (5e5, 4)
    assert network.rope.scaling == {"rope_type": "linear", "factor": 2.0}
    assert (meta.settings["ffn"], meta.settings["kv_heads"]) == (14_336, 8)
    assert meta.settings["rope_scaling"]["factor"] == 8.0
    with pytest.raises(UserError, match="attention_bias is True; this network has False"):
        from_official_config({**older, "attention_bias": True})


def test_a_sharded_folder_with_old_rotary_buffers_is_read_and_exported(tmp_path: Path):
    network = Llama(**SIZES, tied=True)
    official = KEY_MAP.to_official(network.state_dict())
    names = sorted(official)
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2),
        "lm_head.weight": official["model.embed_tokens.weight"].clone(),
    }
    shards = [{n: official[n] for n in names[::2]}, {**{n: official[n] for n in names[1::2]}, **extra}]
    folder = tmp_path / "hub"
    folder.mkdir()
    for number, shard in enumerate(shards):
        save_file(shard, folder / f"model-{number}.safetensors")
    index = {name: f"model-{number}.safetensors" for number, shard in enumerate(shards) for name in shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps(to_official_config(network)))

    built = network_from(folder)
    export_weights(import_weights(folder, tmp_path / "x.ckpt"), tmp_path / "out")

    assert same(built.state_dict(), network.state_dict())
    assert same(read_folder(tmp_path / "out")[0], official)


def test_metas_own_file_is_recognised_by_its_names(tmp_path: Path):
    network, other = Llama(**SIZES), Llama(**SIZES)
    official = meta_key_map(heads=6, kv_heads=3).to_official(network.state_dict())
    torch.save({**official, "rope.freqs": torch.ones(2)}, tmp_path / "consolidated.00.pth")

    report = load_weights(tmp_path / "consolidated.00.pth", other)

    assert report.metadata["layout"] == "official"
    assert same(other.state_dict(), network.state_dict())
