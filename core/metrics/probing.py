"""Nearest neighbours and linear probes on frozen features, by the protocol of the resize study.

Corley et al. 2023, "Revisiting pre-trained remote sensing model benchmarks: resizing and normalization
matters" (arXiv 2305.13456): five neighbours, Euclidean distance, one vote each, ties to the smallest class;
logistic regression by L-BFGS.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError

__all__ = [
    "Linear",
    "Scaler",
    "extract",
    "fit_linear",
    "nearest",
    "vote",
    "vote_labels",
]

# Distances of candidates are computed anew without cancellation, so a few more than asked for are looked at.
_SPARE = 4
_ROUNDING = 64  # times the type's smallest step: far above the error of a product over thousands of features
_CHUNK = 1 << 22  # numbers in the largest intermediate result


@dataclass(frozen=True)
class Scaler:
    """Mean and spread of the features that a probe was fitted on.

    Args:
        mean: `(D,)` float64.
        std: `(D,)` float64, of the population; 1 where a feature is constant.
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


@torch.no_grad()
def extract(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, layers: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the features and labels of all batches, in their order, on the CPU.

    Args:
        network: Maps images to `(B, D)`, through `probe_features` where it has that; it runs in evaluation
            mode and is left in the mode it was in.
        batches: Prepared images and their labels.
        layers: How many of a transformer's last blocks give their class tokens; None is the network's own
            choice, the last one.

    Raises:
        UserError: If there is no batch, or the network has no class tokens to join.
    """
    run = getattr(network, "probe_features", network)
    if layers is not None:
        if "layers" not in inspect.signature(run).parameters:
            raise UserError(f"{type(network).__name__} has one feature for an image; leave layers out")
        run = partial(run, layers=layers)
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    was_training = network.training
    network.eval()
    try:
        found = [(run(images.to(device)).float().cpu(), labels.cpu()) for images, labels in batches]
    finally:
        network.train(was_training)
    if not found:
        raise UserError("there are no images to extract features from; check the split's files")
    features, labels = zip(*found, strict=True)
    return torch.cat(features), torch.cat(labels)


def nearest(train: Tensor, test: Tensor, *, k: int = 5) -> Tensor:
    """Return the `k` nearest training rows of each test row by Euclidean distance, nearest first.

    Products of matrices choose candidates, in float32 where rounding can be ruled out and else in float64;
    their distances are then computed in float64 without cancellation. Of equally distant rows the earlier is
    the nearer.

    Args:
        train: `(N, D)`.
        test: `(M, D)`.
        k: At most N.

    Returns:
        `(M, k)` int64.

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
        if torch.isfinite(features.sum()):
            continue
        bad = int((~torch.isfinite(features)).any(1).sum())
        if bad:  # a sum of finite numbers may overflow
            raise UserError(f"{bad} of {len(features)} {name} rows hold features that are not finite")
    centre = train.double().mean(0)
    centred = train.double() - centre
    rough = centred.float() if _float32_is_exact() else centred
    squares = rough.square().sum(1)
    rows = max(_CHUNK // max(len(train), (k + _SPARE) * train.shape[1]), 1)
    found = []
    for part in test.split(rows):
        query = part.double() - centre
        ours, sure = _nearest_of(rough, squares, train, query, part, k=k)
        if not bool(sure.all()):
            again = _nearest_of(centred, centred.square().sum(1), train, query[~sure], part[~sure], k=k)
            ours[~sure] = again[0]
        found.append(ours)
    return torch.cat(found) if found else torch.empty(0, k, dtype=torch.int64, device=train.device)


def _nearest_of(
    rough: Tensor, squares: Tensor, train: Tensor, query: Tensor, part: Tensor, *, k: int
) -> tuple[Tensor, Tensor]:
    """Return the nearest rows, and for which queries rounding cannot have hidden a nearer one.

    Args:
        rough: `(N, D)`, centred, in the type that candidates are chosen in.
        squares: `(N,)`, of their lengths.
        train: `(N, D)` as given.
        query: `(M, D)`, centred, float64.
        part: `(M, D)` as given.
        k: Neighbours.
    """
    few = query.to(rough.dtype)
    candidates = min(k + _SPARE, len(train))
    products = torch.addmm(squares, few, rough.T, alpha=-2.0)  # M N; less the query's own square
    farthest = products.topk(candidates, largest=False)
    chosen = farthest.indices.sort(dim=1).values
    exact = (train[chosen].double() - part.double()[:, None]).square().sum(2)
    ordered = exact.sort(dim=1, stable=True)
    length = query.square().sum(1)
    rounding = _ROUNDING * torch.finfo(rough.dtype).eps * (length + squares.max())
    limit = farthest.values[:, -1].double() + length - rounding
    sure = ordered.values[:, k - 1] < limit if candidates < len(train) else torch.ones_like(limit).bool()
    return chosen.gather(1, ordered.indices[:, :k]), sure


def _float32_is_exact() -> bool:
    """Tell whether products of float32 matrices are computed in float32."""
    return torch.get_float32_matmul_precision() == "highest"


def vote(neighbours: Tensor, labels: Tensor) -> Tensor:
    """Return the class that most neighbours have, the smallest one of a tie.

    Args:
        neighbours: `(M, k)` rows of `labels`.
        labels: `(N,)` int64, any numbers.

    Returns:
        `(M,)` int64.
    """
    classes, numbers = labels.unique(return_inverse=True)
    votes = F.one_hot(numbers[neighbours], len(classes)).sum(1)  # M k C -> M C
    # A factor larger than any place makes the earlier of two equal counts the larger.
    places = torch.arange(len(classes), device=labels.device)
    return classes[(votes * len(classes) - places).argmax(1)]


def vote_labels(neighbours: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return each label's share among the neighbours, and whether most of them have it.

    Args:
        neighbours: `(M, k)` rows of `labels`.
        labels: `(N, L)`, 0 or 1.

    Returns:
        Scores `(M, L)` float32, and `(M, L)` int64: a tie is 0.
    """
    count = labels.long()[neighbours].sum(1)  # M k L -> M L
    return count / neighbours.shape[1], (2 * count > neighbours.shape[1]).long()


@dataclass(frozen=True)
class Linear:
    """A fitted linear probe.

    Args:
        weight: `(C, D)` float64.
        bias: `(C,)` float64.
        classes: `(C,)` int64 for one class a sample; None for several labels.
        steps: Iterations that the fit took.
        converged: Whether it stopped because it was done.
    """

    weight: Tensor
    bias: Tensor
    classes: Tensor | None
    steps: int
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
) -> Linear:
    """Fit a logistic regression, multinomial for classes, one for each label for multi-hot labels.

    All labels are fitted at once. It minimises the mean of the losses plus `|W|² / (2 strength N)`; the bias
    is free.

    Args:
        features: `(N, D)`; the fit runs in float64 on their device.
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

    x = features.double()
    classes, target, outputs = _targets(labels)
    penalty = 0.0 if strength is None else 1.0 / (strength * len(x))
    width = x.shape[1]

    def value(flat: object) -> tuple[float, object]:
        both = torch.as_tensor(flat, device=x.device).view(outputs, width + 1)
        weight, bias = both[:, :width], both[:, width]
        logits = torch.addmm(bias, x, weight.T)
        if classes is None:
            loss = F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
            slope = logits.sigmoid() - target
        else:
            loss = F.cross_entropy(logits, target, reduction="sum")
            slope = logits.softmax(1)
            slope[torch.arange(len(x), device=x.device), target] -= 1.0
        total = loss / len(x) + 0.5 * penalty * weight.square().sum()
        by_weight = torch.addmm(weight, slope.T, x, beta=penalty, alpha=1.0 / len(x))
        gradient = torch.cat([by_weight, slope.mean(0)[:, None]], dim=1)
        return float(total), gradient.flatten().cpu().numpy()

    start = torch.zeros(outputs * (width + 1), dtype=torch.float64).numpy()
    options = {"maxiter": steps, "maxls": 50, "gtol": tolerance, "ftol": 64 * torch.finfo(torch.float64).eps}
    done = minimize(value, start, jac=True, method="L-BFGS-B", options=options)
    both = torch.as_tensor(done.x, device=x.device).view(outputs, width + 1)
    return Linear(both[:, :width], both[:, width], classes, int(done.nit), bool(done.success))


def _targets(labels: Tensor) -> tuple[Tensor | None, Tensor, int]:
    """Return the classes (None for multi-hot labels), what the loss compares with, and the outputs."""
    if labels.ndim == 2:
        return None, labels.double(), labels.shape[1]
    classes, numbers = labels.unique(return_inverse=True)
    if len(classes) < 2:
        raise UserError(f"the training labels hold {len(classes)} class; a probe needs at least two")
    return classes, numbers, len(classes)
