"""A linear layer behind an exact GELU that keeps one tensor for its backward pass, not two."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["gelu_linear"]


def gelu_linear(hidden: Tensor, layer: nn.Linear) -> Tensor:
    """Return `layer(gelu(hidden))`; the GELU's values are made again in the backward pass.

    They are the largest tensor of a transformer's block. Layers of a subclass (adapted ones) are called.
    """
    if type(layer) is not nn.Linear or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return layer(F.gelu(hidden))
    kind = hidden.device.type
    weight: Tensor = layer.weight
    bias: Tensor | None = layer.bias
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    with torch.autocast(kind, enabled=False):
        return _GeluLinear.apply(hidden, weight, bias)


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        return F.linear(F.gelu(hidden), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        grad = grads[0].reshape(-1, weight.shape[0])
        hidden_grad = weight_grad = bias_grad = None
        if ctx.needs_input_grad[1]:
            weight_grad = grad.t() @ F.gelu(hidden).view(-1, weight.shape[1])
        if ctx.needs_input_grad[2]:
            bias_grad = grad.sum(0)
        if ctx.needs_input_grad[0]:
            inner = (grad @ weight).view_as(hidden)
            hidden_grad = torch.ops.aten.gelu_backward(inner, hidden)
        return hidden_grad, weight_grad, bias_grad
