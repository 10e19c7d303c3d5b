"""Counting a network's floating-point operations on the meta device, without computing any of them."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["count_flops", "skeleton"]


def count_flops(
    network: nn.Module | Callable[[], nn.Module],
    inputs: Mapping[str, Any],
    *,
    backward: bool = True,
) -> int:
    """Return the FLOPs of one pass over `inputs`, by torch's own counter.

    It counts products, convolutions and attention (2 per multiply-add), of complex numbers four times as
    much, and Fourier transforms with 5 N log2 N (half of it for real ones). Attention counts in full where a
    mask leaves half of it. What activation checkpointing computes a second time is not counted.

    Args:
        network: The network, which is neither copied nor changed, or a function that builds it.
        inputs: Named arguments of `forward`; of tensors only shape and dtype matter.
        backward: Count the backward pass of the sum of all floating outputs too; frozen layers reduce it.
    """
    with torch.device("meta"):
        built = network if isinstance(network, nn.Module) else network()
        state = {name: _on_meta(value) for name, value in _state(built)}
        counter = _counter()
        # Attention on a CPU is one fused operation that the counter does not know; on meta it is counted.
        with counter, torch.enable_grad():
            shapes = {name: _on_meta(item) for name, item in inputs.items()}
            output = torch.func.functional_call(built, state, (), shapes)
            results = [item for item in _tensors(output) if item.requires_grad]
            if backward and results:
                total = torch.stack([_real(item).sum().float() for item in results]).sum()
                counter.backward_runs = True
                total.backward()
    return int(counter.get_total_flops())


def skeleton(network: nn.Module) -> nn.Module:
    """Return a copy of a network on the meta device, which takes no memory; the network is not touched."""
    tensors = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): _like(tensor) for tensor in tensors})


def _counter() -> Any:
    from torch.utils.flop_counter import FlopCounterMode

    aten = torch.ops.aten

    class Counter(FlopCounterMode):
        """torch's counter with Fourier transforms and complex products, and without recomputation."""

        backward_runs = False

        def _count_flops(self, packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
            # The backward pass itself runs without gradients; what has them there is a forward pass again.
            if self.backward_runs and torch.is_grad_enabled():
                return out
            if packet in (aten._fft_r2c, aten._fft_c2c, aten._fft_c2r):
                longest = out if packet is aten._fft_c2r else args[0]
                length = math.prod(longest.shape[axis] for axis in args[1])
                each = 5.0 if packet is aten._fft_c2c else 2.5
                counted = int(each * longest.numel() * math.log2(max(length, 1)))
                self.flop_counts["Global"][packet] += counted
                return out
            for _ in range(4 if isinstance(out, Tensor) and out.is_complex() else 1):
                super()._count_flops(packet, out, args, kwargs)
            return out

    return Counter(display=False)


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _like(tensor: Tensor) -> Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


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
