"""Layer norm whose scale and shift depend on the lead time (Herde et al. 2024, arXiv 2405.19101)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ConditionalNorm", "PlainNorm", "make_norm"]


class ConditionalNorm(nn.Module):
    """`alpha(t) · normalised(x) + beta(t)`, both linear in the time.

    Args:
        width: Channels.
        eps: Added to the variance.
    """

    def __init__(self, width: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Linear(1, width)
        self.bias = nn.Linear(1, width)

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        """Map `(B, …, C)` with times `(B, 1)` to the same shape."""
        assert time is not None
        shape = (-1, *[1] * (x.dim() - 2), x.shape[-1])
        normal = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        return torch.addcmul(self.bias(time).view(shape), self.weight(time).view(shape), normal)

    def extra_repr(self) -> str:
        """Show the settings in the module's printed form."""
        return f"eps={self.eps}"


class PlainNorm(nn.LayerNorm):
    """Layer norm that passes over the time."""

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:  # type: ignore[override]
        """Map `(B, …, C)` to the same shape."""
        return super().forward(x)


def make_norm(width: int, *, conditioned: bool, eps: float = 1e-5) -> ConditionalNorm | PlainNorm:
    """Return the norm of one place of the network."""
    return ConditionalNorm(width, eps=eps) if conditioned else PlainNorm(width, eps=eps)
