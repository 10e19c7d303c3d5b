"""Layout, clipping and optimizer steps, the same for whole tensors and for shards on a mesh."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from core.backbones.gradient_norm import global_norm, local

__all__ = ["align", "clip_by_norm", "like", "step_shards", "whole"]

# They change every number by itself, so a piece is stepped as the whole would be.
_ELEMENTWISE = (
    optim.Adadelta, optim.Adagrad, optim.Adam, optim.Adamax, optim.AdamW, optim.ASGD, optim.NAdam,
    optim.RAdam, optim.RMSprop, optim.Rprop, optim.SGD,
)  # fmt: skip


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


def clip_by_norm(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale the gradients so that their common norm is at most `limit`; return the norm before."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = global_norm(gradients)
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
    for gradient in gradients:
        piece = local(gradient)
        piece.mul_(factor.to(piece.device, piece.real.dtype if piece.is_complex() else piece.dtype))
    return norm


def step_shards(optimizer: Optimizer) -> None:
    """Let an optimizer step its parameters' pieces, in place.

    One that changes every number by itself sees plain tensors: DTensors would cost more than the step, and
    whole parameters and pieces on different meshes could not be handed to one kernel together. Any other sees
    DTensors, one by one where they are of several kinds.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(isinstance(p, DTensor) for p in parameters):
        return
    if type(optimizer) in _ELEMENTWISE:
        optimizer.step = _stepping(optimizer)  # type: ignore[method-assign]
        return
    if len({p.device_mesh if isinstance(p, DTensor) else None for p in parameters}) > 1:
        for group in optimizer.param_groups:
            group.update({name: False for name in ("fused", "foreach") if name in group})


def _stepping(optimizer: Optimizer) -> Callable[..., Any]:
    step = optimizer.step

    @functools.wraps(step)  # a scheduler leaves a mark on it
    def on_pieces(closure: Callable[[], Any] | None = None) -> Any:
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        with _as_pieces(optimizer):
            step()
        return result

    return on_pieces


@contextmanager
def _as_pieces(optimizer: Optimizer) -> Iterator[None]:
    """Put this rank's pieces in the place of DTensors, and back; both share their memory."""
    swapped: list[tuple[DTensor, Tensor, dict[str, Any]]] = []
    kept = [group["params"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["params"] = [_swap(optimizer, p, swapped) for p in group["params"]]
    try:
        yield
    finally:
        for group, parameters in zip(optimizer.param_groups, kept, strict=True):
            group["params"] = parameters
        for parameter, piece, before in swapped:
            after = optimizer.state.pop(piece, {})
            for key, value in after.items():
                if before.get(key) is value or _local(before.get(key)) is value:
                    continue
                alike = isinstance(value, Tensor) and key != "step" and value.shape == piece.shape
                before[key] = _joined(value, parameter) if alike else value
            if after:
                optimizer.state[parameter] = before


def _swap(optimizer: Optimizer, parameter: Tensor, swapped: list[tuple[DTensor, Tensor, dict]]) -> Tensor:
    if not isinstance(parameter, DTensor):
        return parameter
    piece = local(parameter).detach()
    align(parameter)
    piece.grad = None if parameter.grad is None else local(parameter.grad)
    before = optimizer.state.pop(parameter, {})
    if before:
        optimizer.state[piece] = {key: _local(value) for key, value in before.items()}
    swapped.append((parameter, piece, before))
    return piece


def _local(value: Any) -> Any:
    """Return the piece of a tensor, and anything else as it is."""
    return local(value) if isinstance(value, Tensor) else value


def _joined(piece: Tensor, pattern: DTensor) -> DTensor:
    return DTensor.from_local(
        piece,
        pattern.device_mesh,
        pattern.placements,
        run_check=False,
        shape=pattern.shape,
        stride=pattern.stride(),
    )
