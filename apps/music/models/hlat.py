"""HLAT's sizes of Llama (Fan et al. 2024, arXiv 2404.10630), pre-trained on Trainium in bfloat16 alone.

The network is `core.backbones.llama.Llama`; here are its numbers, the wider first draw of the weights, and
the smaller residual projections of the 70 B.
"""

from __future__ import annotations

from typing import Any

from core.backbones.llama import Llama

__all__ = ["hlat_7b", "hlat_70b"]


def hlat_7b(
    vocabulary: int = 32_000,
    width: int = 4096,
    depth: int = 32,
    heads: int = 32,
    ffn: int = 11_008,
    context: int = 4096,
    initial_std: float = 0.021,
    **kw: Any,
) -> Llama:
    """HLAT 7B: 6 738 415 616 parameters, all heads with keys and values of their own."""
    return Llama(
        vocabulary=vocabulary,
        width=width,
        depth=depth,
        heads=heads,
        ffn=ffn,
        context=context,
        initial_std=initial_std,
        **kw,
    )


def hlat_70b(
    vocabulary: int = 32_000,
    width: int = 8192,
    depth: int = 80,
    heads: int = 64,
    kv_heads: int = 8,
    ffn: int = 28_672,
    context: int = 4096,
    initial_std: float = 0.021,
    scaled_residual: bool = True,
    **kw: Any,
) -> Llama:
    """HLAT 70B: 68 976 648 192 parameters, eight query heads to each key and value head."""
    return Llama(
        vocabulary=vocabulary,
        width=width,
        depth=depth,
        heads=heads,
        kv_heads=kv_heads,
        ffn=ffn,
        context=context,
        initial_std=initial_std,
        scaled_residual=scaled_residual,
        **kw,
    )
