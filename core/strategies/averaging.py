"""Gradients averaged over processes that hold the same weights, while the backward pass still runs.

What DistributedDataParallel does (Li et al. 2020, arXiv 2006.15704), without a wrapper: names stay as they
are, the parameters may themselves be pieces of a tensor-parallel weight, and parameters may be frozen and
thawed at any step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.backbones.gradient_norm import local
from core.strategies.sharded_tensors import align

__all__ = ["GradientAveraging"]


class GradientAveraging:
    """Averages the gradients of parameters over one process group after every backward pass.

    Each bucket is sent as soon as all its gradients are there, in one order on all ranks. Beside the
    gradients goes one number for each parameter that says whether this rank had any: a parameter that none
    used keeps no gradient, so that its optimizer state stays as it is.

    Args:
        buckets: Parameters that are sent together, in the order of the forward pass; those of another type
            or device get a bucket of their own.
        group: The processes with the same weights.
    """

    def __init__(self, buckets: Iterable[Sequence[nn.Parameter]], group: dist.ProcessGroup) -> None:
        self.group = group
        self.enabled = True
        self._size = dist.get_world_size(group)
        # backward meets the last layers first
        self._buckets = [part for bucket in reversed(list(buckets)) for part in _parts(bucket)]
        self._of = {id(p): bucket for bucket in self._buckets for p in bucket.parameters}
        self._sent = 0
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                # a frozen one takes no hook, so it is asked for one while it is not
                frozen = not parameter.requires_grad
                parameter.requires_grad_(True)
                parameter.register_post_accumulate_grad_hook(self._arrived)
                parameter.requires_grad_(not frozen)

    def finish(self) -> None:
        """Send what is left and wait for all of it; every rank calls this after every backward pass."""
        if not self.enabled:
            return
        for bucket in self._buckets[self._sent :]:
            bucket.send(self.group, self._size)
        self._sent = 0
        for bucket in self._buckets:
            bucket.receive()

    def _arrived(self, parameter: Tensor) -> None:
        if not self.enabled:
            return
        self._of[id(parameter)].arrived.add(id(parameter))
        while self._sent < len(self._buckets) and self._buckets[self._sent].complete:
            self._buckets[self._sent].send(self.group, self._size)
            self._sent += 1


@dataclass(eq=False)
class _Bucket:
    parameters: list[nn.Parameter]
    arrived: set[int] = field(default_factory=set)
    flat: Tensor | None = None
    work: dist.Work | None = None
    sending: list[nn.Parameter] = field(default_factory=list)
    ones: Tensor | None = None

    @property
    def complete(self) -> bool:
        return len(self.arrived) >= sum(p.requires_grad for p in self.parameters)

    def send(self, group: dist.ProcessGroup, size: int) -> None:
        self.arrived.clear()
        self.sending = [p for p in self.parameters if p.requires_grad]
        if not self.sending:
            return
        for p in self.sending:
            align(p)
        pieces = [torch.zeros_like(_real(p)) if p.grad is None else _real(p.grad) for p in self.sending]
        self.flat = torch.cat([*(piece.reshape(-1) for piece in pieces), self._flags(pieces[0])])
        self.flat.div_(size)  # before the sum: half precision would overflow
        self.work = dist.all_reduce(self.flat, group=group, async_op=True)

    def _flags(self, like: Tensor) -> Tensor:
        if any(p.grad is None for p in self.sending):
            return like.new_tensor([float(p.grad is not None) for p in self.sending])
        if self.ones is None or len(self.ones) != len(self.sending):
            # kept, for a copy from the host would wait for the queue in every backward pass
            self.ones = like.new_ones(len(self.sending))
        return self.ones

    def receive(self) -> None:
        if self.work is None or self.flat is None:
            return
        self.work.wait()
        values, used = self.flat.split([len(self.flat) - len(self.sending), len(self.sending)])
        lacking = any(p.grad is None for p in self.sending)
        present = (used > 0).tolist() if lacking else [True] * len(self.sending)
        offset = 0
        for parameter, used_somewhere in zip(self.sending, present, strict=True):
            shape = _real(parameter).shape
            value = values[offset : offset + shape.numel()].view(shape)
            offset += shape.numel()
            if used_somewhere and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if used_somewhere and parameter.grad is not None:
                _real(parameter.grad).copy_(value)
        self.flat, self.work, self.sending = None, None, []


def _parts(bucket: Sequence[nn.Parameter]) -> list[_Bucket]:
    kinds: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for parameter in bucket:
        piece = _real(parameter)
        kinds.setdefault((piece.dtype, piece.device), []).append(parameter)
    return [_Bucket(parameters) for parameters in kinds.values()]


def _real(tensor: Tensor) -> Tensor:
    """Return this rank's piece as real numbers, sharing its memory."""
    piece = local(tensor.detach())
    return torch.view_as_real(piece) if piece.is_complex() else piece
