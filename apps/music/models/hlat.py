"""HLAT's sizes of Llama (Fan et al. 2024, arXiv 2404.10630), pre-trained on Trainium in bfloat16 alone.

The network is `core.backbones.llama.Llama`; here are its numbers, the wider first draw of the weights, and
the smaller residual projections of the 70 B.
"""

from __future__ import annotations

from core.backbones.llama import Llama
from core.backbones.sizes import size

__all__ = ["hlat_7b", "hlat_70b"]

hlat_7b = size(
    Llama, "HLAT 7B: 6 738 415 616 parameters, all heads with keys and values of their own.",
    vocabulary=32_000, width=4096, depth=32, heads=32, ffn=11_008, context=4096, initial_std=0.021,
)  # fmt: skip

hlat_70b = size(
    Llama, "HLAT 70B: 68 976 648 192 parameters, eight query heads to each key and value head.",
    vocabulary=32_000, width=8192, depth=80, heads=64, kv_heads=8, ffn=28_672, context=4096,
    initial_std=0.021, scaled_residual=True,
)  # fmt: skip
