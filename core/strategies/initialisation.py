"""Initialisation of a network on all processes: the first builds and loads them, the others receive theirs.

The first process holds the whole network in its host's memory while the weights are handed out, one tensor at
a time; the others may have built theirs on the meta device and never hold more than their pieces and one
whole tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.backbones.gradient_norm import local
from core.errors import UserError
from core.strategies.sharded_tensors import like

__all__ = ["load_and_freeze", "materialise", "on_first_rank", "receive", "share_random_state", "snapshot"]

Result = TypeVar("Result")


def load_and_freeze(
    network: nn.Module,
    *,
    load: Callable[[], Result] | None = None,
    prepare: Callable[[nn.Module], None] | None = None,
) -> Result | None:
    """Load weights and freeze what stays frozen, in a process of its own; return what `load` says."""
    report = None if load is None else load()
    if prepare is not None:
        prepare(network)
    return report


def on_first_rank(function: Callable[[], Result]) -> Result:
    """Call `function` on the first rank only and return its result on all.

    Raises:
        UserError: On every rank, if it is raised on the first.
    """
    outcome: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            outcome[0] = function()
        except UserError as error:
            outcome[1] = str(error)
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise UserError(outcome[1])
    return outcome[0]


def materialise(network: nn.Module, device: torch.device) -> None:
    """Give memory to everything that is on the meta device, without values; shared parameters stay shared."""
    tied = _tied(network)
    for module in network.modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if any(tensor.is_meta for tensor in own):
            module.to_empty(device=device, recurse=False)
    for name, first in tied.items():
        owner, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(owner), leaf, network.get_parameter(first))


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name, saved or not, without copying them."""
    return {name: tensor.detach() for name, tensor in _named(network).items()}


def receive(network: nn.Module, source: dict[str, Tensor] | None, device: torch.device) -> None:
    """Fill the network, sharded or not, on every rank with the whole tensors that the first rank names."""
    for name, target in _named(network).items():
        if source is not None:
            tensor = source[name].to(device, target.dtype).contiguous()
        else:
            tensor = torch.empty(target.shape, dtype=target.dtype, device=device)
        dist.broadcast(_sendable(tensor), src=0)
        piece = local(target.detach())
        piece.copy_(local(like(tensor, target.detach())))


def share_random_state() -> None:
    """Give every process the first one's random stream: ranks that built on the meta device drew nothing."""
    state = [torch.get_rng_state() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(state, src=0)
    assert state[0] is not None
    torch.set_rng_state(state[0])


def _named(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _tied(network: nn.Module) -> dict[str, str]:
    first: dict[int, str] = {}
    tied = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            tied[name] = first[id(parameter)]
    return tied


def _sendable(tensor: Tensor) -> Tensor:
    """Return a view of a type that every backend can send."""
    if tensor.is_complex():
        return torch.view_as_real(tensor)
    return tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor
