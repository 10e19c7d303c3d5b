"""GPhyT: named sizes, official names and configurations (Wiesner et al. 2025, arXiv 2509.13805).

The network stands in `physics_transformer/network.py`. The published weights read four frames of 256x128
points and predict the fifth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apps.pde.models.physics_transformer.network import GPhyT
from apps.pde.models.physics_transformer.numerics import euler, heun, rk4
from core.backbones.sizes import size
from core.checkpoints.keymap import KeyMap, Rename
from core.errors import UserError, did_you_mean

__all__ = [
    "KEY_MAP",
    "GPhyT",
    "euler",
    "from_official_config",
    "gphyt_l",
    "gphyt_m",
    "gphyt_s",
    "gphyt_xl",
    "heun",
    "rk4",
    "to_official_config",
]

_LAYER = "attention_blocks.{i}"
_TOKENS, _FIELDS_BACK = "tokenizer.tokenizer", "detokenizer.detokenizer"

KEY_MAP = KeyMap(
    renames=(
        Rename("tokenizer.patch_size", "patch_size"),
        Rename("init_pos_encodings.pe", "place"),
        Rename("derivatives.{leaf}", "derivatives.{leaf}"),
        Rename(f"{_TOKENS}.to_patch_embedding.1.{{leaf}}", "tokenizer.{leaf}"),
        Rename(f"{_FIELDS_BACK}.from_patch_embedding.1.{{leaf}}", "detokenizer.{leaf}"),
        # A rearrangement stands at place 0 of the official chains.
        *(
            Rename(f"{chain}.{i + 1}.{place}.{{leaf}}", f"{ours}.layers.{i}.{part}.{{leaf}}")
            for chain, ours in (
                (f"{_TOKENS}.encoder", "tokenizer"),
                (f"{_FIELDS_BACK}.decoder", "detokenizer"),
            )
            for i in range(16)
            for place, part in ((0, "conv"), (1, "norm"))
        ),
        Rename(f"{_LAYER}.attention.to_qkv.weight", "layers.{i}.attention.first.weight"),
        Rename(f"{_LAYER}.attention.attention.in_proj_weight", "layers.{i}.attention.second.weight"),
        Rename(f"{_LAYER}.attention.attention.in_proj_bias", "layers.{i}.attention.second.bias"),
        Rename(f"{_LAYER}.attention.attention.out_proj.{{leaf}}", "layers.{i}.attention.out.{leaf}"),
        Rename(f"{_LAYER}.attention.pe.{{leaf}}", "layers.{i}.attention.rotary.{leaf}"),
        Rename(f"{_LAYER}.attention.mask", "layers.{i}.attention.mask"),
        Rename(f"{_LAYER}.mlp.mlp.0.{{leaf}}", "layers.{i}.fc1.{leaf}"),
        Rename(f"{_LAYER}.mlp.mlp.2.{{leaf}}", "layers.{i}.fc2.{leaf}"),
        Rename(f"{_LAYER}.norm1.{{leaf}}", "layers.{i}.norm1.{leaf}"),
        Rename(f"{_LAYER}.norm2.{{leaf}}", "layers.{i}.norm2.{leaf}"),
    )
)

# Official argument, its default (None where it has none), ours.
_FIELDS: tuple[tuple[str, Any, str], ...] = (
    ("num_fields", None, "in_channels"),
    ("hidden_dim", None, "width"),
    ("mlp_dim", None, "hidden"),
    ("num_heads", None, "heads"),
    ("num_layers", None, "depth"),
    ("tokenizer_overlap", 0, "tokenizer_overlap"),
    ("detokenizer_overlap", 0, "detokenizer_overlap"),
    ("dropout", 0.0, "dropout"),
    ("stochastic_depth_rate", 0.0, "stochastic_depth"),
)
# Official argument, its default, ours, and official to our words.
_WORDS: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("pos_enc_mode", "absolute", "positions", {"absolute": "absolute", "rope": "rotary"}),
    ("att_mode", "full", "attention", {"full": "full", "full_causal": "causal"}),
    ("tokenizer_mode", "linear", "tokenizer", {"linear": "linear", "conv_net": "convolutions"}),
    ("detokenizer_mode", "linear", "detokenizer", {"linear": "linear", "conv_net": "convolutions"}),
)
_SIDES = ("tokenizer", "detokenizer")
_INTEGRATORS = ("Euler", "Heun", "RK4")
_ORDERS = {"2nd": 2, "4th": 4}


def from_official_config(config: Mapping[str, Any]) -> GPhyT:
    """Build the network that the arguments of the published class describe.

    Args:
        config: The arguments; what is not listed has the published default. `integrator` is read and changes
            nothing: the published forward pass always makes one Euler step.

    Raises:
        UserError: If one is missing or asks for something that this network does not have.
    """
    needed = [*(name for name, default, _ in _FIELDS if default is None), "patch_size", "img_size"]
    if missing := [name for name in needed if name not in config]:
        raise UserError(f"The GPhyT config lacks {', '.join(missing)}; it describes no network without them.")
    settings = {ours: config.get(name, default) for name, default, ours in _FIELDS}
    for name, default, ours, words in _WORDS:
        settings[ours] = words[_word(name, config.get(name, default), words)]
    if (integrator := config.get("integrator")) is not None:
        _word("integrator", integrator, _INTEGRATORS)
    order = _ORDERS[_word("filter_1d", config.get("filter_1d", "2nd"), _ORDERS)]
    settings["derivatives"] = order if config.get("use_derivatives", False) else None
    settings["patch"] = [int(side) for side in config["patch_size"]]
    settings["frames"], *settings["resolution"] = (int(side) for side in config["img_size"])
    for side in _SIDES:
        inner = config.get(f"{side}_net_channels")
        settings[f"{side}_channels"] = list(inner or ()) if settings[side] == "convolutions" else None
    return GPhyT(**settings)


def to_official_config(network: GPhyT) -> dict[str, Any]:
    """Return the arguments of the published class for a network, every one spelt out.

    Raises:
        UserError: If the network gives fewer channels than it takes, which the published one cannot.
    """
    if network.out_channels != network.in_channels:
        raise UserError(
            f"this GPhyT takes {network.in_channels} channels and gives {network.out_channels}; the official "
            "layout has as many of both"
        )
    chains = {side: type(getattr(network, side)).__name__.startswith("Conv") for side in _SIDES}
    settings: dict[str, Any] = {
        **vars(network),
        "depth": len(network.layers),
        "tokenizer_overlap": network.overlaps[0],
        "detokenizer_overlap": network.overlaps[1],
        **{side: "convolutions" if chain else "linear" for side, chain in chains.items()},
    }
    official = {name: settings[ours] for name, _, ours in _FIELDS}
    for name, _, ours, words in _WORDS:
        official[name] = next(theirs for theirs, word in words.items() if word == settings[ours])
    official["use_derivatives"] = network.order is not None
    official["filter_1d"] = next((word for word, order in _ORDERS.items() if order == network.order), "2nd")
    official |= {"patch_size": list(network.patch), "img_size": [network.frames, *network.resolution]}
    official |= {f"{side}_net_channels": settings[f"{side}_channels"] for side in _SIDES}
    official["integrator"] = "Euler"
    return official


def _word(name: str, value: Any, choices: Any) -> Any:
    if value not in choices:
        hint = did_you_mean(str(value), choices)
        raise UserError(f"The GPhyT config's {name} is {value!r}; known are {', '.join(choices)}{hint}")
    return value


gphyt_s = size(GPhyT, "Size S: 7 992 773 parameters.", width=192, hidden=768, heads=3, depth=12)
gphyt_m = size(GPhyT, "Size M: 111 597 317 parameters.", width=768, hidden=3072, heads=12, depth=12)
gphyt_l = size(GPhyT, "Size L: 384 885 765 parameters.", width=1024, hidden=4096, heads=16, depth=24)
gphyt_xl = size(GPhyT, "Size XL: 795 813 125 parameters.", width=1280, hidden=5120, heads=16, depth=32)
