"""How much one layer of a transformer sends between ranks when its tensors are shared out."""

from __future__ import annotations

import math
from typing import Literal

__all__ = ["Scheme", "bytes_per_layer"]

Scheme = Literal["tensor", "tensor_sequence", "tensor_2d"]


def bytes_per_layer(
    *, batch: int, sequence: int, width: int, ranks: int, scheme: Scheme = "tensor", bytes_each: int = 2
) -> float:
    """Return the bytes that each rank sends for one layer in the forward pass; backward as much again.

    Tensor parallelism sums activations `(B, S, D)` twice forward and twice backward (Shoeybi et al. 2019,
    arXiv 1909.08053); a ring all-reduce sends 2 (p - 1) / p of the data: 4 B S D (p - 1) / p. Splitting
    the sequence between the products turns each into a reduce-scatter and an all-gather of together the same
    volume. On a square grid of ranks activations are shared along one side and weights along the other, so
    that the volume falls with the square root of their number; only that scaling is meant here, without the
    weights' own traffic.

    Args:
        batch: Samples of one group of ranks.
        sequence: Tokens of a sample.
        width: Of the residual stream.
        ranks: That share a layer.
        scheme: `tensor`, `tensor_sequence`, or `tensor_2d`.
        bytes_each: Bytes of a number; 2 for bfloat16.

    Raises:
        ValueError: If a size is below 1.
    """
    if min(batch, sequence, width, ranks, bytes_each) < 1:
        raise ValueError(f"sizes must be at least 1: {batch}, {sequence}, {width}, {ranks}, {bytes_each}")
    sent = 4 * batch * sequence * width * (ranks - 1) / ranks * bytes_each
    return sent / (math.sqrt(ranks) if scheme == "tensor_2d" else 1)
