"""TTM, TinyTimeMixer: named sizes, official names and configs (Ekambaram et al. 2024, arXiv 2401.03955).

The network stands in `mixer/network.py`. Each released network is bound to one (context, horizon) pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from apps.timeseries.models.mixer import official
from apps.timeseries.models.mixer.network import TTM, MaskedTTM, TTMOutput
from apps.timeseries.models.mixer.settings import DecoderSettings, Patching, grouped
from core.backbones.sizes import size

__all__ = [
    "KEY_MAP",
    "TTM",
    "MaskedTTM",
    "TTMOutput",
    "from_official_config",
    "to_official_config",
    "ttm_512_96",
    "ttm_512_96_prefix",
    "ttm_512_192",
    "ttm_512_336",
    "ttm_512_720",
    "ttm_1024_96",
    "ttm_1024_96_r1",
    "ttm_1024_192",
    "ttm_1024_336",
    "ttm_1024_720",
    "ttm_1536_96",
    "ttm_1536_192",
    "ttm_1536_336",
    "ttm_1536_720",
    "ttm_large",
    "ttm_medium",
    "ttm_small",
]

KEY_MAP = official.KEY_MAP


def from_official_config(config: Mapping[str, Any]) -> TTM | MaskedTTM:
    """Build the network that an official config.json describes.

    Args:
        config: Its fields; what is not listed has the official default. `architectures` tells the masked
            variant.

    Raises:
        UserError: If it asks for something that this network does not have.
    """
    name, values = official.arguments(config)
    network = (MaskedTTM if name == official.MASKED else TTM)(**grouped(values))
    network.settings |= values  # the fields of absent parts too, which are written as they were read
    return network


def to_official_config(network: TTM) -> dict[str, Any]:
    """Return the official config.json of a network, every field spelt out."""
    name = official.MASKED if isinstance(network, MaskedTTM) else official.PLAIN
    return official.config(name, {**network.settings, "patching.stride": network.stride})


_SMALL = {"patch": 64, "width": 192}
_LARGE = {"patch": 128, "width": 384, "decoder": DecoderSettings(width=256)}

ttm_512_96 = size(TTM, "512 -> 96, releases 1 and 2: 805 280 parameters.", context=512, horizon=96, **_SMALL)
ttm_512_96_prefix = size(
    TTM, "512 -> 96 with the frequency prefix: 855 100 parameters.",
    context=512, horizon=96, patching=Patching(frequency_prefix=True, frequency_tokens=10),
)  # fmt: skip
ttm_512_192 = size(TTM, "512 -> 192, release 2.", context=512, horizon=192, **_SMALL)
ttm_512_336 = size(TTM, "512 -> 336, release 2.", context=512, horizon=336, **_SMALL)
ttm_512_720 = size(TTM, "512 -> 720, release 2.", context=512, horizon=720, **_SMALL)
ttm_1024_96_r1 = size(
    TTM, "1024 -> 96, release 1, patches of 64: 946 336 parameters.", context=1024, horizon=96, **_SMALL
)
ttm_1024_96 = size(TTM, "1024 -> 96, release 2, patches of 128.", context=1024, horizon=96, **_LARGE)
ttm_1024_192 = size(TTM, "1024 -> 192, release 2, patches of 128.", context=1024, horizon=192, **_LARGE)
ttm_1024_336 = size(TTM, "1024 -> 336, release 2, patches of 128.", context=1024, horizon=336, **_LARGE)
ttm_1024_720 = size(TTM, "1024 -> 720, release 2, patches of 128.", context=1024, horizon=720, **_LARGE)
ttm_1536_96 = size(TTM, "1536 -> 96, release 2, patches of 128.", context=1536, horizon=96, **_LARGE)
ttm_1536_192 = size(TTM, "1536 -> 192, release 2, patches of 128.", context=1536, horizon=192, **_LARGE)
ttm_1536_336 = size(TTM, "1536 -> 336, release 2, patches of 128.", context=1536, horizon=336, **_LARGE)
ttm_1536_720 = size(TTM, "1536 -> 720, release 2, patches of 128.", context=1536, horizon=720, **_LARGE)


def ttm_small(
    context: int = 512,
    patch: int | None = None,
    width: int | None = None,
    depth: int = 3,
    levels: int = 0,
    decoder: DecoderSettings | None = DecoderSettings(width=None),  # noqa: B008
    **kw: Any,
) -> TTM:
    """Small network for training from scratch: one patch length, two patches wide, the decoder too; a context
    is made even.
    """
    wide = 2 * _patch(context)
    if isinstance(decoder, DecoderSettings) and decoder.width is None:
        decoder = replace(decoder, width=wide)
    return _any_context(
        context, patch, width=width or wide, depth=depth, levels=levels, decoder=decoder, **kw
    )


def ttm_medium(
    context: int = 512,
    patch: int | None = None,
    width: int = 128,
    depth: int = 3,
    levels: int = 3,
    **kw: Any,
) -> TTM:
    """Medium network for training from scratch: three levels, width 128."""
    return _any_context(context, patch, width=width, depth=depth, levels=levels, **kw)


def ttm_large(
    context: int = 512,
    patch: int | None = None,
    width: int = 512,
    depth: int = 5,
    levels: int = 5,
    decoder: DecoderSettings | None = DecoderSettings(width=512),  # noqa: B008
    **kw: Any,
) -> TTM:
    """Large network for training from scratch: five levels, width 512."""
    return _any_context(context, patch, width=width, depth=depth, levels=levels, decoder=decoder, **kw)


def _any_context(context: int, patch: int | None, **kw: Any) -> TTM:
    return TTM(context=context - context % 2, patch=_patch(context) if patch is None else patch, **kw)


def _patch(context: int) -> int:
    """Return the largest power of two, at least 2, that divides the context and leaves eight patches."""
    context, patch = context - context % 2, 2
    while context % (2 * patch) == 0 and context // (2 * patch) >= 8:
        patch *= 2
    return patch
