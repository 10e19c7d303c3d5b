"""Arranging a network on a mesh, in this order: tensor-parallel layers, the context's process group,
activation checkpointing, compiling block by block, sharding block by block with the root last.

FSDP2 (`torch.distributed.fsdp.fully_shard`) and DTensor do the work; the network only says which layers
repeat (`blocks()`), how its matrices may be cut (`tensor_parallel_plan()`) and takes a group
(`context_parallel()`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from core.backbones.adapters import adapted_layers
from core.errors import UserError

__all__ = [
    "KINDS",
    "Checkpointing",
    "blocks_of",
    "buckets_of",
    "checkpoint_blocks",
    "cut_context",
    "cut_matrices",
    "shard",
]

Checkpointing = Literal["none", "selective", "full"]
KINDS = ("none", "selective", "full")
_SAVED_OPERATORS = (  # dear to compute
    "mm", "addmm", "bmm", "baddbmm", "_scaled_mm", "convolution", "mkldnn_linear", "_flash_attention_forward",
)  # fmt: skip


def blocks_of(network: nn.Module, why: str) -> list[nn.Module]:
    """Return the network's repeated layers.

    Raises:
        UserError: If it names none; `why` says what they are needed for.
    """
    named = getattr(network, "blocks", None)
    layers = list(named()) if callable(named) else []
    if not layers:
        raise UserError(
            f"trainer.strategy: {why} needs the network's repeated layers and {type(network).__name__} names "
            "none (its blocks()); choose another network, or leave that out"
        )
    return layers


def cut_matrices(network: nn.Module, mesh: DeviceMesh, *, sequence: bool) -> None:
    """Cut the network's matrices over the one axis of a tensor-parallel mesh, in place; with `sequence` norms
    and residuals are cut along the sequence.

    Raises:
        UserError: If the network has no `tensor_parallel_plan`, or a size does not divide.
    """
    from torch.distributed.tensor.parallel import parallelize_module

    plan = getattr(network, "tensor_parallel_plan", None)
    name = type(network).__name__
    if plan is None:
        raise UserError(
            f"trainer.strategy: tensor is {mesh.size()}, but {name} has no tensor_parallel_plan; give "
            "tensor=1 and a larger shard"
        )
    if next(adapted_layers(network), None) is not None:
        raise UserError(
            f"trainer.strategy: tensor is {mesh.size()}, but low-rank adapters are not cut; give tensor=1 "
            "and a larger shard, or another model.adaptation"
        )
    sizes = getattr(network, "settings", {})
    for what in ("heads", "kv_heads", "ffn"):
        if sizes.get(what, mesh.size()) % mesh.size():
            raise UserError(
                f"trainer.strategy: tensor is {mesh.size()}, which does not divide {name}'s {what}, "
                f"{sizes[what]}; give a tensor size that does"
            )
    parallelize_module(network, mesh, plan(sequence=sequence), src_data_rank=None)


def cut_context(network: nn.Module, group: ProcessGroup) -> None:
    """Let the network's attention work on slices of the sequence.

    Raises:
        UserError: If the network cannot.
    """
    switch = getattr(network, "context_parallel", None)
    if switch is None:
        raise UserError(
            f"trainer.strategy: context is {group.size()}, but {type(network).__name__} has no "
            "context_parallel; give context=1"
        )
    switch(group)


def checkpoint_blocks(blocks: Iterable[nn.Module], kind: Checkpointing) -> None:
    """Let every block keep less for the backward pass, in place (Chen et al. 2016, arXiv 1604.06174).

    The forward method is replaced on the block itself, so that no name of a parameter changes. `none` keeps
    everything; `full` keeps a block's inputs and computes the block again; `selective` keeps the results of
    matrix products, convolutions and attention, which are dear to compute, and computes the rest again.
    """
    if kind == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if kind == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _checkpoint_policy)
    for block in blocks:
        block.forward = partial(_forward_again, block.forward, options)  # type: ignore[method-assign]


def _forward_again(forward: Any, options: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, **options, **kwargs)


def _checkpoint_policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    name = getattr(getattr(operator, "overloadpacket", operator), "__name__", "")
    dear = (
        name in _SAVED_OPERATORS
        or name.startswith("_scaled_dot_product")
        or "_c10d_functional" in str(operator)
    )
    return CheckpointPolicy.MUST_SAVE if dear else CheckpointPolicy.PREFER_RECOMPUTE


def shard(
    network: nn.Module,
    blocks: list[nn.Module],
    mesh: DeviceMesh,
    *,
    precision: str,
    reshard: bool,
    offload: bool,
) -> None:
    """Shard parameters, gradients and optimizer state over a mesh, block by block, the rest last.

    Args:
        network: Parameters on the meta device or not.
        blocks: Gathered and freed one by one.
        mesh: One axis to shard over, or a first one to replicate over and a second.
        precision: As Lightning spells it. `bf16-mixed` gathers a block's weights in bfloat16 on CUDA, where
            autocast takes care of the rest; the sums of gradients are always made in float32 or wider.
        reshard: Whether a block's weights are freed between its forward and backward pass; the last block's
            never are, for they are needed again at once.
        offload: Whether weights, gradients and optimizer state stay in the host's memory.
    """
    from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard

    options: dict[str, Any] = {"mesh": mesh}
    if offload:
        options["offload_policy"] = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda")
    mixed = precision == "bf16-mixed" and mesh.device_type == "cuda"
    for index, block in enumerate(blocks):
        freed = reshard and index < len(blocks) - 1
        gathered = torch.bfloat16 if mixed and not _has_complex(block) else None
        fully_shard(block, reshard_after_forward=freed, mp_policy=_policy(block, gathered), **options)
    fully_shard(network, reshard_after_forward=False, mp_policy=_policy(network, None), **options)


def buckets_of(network: nn.Module) -> list[list[nn.Parameter]]:
    """Return the parameters to average together: a block's, in the order of the blocks, and first the rest.

    Small blocks share a bucket until it holds a megabyte; the rest are mostly the embedding and the head.
    """
    names = getattr(network, "blocks", None)
    buckets: list[list[nn.Parameter]] = [[]]
    seen: set[int] = set()
    for block in names() if callable(names) else ():
        own = [p for p in block.parameters() if id(p) not in seen]
        seen.update(id(p) for p in own)
        if sum(math.prod(p.shape) * p.itemsize for p in buckets[-1]) > 2**20:
            buckets.append([])
        buckets[-1] += own
    rest = [p for p in network.parameters() if id(p) not in seen]
    return [bucket for bucket in [rest, *buckets] if bucket]


def _policy(module: nn.Module, gathered: torch.dtype | None) -> Any:
    from torch.distributed.fsdp import MixedPrecisionPolicy

    low = gathered or next((p.dtype for p in module.parameters() if p.is_floating_point()), None)
    reduced = torch.float32 if low in (torch.bfloat16, torch.float16) else None
    return MixedPrecisionPolicy(param_dtype=gathered, reduce_dtype=reduced, cast_forward_inputs=False)


def _has_complex(module: nn.Module) -> bool:
    return any(p.is_complex() for p in module.parameters())
