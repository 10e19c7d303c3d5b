"""Official names of scOT: parameters, and the fields of config.json (Poseidon; weights are CC-BY-NC-4.0)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.checkpoints.keymap import KeyMap, Rename
from core.errors import UserError

__all__ = ["FIELDS", "KEPT", "KEY_MAP", "arguments", "config"]

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
FIELDS: tuple[tuple[str, Any, str], ...] = (
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
    ("drop_path_rate", 0.1, "drop_path"),
    ("hidden_dropout_prob", 0.0, "dropout"),
    ("attention_probs_dropout_prob", 0.0, "attention_dropout"),
    ("layer_norm_eps", 1e-5, "eps"),
    ("initializer_range", 0.02, "initial_std"),
    ("hidden_act", "gelu", "hidden_act"),
)

# Official fields about the loss, which the network carries along but does not read.
KEPT: tuple[tuple[str, Any], ...] = (("p", 1), ("channel_slice_list_normalized_loss", None))

_SQUARE = ("image_size", "patch_size", "window_size")


def arguments(official: Mapping[str, Any]) -> dict[str, Any]:
    """Return our constructor's arguments for a config.json.

    Fields of the surrounding library (versions, data types, labels) are passed over.

    Raises:
        UserError: If it describes another network.
    """
    if "skip_connections" not in official and "num_out_channels" not in official:
        raise UserError(
            "this config.json has no skip_connections and no num_out_channels: it describes a Swin V2 image "
            "encoder, not scOT"
        )
    found = {ours: official.get(name, default) for name, default, ours in FIELDS}
    for name, _, ours in FIELDS:
        if name in _SQUARE and isinstance(found[ours], list | tuple):
            sides = set(found[ours])
            if len(sides) != 1:
                raise UserError(f"the config's {name} is {found[ours]}; scOT takes equal sides only")
            found[ours] = sides.pop()
    for ours in ("depths", "heads", "skips"):
        found[ours] = [int(count) for count in found[ours]]
    missing = len(found["depths"]) - len(found["skips"])
    found["skips"] += [0] * missing
    found["learn_residual"] = bool(found["learn_residual"] and found["conditioned"])
    found["mask_token"] = bool(official.get("use_mask_token", False))
    return found


def config(settings: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return a full official config for our settings and what was kept of the one they came from."""
    official: dict[str, Any] = {name: settings[ours] for name, _, ours in FIELDS}
    official |= {name: kept.get(name, default) for name, default in KEPT}
    if settings["mask_token"]:
        official["use_mask_token"] = True
    return {**official, "architectures": ["ScOT"], "model_type": "swinv2"}
