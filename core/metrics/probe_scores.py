"""Scores of probes in float64: classes and multi-labels, averaged over classes, decisions, or by frequency.

They equal scikit-learn's of the same names, with 0 where a quotient has no denominator.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["average_precision", "class_scores", "label_scores"]


def class_scores(predicted: Tensor, true: Tensor) -> dict[str, float]:
    """Return `accuracy`, and `precision`, `recall` and `f1`, each `_micro`, `_macro` and `_weighted`.

    Args:
        predicted: `(M,)` int64 classes.
        true: `(M,)` int64; macro averages are over all classes that stand in either.
    """
    classes, numbers = torch.cat([predicted, true]).unique(return_inverse=True)
    guess, truth = numbers.chunk(2)
    counts = torch.zeros(len(classes), len(classes), dtype=torch.float64, device=true.device)
    counts.index_put_((truth, guess), counts.new_ones(()), accumulate=True)
    hits = counts.diagonal()
    scores = _averaged(hits, counts.sum(0), counts.sum(1))
    return {"accuracy": float((guess == truth).double().mean()), **scores}


def label_scores(scores: Tensor, predicted: Tensor, true: Tensor) -> dict[str, float]:
    """Return `map`, `precision`, `recall` and `f1`, each `_micro`, `_macro` and `_weighted`, and
    `subset_accuracy`, the share of rows whose labels are all right.

    Args:
        scores: `(M, L)`, larger for likelier labels.
        predicted: `(M, L)` of 0 and 1.
        true: `(M, L)` of 0 and 1.
    """
    truth, guess = true.double(), predicted.double()
    support = truth.sum(0)
    precision = average_precision(scores, true)
    found = {
        "map_micro": float(average_precision(scores.reshape(-1, 1), true.reshape(-1, 1))[0]),
        "map_macro": float(precision.mean()),
        "map_weighted": float(_ratio((precision * support).sum(), support.sum())),
        "subset_accuracy": float((predicted == true).all(1).double().mean()),
    }
    return found | _averaged((truth * guess).sum(0), guess.sum(0), support)


def average_precision(scores: Tensor, true: Tensor) -> Tensor:
    """Return each label's average precision, `(M, L)` twice to `(L,)` float64, all labels at once.

    It is the sum of precisions at all thresholds, each times the recall gained there, without interpolation;
    equal scores share one threshold. A label that no row has gives 0.
    """
    order = scores.argsort(dim=0, descending=True)
    ranked, hits = scores.gather(0, order), true.gather(0, order).double()
    right = hits.cumsum(0)
    places = torch.arange(1, len(scores) + 1, dtype=torch.float64, device=scores.device)[:, None]
    last = torch.ones_like(ranked, dtype=torch.bool)
    last[:-1] = ranked[:-1] != ranked[1:]
    # The end of a run of equal scores: the smallest place at or after this one where a run ends.
    ends = torch.where(last, places, torch.inf).flip(0).cummin(0).values.flip(0)
    at_end = right.gather(0, ends.long() - 1) / ends
    return _ratio((at_end * hits).sum(0), hits.sum(0))


def _averaged(hits: Tensor, predicted: Tensor, true: Tensor) -> dict[str, float]:
    """Return precision, recall and F1 from counts `(C,)` of hits, predictions and truths."""
    by_class = {
        "precision": (hits, predicted),
        "recall": (hits, true),
        "f1": (2 * hits, predicted + true),
    }
    scores: dict[str, float] = {}
    for name, (above, below) in by_class.items():
        each = _ratio(above, below)
        scores[f"{name}_micro"] = float(_ratio(above.sum(), below.sum()))
        scores[f"{name}_macro"] = float(each.mean())
        scores[f"{name}_weighted"] = float(_ratio((each * true).sum(), true.sum()))
    return scores


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / below.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
