"""Official names of SoftCon and DINOv2: parameters, and the arguments of the published classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core.checkpoints.keymap import KeyMap, Rename
from core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from apps.remote_sensing.models.dino.vit import SoftConViT

__all__ = ["FIELDS", "KEY_MAP", "RESNET", "arguments", "chunked_key_map", "config"]

RESNET = "resnet50"

_VIT = (
    *(Rename(name, name) for name in ("cls_token", "pos_embed", "mask_token", "register_tokens")),
    Rename("patch_embed.proj.{leaf}", "patch_embed.{leaf}"),
    Rename("blocks.{rest*}", "layers.{rest*}"),
    Rename("norm.{leaf}", "norm.{leaf}"),
)
_RESNET = tuple(
    Rename(f"{part}.{{rest*}}", f"body.{part}.{{rest*}}")
    for part in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
)

KEY_MAP = KeyMap(renames=(*_VIT, *_RESNET), ignored=("fc.{leaf}", "head.{leaf}"))

# Official field, its default, our argument. `in_chans` becomes `bands`, which may have names too.
FIELDS: tuple[tuple[str, Any, str], ...] = (
    ("img_size", 224, "image"),
    ("patch_size", 16, "patch"),
    ("in_chans", 3, "bands"),
    ("embed_dim", 768, "width"),
    ("depth", 12, "depth"),
    ("num_heads", 12, "heads"),
    ("mlp_ratio", 4.0, "mlp_ratio"),
    ("drop_path_rate", 0.0, "drop_path"),
    ("drop_path_uniform", False, "drop_path_uniform"),
    ("init_values", None, "layer_scale"),
    ("ffn_layer", "mlp", "ffn"),
    ("num_register_tokens", 0, "registers"),
    ("interpolate_antialias", False, "antialias"),
    ("interpolate_offset", 0.1, "offset"),
)

# Fields that the network does not have, and the only value each may have. Chunks change parameters' names
# alone; `bands` is ours.
_FIXED = {"qkv_bias": True, "ffn_bias": True, "proj_bias": True}
_ELSEWHERE = ("block_chunks", "bands")


def arguments(official: Mapping[str, Any]) -> dict[str, Any]:
    """Return our constructor's arguments for those of the published class.

    Raises:
        UserError: If one is unknown, or asks for something that this network does not have.
    """
    known = [name for name, _, _ in FIELDS] + [*_FIXED, *_ELSEWHERE]
    for name, value in official.items():
        if name not in known:
            raise UserError(f"the config's {name} is no argument of this network{did_you_mean(name, known)}")
        if name in _FIXED and value != _FIXED[name]:
            raise UserError(f"the config's {name} is {value}; only {_FIXED[name]} is known here")
    found = {ours: official.get(name, default) for name, default, ours in FIELDS}
    for ours in ("image", "patch"):
        if isinstance(found[ours], list | tuple):
            sides = set(found[ours])
            if len(sides) != 1:
                raise UserError(f"the config's {ours} is {found[ours]}; this network takes equal sides only")
            found[ours] = sides.pop()
    found["layer_scale"] = found["layer_scale"] or None
    found["bands"] = official.get("bands", found["bands"])
    return found


def config(network: SoftConViT) -> dict[str, Any]:
    """Return the arguments of the published class for a network, every one spelt out, and its bands."""
    given = {
        **network.settings,
        **{name: getattr(network, name) for name in ("width", "depth", "heads", "patch", "image")},
        **{name: getattr(network, name) for name in ("antialias", "offset")},
        "bands": len(network.bands),
    }
    official = {name: given[ours] for name, _, ours in FIELDS}
    return {**official, "block_chunks": 0, "bands": list(network.bands)}


def chunked_key_map(depth: int, chunks: int) -> KeyMap:
    """Return the key map of files whose blocks stand in `chunks` lists, block i as `blocks.<chunk>.<i>`.

    Raises:
        UserError: If there are more chunks than blocks.
    """
    if not 0 <= chunks <= depth:
        raise UserError(f"block_chunks is {chunks}; a network of {depth} blocks has 0 to {depth}")
    if chunks == 0:
        return KEY_MAP
    size = depth // chunks
    renames = [rule for rule in KEY_MAP.renames if not rule.official.startswith("blocks.")]
    renames += [Rename(f"blocks.{i // size}.{i}.{{rest*}}", f"layers.{i}.{{rest*}}") for i in range(depth)]
    return KeyMap(renames=tuple(renames), ignored=KEY_MAP.ignored)
