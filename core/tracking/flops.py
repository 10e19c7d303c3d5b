"""Counting a network's floating-point operations on the meta device, without computing any of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["count_flops"]


def count_flops(
    network: nn.Module | Callable[[], nn.Module],
    inputs: Mapping[str, Any],
    *,
    backward: bool = True,
) -> int:
    """Return the FLOPs of one pass over `inputs`, by torch's own counter.

    It counts products, convolutions and attention (2 per multiply-add). Attention counts in full where a
    mask leaves half of it; Fourier transforms count as none, so that spectral networks need a term of their
    own. Activation checkpointing would count its second forward pass: switch it off for this.

    Args:
        network: The network, which is neither copied nor changed, or a function that builds it.
        inputs: Named arguments of `forward`; of tensors only shape and dtype matter.
        backward: Count the backward pass of the sum of all floating outputs too; frozen layers reduce it.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        built = network if isinstance(network, nn.Module) else network()
        state = {name: _on_meta(value) for name, value in _state(built)}
        counter = FlopCounterMode(display=False)
        # Attention on a CPU is one fused operation that the counter does not know; on meta it is counted.
        with counter, torch.enable_grad():
            shapes = {name: _on_meta(item) for name, item in inputs.items()}
            output = torch.func.functional_call(built, state, (), shapes)
            results = [item for item in _tensors(output) if item.requires_grad]
            if backward and results:
                torch.stack([item.sum().float() for item in results]).sum().backward()
    return int(counter.get_total_flops())


def _state(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from network.named_parameters(remove_duplicate=False)
    yield from network.named_buffers(remove_duplicate=False)


def _on_meta(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_like(value, device="meta").requires_grad_(value.requires_grad)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
