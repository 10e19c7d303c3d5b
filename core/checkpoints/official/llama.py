"""Official layouts of Llama: the Hugging Face folder, Meta's own files, and fused query/key/value weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from core.backbones.llama import Llama
from core.checkpoints.keymap import KeyMap, Rename, Reshape
from core.errors import UserError

__all__ = [
    "KEY_MAP",
    "Llama",
    "from_official_config",
    "fuse_qkv",
    "half_split",
    "interleaved",
    "key_maps",
    "meta_key_map",
    "split_qkv",
    "to_official_config",
]

KEY_MAP = KeyMap(
    renames=(
        Rename("model.embed_tokens.weight", "embed_tokens.weight"),
        Rename("model.layers.{i}.{rest*}", "layers.{i}.{rest*}"),
        Rename("model.norm.weight", "norm.weight"),
        Rename("lm_head.weight", "lm_head.weight"),
    ),
    ignored=("model.layers.{i}.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"),
)

# Official field, its default there, our argument.
_FIELDS: tuple[tuple[str, Any, str], ...] = (
    ("vocab_size", 32_000, "vocabulary"),
    ("hidden_size", 4096, "width"),
    ("intermediate_size", 11_008, "ffn"),
    ("num_hidden_layers", 32, "depth"),
    ("num_attention_heads", 32, "heads"),
    ("num_key_value_heads", None, "kv_heads"),
    ("head_dim", None, "head_width"),
    ("max_position_embeddings", 2048, "context"),
    ("rms_norm_eps", 1e-6, "eps"),
    ("tie_word_embeddings", False, "tied"),
    ("initializer_range", 0.02, "initial_std"),
)
# What this network cannot be otherwise.
_FIXED: tuple[tuple[str, Any], ...] = (
    ("hidden_act", "silu"),
    ("attention_bias", False),
    ("mlp_bias", False),
    ("attention_dropout", 0.0),
)


def from_official_config(config: Mapping[str, Any]) -> Llama:
    """Build the network that a config.json of the Hugging Face layout, or a params.json of Meta's, describes.

    Args:
        config: Its fields; what is not listed has the official default. Fields of the surrounding library
            (token numbers, data types, versions) are passed over.

    Raises:
        UserError: If it asks for something that this network does not have.
    """
    return Llama(**(_from_params(config) if "n_heads" in config else _from_config(config)))


def to_official_config(network: Llama) -> dict[str, Any]:
    """Return the Hugging Face layout's config.json of a network."""
    settings = network.settings
    rope = {"rope_theta": settings["theta"], "rope_type": "default", **(settings["rope_scaling"] or {})}
    return {
        **{name: settings[ours] for name, _, ours in _FIELDS},
        **dict(_FIXED),
        "rope_parameters": rope,
        # where versions before 5 of the surrounding library look
        "rope_theta": settings["theta"],
        "rope_scaling": settings["rope_scaling"],
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
    }


def key_maps(network: Llama) -> tuple[KeyMap, ...]:
    """Return the tables of every official layout, which depend on the network's heads."""
    return (KEY_MAP, meta_key_map(heads=network.settings["heads"], kv_heads=network.settings["kv_heads"]))


def meta_key_map(*, heads: int, kv_heads: int) -> KeyMap:
    """Return the table for Meta's files, whose queries and keys have their rotary pairs side by side."""
    linear = {
        "attention.wq": "self_attn.q_proj",
        "attention.wk": "self_attn.k_proj",
        "attention.wv": "self_attn.v_proj",
        "attention.wo": "self_attn.o_proj",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w3": "mlp.up_proj",
        "feed_forward.w2": "mlp.down_proj",
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }
    return KeyMap(
        renames=(
            Rename("tok_embeddings.weight", "embed_tokens.weight"),
            *(Rename(f"layers.{{i}}.{a}.weight", f"layers.{{i}}.{b}.weight") for a, b in linear.items()),
            Rename("norm.weight", "norm.weight"),
            Rename("output.weight", "lm_head.weight"),
        ),
        reshapes=tuple(
            Reshape(
                f"layers.{{i}}.self_attn.{name}.weight",
                to_ours=partial(half_split, heads=count),
                to_official=partial(interleaved, heads=count),
            )
            for name, count in (("q_proj", heads), ("k_proj", kv_heads))
        ),
        ignored=("rope.freqs",),
    )


def half_split(weight: Tensor, heads: int) -> Tensor:
    """Reorder rows `(heads · D, width)` of interleaved pairs so that feature `i` pairs with `i + D/2`."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """Undo `half_split`."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def split_qkv(fused: Tensor, *, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the query, key and value weights of one fused matrix `((heads + 2 · kv_heads) · D, width)`: for
    each key/value head the queries that it serves, then the key, then the value (litgpt, NeMo).
    """
    served = heads // kv_heads
    groups = fused.unflatten(0, (kv_heads, served + 2, -1))  # (G (n + 2) D) C -> G (n + 2) D C
    query, key, value = groups.split((served, 1, 1), dim=1)
    return query.flatten(0, 2), key.flatten(0, 2), value.flatten(0, 2)


def fuse_qkv(query: Tensor, key: Tensor, value: Tensor, *, heads: int, kv_heads: int) -> Tensor:
    """Undo `split_qkv`."""
    parts = (
        query.unflatten(0, (kv_heads, heads // kv_heads, -1)),
        *(weight.unflatten(0, (kv_heads, 1, -1)) for weight in (key, value)),
    )
    return torch.cat(parts, dim=1).flatten(0, 2)


def _from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in _FIXED:
        if config.get(name, value) != value:
            raise UserError(f"the config's {name} is {config[name]!r}; this network has {value!r}")
    arguments = {ours: config.get(name, default) for name, default, ours in _FIELDS}
    parameters = dict(config.get("rope_parameters") or {})
    theta = parameters.pop("rope_theta", config.get("rope_theta", 10_000.0))
    scaling: dict[str, Any] = parameters or dict(config.get("rope_scaling") or {})
    plain = scaling.get("rope_type", scaling.get("type")) in (None, "default")
    return {**arguments, "theta": theta, "rope_scaling": None if plain else scaling}


def _from_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Translate Meta's params.json."""
    width = params["dim"]
    ffn = int(2 * 4 * width / 3)
    if (factor := params.get("ffn_dim_multiplier")) is not None:
        ffn = int(factor * ffn)
    multiple = params.get("multiple_of", 256)
    vocabulary = params.get("vocab_size", -1)
    theta = params.get("rope_theta", 10_000.0)
    scaling = None
    if params.get("use_scaled_rope"):
        scaling = {
            "rope_type": "llama3",
            "factor": float(params.get("rope_scaling_factor", 8.0)),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    return {
        "vocabulary": vocabulary if vocabulary > 0 else 32_000,  # early files leave it to the tokeniser
        "width": width,
        "depth": params["n_layers"],
        "heads": params["n_heads"],
        "kv_heads": params.get("n_kv_heads"),
        "ffn": -(-ffn // multiple) * multiple,
        "context": params.get("max_seq_len", 2048),
        "theta": theta,
        "rope_scaling": scaling,
        "eps": params.get("norm_eps", 1e-5),
    }
