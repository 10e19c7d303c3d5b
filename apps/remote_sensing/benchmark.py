"""The scores of frozen features: neighbours and a linear probe, as they are and scaled, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from apps.remote_sensing.probe_scores import class_scores, label_scores
from apps.remote_sensing.probing import Scaler, fit_linear, nearest, vote, vote_labels
from core.errors import UserError, did_you_mean

__all__ = ["METHODS", "Split", "probe", "share"]

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

    Args:
        train: What probes are fitted on, and the scaling.
        test: What they are scored on.
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
    rows: list[dict[str, str | float | bool]] = []
    for scale in scaled:
        fitted, scored = train.features, test.features
        if scale:
            scaler = Scaler.fit(fitted)
            fitted, scored = scaler(fitted), scaler(scored)
        for method in methods:
            if method == "knn":
                scores = _by_neighbours(nearest(fitted, scored, k=k), train.labels, test.labels)
            else:
                linear = fit_linear(fitted, train.labels, strength=strength, steps=steps)
                scores = _scores(linear.scores(scored), linear(scored), test.labels)
            rows.append({"method": method, "scaled": scale, **scores})
    return rows


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


def _by_neighbours(neighbours: Tensor, labels: Tensor, true: Tensor) -> dict[str, float]:
    if labels.ndim == 1:
        return class_scores(vote(neighbours, labels), true)
    shares, several = vote_labels(neighbours, labels)
    return label_scores(shares, several, true)


def _scores(scores: Tensor, predicted: Tensor, true: Tensor) -> dict[str, float]:
    return class_scores(predicted, true) if true.ndim == 1 else label_scores(scores, predicted, true)
