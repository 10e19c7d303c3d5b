"""Scores of probes on frozen features as tables: by method, scaling and share of the labels, and by class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError, did_you_mean
from core.metrics.probes import (
    Scaler,
    average_precision,
    class_scores,
    fit_linear,
    label_scores,
    nearest,
    ratios,
    vote,
    vote_labels,
)
from core.tables import text_table

__all__ = ["METHODS", "LabelledFeatures", "ProbePredictions", "ProbeTable", "probe", "share"]

METHODS = ("knn", "linear")


@dataclass(frozen=True)
class LabelledFeatures:
    """Features `(N, D)` of one split, and labels: `(N,)` int64 classes, or `(N, L)` multi-hot."""

    features: Tensor
    labels: Tensor


@dataclass(frozen=True)
class ProbePredictions:
    """Predictions of one probe for the rows of a split.

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

    @property
    def scaling(self) -> str:
        """`scaled` or `raw`."""
        return "scaled" if self.scaled else "raw"

    def scores(self, true: Tensor) -> dict[str, float]:
        """Return the scores beside the true labels; see `core.metrics.probes`."""
        if self.shares is None:
            return class_scores(self.predicted, true)
        return label_scores(self.shares, self.predicted, true)


def probe(
    train: LabelledFeatures,
    test: LabelledFeatures,
    *,
    methods: Sequence[str] = METHODS,
    scaled: Sequence[bool] = (False, True),
    k: int = 5,
    strength: float | None = 1.0,
    steps: int = 3000,
) -> Iterator[ProbePredictions]:
    """Yield what each method says, with features as they are and scaled.

    Args:
        train: Rows that probes and the scaling are fitted on.
        test: Rows that they are asked about.
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
    several = train.labels.ndim > 1
    for scale in scaled:
        fitted, scored = train.features, test.features
        if scale:
            scaler = Scaler.fit(fitted)
            fitted, scored = scaler(fitted), scaler(scored)
        for method in methods:
            if method == "linear":
                linear = fit_linear(fitted, train.labels, strength=strength, steps=steps)
                shares = linear.scores(scored) if several else None
                yield ProbePredictions(method, scale, linear(scored), shares, linear.converged)
                continue
            neighbours = nearest(fitted, scored, k=k)
            if several:
                shares, most = vote_labels(neighbours, train.labels)
                yield ProbePredictions(method, scale, most, shares)
            else:
                yield ProbePredictions(method, scale, vote(neighbours, train.labels))


def share(train: LabelledFeatures, fraction: float, *, seed: int = 0) -> LabelledFeatures:
    """Return a random part of a split, at least one row, for the study of how many labels are needed.

    Raises:
        UserError: If the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UserError(f"the share of the training data is {fraction}; it must lie above 0 and at most 1")
    count = max(round(fraction * len(train.features)), 1)
    order = torch.randperm(len(train.features), generator=torch.Generator().manual_seed(seed))
    chosen = order[:count].sort().values
    return LabelledFeatures(train.features[chosen], train.labels[chosen])


