"""The scores of frozen features: neighbours and a linear probe, as they are and scaled, in one table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from core.errors import UserError, did_you_mean
from core.metrics.probe_scores import class_scores, label_scores
from core.metrics.probing import Scaler, fit_linear, nearest, vote, vote_labels

__all__ = ["METHODS", "Predictions", "Split", "predictions", "probe", "share"]

METHODS = ("knn", "linear")


@dataclass(frozen=True)
class Split:
    """Features of one split.

    Args:
        features: `(N, D)`.
        labels: `(N,)` int64 classes, or `(N, L)` multi-hot.
    """

    features: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Predictions:
    """What one probe says of the rows of a split.

    Args:
        method: Of `METHODS`.
        scaled: Whether features were scaled.
        predicted: `(M,)` classes, or `(M, L)` of 0 and 1.
        shares: `(M, L)`, larger for likelier labels; None for classes.
        converged: Whether the fit came to its end.
    """

    method: str
    scaled: bool
    predicted: Tensor
    shares: Tensor | None = None
    converged: bool = True

    def scores(self, true: Tensor) -> dict[str, float]:
        """Return the scores beside the true labels; see `core.metrics.probe_scores`."""
        if self.shares is None:
            return class_scores(self.predicted, true)
        return label_scores(self.shares, self.predicted, true)


def probe(
    train: Split,
    test: Split,
    *,
    methods: Sequence[str] = METHODS,
    scaled: Sequence[bool] = (False, True),
    k: int = 5,
    strength: float | None = 1.0,
    steps: int = 3000,
) -> list[dict[str, str | float | bool]]:
    """Return one row of scores for each method, with features as they are and scaled.

    For the arguments see `predictions`.
    """
    found = predictions(train, test, methods=methods, scaled=scaled, k=k, strength=strength, steps=steps)
    return [{"method": one.method, "scaled": one.scaled, **one.scores(test.labels)} for one in found]


def predictions(
    train: Split,
    test: Split,
    *,
    methods: Sequence[str] = METHODS,
    scaled: Sequence[bool] = (False, True),
    k: int = 5,
    strength: float | None = 1.0,
    steps: int = 3000,
) -> Iterator[Predictions]:
    """Yield what each method says, with features as they are and scaled.

    Args:
        train: What probes are fitted on, and the scaling.
        test: What they are asked about.
        methods: Of `METHODS`.
        scaled: Whether features get mean 0 and deviation 1 over the training split.
        k: Neighbours.
        strength: Inverse strength of the linear probe's penalty; None has none.
        steps: Most iterations of the linear probe's fit.

    Raises:
        UserError: If a method is unknown, or the splits do not fit each other.
    """
    for method in methods:
        if method not in METHODS:
            hint = did_you_mean(method, METHODS)
            raise UserError(f"'{method}' is no probe; it must be one of {', '.join(METHODS)}{hint}")
    if train.labels.shape[1:] != test.labels.shape[1:]:
        raise UserError(
            f"labels are {tuple(train.labels.shape)} for training and {tuple(test.labels.shape)} for "
            "testing; both must be classes, or as many labels"
        )
    for scale in scaled:
        fitted, scored = train.features, test.features
        if scale:
            scaler = Scaler.fit(fitted)
            fitted, scored = scaler(fitted), scaler(scored)
        for method in methods:
            if method == "knn":
                neighbours = nearest(fitted, scored, k=k)
                if train.labels.ndim == 1:
                    yield Predictions(method, scale, vote(neighbours, train.labels))
                else:
                    shares, several = vote_labels(neighbours, train.labels)
                    yield Predictions(method, scale, several, shares)
            else:
                linear = fit_linear(fitted, train.labels, strength=strength, steps=steps)
                likely = None if train.labels.ndim == 1 else linear.scores(scored)
                yield Predictions(method, scale, linear(scored), likely, linear.converged)


def share(train: Split, fraction: float, *, seed: int = 0) -> Split:
    """Return a random part of a split, at least one row, for the study of how many labels are needed.

    Raises:
        UserError: If the fraction is not in (0, 1].
    """
    import torch

    if not 0 < fraction <= 1:
        raise UserError(f"the share of the training data is {fraction}; it must lie above 0 and at most 1")
    count = max(round(fraction * len(train.features)), 1)
    order = torch.randperm(len(train.features), generator=torch.Generator().manual_seed(seed))
    chosen = order[:count].sort().values
    return Split(train.features[chosen], train.labels[chosen])
