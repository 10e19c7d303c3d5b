"""Official names of SoftCon and DINOv2: parameters, and the arguments of the published classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from apps.remote_sensing.models.band_maps import BandedMap, band_rule, first_layer
from apps.remote_sensing.models.dino.sensors import S1, S2, sensor_of
from core.checkpoints.keymap import Rename, Reshape
from core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from apps.remote_sensing.models.dino.vit import SoftConViT

__all__ = ["FIELDS", "KEY_MAP", "RESNET", "DinoMap", "arguments", "chunked", "config", "map_for"]

RESNET = "resnet50"

_PARTS = ("norm1", "attn", "ls1", "norm2", "mlp", "ls2")
_VIT = (
    *(Rename(name, name) for name in ("cls_token", "pos_embed", "mask_token", "register_tokens")),
    Rename("patch_embed.proj.{leaf}", "patch_embed.{leaf}"),
    *(Rename(f"blocks.{{i}}.{part}.{{rest*}}", f"layers.{{i}}.{part}.{{rest*}}") for part in _PARTS),
    Rename("norm.{leaf}", "norm.{leaf}"),
)
_RESNET = tuple(
    Rename(f"{part}.{{rest*}}", f"body.{part}.{{rest*}}")
    for part in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
)

_HOLDER, _BESIDE = "encoder.", ("teacher.", "projector.", "predictor.")
_WRAPPERS = ("module.", "model.", "teacher.", "backbone.")


@dataclass(frozen=True)
class DinoMap(BandedMap):
    """A table that reads files with or without a wrapper's name in front.

    Args:
        mask_token: What files without one get, those of the encoder alone (`*_enc.pth`) and timm's; None
            leaves it missing.
        holder: What stands before the encoder's names in the network: `encoder.` where it is trained beside
            a teacher. Such a network's other parts have no official names and are not exported.
    """

    mask_token: Tensor | None = None
    holder: str = ""

    def ignores(self, official: str) -> bool:
        """Tell whether an official name carries nothing the network needs."""
        return super().ignores(_bare(official))

    def our_name(self, official: str) -> str | None:
        """Return our name of an official parameter, or None if no rule knows it."""
        name = super().our_name(_bare(official))
        return None if name is None else self.holder + name

    def official_name(self, ours: str) -> str | None:
        """Return the official name of one of our parameters, or None if no rule knows it."""
        return super().official_name(ours.removeprefix(_HOLDER))

    def from_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return official weights under our names; see `KeyMap`."""
        known = {_bare(name) for name in state}
        if self.mask_token is not None and "cls_token" in known and "mask_token" not in known:
            state = {**state, "mask_token": self.mask_token}
        return super().from_official(state)

    def to_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the encoder's weights under the official names; see `KeyMap`."""
        return super().to_official(
            {name: tensor for name, tensor in state.items() if not name.startswith(_BESIDE)}
        )


KEY_MAP = DinoMap(
    renames=(*_VIT, *_RESNET),
    ignored=("fc.{leaf}", "head.{leaf}", "dino_head.{rest*}", "ibot_head.{rest*}"),
)


def map_for(network: Any, *, holder: str = "") -> DinoMap:
    """Return the table for one network, which also reads files of other bands and image sizes.

    A file has the bands that its configuration names. Without one, a first layer of 13 or 2 channels is taken
    to read the bands of Sentinel-2 or Sentinel-1, and one of as many channels as the network has otherwise is
    taken as it is. Any other layer, such as DINOv2's of three colours, is left as initialised. Positions of
    another grid are resized.

    Args:
        network: `SoftConViT` or `SoftConResNet50` as initialised.
        holder: See `DinoMap`.
    """
    weights, (first, _) = dict(network.named_parameters()), first_layer(network)
    bands = network.bands
    known = {len(sensor.bands): sensor.bands for sensor in (S2, S1)}

    def usual(channels: int) -> tuple[str, ...] | None:
        same = bands if channels == len(bands) else None
        names = known.get(channels, same)
        if same and not set(names or ()) & set(bands):
            return same  # nameless bands, or a sensor of our user's with as many
        return names

    def rules(described: tuple[str, ...] | None) -> tuple[Reshape, ...]:
        names = None if described is None else sensor_of(described).bands
        changes = [band_rule(holder + first, weights[first], wanted=bands, described=names, usual=usual)]
        if "pos_embed" in weights:
            side = network.image // network.patch
            changes.append(
                Reshape(
                    f"{holder}pos_embed",
                    lambda table: network.positions(side, side, table),
                    lambda table: table,
                )
            )
        return tuple(changes)

    token = weights["mask_token"].detach() if "mask_token" in weights else None
    return replace(KEY_MAP, reshapes=rules(None), mask_token=token, holder=holder, rules=rules)


def chunked(names: DinoMap, *, depth: int, chunks: int) -> DinoMap:
    """Return the table of files whose blocks stand in `chunks` lists, block i as `blocks.<chunk>.<i>`.

    Raises:
        UserError: If there are more chunks than blocks.
    """
    if not 0 <= chunks <= depth:
        raise UserError(f"block_chunks is {chunks}; a network of {depth} blocks has 0 to {depth}")
    if chunks == 0:
        return names
    size = depth // chunks
    renames = [rule for rule in names.renames if not rule.official.startswith("blocks.")]
    renames += [Rename(f"blocks.{i // size}.{i}.{{rest*}}", f"layers.{i}.{{rest*}}") for i in range(depth)]
    return replace(names, renames=tuple(renames))


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
    values = {ours: official.get(name, default) for name, default, ours in FIELDS}
    for ours in ("image", "patch"):
        if isinstance(values[ours], list | tuple):
            sides = set(values[ours])
            if len(sides) != 1:
                raise UserError(f"the config's {ours} is {values[ours]}; this network takes equal sides only")
            values[ours] = sides.pop()
    values["layer_scale"] = values["layer_scale"] or None
    values["bands"] = official.get("bands", values["bands"])
    return values


def config(network: SoftConViT) -> dict[str, Any]:
    """Return the arguments of the published class for a network, every one spelt out, and its bands."""
    settings = {
        **network.settings,
        **{name: getattr(network, name) for name in ("width", "depth", "heads", "patch", "image")},
        **{name: getattr(network, name) for name in ("antialias", "offset")},
        "bands": len(network.bands),
    }
    official = {name: settings[ours] for name, _, ours in FIELDS}
    return {**official, "block_chunks": 0, "bands": list(network.bands)}


def _bare(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name
