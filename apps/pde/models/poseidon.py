"""Poseidon: named sizes of scOT, official names and configurations (Herde et al. 2024, arXiv 2405.19101).

The network stands in `scot/network.py`. Released weights are CC-BY-NC-4.0 (non-commercial).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apps.pde.models.scot.network import ScOT
from core.backbones.sizes import size
from core.checkpoints.keymap import KeyMap, Rename
from core.errors import UserError

__all__ = [
    "KEY_MAP",
    "ScOT",
    "from_official_config",
    "poseidon_b",
    "poseidon_l",
    "poseidon_s",
    "poseidon_t",
    "to_official_config",
]

_SELF = "{block*}.attention.self"
_OURS = "{block*}.attention"

KEY_MAP = KeyMap(
    renames=(
        Rename("embeddings.{rest*}", "embeddings.{rest*}"),
        Rename("encoder.layers.{rest*}", "encoder.layers.{rest*}"),
        Rename("decoder.layers.{rest*}", "decoder.layers.{rest*}"),
        Rename("residual_blocks.{rest*}", "residual_blocks.{rest*}"),
        Rename("patch_recovery.{rest*}", "patch_recovery.{rest*}"),
        # within a block
        Rename("{block*}.attention.output.dense.{leaf}", f"{_OURS}.project.{{leaf}}"),
        *(
            Rename(f"{_SELF}.{name}.{{leaf*}}", f"{_OURS}.{name}.{{leaf*}}")
            for name in ("query", "key", "value", "continuous_position_bias_mlp")
        ),
        Rename(f"{_SELF}.logit_scale", f"{_OURS}.logit_scale"),
        Rename("{block*}.intermediate.dense.{leaf}", "{block*}.fc1.{leaf}"),
        Rename("{block*}.output.dense.{leaf}", "{block*}.fc2.{leaf}"),
    )
)

# Official field, its default, our argument.
_FIELDS: tuple[tuple[str, Any, str], ...] = (
    ("image_size", 224, "resolution"),
    ("patch_size", 4, "patch"),
    ("num_channels", 3, "in_channels"),
    ("num_out_channels", 1, "out_channels"),
    ("embed_dim", 96, "width"),
    ("depths", (2, 2, 6, 2), "depths"),
    ("num_heads", (3, 6, 12, 24), "heads"),
    ("skip_connections", (1, 1, 1), "skips"),
    ("window_size", 7, "window"),
    ("mlp_ratio", 4.0, "mlp_ratio"),
    ("use_conditioning", False, "conditioned"),
    ("residual_model", "convnext", "residual_blocks"),
    ("learn_residual", False, "learn_residual"),
    ("use_absolute_embeddings", False, "absolute_positions"),
    ("qkv_bias", True, "qkv_bias"),
    ("layer_norm_eps", 1e-5, "eps"),
    ("initializer_range", 0.02, "initial_std"),
    ("hidden_act", "gelu", "hidden_act"),
)

# Official fields about the loss, which the network carries along but does not read.
_KEPT: tuple[tuple[str, Any], ...] = (("p", 1), ("channel_slice_list_normalized_loss", None))

_RATES = (("drop_path_rate", 0.1), ("hidden_dropout_prob", 0.0), ("attention_probs_dropout_prob", 0.0))
_SQUARE = ("image_size", "patch_size", "window_size")


def from_official_config(config: Mapping[str, Any]) -> ScOT:
    """Build the network that an official config.json describes.

    Args:
        config: Its fields; what is not listed has the official default, those of the surrounding library
            (versions, data types, labels) are passed over. Those about the loss are carried along for
            `to_official_config`.

    Raises:
        UserError: If it describes another network.
    """
    if "skip_connections" not in config and "num_out_channels" not in config:
        raise UserError(
            "this config.json has no skip_connections and no num_out_channels: it describes a Swin V2 image "
            "encoder, not scOT"
        )
    settings = {ours: config.get(name, default) for name, default, ours in _FIELDS}
    for name, _, ours in _FIELDS:
        if name in _SQUARE and isinstance(settings[ours], list | tuple):
            sides = set(settings[ours])
            if len(sides) != 1:
                raise UserError(f"the config's {name} is {settings[ours]}; scOT takes equal sides only")
            settings[ours] = sides.pop()
    for ours in ("depths", "heads", "skips"):
        settings[ours] = [int(count) for count in settings[ours]]
    missing = len(settings["depths"]) - len(settings["skips"])
    settings["skips"] += [0] * missing
    settings["learn_residual"] = bool(settings["learn_residual"] and settings["conditioned"])
    settings["rates"] = tuple(config.get(name, default) for name, default in _RATES)
    settings["mask_token"] = bool(config.get("use_mask_token", False))
    network = ScOT(**settings)
    network.official = {name: config.get(name, default) for name, default in _KEPT}
    return network


def to_official_config(network: ScOT) -> dict[str, Any]:
    """Return the official config.json of a network, every field spelt out."""
    settings = network.settings
    official: dict[str, Any] = {name: settings[ours] for name, _, ours in _FIELDS}
    official |= {name: rate for (name, _), rate in zip(_RATES, settings["rates"], strict=True)}
    official |= {name: network.official.get(name, default) for name, default in _KEPT}
    if settings["mask_token"]:
        official["use_mask_token"] = True
    return {**official, "architectures": ["ScOT"], "model_type": "swinv2"}


poseidon_t = size(ScOT, "T: 20 774 444 parameters.", width=48, depths=(4, 4, 4, 4))
poseidon_s = size(
    ScOT, "S: 39 901 076 parameters; its weights were not released.", width=48, depths=(8, 8, 8, 8)
)
poseidon_b = size(ScOT, "B: 157 729 988 parameters.", width=96, depths=(8, 8, 8, 8))
poseidon_l = size(ScOT, "L: 628 575 524 parameters.", width=192, depths=(8, 8, 8, 8))
