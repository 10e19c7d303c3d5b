"""The optimizer's state as one process has it, and back to the pieces of this one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from core.strategies.pieces import like, whole

__all__ = ["collected", "settle", "spread"]


def collected(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict with whole tensors; every rank must ask."""
    values = {
        number: {key: whole(value) if isinstance(value, Tensor) else value for key, value in entry.items()}
        for number, entry in state["state"].items()
    }
    return {**state, "state": values}


def spread(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """Return a state dict of whole tensors as the pieces of `optimizer`'s parameters; nothing is sent."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    owner = dict(zip(numbers, parameters, strict=False))
    values = {
        number: {key: _piece(value, owner.get(number)) for key, value in entry.items()}
        for number, entry in state["state"].items()
    }
    return {**state, "state": values}


def settle(optimizer: Optimizer) -> None:
    """Step parameters one by one where they are of several kinds: whole ones and pieces on different meshes
    cannot be handed to one kernel together.
    """
    kinds = {
        p.device_mesh if isinstance(p, DTensor) else None
        for group in optimizer.param_groups
        for p in group["params"]
    }
    if len(kinds) > 1:
        for group in optimizer.param_groups:
            for name in ("fused", "foreach"):
                if name in group:
                    group[name] = False


def _piece(value: Any, parameter: Tensor | None) -> Any:
    if parameter is None or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    if not isinstance(parameter, DTensor):
        return value
    home = parameter._local_tensor.device
    return like(value.to(home), parameter)
