"""Root-mean-square norm (Zhang and Sennrich 2019, arXiv 1910.07467)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["RMSNorm"]


class RMSNorm(nn.Module):
    """`y = weight · x / sqrt(mean(x²) + eps)` over the last dimension.

    The statistics are computed in float32 and the quotient is cast back before it meets the weight.

    Args:
        width: Size of the last dimension.
        eps: Added to the mean square.
    """

    def __init__(self, width: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to one."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., D)` to `(..., D)` of the same type."""
        wide = x.float() if x.dtype.itemsize < 4 else x
        unit = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * unit.to(x.dtype)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"{tuple(self.weight.shape)}, eps={self.eps}"
