"""Scores of several models on the same trajectories: kept sample by sample, laid out as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from apps.pde.batch import FieldBatch
from apps.pde.metrics import relative_l1, relative_l2, vrmse
from apps.pde.objectives import overwrite

__all__ = ["Evaluation"]

METRICS = ("relative_l1", "relative_l1_mean", "relative_l2", "vrmse")


@dataclass
class _Kept:
    """Errors of one model on one data set, a tensor a batch: by sample, time and group or field."""

    relative_l1: list[Tensor] = field(default_factory=list)
    relative_l2: list[Tensor] = field(default_factory=list)
    vrmse: list[Tensor] = field(default_factory=list)
    times: list[Tensor] = field(default_factory=list)

    def joined(self) -> dict[str, Tensor]:
        return {name: torch.cat(parts) for name, parts in vars(self).items()}


class Evaluation:
    """Relative L1 (percent, of normalised fields, by channel group: Poseidon), relative L2 and VRMSE (of
    physical fields, by channel) at every time of the test trajectories.

    Args:
        facts: The data module's.
        device: Where the batches are.
    """

    def __init__(self, facts: Mapping[str, Any], *, device: torch.device | str = "cpu") -> None:
        self.outputs = list(facts["outputs"])
        self.inputs = list(facts["inputs"])
        self.groups = list(facts["groups"])
        self.group_names = list(facts["group_names"])
        self.datasets = list(facts["datasets"])
        self.mean = _stacked(self.datasets, "out_mean", device)
        self.std = _stacked(self.datasets, "out_std", device)
        self._kept: dict[tuple[str, int], _Kept] = {}

    def physical(self, fields: Tensor, source: Tensor) -> Tensor:
        """Return normalised outputs `(B, K, C', *space)` in physical units."""
        shape = (len(source), 1, -1, *[1] * (fields.ndim - 3))
        return fields * self.std[source].view(shape) + self.mean[source].view(shape)

    def physical_spread(self, std: Tensor, source: Tensor) -> Tensor:
        """Return standard deviations of normalised outputs `(B, K, C', *space)` in physical units."""
        return std * self.std[source].view(len(source), 1, -1, *[1] * (std.ndim - 3))

    def update(self, model: str, prediction: Tensor, batch: FieldBatch) -> None:
        """Add a batch of trajectories `(B, K, C', *space)`, normalised."""
        target = batch.targets
        prediction = overwrite(prediction, target, batch.mask)
        truth, guess = self.physical(target, batch.source), self.physical(prediction, batch.source)
        errors = {
            "relative_l1": relative_l1(prediction, target, self.groups),
            "relative_l2": relative_l2(guess, truth),
            "vrmse": vrmse(guess, truth),
            "times": batch.time,
        }
        for source in batch.source.unique().tolist():
            rows = (batch.source == source).nonzero()[:, 0]
            kept = self._kept.setdefault((model, source), _Kept())
            for name, values in errors.items():
                getattr(kept, name).append(values[rows].float().cpu())

    def update_baselines(self, batch: FieldBatch, *, feedback: Sequence[int] | None) -> None:
        """Add what needs no learning: the last input frame, or, where outputs are no inputs, the mean
        field.
        """
        if feedback is None:
            self.update("training mean", torch.zeros_like(batch.targets), batch)
            return
        last = batch.inputs[:, -1:, list(feedback)]
        self.update("persistence", last.expand_as(batch.targets), batch)

    def gather(self) -> None:
        """Bring the errors of all processes together; call once, on every rank."""
        import torch.distributed as dist

        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return
        parts: list[dict[tuple[str, int], _Kept]] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(parts, self._kept)
        self._kept = {}
        for part in parts:
            for key, kept in part.items():
                own = self._kept.setdefault(key, _Kept())
                for name, values in vars(kept).items():
                    getattr(own, name).extend(values)

    def results(self) -> list[dict[str, Any]]:
        """Return one row per data set and model: errors at the last time."""
        rows = []
        for (model, source), errors in self._each():
            row: dict[str, Any] = {"dataset": self.datasets[source]["name"], "model": model}
            row |= self._scores(errors, source, -1)
            if errors["times"].shape[1] > 1:
                steps = range(errors["times"].shape[1])
                over = [self._scores(errors, source, k) for k in steps]
                row["relative_l2_all_times"] = sum(s["relative_l2"] for s in over) / len(over)
                row["vrmse_all_times"] = sum(s["vrmse"] for s in over) / len(over)
            rows.append(row | {"trajectories": len(errors["times"])})
        return rows

    def by_time(self) -> list[dict[str, Any]]:
        """Return one row per data set, model and time."""
        return [
            {"dataset": self.datasets[source]["name"], "model": model, "step": k + 1}
            | {"time": float(errors["times"][0, k])}
            | self._scores(errors, source, k)
            for (model, source), errors in self._each()
            for k in range(errors["times"].shape[1])
        ]

    def by_field(self) -> list[dict[str, Any]]:
        """Return one row per data set, model and field: errors at the last time, fields without labels left
        out.
        """
        return [
            {"dataset": self.datasets[source]["name"], "model": model, "channel": name}
            | {key: float(errors[key][:, -1, place].mean()) for key in ("relative_l2", "vrmse")}
            for (model, source), errors in self._each()
            for place, name in enumerate(self.outputs)
            if name not in self.datasets[source].get("masked", ())
        ]

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return the tables beside `results` by name."""
        return {"by_time": self.by_time(), "by_field": self.by_field()}

    def curves(
        self, metric: str = "relative_l1", source: int = 0
    ) -> dict[str, tuple[list[float], list[float]]]:
        """Return, for every model, the times and a metric at each of them."""
        found = {}
        for (model, place), errors in self._each():
            if place == source:
                steps = range(errors["times"].shape[1])
                values = [self._scores(errors, source, k)[metric] for k in steps]
                found[model] = (errors["times"][0].tolist(), values)
        return found

    def headline(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
        """Return the mean over data sets of each metric of the first model in `rows`, named
        `test_<metric>`.
        """
        rows = list(rows)
        rows = [row for row in rows if row["model"] == rows[0]["model"]]
        return {f"test_{name}": sum(row[name] for row in rows) / len(rows) for name in METRICS}

    def text(self) -> str:
        """Return the results as a table for the terminal."""
        rows = self.results()
        wide = max(len(row["model"]) for row in rows) + 2
        lines = []
        for dataset in dict.fromkeys(row["dataset"] for row in rows):
            lines.append(f"{dataset}, at the last time:")
            heads = ("rel. L1 [%]", "mean [%]", "rel. L2", "VRMSE")
            lines.append(" " * wide + "".join(f"{head:>13}" for head in heads) + f"{'trajectories':>14}")
            for row in rows:
                if row["dataset"] == dataset:
                    cells = "".join(f"{row[name]:>13.4g}" for name in METRICS)
                    lines.append(f"{row['model']:<{wide}}{cells}{row['trajectories']:>14}")
        return "\n".join(lines)

    def example(
        self, batch: FieldBatch, prediction: Tensor, row: int, *, std: Tensor | None = None
    ) -> dict[str, Any]:
        """Return one trajectory in physical units, for figures: `truth`, `prediction` and an ensemble's
        `std` (else None) `(K, C', *space)`.
        """
        one = slice(row, row + 1)
        source = batch.source[one]
        shown = overwrite(
            prediction[one], batch.targets[one], None if batch.mask is None else batch.mask[one]
        )
        return {
            "dataset": self.datasets[int(source)]["name"],
            "trajectory": int(batch.trajectory[row]),
            "times": batch.time[row].tolist(),
            "snapshots": batch.snapshots[row].tolist(),
            "truth": self.physical(batch.targets[one], source)[0].float().cpu(),
            "prediction": self.physical(shown, source)[0].float().cpu(),
            "std": None if std is None else self.physical_spread(std[one], source)[0].float().cpu(),
            "source": int(source),
        }

    def _each(self) -> list[tuple[tuple[str, int], dict[str, Tensor]]]:
        order = sorted(self._kept, key=lambda key: key[1])
        return [(key, self._kept[key].joined()) for key in order]

    def _scores(self, errors: Mapping[str, Tensor], source: int, step: int) -> dict[str, float]:
        wanted = self.datasets[source].get("interest") or self.outputs
        fields = [self.outputs.index(name) for name in wanted]
        groups = [
            g
            for g, (first, last) in enumerate(pairwise(self.groups))
            if any(first <= place < last for place in fields)
        ]
        l1 = errors["relative_l1"][:, step, groups]  # N G
        return {
            "relative_l1": float(l1.quantile(0.5, dim=0).mean()),
            "relative_l1_mean": float(l1.mean()),
            "relative_l2": float(errors["relative_l2"][:, step, fields].mean()),
            "vrmse": float(errors["vrmse"][:, step, fields].mean()),
        }


def _stacked(datasets: Sequence[Mapping[str, Any]], name: str, device: torch.device | str) -> Tensor:
    return torch.tensor([list(one[name]) for one in datasets], dtype=torch.float32, device=device)
