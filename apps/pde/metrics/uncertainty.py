"""What the spread of an ensemble is worth: errors with two standard deviations, and how often the truth lies
within them.

The diesel-engine study with DeepONets gives the worst relative L2 error of its test and the worst mean plus
two standard deviations over the members; both are columns here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from apps.pde.batch import FieldBatch, FieldFacts
from apps.pde.metrics.errors import relative_l2
from apps.pde.metrics.evaluation import Evaluation
from core.metrics.sums import SampleValues
from core.objectives.fields import overwrite
from core.tables import text_table

__all__ = ["Uncertainty"]

ALL = "all"


class Uncertainty:
    """Scores of an ensemble's members beside those of their mean, at every time of the test trajectories.

    Sigma is the standard deviation over the members: of the fields for the coverage, of the relative L2
    errors of a trajectory for the bars.

    Args:
        facts: The data module's.
        device: Where the batches are.
    """

    def __init__(self, facts: FieldFacts, *, device: torch.device | str = "cpu") -> None:
        self._scale = Evaluation(facts, device=device)
        self.outputs, self.datasets = self._scale.outputs, self._scale.datasets
        self._kept = SampleValues()  # by data set

    def update(self, members: Tensor, batch: FieldBatch) -> None:
        """Add the members' trajectories `(M, B, K, C', *space)`, normalised."""
        shown = torch.stack([overwrite(one, batch.targets, batch.mask) for one in members])
        std, mean = torch.std_mean(shown, dim=0)
        truth = self._scale.physical(batch.targets, batch.source)
        each = [relative_l2(self._scale.physical(one, batch.source), truth) for one in shown]
        size = truth.flatten(3).norm(dim=3).clamp(min=1e-10)
        values = {
            "mean": relative_l2(self._scale.physical(mean, batch.source), truth),  # N K C'
            "members": torch.stack(each, dim=1),  # N M K C'
            "inside": _coverage(mean, std, batch.targets, batch.mask),  # N K C'
            "spread": self._scale.physical_spread(std, batch.source).flatten(3).norm(dim=3) / size,
            "times": batch.time,
        }
        for source in batch.source.unique().tolist():
            rows = (batch.source == source).nonzero()[:, 0]
            self._kept.add(source, {name: value[rows].float().cpu() for name, value in values.items()})

    def gather(self) -> None:
        """Bring the scores of all processes together; call once, on every rank."""
        self._kept.gather()

    def results(self) -> list[dict[str, Any]]:
        """Return a row for each data set, time and field, and one for all fields of interest together.

        Columns, as parts of 1 and over the N test trajectories: `relative_l2` of the members' mean and its
        worst trajectory; `members` the mean error of a member, `members_2_sigma` two standard deviations of
        it over the members; `worst` the largest of a trajectory's mean errors of a member, with
        `worst_2_sigma`; `worst_plus_2_sigma` the largest sum of both; `coverage_2_sigma` the part of the
        points where the truth is within two standard deviations of the mean (0.95 if the spread were the
        error of a normal distribution); `spread` the size of sigma beside that of the truth.
        """
        rows = []
        for source in sorted(self._kept):
            dataset, scores = self.datasets[source], self._kept.joined(source)
            names = [name for name in self.outputs if name not in dataset.masked]
            interest = [name for name in dataset.interest or names if name in names]
            for step in range(scores["times"].shape[1]):
                head = {"dataset": dataset.name, "step": step + 1}
                head["time"] = float(scores["times"][0, step])
                parts = [(name, [name]) for name in names]
                for name, fields in [*parts, (ALL, interest)] if len(interest) > 1 else parts:
                    rows.append({**head, "channel": name} | self._row(scores, step, fields))
        return rows

    def headline(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Return what is logged of `results`: the worst of all data sets at their last time, and the mean
        coverage.
        """
        last = [row for row in self._last(rows) if row["channel"] == ALL] or self._last(rows)
        return {
            "test_worst_relative_l2": max(row["worst"] for row in last),
            "test_worst_plus_2_sigma": max(row["worst_plus_2_sigma"] for row in last),
            "test_coverage_2_sigma": sum(row["coverage_2_sigma"] for row in last) / len(last),
        }

    def text(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Return the rows of the last times as a table for the terminal."""
        last = self._last(rows)
        heads = ("mean's error", "a member's", "worst", "worst + 2 sigma", "within 2 sigma")
        lines = []
        for dataset in dict.fromkeys(row["dataset"] for row in last):
            members = self._kept.joined(next(iter(self._kept)))["members"].shape[1]
            lines.append(f"{dataset}, spread of {members} members, relative L2 at the last time in percent:")
            cells = []
            for row in last:
                if row["dataset"] != dataset:
                    continue
                scores = (
                    f"{100 * row['relative_l2']:.3g}",
                    _bar(row["members"], row["members_2_sigma"]),
                    _bar(row["worst"], row["worst_2_sigma"]),
                    f"{100 * row['worst_plus_2_sigma']:.3g}",
                    f"{100 * row['coverage_2_sigma']:.3g} %",
                )
                cells.append((row["channel"], *scores))
            lines.append(text_table(cells, head=("", *heads)))
        return "\n".join(lines)

    def _row(self, scores: Mapping[str, Tensor], step: int, fields: Sequence[str]) -> dict[str, float]:
        places = [self.outputs.index(name) for name in fields]
        mean = scores["mean"][:, step, places].mean(dim=1)  # N
        members = scores["members"][:, :, step][..., places].mean(dim=2)  # N M
        sigma, middle = torch.std_mean(members, dim=1)  # N, N
        worst = int(middle.argmax())
        return {
            "relative_l2": float(mean.mean()),
            "relative_l2_worst": float(mean.max()),
            "members": float(middle.mean()),
            "members_2_sigma": float(2 * sigma.mean()),
            "worst": float(middle[worst]),
            "worst_2_sigma": float(2 * sigma[worst]),
            "worst_plus_2_sigma": float((middle + 2 * sigma).max()),
            "coverage_2_sigma": float(scores["inside"][:, step, places].nanmean()),
            "spread": float(scores["spread"][:, step, places].mean()),
            "trajectories": len(mean),
        }

    @staticmethod
    def _last(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        final = {row["dataset"]: row["step"] for row in rows}
        return [row for row in rows if row["step"] == final[row["dataset"]]]


def _coverage(mean: Tensor, std: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
    """Return the part of the points `(B, K, C')` within two deviations; NaN where all are masked."""
    inside = ((truth - mean).abs() <= 2 * std).float()
    if mask is None:
        return inside.flatten(3).mean(dim=3)
    counts = (~mask).float()
    counts = counts.view(*counts.shape, *[1] * (truth.ndim - 1 - counts.ndim)).unsqueeze(1)  # B 1 C' ...
    counts = counts.expand_as(inside)
    return (inside * counts).flatten(3).sum(dim=3) / counts.flatten(3).sum(dim=3)


def _bar(middle: float, width: float) -> str:
    return f"{100 * middle:.3g} ± {100 * width:.2g}"
