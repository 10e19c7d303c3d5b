"""Official settings of Aurora and ours, both ways; released files have none: their names tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from apps.weather.models.aurora import network as sizes
from apps.weather.models.aurora.air_pollution import aurora_air_pollution
from apps.weather.models.aurora.network import Aurora
from apps.weather.models.aurora.official import GASES, POLLUTANTS
from apps.weather.models.aurora.settings import PerceiverShape, RolloutLoRA, SwinShape
from apps.weather.models.aurora.wave import aurora_wave
from core.errors import UserError

__all__ = ["from_official_config", "to_official_config"]

# Official class to the size with its defaults.
_CLASSES: dict[str, Callable[..., Aurora]] = {
    "Aurora": sizes.aurora_finetuned,
    "AuroraPretrained": sizes.aurora_large,
    "AuroraSmallPretrained": sizes.aurora_small,
    "Aurora12hPretrained": sizes.aurora_12h,
    "AuroraHighRes": sizes.aurora_0p1,
    "AuroraAirPollution": aurora_air_pollution,
    "AuroraWave": aurora_wave,
}

# Official argument, ours.
_NAMES = {
    "surf_vars": "surface", "static_vars": "static", "atmos_vars": "atmospheric",
    "separate_perceiver": "separate", "level_condition": "level_condition",
}  # fmt: skip
_PLAIN = {
    "latent_levels": "latent_levels", "patch_size": "patch", "embed_dim": "width", "timestep": "step",
    "max_history_size": "history", "clamp_at_first_step": "clamp_at_first_step", "autocast": "autocast",
}  # fmt: skip
_SWIN = {
    "window_size": "window", "encoder_depths": "encoder_depths", "encoder_num_heads": "encoder_heads",
    "decoder_depths": "decoder_depths", "decoder_num_heads": "decoder_heads", "mlp_ratio": "mlp_ratio",
    "drop_path": "drop_path", "drop_rate": "dropout",
}  # fmt: skip
_PERCEIVER = {
    "num_heads": "heads", "enc_depth": "encoder_depth", "dec_depth": "decoder_depth",
    "mlp_ratio": "encoder_ratio", "dec_mlp_ratio": "decoder_ratio", "perceiver_ln_eps": "eps",
    "stabilise_level_agg": "stabilise",
}  # fmt: skip
_LORA = {"lora_mode": "mode", "lora_steps": "steps"}


def from_official_config(config: Mapping[str, Any]) -> Aurora:
    """Build the network that official arguments describe.

    Args:
        config: What is not listed has the default of the official class, `model_class`; `timestep` is in
            hours. Statistics (`surf_stats`) belong to the data.

    Raises:
        UserError: If the class is not known.
    """
    kind = config.get("model_class") or "Aurora"
    if kind not in _CLASSES:
        raise UserError(f"{kind} is no class of Aurora that is read; there are {', '.join(_CLASSES)}")
    build = _CLASSES[kind]
    usual: Mapping[str, Any] = build.chosen  # type: ignore[attr-defined]

    def listed(names: Mapping[str, str]) -> dict[str, Any]:
        values = {ours: config[name] for name, ours in names.items() if config.get(name) is not None}
        return {ours: tuple(value) if isinstance(value, list) else value for ours, value in values.items()}

    arguments = listed(_PLAIN | _NAMES)
    lora = usual.get("lora")
    if config.get("use_lora", lora is not None):
        arguments["lora"] = replace(lora or RolloutLoRA(), **listed(_LORA))
    else:
        arguments["lora"] = None
    if not {"positive_surf_vars", "positive_atmos_vars"}.isdisjoint(config):
        pairs = ("positive_surf_vars", POLLUTANTS), ("positive_atmos_vars", GASES)
        kept = usual.get("positive", ())
        arguments["positive"] = tuple(
            name
            for official, group in pairs
            for name in config.get(official, [x for x in kept if x in group])
        )
    # the original passes over defaults that name variables which the network does not have
    names = {name for key in ("surface", "atmospheric") for name in arguments.get(key, usual.get(key, ()))}
    for key in {"positive", "separate"} - set(arguments):
        arguments[key] = tuple(name for name in usual.get(key, ()) if name in names)
    return build(
        **arguments,
        swin=replace(usual.get("swin", SwinShape()), **listed(_SWIN)),
        perceiver=replace(usual.get("perceiver", PerceiverShape()), **listed(_PERCEIVER)),
    )


def to_official_config(network: Aurora) -> dict[str, Any]:
    """Return the official arguments of a network, all spelt out, and its official class."""
    variables, lora = network.variables, network.lora
    names = {
        "surf_vars": variables.surface,
        "static_vars": variables.static,
        "atmos_vars": variables.atmospheric,
        "separate_perceiver": network.separate,
        "level_condition": variables.levels,
        "positive_surf_vars": [name for name in variables.surface if name in network.positive],
        "positive_atmos_vars": [name for name in variables.atmospheric if name in network.positive],
    }
    config = {official: getattr(network, ours) for official, ours in _PLAIN.items()}
    for table, shape in (
        (_SWIN, network.swin),
        (_PERCEIVER, network.perceiver),
        (_LORA, lora or RolloutLoRA()),
    ):
        config |= {official: getattr(shape, ours) for official, ours in table.items()}
    config |= {official: list(value) for official, value in names.items()}
    config["window_size"] = list(network.swin.window)
    config |= {name: list(value) for name, value in config.items() if isinstance(value, tuple)}
    return {
        **config,
        "use_lora": lora is not None,
        "model_class": type(network).__name__,
        "model_type": "aurora",
    }