class ProbeTable:
    """Fits probes and keeps their scores.

    Args:
        classes: Names of the classes or labels.
        title: What tables call the network.

    Attributes:
        rows: One for each method, scaling and share: all scores, means over the seeds.
        per_class: One for each method, scaling and class, with the largest share.
        counts: `(C, C)` of the first probe, true class by predicted class; None for several labels.
    """

    def __init__(self, classes: Sequence[str], *, title: str) -> None:
        self.classes, self.title = list(classes), title
        self.rows: list[dict[str, Any]] = []
        self.per_class: list[dict[str, Any]] = []
        self.counts: Tensor | None = None
        self._unfinished: list[str] = []

    def fill(
        self,
        train: LabelledFeatures,
        scored: LabelledFeatures,
        *,
        shares: Sequence[float],
        seeds: Sequence[int],
        **protocol: Any,
    ) -> None:
        """Fit probes on `train` and score them on `scored`.

        `shares` are parts of the training rows, ascending, `seeds` those of the draws of parts below 1; for
        the `protocol` see `probe`.
        """
        self._check(train, scored, shares, k=protocol["k"], methods=protocol["methods"])
        scores: dict[tuple[str, str, float], list[dict[str, float]]] = {}
        used: dict[float, int] = {}
        for part in shares:
            for seed in seeds if part < 1 else seeds[:1]:
                fitted = share(train, part, seed=seed) if part < 1 else train
                used[part] = len(fitted.features)
                for result in probe(fitted, scored, **protocol):
                    scores.setdefault((result.method, result.scaling, part), []).append(
                        result.scores(scored.labels)
                    )
                    if not result.converged:
                        self._unfinished.append(f"{result.method} with {part:.3g} of the labels")
                    if part == shares[-1] and seed == seeds[0]:
                        self._note(result, scored.labels)
        for (method, scaling, part), of_seeds in scores.items():
            means = {name: fmean(row[name] for row in of_seeds) for name in of_seeds[0]}
            head = self._headings(means)[0]
            row = {"model": self.title, "method": method, "features": scaling, "share": part,
                "samples": used[part], "seeds": len(of_seeds), **means}  # fmt: skip
            if len(of_seeds) > 1:
                row[f"{head}_std"] = pstdev(row[head] for row in of_seeds)
            self.rows.append(row)

    @property
    def metric(self) -> str:
        """Name of the score that stands first."""
        return self._headings(self.rows[0])[0]

    def headline(self, stage: str) -> dict[str, float]:
        """Return what is logged: the first probe's scores by plain names, all by names of their own."""
        largest = max(row["share"] for row in self.rows)
        last = [row for row in self.rows if row["share"] == largest]
        scores = {f"{stage}_{name}": last[0][name] for name in self._headings(last[0])}
        for row in last:
            scaled = "_scaled" if row["features"] == "scaled" else ""
            for name in self._headings(row):
                scores[f"{stage}_{name}_{row['method']}{scaled}"] = row[name]
        return scores

    def text(self) -> str:
        """Return the rows as a table for the terminal."""
        names = self._headings(self.rows[0])
        head = ("method", "features", "share", "samples", *names)
        rows = [[row[name] if name != "share" else f"{row[name]:.3g}" for name in head] for row in self.rows]
        text = text_table(rows, head=head, number=".4f")
        if self._unfinished:
            text += f"\nnot at its end after model.steps: {', '.join(dict.fromkeys(self._unfinished))}"
        return text

    @staticmethod
    def _headings(row: Mapping[str, Any]) -> tuple[str, ...]:
        return ("accuracy",) if "accuracy" in row else ("map_macro", "map_micro")

    def _note(self, result: ProbePredictions, true: Tensor) -> None:
        numbers = torch.arange(len(self.classes), device=true.device)
        truth, guess = (
            labels.bool() if true.ndim == 2 else labels[:, None] == numbers
            for labels in (true, result.predicted)
        )
        if true.ndim == 1 and self.counts is None:
            self.counts = truth.double().T @ guess.double()
        columns = {"samples": truth.sum(0), **ratios(guess, truth)}
        if result.shares is not None:
            columns["map"] = average_precision(result.shares, true)
        values = {name: column.tolist() for name, column in columns.items()}
        for number, name in enumerate(self.classes):
            row = {"method": result.method, "features": result.scaling, "class": name}
            self.per_class.append(row | {key: column[number] for key, column in values.items()})

    def _check(
        self,
        train: LabelledFeatures,
        scored: LabelledFeatures,
        shares: Sequence[float],
        *,
        k: int,
        methods: Sequence[str],
    ) -> None:
        several = train.labels.ndim == 2
        if train.labels.ndim > 2:
            raise UserError(
                f"the labels have the shape {tuple(train.labels.shape)}; a probe needs a class, or several "
                "labels, of each scene"
            )
        if several and not bool((train.labels.any(0) & ~train.labels.all(0)).any()):
            raise UserError(
                "every label is the same in all training scenes, so there is nothing to tell apart; give "
                "scenes with and without a label"
            )
        kinds = 2 if several else len(train.labels.unique())
        if kinds < 2:
            raise UserError(f"the training labels hold {kinds} class; a probe needs at least two")
        if not len(scored.features):
            raise UserError("there are no labelled scenes to score the probe on; check the split")
        fewest = max(round(min(shares) * len(train.features)), 1)
        if "knn" in methods and k > fewest:
            raise UserError(
                f"model.k is {k} and there are {fewest} training scenes"
                f"{'' if min(shares) == 1 else f' in a share of {min(shares):.3g}'}; make k smaller, or the "
                "share larger"
            )
        last = len(self.classes) - 1
        highest = -1 if several else int(max(train.labels.max(), scored.labels.max()))
        if highest > last:
            raise UserError(
                f"a scene has the class {highest}, and {last + 1} classes are named; name them all"
            )
