"""Transformer block of DINOv2 (Oquab et al. 2023, arXiv 2304.07193): what it has beyond a plain one."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.backbones import vit

__all__ = ["Block", "SwiGLU"]

# Up to this rate every sample runs through a branch and its result may be thrown away.
_SUBSAMPLED_ABOVE = 0.1


class Block(vit.Block):
    """`x + ls1(attn(norm1(x)))`, then `x + ls2(mlp(norm2(x)))`.

    Args:
        width: Features D of a token.
        heads: A divisor of it.
        mlp_ratio: Hidden features of the MLP over `width`.
        layer_scale: First value of the factor on each feature of a branch; None leaves the factors out.
        drop_path: Probability that a sample skips a branch in training. Above 0.1 the branch runs on a random
            subset of exactly that size, which saves its time and memory; its result is scaled up alike.
        ffn: `mlp` (GELU), `swiglu`, or `swiglufused` (the same with two thirds of the hidden features).
        eps: Of the layer norms.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        *,
        layer_scale: float | None = 1e-5,
        drop_path: float = 0.0,
        ffn: str = "mlp",
        eps: float = 1e-6,
    ) -> None:
        super().__init__(width, heads, mlp_ratio, drop_path=drop_path, layer_scale=layer_scale, eps=eps)
        if ffn != "mlp":
            hidden = int(width * mlp_ratio)
            self.mlp = SwiGLU(width, (hidden * 2 // 3 + 7) // 8 * 8 if ffn == "swiglufused" else hidden)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map `(B, N, D)` to the same shape; `mask` `(B, 1, 1 or N, N)` is True where a token may look."""
        if not self.training or self.drop_path <= _SUBSAMPLED_ABOVE or mask is not None:
            return super().forward(x, mask)
        x = self._part_of(x, lambda part: self.ls1(self.attn(self.norm1(part))))
        return self._part_of(x, lambda part: self.ls2(self.mlp(self.norm2(part))))

    def _part_of(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """Add a branch of a random part of the batch."""
        count = len(x)
        kept = max(int(count * (1 - self.drop_path)), 1)
        chosen = torch.randperm(count, device=x.device)[:kept]
        return x.index_add(0, chosen, branch(x[chosen]).to(x.dtype), alpha=count / kept)


class SwiGLU(nn.Module):
    """Gated MLP, `w3(silu(a) * b)` with a and b the two halves of `w12(x)` (Shazeer 2020, arXiv 2002.05202).

    Args:
        width: Features in and out.
        hidden: Features of each half.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., D)` to `(..., D)`."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)
