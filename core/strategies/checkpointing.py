"""Activation checkpointing of a network's blocks: what the backward pass computes again instead of keeping.

Chen et al. 2016 (arXiv 1604.06174) for whole blocks. The forward method is replaced on the block itself, so
that no name of a parameter changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from core.errors import UserError

__all__ = ["KINDS", "Checkpointing", "checkpoint_blocks"]

Checkpointing = Literal["none", "selective", "full"]
KINDS = ("none", "selective", "full")


def checkpoint_blocks(blocks: Iterable[nn.Module], kind: Checkpointing) -> None:
    """Let every block keep less for the backward pass, in place.

    Args:
        blocks: The repeated layers of a network.
        kind: `none` keeps everything; `full` keeps a block's inputs and computes the block again; `selective`
            keeps the results of matrix products, convolutions and attention, which are dear to compute, and
            computes the rest again.

    Raises:
        UserError: If `kind` is none of these.
    """
    if kind not in KINDS:
        raise UserError(f"trainer.strategy: checkpointing is '{kind}'; it must be one of {', '.join(KINDS)}")
    if kind == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if kind == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    for block in blocks:
        block.forward = partial(_forward, block.forward, options)  # type: ignore[method-assign]


def _forward(forward: Any, options: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, **options, **kwargs)


def _policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    name = getattr(getattr(operator, "overloadpacket", operator), "__name__", "")
    dear = name in _DEAR or name.startswith("_scaled_dot_product") or "_c10d_functional" in str(operator)
    return CheckpointPolicy.MUST_SAVE if dear else CheckpointPolicy.PREFER_RECOMPUTE


_DEAR = (
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "_scaled_mm",
    "convolution",
    "mkldnn_linear",
    "_flash_attention_forward",
)
