"""Cross entropy of the next token."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["next_token"]


def next_token(logits: Tensor, labels: Tensor, *, ignore: int = -100) -> tuple[Tensor, Tensor]:
    """Return the summed loss in nats and the number of tokens it is over, scalars in float32.

    The sum is divided by the number of tokens of the whole batch, over all ranks and accumulated steps, by
    whoever knows it: a mean of means would weigh tokens of sparse rows more.

    Args:
        logits: `(B, S, V)` in any floating type; the loss is computed in float32, or float64 where they are.
        labels: `(B, S)` int64, already shifted: `labels[b, t]` is the token after `t`, so that a slice of a
            sequence needs no neighbour. The last one of a sequence is `ignore`.
        ignore: Label of positions that do not count.
    """
    flat = labels.reshape(-1)
    wide = logits.float() if logits.dtype.itemsize < 4 else logits
    total = F.cross_entropy(wide.reshape(flat.shape[0], -1), flat, ignore_index=ignore, reduction="sum")
    return total, flat.ne(ignore).sum().to(total.dtype)
