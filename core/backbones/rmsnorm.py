"""Root-mean-square norm (Zhang and Sennrich 2019, arXiv 1910.07467)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["RMSNorm"]


class RMSNorm(nn.Module):
    """`y = weight · x / sqrt(mean(x²) + eps)` over the last dimension, of size `width`.

    The statistics are computed in float32 and the quotient is cast back before it meets the weight.
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
        if _plain(x) and _plain(self.weight.data) and not torch.is_autocast_enabled("cpu"):
            return _Normalise.apply(x, self.weight, self.eps)
        wide = x.float() if x.dtype.itemsize < 4 else x
        unit = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * unit.to(x.dtype)

    def extra_repr(self) -> str:
        """Return the settings that `repr` shows."""
        return f"{tuple(self.weight.shape)}, eps={self.eps}"


class _Normalise(torch.autograd.Function):
    """The same with few passes over memory, and its gradient written out.

    With `t = grad · x`, `r = 1 / sqrt(mean(x²) + eps)` and `c = Σ weight · t` of a row, `dx = r · weight ·
    grad - x · r³ · c / D`, and `dweight = Σ r · t` over rows.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        scale = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        scale = scale.square_().div_(rows.shape[1]).add_(eps).rsqrt_()
        ctx.save_for_backward(rows, weight, scale)
        return (rows * scale).mul_(weight).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, scale = ctx.saved_tensors
        grad = grads[0].reshape(rows.shape)
        product = grad * rows
        weight_grad = torch.mv(product.t(), scale[:, 0])
        along = torch.mv(product, weight)[:, None]
        along.mul_(scale.pow(3)).div_(-rows.shape[1])
        torch.mul(grad, weight, out=product)
        return product.mul_(scale).addcmul_(rows, along).view(grads[0].shape), weight_grad, None


def _plain(x: Tensor) -> bool:
    wide = x.dtype in (torch.float32, torch.float64)
    return type(x) is Tensor and x.device.type == "cpu" and wide and not torch.compiler.is_compiling()
