"""Cross entropy of the next token."""

from __future__ import annotations

from torch import Tensor

from core.backbones.cross_entropy import cross_entropy

__all__ = ["next_token"]


def next_token(logits: Tensor, labels: Tensor, *, ignore: int = -100) -> tuple[Tensor, Tensor]:
    """Return the summed loss in nats and the number of tokens it is over, scalars in float32.

    The sum is divided by the number of tokens of the whole batch, over all ranks and accumulated steps, by
    whoever knows it: a mean of means would weigh tokens of sparse rows more. A network that is given `labels`
    (`core.backbones.llama.Llama`) returns the same pair without keeping the logits.

    Logits are `(B, S, V)` in any floating type; the loss is computed in float32, or float64 where they are.
    Labels are `(B, S)` int64, already shifted: `labels[b, t]` is the token after `t`, so that a slice of a
    sequence needs no neighbour. The last one of a sequence, and others that do not count, are `ignore`.
    """
    flat = labels.reshape(-1)
    total = cross_entropy(logits.reshape(flat.shape[0], -1), flat, ignore=ignore)
    return total, flat.ne(ignore).sum().to(total.dtype)
