"""Attention from some queries to the levels at each place of the grid (Perceiver, Jaegle et al. 2021, arXiv
2103.03206; residual after the norm).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.backbones.gelu_linear import gelu_linear

__all__ = ["LinearPair", "Resampler"]


class LinearPair(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(…, D)` to the same shape."""
        return gelu_linear(self.net[0](x), self.net[2])


class ResamplerAttention(nn.Module):
    """Attention of queries to other tokens; `norm` puts norms over the whole width on queries and keys."""

    def __init__(self, width: int, *, heads: int, norm: bool, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        self.ln_k = nn.LayerNorm(width, eps=eps) if norm else None
        self.ln_q = nn.LayerNorm(width, eps=eps) if norm else None

    def forward(self, latents: Tensor, x: Tensor) -> Tensor:
        """Map queries `(N or 1, Q, D)`, with 1 for all places, and tokens `(N, C, D)` to `(N, Q, D)`."""
        if self.ln_k is None and len(latents) == 1:
            shares, value = self._folded(latents[0], x)
        else:
            query = self.to_q(latents)
            key, value = self.to_kv(x).chunk(2, -1)
            if self.ln_k is not None and self.ln_q is not None:
                query, key = self.ln_q(query), self.ln_k(key)
            logits = torch.einsum("nqhd,nchd->ncqh", self._split(query), self._split(key))
            shares = (logits * (query.shape[-1] // self.heads) ** -0.5).softmax(1)
        mixed = torch.einsum("ncqh,nchd->nqhd", shares, self._split(value))
        return self.to_out(mixed.flatten(2))

    def _folded(self, latents: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return shares `(N, C, Q, H)` and values: queries that are the same everywhere are multiplied with
        the keys' weight first, so that no keys are made.
        """
        width = latents.shape[-1]
        key, value = self.to_kv.weight.split(width)
        query = self.to_q(latents).unflatten(-1, (self.heads, -1)) * (width // self.heads) ** -0.5  # Q H d
        rows = torch.einsum("qhd,hdi->qhi", query, key.unflatten(0, (self.heads, -1))).flatten(0, 1)
        logits, values = F.linear(x, torch.cat([rows, value])).split([len(rows), width], -1)
        return logits.unflatten(-1, (len(latents), self.heads)).softmax(1), values

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))


class ResamplerBlock(nn.ModuleList):
    """Attention and two linear layers, each normed before it is added: attention, layers and two norms."""

    def __init__(self, width: int, *, heads: int, ratio: float, norm: bool, eps: float) -> None:
        super().__init__(
            [
                ResamplerAttention(width, heads=heads, norm=norm, eps=eps),
                LinearPair(width, int(width * ratio)),
                nn.LayerNorm(width, eps=eps),
                nn.LayerNorm(width, eps=eps),
            ]
        )

    def forward(self, latents: Tensor, x: Tensor) -> Tensor:
        """Map queries `(N or 1, Q, D)` and tokens `(N, C, D)` to `(N, Q, D)`."""
        attention, layers, first, second = self
        latents = latents + first(attention(latents, x))
        return latents + second(layers(latents))


class Resampler(nn.Module):
    """Blocks of attention from queries to the tokens at each place.

    Args:
        width: Features D.
        heads: Attention heads.
        depth: Number of blocks.
        ratio: Hidden width of the linear layers over D.
        eps: Of the norms.
        stabilise: Whether queries and keys of the first block are normed.
    """

    def __init__(
        self, width: int, *, heads: int, depth: int, ratio: float, eps: float, stabilise: bool = False
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ResamplerBlock(width, heads=heads, ratio=ratio, norm=stabilise and i == 0, eps=eps)
            for i in range(depth)
        )

    def forward(self, latents: Tensor, x: Tensor) -> Tensor:
        """Map queries `(Q, D)`, the same at all places, and tokens `(N, C, D)` to `(N, Q, D)`."""
        latents, x = latents[None], x.contiguous()  # linear layers are slow on strided tokens
        for layer in self.layers:
            latents = layer(latents, x)
        return latents
