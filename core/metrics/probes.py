"""Nearest neighbours and linear probes on frozen features, and their scores, by the resize study's protocol.

Corley et al. 2023, "Revisiting pre-trained remote sensing model benchmarks: resizing and normalization
matters" (arXiv 2305.13456): five neighbours, Euclidean distance, one vote each, ties to the smallest class;
logistic regression by L-BFGS. Scores equal scikit-learn's of the same names, with 0 where a quotient has no
denominator.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import UserError

__all__ = [
    "LinearFit",
    "Scaler",
    "average_precision",
    "class_scores",
    "fit_linear",
    "label_scores",
    "nearest",
    "ratios",
    "vote",
    "vote_labels",
]

# Distances of candidates are computed anew without cancellation, so a few more than asked for are looked at.
_SPARE = 4
_CHUNK = 1 << 22  # numbers in the largest intermediate result


@dataclass(frozen=True)
class Scaler:
    """Mean and spread of the population, `(D,)` float64, of the features that a probe was fitted on; the
    spread is 1 where a feature is constant.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def fit(cls, features: Tensor) -> Scaler:
        """Return the statistics of `(N, D)`, in float64."""
        wide = features.double()
        variance, mean = torch.var_mean(wide, dim=0, correction=0)
        # The variance of a constant is rounding only, and no number to divide by.
        rounding = len(wide) * torch.finfo(torch.float64).eps
        constant = variance <= rounding * variance + (rounding * mean).square()
        return cls(mean, torch.where(constant, 1.0, variance.sqrt()))

    def __call__(self, features: Tensor) -> Tensor:
        """Return `(N, D)` in its own type with mean 0 and spread 1 where this was fitted."""
        return ((features.double() - self.mean) / self.std).to(features.dtype)


