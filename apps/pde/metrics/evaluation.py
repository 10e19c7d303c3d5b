"""Scores of several models on the same trajectories: kept sample by sample, laid out as tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from apps.pde.batch import DatasetFacts, FieldBatch, FieldFacts
from apps.pde.metrics.errors import relative_l1, relative_l2, vrmse
from apps.pde.metrics.physics import physics_of, picked
from core.metrics.sums import SampleValues
from core.objectives.fields import overwrite
from core.tables import text_table

__all__ = ["Evaluation"]

METRICS = ("relative_l1", "relative_l1_mean", "relative_l2", "vrmse")

# Spectra and totals are kept under a prefix and their own name.
_SPECTRUM, _DRIFT, _TRUTH = "spectrum ", "drift ", "truth's drift "


class Evaluation:
    """Relative L1 (percent, of normalised fields, by channel group: Poseidon), relative L2 and VRMSE (of
    physical fields, by channel) at every time of the test trajectories; on a periodic domain also the errors
    of the spectra and the drift of conserved totals (`apps.pde.metrics.physics`).

    Args:
        facts: The data module's; a data set's `gamma` is its ratio of specific heats, where known.
        device: Where the batches are.
    """

    def __init__(self, facts: FieldFacts, *, device: torch.device | str = "cpu") -> None:
        self.outputs = list(facts.outputs)
        self.inputs = list(facts.inputs)
        self.groups = list(facts.groups)
        self.group_names = list(facts.group_names)
        self.datasets = list(facts.datasets)
        self.mean = _stacked(self.datasets, "out_mean", device)
        self.std = _stacked(self.datasets, "out_std", device)
        self.physics = [physics_of(dataset, self.outputs) for dataset in self.datasets]
        self._feedback = _places(self.outputs, self.inputs)
        self._start_mean = _stacked(self.datasets, "mean", device)[:, self._feedback or []]
        self._start_std = _stacked(self.datasets, "std", device)[:, self._feedback or []]
        # By model and data set; by sample, time and, in the first three of them, group or field.
        self._kept = SampleValues()

    def physical(self, fields: Tensor, source: Tensor) -> Tensor:
        """Return normalised outputs `(B, K, C', *space)` in physical units."""
        shape = (len(source), 1, -1, *[1] * (fields.ndim - 3))
        return fields * self.std[source].view(shape) + self.mean[source].view(shape)

    def physical_spread(self, std: Tensor, source: Tensor) -> Tensor:
        """Return standard deviations of normalised outputs `(B, K, C', *space)` in physical units."""
        return std * self.std[source].view(len(source), 1, -1, *[1] * (std.ndim - 3))

    @torch.no_grad()
    def update(self, model: str, prediction: Tensor, batch: FieldBatch) -> None:
        """Add a batch of trajectories `(B, K, C', *space)`, normalised; errors stay on its device, without a
        graph.
        """
        target = batch.targets
        prediction = overwrite(prediction, target, batch.mask)
        truth, guess = self.physical(target, batch.source), self.physical(prediction, batch.source)
        errors = {
            "relative_l1": relative_l1(prediction, target, self.groups),
            "relative_l2": relative_l2(guess, truth),
            "vrmse": vrmse(guess, truth),
            "times": batch.time,
        }
        start = self._start(batch)
        for source in batch.source.unique().tolist():
            rows = (batch.source == source).nonzero()[:, 0]
            scores = {name: values[rows] for name, values in errors.items()}
            if self.physics[source] is not None:
                before = None if start is None else start[rows]
                scores |= self._physics(source, guess[rows], truth[rows], before)
            self._kept.add((model, source), {name: values.float() for name, values in scores.items()})

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
        self._kept.gather()

    def results(self) -> list[dict[str, Any]]:
        """Return one row per data set and model: errors at the last time."""
        rows = []
        for (model, source), errors in self._each():
            row: dict[str, Any] = {"dataset": self.datasets[source].name, "model": model}
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
            {"dataset": self.datasets[source].name, "model": model, "step": k + 1}
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
            {"dataset": self.datasets[source].name, "model": model, "channel": name}
            | {key: float(errors[key][:, -1, place].mean()) for key in ("relative_l2", "vrmse")}
            for (model, source), errors in self._each()
            for place, name in enumerate(self.outputs)
            if name not in self.datasets[source].masked
        ]

    def spectra(self) -> list[dict[str, Any]]:
        """Return one row per data set, model, time and spectrum: the root mean square over wave numbers of
        the error in powers of ten, its mean over trajectories and the worst of them.
        """
        return [
            {**head, "channel": name, "spectrum_error": float(of.mean()), "worst": float(of.max())}
            for head, name, of, _ in self._by_name(_SPECTRUM)
        ]

    def conserved(self) -> list[dict[str, Any]]:
        """Return one row per data set, model, time and quantity: how far its total has moved from the start,
        relative to its size (`Physics.drifts`); the mean over trajectories, the worst of them, and the mean
        of the truth itself, which forcing, viscosity or its solver may move too.
        """
        return [
            {**head, "quantity": name, "drift": float(of.mean()), "worst": float(of.max())}
            | {"truth": float(errors[_TRUTH + name][:, head["step"] - 1].mean())}
            for head, name, of, errors in self._by_name(_DRIFT)
        ]

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return the tables beside `results` by name; without a periodic domain there are no `spectra` and
        nothing `conserved`.
        """
        physics = {"spectra": self.spectra(), "conserved": self.conserved()}
        tables = {"by_time": self.by_time(), "by_field": self.by_field()}
        return tables | {name: rows for name, rows in physics.items() if rows}

    def curves(
        self, metric: str = "relative_l1", source: int = 0
    ) -> dict[str, tuple[list[float], list[float]]]:
        """Return, for every model, the times and a metric at each of them."""
        by_model = {}
        for (model, place), errors in self._each():
            if place == source:
                steps = range(errors["times"].shape[1])
                values = [self._scores(errors, source, k)[metric] for k in steps]
                by_model[model] = (errors["times"][0].tolist(), values)
        return by_model

    def headline(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
        """Return the mean over data sets of each metric of the first model in `rows`, named
        `test_<metric>`; where there are spectra and totals, also their means at the last time.
        """
        rows = list(rows)
        rows = [row for row in rows if row["model"] == rows[0]["model"]]
        means = {f"test_{name}": sum(row[name] for row in rows) / len(rows) for name in METRICS}
        for name, table in (("spectrum_error", self.spectra()), ("drift", self.conserved())):
            first_model = [row for row in table if row["model"] == rows[0]["model"]]
            final = {row["dataset"]: row["step"] for row in first_model}
            last = [row[name] for row in first_model if row["step"] == final[row["dataset"]]]
            if last:
                means[f"test_{name}"] = sum(last) / len(last)
        return means

    def text(self) -> str:
        """Return the results as a table for the terminal."""
        rows = self.results()
        lines = []
        for dataset in dict.fromkeys(row["dataset"] for row in rows):
            lines.append(f"{dataset}, at the last time:")
            heads = ("rel. L1 [%]", "mean [%]", "rel. L2", "VRMSE")
            cells = [
                (row["model"], *(row[name] for name in METRICS), row["trajectories"])
                for row in rows
                if row["dataset"] == dataset
            ]
            lines.append(text_table(cells, head=("", *heads, "trajectories")))
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
            "dataset": self.datasets[int(source)].name,
            "trajectory": int(batch.trajectory[row]),
            "times": batch.time[row].tolist(),
            "snapshots": batch.snapshots[row].tolist(),
            "truth": self.physical(batch.targets[one], source)[0].float().cpu(),
            "prediction": self.physical(shown, source)[0].float().cpu(),
            "std": None if std is None else self.physical_spread(std[one], source)[0].float().cpu(),
            "source": int(source),
        }

    def _each(self) -> list[tuple[tuple[str, int], dict[str, Tensor]]]:
        return [(key, self._kept.joined(key)) for key in sorted(self._kept, key=lambda key: key[1])]

    def _by_name(self, prefix: str) -> Iterator[tuple[dict[str, Any], str, Tensor, Mapping[str, Tensor]]]:
        """Yield for each data set, model, time and name under the prefix: the row's head, the name, the
        values `(N,)` and all errors of the model there.
        """
        for (model, source), errors in self._each():
            names = [key.removeprefix(prefix) for key in errors if key.startswith(prefix)]
            for k in range(errors["times"].shape[1]):
                head = {"dataset": self.datasets[source].name, "model": model, "step": k + 1}
                head["time"] = float(errors["times"][0, k])
                for name in names:
                    yield head, name, errors[prefix + name][:, k], errors

    def _start(self, batch: FieldBatch) -> Tensor | None:
        """Return the outputs of the last input frame `(B, 1, C', *space)`, physical; None if not all of them
        are inputs.
        """
        if self._feedback is None:
            return None
        last = picked(batch.inputs[:, -1:], self._feedback)
        shape = (len(last), 1, -1, *[1] * (last.ndim - 3))
        std, mean = self._start_std[batch.source], self._start_mean[batch.source]
        return last * std.view(shape) + mean.view(shape)

    def _physics(self, source: int, guess: Tensor, truth: Tensor, start: Tensor | None) -> dict[str, Tensor]:
        physics = self.physics[source]
        assert physics is not None
        scores = {_SPECTRUM + name: of for name, of in physics.spectrum_errors(guess, truth).items()}
        if start is None:
            return scores
        scores |= {_DRIFT + name: of for name, of in physics.drifts(guess, start, truth).items()}
        return scores | {_TRUTH + name: of for name, of in physics.drifts(truth, start, truth).items()}

    def _scores(self, errors: Mapping[str, Tensor], source: int, step: int) -> dict[str, float]:
        wanted = self.datasets[source].interest or self.outputs
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


def _places(outputs: Sequence[str], inputs: Sequence[str]) -> list[int] | None:
    """Return where the outputs stand among the inputs; None if not all are there."""
    channels = list(inputs)
    return [channels.index(name) for name in outputs] if set(outputs) <= set(channels) else None


def _stacked(datasets: Sequence[DatasetFacts], name: str, device: torch.device | str) -> Tensor:
    return torch.tensor([getattr(one, name) for one in datasets], dtype=torch.float32, device=device)
