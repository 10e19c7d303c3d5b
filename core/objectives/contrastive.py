"""Contrastive learning with soft targets from multi-label land cover (SoftCon, Wang 2024, arXiv 2405.20462).

The loss code was never released; this is the definition that the recorded case `loss_formula` holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UserError

__all__ = ["SoftContrastive", "label_similarity", "soft_contrastive"]


@dataclass(frozen=True)
class SoftContrastive:
    """The loss and what it is made of.

    Args:
        total: `contrastive + soft_weight * soft`, a scalar.
        contrastive: Mean cross entropy of each query against its own key among all keys, a scalar.
        soft: Mean binary cross entropy of all pairs against the similarity of their labels, a scalar.
        similarity: `(N, M)`, cosine of every query and key.
        target: `(N, M)`, cosine of their labels, 1 for the pairs that belong together.
    """

    total: Tensor
    contrastive: Tensor
    soft: Tensor
    similarity: Tensor
    target: Tensor


def soft_contrastive(
    queries: Tensor,
    keys: Tensor,
    labels: Tensor,
    *,
    key_labels: Tensor | None = None,
    first: int = 0,
    temperature: float = 0.2,
    soft_weight: float = 0.1,
    soft_temperature: float = 1.0,
    ignore_unlabelled: bool = False,
) -> SoftContrastive:
    """Return the loss of a batch.

    Args:
        queries: `(N, D)`, the student's projections of one view.
        keys: `(M, D)`, the teacher's of the other view, no gradient; M is above N where keys of other ranks
            come along.
        labels: `(N, K)` multi-hot classes of the queries' scenes.
        key_labels: `(M, K)` those of the keys; None where they are `labels`.
        first: Place of the first query's own key; the others follow it.
        temperature: Divides the similarities in the contrastive term.
        soft_weight: Factor of the soft term.
        soft_temperature: Divides the similarities in the soft term.
        ignore_unlabelled: Whether pairs with a scene without labels are left out of the soft term, but for
            those that belong together. Otherwise such a scene counts as like no other.

    Raises:
        UserError: If shapes do not fit, or a temperature is not above 0.
    """
    _check(queries, keys, labels, key_labels, first=first, temperatures=(temperature, soft_temperature))
    similarity = _cosines(queries, keys.detach())  # N M
    own = torch.arange(len(queries), device=queries.device) + first
    target = label_similarity(labels, key_labels, own=own)
    contrastive = F.cross_entropy(similarity / temperature, own)
    pairs = F.binary_cross_entropy_with_logits(similarity / soft_temperature, target, reduction="none")
    if ignore_unlabelled:
        others = labels if key_labels is None else key_labels
        counted = labels.bool().any(1)[:, None] & others.bool().any(1)[None]
        counted[torch.arange(len(own), device=own.device), own] = True
        soft = pairs[counted].mean()
    else:
        soft = pairs.mean()
    return SoftContrastive(contrastive + soft_weight * soft, contrastive, soft, similarity, target)


def label_similarity(labels: Tensor, others: Tensor | None = None, *, own: Tensor | None = None) -> Tensor:
    """Return the cosine of every two multi-hot labels, `(N, K)` and `(M, K)` to `(N, M)` in float32.

    An empty label is like no other. None compares labels with themselves. `own` `(N,)` is the column that
    belongs to each row and is 1 whatever the labels; None is the diagonal.
    """
    similarity = _cosines(labels, labels if others is None else others).clamp(max=1.0)
    at = torch.arange(len(labels), device=labels.device)
    similarity[at, at if own is None else own] = 1.0
    return similarity


def _cosines(rows: Tensor, columns: Tensor) -> Tensor:
    """Return the cosine of every row and column in float32, whatever precision a run multiplies in."""
    with torch.autocast(device_type=rows.device.type, enabled=False):
        return F.normalize(rows.float(), dim=-1) @ F.normalize(columns.float(), dim=-1).T


def _check(
    queries: Tensor,
    keys: Tensor,
    labels: Tensor,
    key_labels: Tensor | None,
    *,
    first: int,
    temperatures: tuple[float, float],
) -> None:
    if min(temperatures) <= 0:
        raise UserError(f"the temperatures are {temperatures[0]} and {temperatures[1]}; they must be above 0")
    rows, columns = len(queries), len(keys)
    named = labels if key_labels is None else key_labels
    if queries.shape[1:] != keys.shape[1:] or not 0 <= first <= columns - rows:
        raise UserError(
            f"the queries are {tuple(queries.shape)} and the keys {tuple(keys.shape)}, the first query's own "
            f"key being number {first}; every query needs one, of its own width"
        )
    if len(labels) != rows or len(named) != columns:
        raise UserError(
            f"there are labels for {len(labels)} queries and {len(named)} keys, and {rows} and {columns} of "
            "those; each needs a row"
        )
