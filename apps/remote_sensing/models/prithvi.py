"""Prithvi-EO 1.0 and 2.0: named sizes, official names and configurations.

Jakubik et al. 2023 (arXiv 2310.18660), Szwarcman et al. 2024 (arXiv 2412.02732). The networks stand in
`prithvi_eo/`. A size is the encoder, for fine-tuning and features; with `_mae` it is the masked autoencoder.
Parameters are counted without the fixed tables of positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apps.remote_sensing.models.prithvi_eo import official
from apps.remote_sensing.models.prithvi_eo.autoencoder import MAEOutput, PrithviMAE
from apps.remote_sensing.models.prithvi_eo.encoder import Prithvi
from apps.remote_sensing.models.prithvi_eo.segmenter import PrithviSegmenter
from core.backbones.sizes import size
from core.checkpoints.keymap import KeyMap

__all__ = [
    "KEY_MAP",
    "MAEOutput",
    "Prithvi",
    "PrithviMAE",
    "PrithviSegmenter",
    "encoder_map",
    "from_official_config",
    "key_maps",
    "prithvi_gap_filling",
    "prithvi_tiny",
    "prithvi_tiny_mae",
    "prithvi_v1_100m",
    "prithvi_v1_100m_mae",
    "prithvi_v1_segmenter",
    "prithvi_v2_100m_tl",
    "prithvi_v2_100m_tl_mae",
    "prithvi_v2_300m",
    "prithvi_v2_300m_mae",
    "prithvi_v2_300m_tl",
    "prithvi_v2_300m_tl_mae",
    "prithvi_v2_600m",
    "prithvi_v2_600m_mae",
    "prithvi_v2_600m_tl",
    "prithvi_v2_600m_tl_mae",
    "prithvi_v2_tiny_tl",
    "prithvi_v2_tiny_tl_mae",
    "to_official_config",
]

KEY_MAP = official.KEY_MAP

Network = Prithvi | PrithviMAE | PrithviSegmenter

_TINY = {"frames": 1, "width": 256, "depth": 4, "heads": 4}
_100M = {"width": 768, "depth": 12, "heads": 12}
_TINY_TL = {"frames": 1, "width": 192, "depth": 12, "heads": 3, "coordinates": ("time", "location")}
_100M_TL = {"frames": 4, **_100M, "coordinates": ("time", "location")}
_300M = {"frames": 4, "width": 1024, "depth": 24, "heads": 16}
_600M = {"frames": 4, "patch": (1, 14, 14), "width": 1280, "depth": 32, "heads": 16}
_LEARNT = {"coordinates": ("time", "location"), "learn_scale": True}

prithvi_tiny = size(Prithvi, "A toy of one frame, 3 553 280 parameters; no weights were published.", **_TINY)
prithvi_v1_100m = size(Prithvi, "Version 1, three frames: 86 237 184 parameters.", **_100M, statistics="v1")
prithvi_v2_tiny_tl = size(
    Prithvi, "Version 2, one frame with time and location: 5 634 048 parameters.", **_TINY_TL
)
prithvi_v2_100m_tl = size(
    Prithvi, "Version 2, four frames with time and location: 86 237 184 parameters.", **_100M_TL
)
prithvi_v2_300m = size(Prithvi, "Version 2, four frames: 303 886 336 parameters.", **_300M)
prithvi_v2_300m_tl = size(
    Prithvi,
    "Version 2, four frames with time and location, learnt strengths: 303 886 338 parameters.",
    **_300M,
    **_LEARNT,
)
prithvi_v2_600m = size(
    Prithvi, "Version 2, four frames, patches of 14 pixels: 631 188 480 parameters.", **_600M
)
prithvi_v2_600m_tl = size(
    Prithvi,
    "Version 2, patches of 14 pixels, time and location, learnt strengths: 631 188 482 parameters.",
    **_600M,
    **_LEARNT,
)

prithvi_tiny_mae = size(
    PrithviMAE,
    "A toy of one frame, 4 577 792 parameters; no weights were published.",
    **_TINY,
    decoder_width=128,
    decoder_depth=4,
    decoder_heads=4,
)
prithvi_v1_100m_mae = size(
    PrithviMAE, "Version 1, three frames: 112 639 488 parameters.", **_100M, statistics="v1"
)
prithvi_gap_filling = size(
    PrithviMAE,
    "Version 1 as trained to fill cloud gaps: 112 639 488 parameters, its own statistics and norms.",
    **_100M,
    eps=1e-6,
    statistics="gap_filling",
)
prithvi_v2_tiny_tl_mae = size(
    PrithviMAE, "Version 2, one frame with time and location: 31 741 440 parameters.", **_TINY_TL
)
prithvi_v2_100m_tl_mae = size(
    PrithviMAE, "Version 2, four frames with time and location: 112 639 488 parameters.", **_100M_TL
)
prithvi_v2_300m_mae = size(PrithviMAE, "Version 2, four frames: 330 419 712 parameters.", **_300M)
prithvi_v2_300m_tl_mae = size(
    PrithviMAE,
    "Version 2, four frames with time and location, learnt strengths: 330 419 716 parameters.",
    **_300M,
    **_LEARNT,
)
prithvi_v2_600m_mae = size(
    PrithviMAE, "Version 2, four frames, patches of 14 pixels: 657 668 248 parameters.", **_600M
)
prithvi_v2_600m_tl_mae = size(
    PrithviMAE,
    "Version 2, patches of 14 pixels, time and location, learnt strengths: 657 668 252 parameters.",
    **_600M,
    **_LEARNT,
)

prithvi_v1_segmenter = size(
    PrithviSegmenter,
    "Version 1 fine-tuned for maps of floods and burn scars. "
    "The released crop map has `frames` 3, `classes` 13, `depth` 6 and `heads` 8.",
)


def key_maps(network: Network) -> tuple[KeyMap, ...]:
    """Return the table of a network; it reads every official layout and matches bands by name."""
    if isinstance(network, Prithvi):
        return (encoder_map(network),)
    if isinstance(network, PrithviSegmenter):
        return (official.map_for(network.backbone, holder="backbone.", heads=True),)
    return (official.map_for(network.encoder, holder="encoder.", decoder=network.decoder),)


def encoder_map(encoder: Prithvi, *, holder: str = "") -> KeyMap:
    """Return the table for a network whose only part from official checkpoints is the encoder.

    Args:
        encoder: As initialised.
        holder: Where it stands in the network, such as `encoder.`.
    """
    return official.map_for(encoder, holder=holder)


def from_official_config(config: Mapping[str, Any]) -> Network:
    """Build the network that an official configuration describes, the autoencoder unless it says otherwise.

    Args:
        config: See `prithvi_eo.official.arguments`. `architectures: [Prithvi]` is the encoder alone; with a
            `decode_head` it is version 1's segmentation.
    """
    kind = (config.get("architectures") or ["PrithviMAE"])[0]
    if kind == "PrithviSegmenter" or "decode_head" in config:
        return PrithviSegmenter(**official.segmenter_arguments(config))
    if kind == "Prithvi":
        return Prithvi(**official.arguments(config, mae=False))
    return PrithviMAE(**official.arguments(config, mae=True))


def to_official_config(network: Network) -> dict[str, Any]:
    """Return the official configuration of a network, every field spelt out."""
    return official.config(network.settings, kind=type(network).__name__)
