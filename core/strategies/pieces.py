"""What is the same for a whole tensor and for one that is spread over a mesh."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from core.backbones.gradient_norm import local

__all__ = ["align", "like", "local", "whole"]


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor; every rank of its mesh must ask."""
    return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()


def align(parameter: Tensor) -> None:
    """Lay a parameter's gradient out as the parameter is; tensor-parallel layers may leave it otherwise."""
    gradient = parameter.grad
    if not isinstance(parameter, DTensor) or not isinstance(gradient, DTensor):
        return
    if gradient.placements != parameter.placements:
        parameter.grad = gradient.redistribute(placements=parameter.placements)


def like(full: Tensor, pattern: Tensor) -> Tensor:
    """Spread a whole tensor, the same on every rank, as `pattern` is; nothing is sent."""
    if not isinstance(pattern, DTensor):
        return full
    return distribute_tensor(full, pattern.device_mesh, pattern.placements, src_data_rank=None)
