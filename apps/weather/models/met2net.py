"""Met²Net: named sizes, official names and configurations (ShremG/Met2Net, arXiv 2507.17189, Apache-2.0).

The network stands in `translation/network.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apps.weather.models.translation.network import Met2Net
from core.backbones.sizes import size
from core.checkpoints.keymap import KeyMap, Rename
from core.errors import UserError

__all__ = [
    "KEY_MAP",
    "Met2Net",
    "from_official_config",
    "met2net_era5_128",
    "met2net_mmfnist",
    "met2net_wb1_4",
    "met2net_wb1_5",
    "met2net_wb1_5_fine",
    "to_official_config",
]

_CODERS = (("enc", "encoders"), ("dec", "decoders"))
_UNIT = (
    ("conv.conv.0.{leaf}", "expansion.{leaf}"),
    ("conv.conv.{leaf}", "convolution.{leaf}"),
    ("conv.norm.{leaf}", "norm.{leaf}"),
)
_ATTENTION = (("q_Conv", "query"), ("k_Conv", "key"), ("v_Conv", "value"), ("v_post_f", "out"))
_LAYER = "{t*}.layers.{i}"

KEY_MAP = KeyMap(
    renames=(
        *(
            Rename(
                f"{short}_{{c}}_list.{{i}}.{short}.{{n}}.{theirs}", f"{{c}}.{long}.{{i}}.units.{{n}}.{ours}"
            )
            for short, long in _CODERS
            for theirs, ours in _UNIT
        ),
        Rename("dec_{c}_list.{i}.readout.{leaf}", "{c}.decoders.{i}.readout.{leaf}"),
        Rename("hid_{c}.{rest*}", "{c}.translator.{rest*}"),
        *(
            Rename(f"{_LAYER}.attn_1.{theirs}.{{rest*}}", f"{_LAYER}.attention.{ours}.{{rest*}}")
            for theirs, ours in _ATTENTION
        ),
        Rename(f"{_LAYER}.ff.ff1.{{rest*}}", f"{_LAYER}.tau.{{rest*}}"),
        Rename("{t*}.tau.mlp.dwconv.dwconv.{leaf}", "{t*}.tau.mlp.dwconv.{leaf}"),
    )
)

# Official field, its default (None where it has none), our argument.
_FIELDS: tuple[tuple[str, Any, str], ...] = (
    ("hid_S", 16, "width"),
    ("hid_T", 256, "translator_width"),
    ("N_S", 4, "coder_depth"),
    ("N_T", 4, "depth"),
    ("momentum_ema", 0.9, "momentum"),
)


def from_official_config(config: Mapping[str, Any]) -> Met2Net:
    """Build the network that the arguments of the published class describe.

    Args:
        config: The arguments; what is not listed has the published default. Others of the library around it
            are passed over; so is `drop_path`, which the published network does not read.

    Raises:
        UserError: If `in_shape` is missing.
    """
    if "in_shape" not in config:
        raise UserError("The Met²Net config lacks in_shape; it describes no network without it.")
    history, fields = (int(count) for count in list(config["in_shape"])[:2])
    settings = {ours: config.get(name, default) for name, default, ours in _FIELDS}
    return Met2Net(fields=fields, history=history, **settings)


def to_official_config(network: Met2Net, *, grid: tuple[int, int] = (32, 64)) -> dict[str, Any]:
    """Return the arguments of the published class for a network; any grid fits it."""
    official = {name: getattr(network, ours) for name, _, ours in _FIELDS}
    return {"in_shape": [network.history, network.fields, *grid], **official}


met2net_wb1_4 = size(
    Met2Net, "Four variables of WeatherBench 1 at 5.625 degrees; 17.28 M parameters.", fields=4
)
met2net_wb1_5 = size(Met2Net, "Five variables of WeatherBench 1 at 5.625 degrees.", fields=5)
met2net_wb1_5_fine = size(
    Met2Net,
    "Five variables at 1.40625 degrees, of which every second point; 18.05 M.",
    fields=5,
    coder_depth=4,
)
met2net_era5_128 = size(
    Met2Net, "Four variables of ERA5 on 128 x 128 points; 17.80 M parameters.", fields=4, coder_depth=4
)
met2net_mmfnist = size(
    Met2Net,
    "Moving fashion-MNIST in three channels; 68.5 M parameters.",
    fields=3,
    history=10,
    width=64,
    translator_width=512,
    coder_depth=4,
    momentum=0.999,
)