def nearest(train: Tensor, test: Tensor, *, k: int = 5) -> Tensor:
    """Return the `k` nearest training rows of each test row by Euclidean distance, nearest first.

    Products of matrices choose candidates; their distances are then computed without cancellation, all in
    float64. Of equally distant rows the earlier is the nearer.

    Train is `(N, D)`, test `(M, D)`, the result `(M, k)` int64.

    Raises:
        UserError: If widths differ, `k` does not fit, or a feature is not finite.
    """
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1]:
        raise UserError(
            f"features are {tuple(train.shape)} for training and {tuple(test.shape)} for testing; both must "
            "be (rows, features) of one network"
        )
    if not 1 <= k <= len(train):
        raise UserError(f"k is {k}; with {len(train)} training rows it must be 1 to {len(train)}")
    for name, features in (("training", train), ("test", test)):
        if bad := int((~torch.isfinite(features)).any(1).sum()):
            raise UserError(f"{bad} of {len(features)} {name} rows hold features that are not finite")
    centre = train.double().mean(0)
    centred = train.double() - centre
    squares, candidates = centred.square().sum(1), min(k + _SPARE, len(train))
    neighbours = []
    for part in test.split(max(_CHUNK // max(len(train), (k + _SPARE) * train.shape[1]), 1)):
        products = torch.addmm(squares, part.double() - centre, centred.T, alpha=-2.0)  # M N
        chosen = products.topk(candidates, largest=False).indices.sort(dim=1).values
        distances = (train[chosen].double() - part.double()[:, None]).square().sum(2)
        neighbours.append(chosen.gather(1, distances.sort(dim=1, stable=True).indices[:, :k]))
    return torch.cat(neighbours)


def vote(neighbours: Tensor, labels: Tensor) -> Tensor:
    """Return the class `(M,)` int64 that most neighbours `(M, k)`, rows of `labels` `(N,)` int64, have, the
    smallest one of a tie.
    """
    classes, numbers = labels.unique(return_inverse=True)
    votes = F.one_hot(numbers[neighbours], len(classes)).sum(1)  # M k C -> M C
    # A factor larger than any number makes the earlier of two equal counts the larger.
    return classes[(votes * len(classes) - torch.arange(len(classes), device=labels.device)).argmax(1)]


def vote_labels(neighbours: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return each label's share `(M, L)` float32 among the neighbours `(M, k)`, rows of `labels` `(N, L)` of
    0 and 1, and whether most of them have it, `(M, L)` int64: a tie is 0.
    """
    count = labels.long()[neighbours].sum(1)  # M k L -> M L
    return count / neighbours.shape[1], (2 * count > neighbours.shape[1]).long()


@dataclass(frozen=True)
class LinearFit:
    """A fitted logistic regression.

    Args:
        weight: `(C, D)` float64.
        bias: `(C,)` float64.
        classes: `(C,)` int64 for one class a sample; None for several labels.
        converged: Whether the fit stopped because it was done.
    """

    weight: Tensor
    bias: Tensor
    classes: Tensor | None
    converged: bool

    def scores(self, features: Tensor) -> Tensor:
        """Return probabilities `(M, C)`, float64: of classes, which sum to 1, or of single labels."""
        logits = F.linear(features.double(), self.weight, self.bias)
        return logits.sigmoid() if self.classes is None else logits.softmax(1)

    def __call__(self, features: Tensor) -> Tensor:
        """Return the likeliest class `(M,)`, or `(M, L)` where a label is likelier than not, int64."""
        logits = F.linear(features.double(), self.weight, self.bias)
        return (logits > 0).long() if self.classes is None else self.classes[logits.argmax(1)]


def fit_linear(
    features: Tensor,
    labels: Tensor,
    *,
    strength: float | None = 1.0,
    steps: int = 3000,
    tolerance: float = 1e-4,
) -> LinearFit:
    """Fit a logistic regression, multinomial for classes, one for each label for multi-hot labels.

    scikit-learn's objective, for all labels at once and on the features' device in float64: the mean of the
    losses plus `|W|² / (2 strength N)`; the bias is free.

    Args:
        features: `(N, D)`.
        labels: `(N,)` int64 classes, or `(N, L)` multi-hot.
        strength: Inverse strength of the penalty; None has none.
        steps: Most iterations of L-BFGS.
        tolerance: Largest entry of the gradient at which it is done.

    Raises:
        UserError: If there are fewer than two classes, rows differ, or `strength` is not above 0.
    """
    if len(features) != len(labels):
        raise UserError(f"there are {len(features)} rows of features and {len(labels)} of labels")
    if strength is not None and strength <= 0:
        raise UserError(f"strength is {strength}; it must be above 0, or null for no penalty")
    from scipy.optimize import minimize

    x, classes, target = features.double(), None, labels.double()
    if labels.ndim == 1:
        classes, numbers = labels.unique(return_inverse=True)
        if len(classes) < 2:
            raise UserError(f"the training labels hold {len(classes)} class; a probe needs at least two")
        target = F.one_hot(numbers, len(classes)).double()
    penalty = 0.0 if strength is None else 1.0 / (strength * len(x))
    shape = (target.shape[1], x.shape[1] + 1)

    def value(flat: object) -> tuple[float, object]:
        both = torch.as_tensor(flat, device=x.device).view(shape)
        weight, bias = both[:, :-1], both[:, -1]
        logits = torch.addmm(bias, x, weight.T)
        if classes is None:
            loss = F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
            slope = logits.sigmoid() - target
        else:
            loss = F.cross_entropy(logits, target, reduction="sum")
            slope = logits.softmax(1) - target
        total = loss / len(x) + 0.5 * penalty * weight.square().sum()
        by_weight = torch.addmm(weight, slope.T, x, beta=penalty, alpha=1.0 / len(x))
        gradient = torch.cat([by_weight, slope.mean(0)[:, None]], dim=1)
        return float(total), gradient.flatten().cpu().numpy()

    start = torch.zeros(shape, dtype=torch.float64).flatten().numpy()
    options = {"maxiter": steps, "maxls": 50, "gtol": tolerance, "ftol": 64 * torch.finfo(torch.float64).eps}
    fit = minimize(value, start, jac=True, method="L-BFGS-B", options=options)
    both = torch.as_tensor(fit.x, device=x.device).view(shape)
    return LinearFit(both[:, :-1], both[:, -1], classes, bool(fit.success))


def class_scores(predicted: Tensor, true: Tensor) -> dict[str, float]:
    """Return `accuracy`, and `precision`, `recall` and `f1`, each `_micro`, `_macro` and `_weighted`.

    Both are `(M,)` int64 classes; macro averages are over all that stand in either.
    """
    classes = torch.cat([predicted, true]).unique()
    guess, truth = predicted[:, None] == classes, true[:, None] == classes
    return {"accuracy": float((predicted == true).double().mean()), **_averaged(guess, truth)}


def label_scores(scores: Tensor, predicted: Tensor, true: Tensor) -> dict[str, float]:
    """Return `map`, `precision`, `recall` and `f1`, each `_micro`, `_macro` and `_weighted`, and
    `subset_accuracy`, the share of rows whose labels are all right.

    Scores are `(M, L)`, larger for likelier labels, the others `(M, L)` of 0 and 1.
    """
    precision, support = average_precision(scores, true), true.sum(0).double().cpu()
    return {
        "map_micro": float(average_precision(scores.reshape(-1, 1), true.reshape(-1, 1))),
        "map_macro": float(precision.mean()),
        "map_weighted": float(_ratio((precision * support).sum(), support.sum())),
        "subset_accuracy": float((predicted == true).all(1).double().mean()),
        **_averaged(predicted.bool(), true.bool()),
    }


def average_precision(scores: Tensor, true: Tensor) -> Tensor:
    """Return scikit-learn's average precision of each label, `(M, L)` twice to `(L,)` float64 on the CPU.

    A label that no row has gives 0.
    """
    from sklearn.metrics import average_precision_score

    columns = zip(true.long().cpu().numpy().T, scores.cpu().numpy().T, strict=True)
    with warnings.catch_warnings(action="ignore"):  # of labels that no row has
        values = [average_precision_score(held, score) for held, score in columns]
    return torch.tensor(values, dtype=torch.float64)


def ratios(predicted: Tensor, true: Tensor) -> dict[str, Tensor]:
    """Return `precision`, `recall` and `f1` of each column of two bool `(M, C)`, `(C,)` float64 each."""
    return {name: _ratio(above, below) for name, (above, below) in _quotients(predicted, true).items()}


def _averaged(predicted: Tensor, true: Tensor) -> dict[str, float]:
    """Return precision, recall and F1 of bool `(M, C)`, over all decisions and averaged over columns."""
    support = true.sum(0).double()
    scores: dict[str, float] = {}
    for name, (above, below) in _quotients(predicted, true).items():
        each = _ratio(above, below)
        scores[f"{name}_micro"] = float(_ratio(above.sum(), below.sum()))
        scores[f"{name}_macro"] = float(each.mean())
        scores[f"{name}_weighted"] = float(_ratio((each * support).sum(), support.sum()))
    return scores


def _quotients(predicted: Tensor, true: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    hits, made, held = ((predicted & true).sum(0), predicted.sum(0), true.sum(0))
    return {"precision": (hits, made), "recall": (hits, held), "f1": (2 * hits, made + held)}


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / below.double().clamp(min=1e-300), 0.0)
