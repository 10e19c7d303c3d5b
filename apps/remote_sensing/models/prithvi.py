"""Prithvi-EO 1.0 and 2.0: named sizes, official names and configurations.

Jakubik et al. 2023 (arXiv 2310.18660), Szwarcman et al. 2024 (arXiv 2412.02732). The networks stand in
`prithvi_eo/`. A size is the encoder, for fine-tuning and features; with `_mae` it is the masked autoencoder.
Parameters are counted without the fixed tables of positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from apps.remote_sensing.models.prithvi_eo import official
from apps.remote_sensing.models.prithvi_eo.autoencoder import MAEOutput, PrithviMAE
from apps.remote_sensing.models.prithvi_eo.encoder import Coordinate, Prithvi
from apps.remote_sensing.models.prithvi_eo.segmenter import PrithviSegmenter
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

    Raises:
        UserError: If fields do not fit each other.
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


def prithvi_tiny(frames: int = 1, width: int = 256, depth: int = 4, heads: int = 4, **kw: Any) -> Prithvi:
    """A toy of one frame, 3 553 280 parameters; no weights were published."""
    return Prithvi(frames=frames, width=width, depth=depth, heads=heads, **kw)


def prithvi_v1_100m(
    frames: int = 3,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    statistics: Literal["v1", "v2", "gap_filling"] = "v1",
    **kw: Any,
) -> Prithvi:
    """Version 1, three frames: 86 237 184 parameters."""
    return Prithvi(frames=frames, width=width, depth=depth, heads=heads, statistics=statistics, **kw)


def prithvi_v2_tiny_tl(
    frames: int = 1,
    width: int = 192,
    depth: int = 12,
    heads: int = 3,
    coordinates: Sequence[Coordinate] = ("time", "location"),
    **kw: Any,
) -> Prithvi:
    """Version 2, one frame with time and location: 5 634 048 parameters."""
    return Prithvi(frames=frames, width=width, depth=depth, heads=heads, coordinates=coordinates, **kw)


def prithvi_v2_100m_tl(
    frames: int = 4,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    coordinates: Sequence[Coordinate] = ("time", "location"),
    **kw: Any,
) -> Prithvi:
    """Version 2, four frames with time and location: 86 237 184 parameters."""
    return Prithvi(frames=frames, width=width, depth=depth, heads=heads, coordinates=coordinates, **kw)


def prithvi_v2_300m(
    frames: int = 4, width: int = 1024, depth: int = 24, heads: int = 16, **kw: Any
) -> Prithvi:
    """Version 2, four frames: 303 886 336 parameters."""
    return Prithvi(frames=frames, width=width, depth=depth, heads=heads, **kw)


def prithvi_v2_300m_tl(
    frames: int = 4,
    width: int = 1024,
    depth: int = 24,
    heads: int = 16,
    coordinates: Sequence[Coordinate] = ("time", "location"),
    learn_scale: bool = True,
    **kw: Any,
) -> Prithvi:
    """Version 2, four frames with time and location, learnt strengths: 303 886 338 parameters."""
    return Prithvi(
        frames=frames,
        width=width,
        depth=depth,
        heads=heads,
        coordinates=coordinates,
        learn_scale=learn_scale,
        **kw,
    )


def prithvi_v2_600m(
    frames: int = 4,
    patch: Sequence[int] = (1, 14, 14),
    width: int = 1280,
    depth: int = 32,
    heads: int = 16,
    **kw: Any,
) -> Prithvi:
    """Version 2, four frames, patches of 14 pixels: 631 188 480 parameters."""
    return Prithvi(frames=frames, patch=patch, width=width, depth=depth, heads=heads, **kw)


def prithvi_v2_600m_tl(
    frames: int = 4,
    patch: Sequence[int] = (1, 14, 14),
    width: int = 1280,
    depth: int = 32,
    heads: int = 16,
    coordinates: Sequence[Coordinate] = ("time", "location"),
    learn_scale: bool = True,
    **kw: Any,
) -> Prithvi:
    """Version 2, patches of 14 pixels, time and location, learnt strengths: 631 188 482 parameters."""
    return Prithvi(
        frames=frames,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        coordinates=coordinates,
        learn_scale=learn_scale,
        **kw,
    )


def prithvi_tiny_mae(
    frames: int = 1,
    width: int = 256,
    depth: int = 4,
    heads: int = 4,
    decoder_width: int = 128,
    decoder_depth: int = 4,
    decoder_heads: int = 4,
    **kw: Any,
) -> PrithviMAE:
    """A toy of one frame, 4 577 792 parameters; no weights were published."""
    return PrithviMAE(
        frames=frames,
        width=width,
        depth=depth,
        heads=heads,
        decoder_width=decoder_width,
        decoder_depth=decoder_depth,
        decoder_heads=decoder_heads,
        **kw,
    )


def prithvi_v1_100m_mae(
    frames: int = 3,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    statistics: Literal["v1", "v2", "gap_filling"] = "v1",
    **kw: Any,
) -> PrithviMAE:
    """Version 1, three frames: 112 639 488 parameters."""
    return PrithviMAE(frames=frames, width=width, depth=depth, heads=heads, statistics=statistics, **kw)


def prithvi_gap_filling(
    frames: int = 3,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    eps: float = 1e-06,
    statistics: Literal["v1", "v2", "gap_filling"] = "gap_filling",
    **kw: Any,
) -> PrithviMAE:
    """Version 1 as trained to fill cloud gaps: 112 639 488 parameters, its own statistics and norms."""
    return PrithviMAE(
        frames=frames, width=width, depth=depth, heads=heads, eps=eps, statistics=statistics, **kw
    )


def prithvi_v2_tiny_tl_mae(
    frames: int = 1,
    width: int = 192,
    depth: int = 12,
    heads: int = 3,
    coordinates: Sequence[Coordinate] = ("time", "location"),
    **kw: Any,
) -> PrithviMAE:
    """Version 2, one frame with time and location: 31 741 440 parameters."""
    return PrithviMAE(frames=frames, width=width, depth=depth, heads=heads, coordinates=coordinates, **kw)


def prithvi_v2_100m_tl_mae(
    frames: int = 4,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    coordinates: Sequence[Coordinate] = ("time", "location"),
    **kw: Any,
) -> PrithviMAE:
    """Version 2, four frames with time and location: 112 639 488 parameters."""
    return PrithviMAE(frames=frames, width=width, depth=depth, heads=heads, coordinates=coordinates, **kw)


def prithvi_v2_300m_mae(
    frames: int = 4, width: int = 1024, depth: int = 24, heads: int = 16, **kw: Any
) -> PrithviMAE:
    """Version 2, four frames: 330 419 712 parameters."""
    return PrithviMAE(frames=frames, width=width, depth=depth, heads=heads, **kw)


def prithvi_v2_300m_tl_mae(
    frames: int = 4,
    width: int = 1024,
    depth: int = 24,
    heads: int = 16,
    coordinates: Sequence[Coordinate] = ("time", "location"),
    learn_scale: bool = True,
    **kw: Any,
) -> PrithviMAE:
    """Version 2, four frames with time and location, learnt strengths: 330 419 716 parameters."""
    return PrithviMAE(
        frames=frames,
        width=width,
        depth=depth,
        heads=heads,
        coordinates=coordinates,
        learn_scale=learn_scale,
        **kw,
    )


def prithvi_v2_600m_mae(
    frames: int = 4,
    patch: Sequence[int] = (1, 14, 14),
    width: int = 1280,
    depth: int = 32,
    heads: int = 16,
    **kw: Any,
) -> PrithviMAE:
    """Version 2, four frames, patches of 14 pixels: 657 668 248 parameters."""
    return PrithviMAE(frames=frames, patch=patch, width=width, depth=depth, heads=heads, **kw)


def prithvi_v2_600m_tl_mae(
    frames: int = 4,
    patch: Sequence[int] = (1, 14, 14),
    width: int = 1280,
    depth: int = 32,
    heads: int = 16,
    coordinates: Sequence[Coordinate] = ("time", "location"),
    learn_scale: bool = True,
    **kw: Any,
) -> PrithviMAE:
    """Version 2, patches of 14 pixels, time and location, learnt strengths: 657 668 252 parameters."""
    return PrithviMAE(
        frames=frames,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        coordinates=coordinates,
        learn_scale=learn_scale,
        **kw,
    )


def prithvi_v1_segmenter(
    frames: int = 1, width: int = 768, depth: int = 12, heads: int = 12, **kw: Any
) -> PrithviSegmenter:
    """Version 1 fine-tuned for maps of floods and burn scars.

    The released crop map has `frames` 3, `classes` 13, `depth` 6 and `heads` 8.
    """
    return PrithviSegmenter(frames=frames, width=width, depth=depth, heads=heads, **kw)
