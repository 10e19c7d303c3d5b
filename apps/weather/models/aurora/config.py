"""Official settings of Aurora to ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apps.weather.models.aurora.network import Aurora
from apps.weather.models.aurora.settings import PerceiverShape, RolloutLoRA, SwinShape

__all__ = ["from_official_config", "official_settings"]

# Official argument, ours.
_PLAIN = {
    "surf_vars": "surface",
    "static_vars": "static",
    "atmos_vars": "atmospheric",
    "latent_levels": "latent_levels",
    "patch_size": "patch",
    "embed_dim": "width",
    "max_history_size": "history",
    "timestep": "step",
    "clamp_at_first_step": "clamp_at_first_step",
    "separate_perceiver": "separate",
    "level_condition": "level_condition",
    "autocast": "autocast",
}
_SWIN = {
    "window_size": "window",
    "encoder_depths": "encoder_depths",
    "encoder_num_heads": "encoder_heads",
    "decoder_depths": "decoder_depths",
    "decoder_num_heads": "decoder_heads",
    "mlp_ratio": "mlp_ratio",
    "drop_path": "drop_path",
    "drop_rate": "dropout",
}
_PERCEIVER = {
    "num_heads": "heads",
    "enc_depth": "encoder_depth",
    "dec_depth": "decoder_depth",
    "mlp_ratio": "encoder_ratio",
    "dec_mlp_ratio": "decoder_ratio",
    "perceiver_ln_eps": "eps",
    "stabilise_level_agg": "stabilise",
}


def official_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Aurora` for official ones; `timestep` is in hours.

    What is not listed has the official default, which corrects by roll-out step. `surf_stats` and settings
    of variants are passed over.
    """

    def chosen(names: Mapping[str, str]) -> dict[str, Any]:
        values = {ours: config[name] for name, ours in names.items() if config.get(name) is not None}
        return {ours: tuple(value) if isinstance(value, list) else value for ours, value in values.items()}

    lora = None
    if config.get("use_lora", True):
        lora = RolloutLoRA(config.get("lora_mode", "single"), config.get("lora_steps", 40))
    return {
        **chosen(_PLAIN),
        "swin": SwinShape(**chosen(_SWIN)),
        "perceiver": PerceiverShape(**chosen(_PERCEIVER)),
        "lora": lora,
        "positive": (*config.get("positive_surf_vars", ()), *config.get("positive_atmos_vars", ())),
    }


def from_official_config(config: Mapping[str, Any]) -> Aurora:
    """Build the network that official arguments describe."""
    return Aurora(**official_settings(config))
