"""Official names of TinyTimeMixer: parameters, and the fields of config.json (granite-tsfm, Apache-2.0)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.checkpoints.keymap import KeyMap, Rename
from core.errors import UserError

__all__ = ["FIELDS", "KEY_MAP", "MASKED", "PLAIN", "arguments", "config"]

PLAIN = "TinyTimeMixerForPrediction"
MASKED = "TinyTimeMixerForMaskedPrediction"

_LAYER = "{block*}.{j}.{mixer}_mixer"

KEY_MAP = KeyMap(
    renames=(
        # stages
        Rename("backbone.encoder.patcher.{leaf}", "backbone.embed.{leaf}"),
        Rename("backbone.encoder.freq_mod.0.weight", "backbone.prefix.embedding.weight"),
        Rename("backbone.encoder.freq_mod.1.{leaf}", "backbone.prefix.fc1.{leaf}"),
        Rename("backbone.encoder.freq_mod.3.{leaf}", "backbone.prefix.fc2.{leaf}"),
        Rename("backbone.encoder.positional_encoder.position_enc", "backbone.positions.table"),
        Rename("backbone.encoder.mlp_mixer_encoder.{rest*}", "backbone.mixer.{rest*}"),
        Rename("decoder.adapter.{leaf}", "decoder.adapter.{leaf}"),
        Rename("decoder.decoder_raw_embedding.{leaf}", "decoder.raw.{leaf}"),
        Rename("decoder.decoder_cat_embedding_layer.embedding_layers.{i}.{w}", "decoder.categories.{i}.{w}"),
        Rename("decoder.decoder_block.{rest*}", "decoder.mixer.{rest*}"),
        Rename("head.base_forecast_block.{leaf}", "head.project.{leaf}"),
        Rename("head.fcm_block.mlp.{leaf}", "head.forecast_mixer.project.{leaf}"),
        Rename("head.fcm_block.fcm_gating_block.attn_layer.{leaf}", "head.forecast_mixer.gate.linear.{leaf}"),
        Rename("head.fcm_block.fcm_embedding.{leaf}", "head.forecast_mixer.embed.{leaf}"),
        Rename("head.fcm_block.exog_mixer.{rest*}", "head.forecast_mixer.mixer.{rest*}"),
        # stacks: with levels there is one more step to a layer
        Rename("{block*}.mixers.{i}.mixer_layers.{j}.{rest*}", "{block*}.levels.{i}.{j}.{rest*}"),
        Rename("{block*}.mixer.mixers.{j}.{rest*}", "{block*}.mixer.layers.{j}.{rest*}"),
        # within a layer
        Rename("{block*}.channel_feature_mixer.{rest*}", "{block*}.channel_mixer.{rest*}"),
        Rename(f"{_LAYER}.norm.norm.{{rest*}}", f"{_LAYER}.norm.{{rest*}}"),
        Rename(f"{_LAYER}.norm_attn.norm.{{rest*}}", f"{_LAYER}.attention_norm.{{rest*}}"),
        Rename(f"{_LAYER}.gating_block.attn_layer.{{leaf}}", f"{_LAYER}.gate.linear.{{leaf}}"),
        Rename(f"{_LAYER}.self_attn_layer.{{rest*}}", f"{_LAYER}.attention.{{rest*}}"),
    )
)

# Official field, its default, our argument (dotted). Those that need more than a name follow in `arguments`.
FIELDS: tuple[tuple[str, Any, str], ...] = (
    ("context_length", 64, "context"),
    ("prediction_length", 16, "horizon"),
    ("num_input_channels", 1, "channels"),
    ("patch_length", 8, "patch"),
    ("patch_stride", 8, "patching.stride"),
    ("d_model", 16, "width"),
    ("num_layers", 3, "depth"),
    ("expansion_factor", 2, "mixer.expansion"),
    ("adaptive_patching_levels", 0, "levels"),
    ("dropout", 0.2, "dropout"),
    ("gated_attn", True, "mixer.gated"),
    ("norm_eps", 1e-5, "mixer.norm_eps"),
    ("self_attn", False, "mixer.self_attention"),
    ("self_attn_heads", 1, "mixer.heads"),
    ("resolution_prefix_tuning", False, "patching.frequency_prefix"),
    ("frequency_token_vocab_size", 5, "patching.frequency_tokens"),
    ("use_decoder", True, "decoder"),
    ("decoder_d_model", 8, "decoder.width"),
    ("decoder_num_layers", 8, "decoder.depth"),
    ("decoder_adaptive_patching_levels", 0, "decoder.levels"),
    ("decoder_raw_residual", False, "decoder.raw_residual"),
    ("categorical_vocab_size_list", None, "decoder.static_categories"),
    ("head_dropout", 0.2, "head_dropout"),
    ("prediction_channel_indices", None, "targets"),
    ("exogenous_channel_indices", None, "exogenous"),
    ("prediction_filter_length", None, "kept_horizon"),
    ("enable_forecast_channel_mixing", False, "forecast_mixing"),
    ("fcm_context_length", 1, "forecast_mixing.context"),
    ("fcm_gated_attn", True, "forecast_mixing.gated"),
    ("fcm_use_mixer", False, "forecast_mixing.mixer"),
    ("fcm_mix_layers", 2, "forecast_mixing.depth"),
    ("fcm_prepend_past", True, "forecast_mixing.past"),
    ("fcm_prepend_past_offset", None, "forecast_mixing.offset"),
    ("loss", "mse", "loss.kind"),
    ("quantile", 0.5, "loss.quantile"),
    ("huber_delta", 1, "loss.delta"),
    ("post_init", False, "initialisation"),
    ("init_std", 0.02, "initialisation.std"),
    ("init_linear", "pytorch", "initialisation.linear"),
    ("init_embed", "pytorch", "initialisation.embed"),
)

# Later extensions of the official code that change the network; anything but these values is another network.
_INERT: dict[str, tuple[Any, ...]] = {
    "multi_scale": (False, None),
    "register_tokens": (0, None),
    "fft_length": (0, None),
    "multi_quantile_head": (False, None),
    "decompose": (False, None),
    "gate_mode": ("softmax", None),
    "use_register_context_gating": (False, None),
    "enable_base_norm_always": (False, None),
}


def arguments(official: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the official class and our dotted arguments for a config.json.

    Fields of the surrounding library (versions, data types, labels) are passed over.

    Raises:
        UserError: If the config asks for an extension that this network does not have, or for an unknown
            value.
    """
    active = [key for key, inert in _INERT.items() if official.get(key, inert[0]) not in inert]
    other = [f"{key}={official[key]!r}" for key in active]
    if other:
        raise UserError(f"The TTM config asks for what this network does not have: {', '.join(other)}.")
    values = {ours: official.get(name, default) for name, default, ours in FIELDS}
    for name, ours in (("mode", "channel_mixing"), ("decoder_mode", "decoder.channel_mixing")):
        mode = official.get(name, "common_channel")
        if mode not in ("common_channel", "mix_channel"):
            raise UserError(f"The TTM config's {name} is {mode!r}; it must be common_channel or mix_channel.")
        values[ours] = mode == "mix_channel"
    norm = str(official.get("norm_mlp", "LayerNorm"))
    values["mixer.norm"] = "batch" if "batch" in norm.lower() else "layer"
    scaling = official.get("scaling", "std")
    values["scaling"] = ("std" if scaling else None) if isinstance(scaling, bool) else scaling
    with_positions = official.get("use_positional_encoding", False)
    values["patching.positions"] = (
        official.get("positional_encoding_type", "sincos") if with_positions else None
    )
    names = [*(official.get("architectures") or ()), official.get("model_class")]
    if MASKED in names:
        values["mask_value"] = official.get("mask_value", 0)
        return MASKED, values
    return PLAIN, values


def config(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a full official config for the official class `name` and our dotted settings."""
    official: dict[str, Any] = {theirs: settings[ours] for theirs, _, ours in FIELDS}
    official["mode"] = "mix_channel" if settings["channel_mixing"] else "common_channel"
    official["decoder_mode"] = "mix_channel" if settings["decoder.channel_mixing"] else "common_channel"
    official["norm_mlp"] = "BatchNorm" if settings["mixer.norm"] == "batch" else "LayerNorm"
    official["scaling"] = settings["scaling"]
    official["use_positional_encoding"] = settings["patching.positions"] is not None
    official["positional_encoding_type"] = settings["patching.positions"] or "sincos"
    official["mask_value"] = settings.get("mask_value", 0)
    official["architectures"] = [name]
    official["model_type"] = "tinytimemixer"
    return official
