"""Baselines that need no network: the most frequent class, and a linear classifier of single points."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["ClassBaselines"]

_RIDGE = 1e-4


class ClassBaselines:
    """A constant, and linear discriminant analysis of the features of single points (Fisher 1936).

    The second is the maximum-likelihood classifier with one covariance for all classes. It knows nothing of
    a point's surroundings: what a network gains beyond it is context.

    `samples` are features `(F, N)` and known classes `(N,)` of training points; tables call the two `names`.

    Raises:
        ValueError: If there is no point.
    """

    def __init__(
        self,
        samples: Iterable[tuple[Tensor, Tensor]],
        *,
        classes: int,
        names: tuple[str, str] = ("most frequent class", "single points (LDA)"),
    ) -> None:
        self.names = names
        counts = torch.zeros(classes, dtype=torch.float64)
        sums = squares = torch.zeros(0)
        for features, labels in samples:
            wide = features.double()
            if not len(sums):
                sums = torch.zeros(classes, len(wide), dtype=torch.float64)
                squares = torch.zeros(len(wide), len(wide), dtype=torch.float64)
            counts += torch.bincount(labels, minlength=classes)
            sums.index_add_(0, labels, wide.T)
            squares += wide @ wide.T
        total = float(counts.sum())
        if not total:
            raise ValueError("there is no labelled point to fit baselines to")
        means = sums / counts.clamp(min=1)[:, None]
        within = (squares - (means * counts[:, None]).T @ means) / total
        self.frequent = int(counts.argmax())
        scale = within.diagonal().mean().clamp(min=torch.finfo(within.dtype).tiny)
        ridge = _RIDGE * scale * torch.eye(len(within), dtype=within.dtype)
        self.weight = means @ torch.linalg.inv(within + ridge)
        prior = (counts / counts.sum()).log()  # minus infinity for a class that was never seen
        self.bias = prior - 0.5 * (self.weight * means).sum(1)

    def predict(self, features: Tensor) -> dict[str, Tensor]:
        """Return the classes `(B, ...)` that each gives for features `(B, F, ...)`."""
        weight, bias = self.weight.to(features), self.bias.to(features)
        with torch.autocast(features.device.type, enabled=False):  # the same numbers everywhere
            scores = torch.einsum("bf...,kf->bk...", features, weight)
            scores = scores + bias.view(-1, *[1] * (features.ndim - 2))
        linear = scores.argmax(1)
        return dict(zip(self.names, (torch.full_like(linear, self.frequent), linear), strict=True))
