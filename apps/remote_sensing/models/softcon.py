"""SoftCon: named sizes, official names and configurations (Wang et al. 2024, arXiv 2405.20462).

Backbones that DINOv2's (transformers) or DINO's (ResNet-50) pre-training was carried on for, on 13 bands of
Sentinel-2 or 2 of Sentinel-1. The networks stand in `dino/`; what they are trained with stands in
`core/objectives/contrastive.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apps.remote_sensing.models.dino import official
from apps.remote_sensing.models.dino.resnet import SoftConResNet50
from apps.remote_sensing.models.dino.sensors import S1, S2
from apps.remote_sensing.models.dino.siamese import Siamese
from apps.remote_sensing.models.dino.vit import SoftConViT, ViTTokens
from core.backbones.sizes import size
from core.checkpoints.keymap import KeyMap

__all__ = [
    "KEY_MAP",
    "Siamese",
    "SoftConResNet50",
    "SoftConViT",
    "ViTTokens",
    "from_official_config",
    "key_maps",
    "softcon_rn50_s1",
    "softcon_rn50_s2",
    "softcon_vitb14_s1",
    "softcon_vitb14_s2",
    "softcon_vitg14_s2",
    "softcon_vitl14_s2",
    "softcon_vits14_s1",
    "softcon_vits14_s2",
    "to_official_config",
]

KEY_MAP = official.KEY_MAP

Network = SoftConViT | SoftConResNet50 | Siamese

_SMALL = {"width": 384, "depth": 12, "heads": 6}
_BASE = {"width": 768, "depth": 12, "heads": 12}

softcon_vits14_s2 = size(
    SoftConViT, "S on 13 bands of Sentinel-2, `B13_vits14_softcon.pth`.", bands=S2.bands, **_SMALL
)
softcon_vitb14_s2 = size(
    SoftConViT, "B on 13 bands of Sentinel-2, `B13_vitb14_softcon.pth`.", bands=S2.bands, **_BASE
)
softcon_vitl14_s2 = size(
    SoftConViT, "L on 13 bands of Sentinel-2; its weights were not released.", width=1024, depth=24, heads=16
)
softcon_vitg14_s2 = size(
    SoftConViT,
    "Size g on 13 bands of Sentinel-2; its weights were not released.",
    width=1536,
    depth=40,
    heads=24,
)
softcon_vits14_s1 = size(
    SoftConViT, "S on both polarisations of Sentinel-1, `B2_vits14_softcon.pth`.", bands=S1.bands, **_SMALL
)
softcon_vitb14_s1 = size(
    SoftConViT, "B on both polarisations of Sentinel-1, `B2_vitb14_softcon.pth`.", bands=S1.bands, **_BASE
)
softcon_rn50_s2 = size(SoftConResNet50, "ResNet-50 on 13 bands of Sentinel-2, `B13_rn50_softcon.pth`.")
softcon_rn50_s1 = size(
    SoftConResNet50, "ResNet-50 on both polarisations of Sentinel-1, `B2_rn50_softcon.pth`.", bands=S1.bands
)


def key_maps(network: Network) -> tuple[KeyMap, ...]:
    """Return the layouts that files have: the released one, and those with blocks in 1 or 4 chunks.

    They match bands by name and resize positions; `mask_token` stays as initialised where a file has none.
    Of a student and its teacher they read and write the student's encoder.
    """
    inside = isinstance(network, Siamese)
    encoder = network.encoder if isinstance(network, Siamese) else network
    names = official.map_for(encoder, holder="encoder." if inside else "")
    if isinstance(encoder, SoftConResNet50):
        return (names,)
    depth = encoder.depth
    return (names, *(official.chunked(names, depth=depth, chunks=n) for n in (1, 4) if n <= depth))


def from_official_config(config: Mapping[str, Any]) -> SoftConViT | SoftConResNet50:
    """Build the network that the arguments of the published class describe.

    Args:
        config: Arguments of DINOv2's class, what is not listed with its default; `bands` may name the
            channels. For the ResNet `{"arch": "resnet50", "in_chans": 13}`.

    Raises:
        UserError: If one is unknown or asks for something that the network does not have.
    """
    if config.get("arch") == official.RESNET:
        return SoftConResNet50(config.get("bands", config.get("in_chans", 3)))
    return SoftConViT(**official.arguments(config))


def to_official_config(network: Network) -> dict[str, Any]:
    """Return the config that `from_official_config` builds the same network from, every field spelt out.

    Of a student and its teacher it is the encoder's.
    """
    if isinstance(network, Siamese):
        return to_official_config(network.encoder)
    if isinstance(network, SoftConResNet50):
        return {"arch": official.RESNET, "in_chans": len(network.bands), "bands": list(network.bands)}
    return official.config(network)
