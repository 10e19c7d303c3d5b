"""SineNet: named sizes, official names and configurations (Zhang et al. 2024, arXiv 2403.19507).

The network stands in `waves/network.py`; official names are those of divelab/AIRS. The sizes of two to eight
waves have about 35.5 million parameters each, so that the number of waves is compared and not the size.
Choose `padding="circular"` exactly when the domain is periodic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apps.pde.models.waves.network import SineNet
from core.backbones.sizes import size
from core.checkpoints.keymap import KeyMap, Rename
from core.errors import UserError

__all__ = [
    "KEY_MAP",
    "SineNet",
    "deeper_unet8",
    "from_official_config",
    "sinenet2_dual",
    "sinenet4_dual",
    "sinenet6_dual",
    "sinenet8_dual",
    "sinenet8_tangle",
    "to_official_config",
    "unet",
]

KEY_MAP = KeyMap(
    renames=(
        Rename("image_proj.{leaf}", "project.{leaf}"),
        Rename("final.{leaf}", "final.{leaf}"),
        Rename("time_embed.0.{leaf}", "embed_time.fc1.{leaf}"),
        Rename("time_embed.2.{leaf}", "embed_time.fc2.{leaf}"),
        Rename("pde_emb.0.{leaf}", "embed_parameter.fc1.{leaf}"),
        Rename("pde_emb.2.{leaf}", "embed_parameter.fc2.{leaf}"),
        Rename("{side}.{w}.{l}.shortcut.{leaf}", "waves.{w}.{side}.{l}.shortcut.{leaf}"),
        Rename("{side}.{w}.{l}.conv.{b}.{part}.{leaf}", "waves.{w}.{side}.{l}.blocks.{b}.{part}.{leaf}"),
        Rename("waves.{rest*}.cond_emb.{leaf}", "waves.{rest*}.condition.{leaf}"),
    )
)

# Official field, its default (None where it has none), our argument.
_FIELDS: tuple[tuple[str, Any, str], ...] = (
    ("time_history", None, "frames"),
    ("time_future", None, "future"),
    ("hidden_channels", None, "width"),
    ("padding_mode", None, "padding"),
    ("num_waves", 2, "waves"),
    ("num_blocks", 1, "blocks"),
    ("mult", 2, "multiplier"),
    ("num_layers", 4, "levels"),
    ("disentangle", True, "disentangle"),
    ("activation", "gelu", "activation"),
    ("norm", True, "norm"),
    ("residual", True, "residual"),
    ("wave_residual", True, "wave_residual"),
    ("interpolation_mode", "bicubic", "interpolation"),
)
_SCALE_SHIFT, _PARAMETER = "use_scale_shift_norm", "param_conditioning"


def from_official_config(config: Mapping[str, Any]) -> SineNet:
    """Build the network that the arguments of the published class describe.

    Args:
        config: The arguments; what is not listed has the published default. The network is a conditioned one
            where `use_scale_shift_norm` or `param_conditioning` is listed.

    Raises:
        UserError: If an argument without a default is missing, or one asks for what the published class
            refuses as well.
    """
    needed = [name for name, default, _ in _FIELDS if default is None]
    for side in ("input", "output"):
        needed += [f"n_{side}_{kind}_components" for kind in ("scalar", "vector")]
    if missing := [name for name in needed if name not in config]:
        raise UserError(
            f"The SineNet config lacks {', '.join(missing)}; it describes no network without them."
        )
    for name in ("down_pool", "up_interpolation"):
        if not config.get(name, True):
            raise UserError(f"The SineNet config turns {name} off, which no published SineNet supports.")
    settings = {ours: config.get(name, default) for name, default, ours in _FIELDS}
    for side, ours in (("input", "in_channels"), ("output", "out_channels")):
        scalars, vectors = (config[f"n_{side}_{kind}_components"] for kind in ("scalar", "vector"))
        settings[ours] = scalars + 2 * vectors
    settings["pooling"] = "average" if config.get("avg_pool", True) else "max"
    if _SCALE_SHIFT in config or _PARAMETER in config:
        kind = config.get(_PARAMETER)
        if kind not in (None, "scalar"):
            raise UserError(f"The SineNet config's {_PARAMETER} is {kind!r}; it must be scalar or null.")
        settings["conditioning"] = "scale_shift" if config.get(_SCALE_SHIFT, False) else "add"
        settings["parameter"] = kind == "scalar"
    return SineNet(**settings)


def to_official_config(network: SineNet) -> dict[str, Any]:
    """Return the arguments of the published class for a network, every one spelt out.

    All channels are counted as scalar components: the split into scalars and vectors names fields and does
    not change the network.
    """
    settings = {**vars(network), "waves": len(network.waves), "blocks": len(network.waves[0].up[0].blocks)}
    official = {name: settings[ours] for name, _, ours in _FIELDS if ours in settings}
    official |= {"num_waves": settings["waves"], "num_blocks": settings["blocks"]}
    for side, channels in (("input", network.in_channels), ("output", network.out_channels)):
        official |= {f"n_{side}_scalar_components": channels, f"n_{side}_vector_components": 0}
    official |= {"down_pool": True, "avg_pool": network.pooling == "average", "up_interpolation": True}
    if network.conditioning is not None:
        official[_SCALE_SHIFT] = network.conditioning == "scale_shift"
        official[_PARAMETER] = "scalar" if network.embed_parameter is not None else None
    return official


sinenet8_dual = size(SineNet, "Eight waves, the published best.", waves=8, multiplier=1.425)
sinenet6_dual = size(SineNet, "Six waves.", waves=6, multiplier=1.5)
sinenet4_dual = size(SineNet, "Four waves.", waves=4, multiplier=1.611)
sinenet2_dual = size(SineNet, "Two waves.", waves=2, multiplier=1.8075)
sinenet8_tangle = size(
    SineNet,
    "Eight waves whose lower levels do not see the wave's input.",
    waves=8,
    multiplier=1.425,
    disentangle=False,
)
unet = size(SineNet, "One wave: the U-Net that SineNet is compared with.", waves=1, multiplier=2.0)
deeper_unet8 = size(
    SineNet,
    "One wave with eight convolution blocks at every level: as deep as eight waves.",
    waves=1,
    multiplier=1.425,
    blocks=8,
)
