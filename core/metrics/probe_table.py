"""What probes found, as tables: scores by method, scaling and share of the labels, and those of classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from core.errors import UserError
from core.metrics.probe_benchmark import Predictions, Split, predictions, share
from core.metrics.probe_scores import average_precision
from core.tables import text_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ProbeTable"]


class ProbeTable:
    """Fits probes and keeps their scores.

    Args:
        classes: Names of the classes or labels.
        title: What tables call the network.

    Attributes:
        rows: One for each method, scaling and share: all scores, means over the seeds.
        per_class: One for each method, scaling and class, with the largest share.
    """

    def __init__(self, classes: Sequence[str], *, title: str) -> None:
        self.classes, self.title = list(classes), title
        self.rows: list[dict[str, Any]] = []
        self.per_class: list[dict[str, Any]] = []
        self._first: tuple[Predictions, Tensor] | None = None
        self._unfinished: list[str] = []

    def fill(
        self, train: Split, scored: Split, *, shares: Sequence[float], seeds: Sequence[int], **protocol: Any
    ) -> None:
        """Fit and score all probes.

        Args:
            train: Features and labels that probes are fitted on.
            scored: Those that they are scored on.
            shares: Parts of the training rows, ascending.
            seeds: Of the draws of parts below 1.
            protocol: See `core.metrics.probe_benchmark.predictions`.

        Raises:
            UserError: If the labels do not allow it.
        """
        self._check(train, scored, shares, k=protocol["k"], methods=protocol["methods"])
        found: dict[tuple[str, bool, float], list[dict[str, float]]] = {}
        used: dict[float, int] = {}
        for part in shares:
            for number, seed in enumerate(seeds if part < 1 else seeds[:1]):
                fitted = share(train, part, seed=seed) if part < 1 else train
                used[part] = len(fitted.features)
                for one in predictions(fitted, scored, **protocol):
                    found.setdefault((one.method, one.scaled, part), []).append(one.scores(scored.labels))
                    if not one.converged:
                        self._unfinished.append(f"{one.method} with {part:.3g} of the labels")
                    if part == shares[-1] and number == 0:
                        self._note(one, scored.labels)
        for (method, scaled, part), scores in found.items():
            means = {name: fmean(row[name] for row in scores) for name in scores[0]}
            head = next(iter(self._headings(means)))
            row = {"model": self.title, "method": method, "features": _scaling(scaled), "share": part,
                "samples": used[part], "seeds": len(scores), **means}  # fmt: skip
            if len(scores) > 1:
                row[f"{head}_std"] = pstdev(one[head] for one in scores)
            self.rows.append(row)

    def headline(self, stage: str) -> dict[str, float]:
        """Return what is logged: the first probe's scores by plain names, all by names of their own."""
        largest = max(row["share"] for row in self.rows)
        last = [row for row in self.rows if row["share"] == largest]
        found = {f"{stage}_{name}": last[0][name] for name in self._headings(last[0])}
        for row in last:
            scaled = "_scaled" if row["features"] == "scaled" else ""
            for name in self._headings(row):
                found[f"{stage}_{name}_{row['method']}{scaled}"] = row[name]
        return found

    def text(self) -> str:
        """Return the rows as a table for the terminal."""
        names = self._headings(self.rows[0])
        head = ("method", "features", "share", "samples", *names)
        rows = [[row[name] if name != "share" else f"{row[name]:.3g}" for name in head] for row in self.rows]
        text = text_table(rows, head=head, number=".4f")
        if self._unfinished:
            text += f"\nnot at its end after model.steps: {', '.join(dict.fromkeys(self._unfinished))}"
        return text

    def drawings(self) -> Iterator[tuple[str, Figure]]:
        """Yield names and figures: scores by share of the labels, and the first probe's classes."""
        from core.figures.probes import confusion_figure, precision_figure, share_figure

        heading = next(iter(self._headings(self.rows[0])))
        if len({row["share"] for row in self.rows}) > 1:
            yield "labels", share_figure(self.rows, metric=heading, title=self.title)
        assert self._first is not None
        first, true = self._first
        title = f"{self.title}, {first.method}, {_scaling(first.scaled)} features"
        if true.ndim == 1:
            counts = torch.zeros(len(self.classes), len(self.classes))
            counts.index_put_((true.cpu(), first.predicted.cpu()), torch.ones(()), accumulate=True)
            yield "confusion", confusion_figure(counts.numpy(), classes=self.classes, title=title)
        else:
            own = [
                row
                for row in self.per_class
                if row["method"] == first.method and row["features"] == _scaling(first.scaled)
            ]
            yield "labels-precision", precision_figure(own, scenes=len(true), title=title)

    @staticmethod
    def _headings(row: Mapping[str, Any]) -> tuple[str, ...]:
        return ("accuracy",) if "accuracy" in row else ("map_macro", "map_micro")

    def _note(self, one: Predictions, true: Tensor) -> None:
        if self._first is None:
            self._first = (one, true)
        several = true.ndim == 2
        numbers = torch.arange(len(self.classes), device=true.device)
        truth = true.bool() if several else true[:, None] == numbers
        guess = one.predicted.bool() if several else one.predicted[:, None] == numbers
        hits, made, there = ((truth & guess).sum(0), guess.sum(0), truth.sum(0))
        own = average_precision(one.shares, true).tolist() if one.shares is not None else None
        for number, name in enumerate(self.classes):
            row = {
                "method": one.method,
                "features": _scaling(one.scaled),
                "class": name,
                "samples": int(there[number]),
                "precision": _ratio(hits[number], made[number]),
                "recall": _ratio(hits[number], there[number]),
                "f1": _ratio(2 * hits[number], made[number] + there[number]),
            }
            self.per_class.append(row | ({"map": own[number]} if own is not None else {}))

    def _check(
        self, train: Split, scored: Split, shares: Sequence[float], *, k: int, methods: Sequence[str]
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


def _scaling(scaled: bool) -> str:
    return "scaled" if scaled else "raw"


def _ratio(above: Tensor, below: Tensor) -> float:
    return float(above) / float(below) if float(below) else 0.0
