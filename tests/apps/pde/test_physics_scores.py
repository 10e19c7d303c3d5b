"""Spectra and conserved totals in tests: what is scored, tabulated, logged and drawn, and where."""

from __future__ import annotations

import csv
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from apps.pde.batch import FieldBatch, FieldFacts
from apps.pde.figures import drawings
from apps.pde.metrics.evaluation import Evaluation
from apps.pde.models.fno import FNO
from apps.pde.tasks import Operator

GAS = ["density", "velocity_x", "velocity_y", "pressure"]
FLOW = ["velocity_x", "velocity_y"]


def facts(names: list[str], *, inputs: list[str] | None = None, **more: object) -> FieldFacts:
    inputs, count = inputs or names, len(names)
    dataset = {
        "name": "set", "mean": [0.5] * len(inputs), "std": [2.0] * len(inputs), "out_mean": [0.5] * count,
        "out_std": [2.0] * count, "interest": names, "masked": [], "time_constant": 1.0,
        "units": dict.fromkeys(names, "1"), "times": [0.0, 0.5, 1.0], "periodic": True, "parameters": [],
        "coordinates": {axis: [0.0, 0.875, 8] for axis in "xy"},
    }  # fmt: skip
    plain = {
        "inputs": inputs, "outputs": names, "groups": list(range(len(names) + 1)), "group_names": names,
        "frames": 1, "windows": "pairs", "space": [8, 8], "datasets": [{**dataset, **more}],
    }  # fmt: skip
    return FieldFacts.from_plain(plain)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def batch(inputs: Tensor, targets: Tensor) -> FieldBatch:
    rows, frames = targets.shape[:2]
    return FieldBatch(
        inputs=inputs,
        targets=targets,
        time=torch.linspace(0.5, 1.0, frames).expand(rows, -1),
        mask=None,
        parameters=None,
        source=torch.zeros(rows, dtype=torch.int64),
        trajectory=torch.arange(rows),
        snapshots=torch.arange(frames + 1).expand(rows, -1),
    )


def still(names: list[str], rows: int = 3) -> FieldBatch:
    """A truth that stays as it starts, normalised; physical values are 2 z + 0.5."""
    start = normal(rows, 1, len(names), 8, 8).abs()
    return batch(start, start.expand(-1, 2, -1, -1, -1))


def test_a_flow_ten_times_too_strong_is_a_hundred_times_too_energetic():
    scores, example = Evaluation(facts(FLOW)), still(FLOW)
    truth = 2 * example.targets[:, 0] + 0.5
    strong = (10 * (2 * example.targets + 0.5) - 0.5) / 2

    scores.update("net", strong, example)
    scores.update_baselines(example, feedback=[0, 1])

    tables = scores.tables()
    spectra = {(row["model"], row["step"]): row for row in tables["spectra"]}
    assert {row["channel"] for row in tables["spectra"]} == {"velocity"}
    assert spectra["net", 1]["spectrum_error"] == pytest.approx(2.0, abs=1e-3)
    assert spectra["net", 2]["worst"] == pytest.approx(2.0, abs=1e-3)
    assert spectra["persistence", 2]["spectrum_error"] == pytest.approx(0.0, abs=1e-6)
    drifts = {(row["model"], row["quantity"]): row for row in tables["conserved"] if row["step"] == 2}
    assert drifts["net", "kinetic_energy"]["drift"] == pytest.approx(99.0, rel=1e-3)
    sizes = 9 * truth[:, 0].mean((1, 2)) / truth.norm(dim=1).mean((1, 2))
    assert drifts["net", "momentum_x"]["drift"] == pytest.approx(float(sizes.mean()), rel=1e-3)
    assert drifts["net", "momentum_x"]["worst"] == pytest.approx(float(sizes.max()), rel=1e-3)
    assert drifts["net", "momentum_x"]["truth"] == pytest.approx(0.0, abs=1e-6)
    assert drifts["persistence", "momentum_y"]["drift"] == pytest.approx(0.0, abs=1e-6)
    logged = scores.headline(scores.results())
    assert logged["test_spectrum_error"] == pytest.approx(2.0, abs=1e-3)
    final = [row["drift"] for (model, _), row in drifts.items() if model == "net"]
    assert logged["test_drift"] == pytest.approx(sum(final) / 3)


@pytest.mark.parametrize(
    ("more", "tables"),
    [
        ({"periodic": False}, {"by_time", "by_field"}),
        ({"axes": ["time"]}, {"by_time", "by_field"}),
        ({}, {"by_time", "by_field", "spectra", "conserved"}),
    ],
)
def test_only_periodic_domains_have_spectra_and_totals(more, tables):
    scores, example = Evaluation(facts(FLOW, **more)), still(FLOW)

    scores.update("net", example.targets, example)

    assert set(scores.tables()) == tables


def test_outputs_that_are_no_inputs_have_spectra_and_no_drift():
    scores = Evaluation(facts(["u"], inputs=["a"]))
    example = batch(normal(2, 1, 1, 8, 8), normal(2, 1, 1, 8, 8))

    scores.update("net", example.targets, example)

    assert [row["channel"] for row in scores.tables()["spectra"]] == ["u"]
    assert "conserved" not in scores.tables()


def test_fields_without_labels_and_filled_ones_have_no_spectrum():
    scores = Evaluation(facts(GAS, masked=["pressure"], fills={"density": 1.0, "pressure": 0.0}))
    example = still(GAS)

    scores.update("net", example.targets, example)

    tables = scores.tables()
    assert {row["channel"] for row in tables["spectra"]} == {"velocity"}
    assert {row["quantity"] for row in tables["conserved"]} == {"mass", "momentum_x", "momentum_y"}


@pytest.mark.parametrize(
    ("more", "gamma"),
    [({"gamma": 5 / 3}, 5 / 3), ({"name": "ce_rp"}, 1.4), ({"name": "cns"}, None)],
)
def test_the_energy_of_a_gas_is_that_of_its_own_ratio_of_specific_heats(more, gamma):
    scores, example = Evaluation(facts(GAS, **more)), still(GAS)
    warmer = example.targets.clone()
    warmer[:, :, 3] += 0.5  # 1 in physical units

    scores.update("net", warmer, example)

    rows = {row["quantity"]: row for row in scores.conserved() if row["step"] == 2}
    assert ("energy" in rows) == (gamma is not None)
    rho, u, v, p = (2 * example.inputs[:, 0] + 0.5).unbind(1)
    if gamma is not None:
        before = (p / (gamma - 1) + rho * (u**2 + v**2) / 2).mean((1, 2))
        assert rows["energy"]["drift"] == pytest.approx(float((1 / (gamma - 1) / before).mean()), rel=1e-4)
    figures = dict(drawings(scores, [scores.example(example, warmer, 0)], title="net"))
    heads = [axis.get_title(loc="left") for axis in figures["conserved"].axes]
    assert ("energy" in heads) == (gamma is not None)


def test_a_gas_that_starts_at_rest_has_a_finite_drift():
    scores, example = Evaluation(facts(GAS, gamma=1.4)), still(GAS)
    start = example.inputs.clone()
    start[:, :, 1:3] = -0.25  # both velocities are 0 in physical units

    scores.update("net", example.targets, batch(start, example.targets))

    drifts = {row["quantity"]: row["drift"] for row in scores.conserved()}
    assert 0 < drifts["momentum_x"] <= 1 and 0 < drifts["momentum_y"] <= 1


def test_the_errors_are_drawn_at_the_times_of_the_data_and_not_in_time_constants():
    scores, example = Evaluation(facts(FLOW, times=[0.0, 10.0, 20.0], time_constant=2.0)), still(FLOW)
    scores.update("net", example.targets * 1.1, example)

    figure = dict(drawings(scores, [], title="net"))["error_by_time"]

    assert figure.axes[0].lines[0].get_xdata().tolist() == [10.0, 20.0]


def test_scores_keep_no_graph():
    scores, example = Evaluation(facts(FLOW)), still(FLOW)

    scores.update("net", example.targets.clone().requires_grad_(), example)

    kept = [values for key in scores._kept for values in scores._kept.joined(key).values()]
    assert kept and not any(part.requires_grad for part in kept)


def test_the_task_takes_the_ratio_from_the_facts_and_writes_the_tables(tmp_path, monkeypatch):
    torch.manual_seed(0)
    task = Operator(FNO(modes=(2, 2), in_channels=4, out_channels=4, width=4, depth=1), movie=False)
    known = facts(GAS, gamma=1.25)
    task._trainer = SimpleNamespace(datamodule=SimpleNamespace(facts=known), is_global_zero=True, loggers=[])
    task._feedback, task._groups, task.run_folder = [0, 1, 2, 3], known.groups, tmp_path
    logged: dict[str, float] = {}
    monkeypatch.setattr(task, "log_dict", lambda values, **how: logged.update(values))
    monkeypatch.setattr(task, "log_figure", lambda name, figure: None)

    task.on_test_start()
    task.test_step(still(GAS), 0)
    task.on_test_epoch_end()

    assert task._evaluation.physics[0].gamma == pytest.approx(1.25)
    conserved = list(csv.DictReader((tmp_path / "conserved.csv").open()))
    assert {row["quantity"] for row in conserved} == {"mass", "momentum_x", "momentum_y", "energy"}
    assert {row["model"] for row in conserved} == {"FNO", "persistence"}
    spectra = list(csv.DictReader((tmp_path / "spectra.csv").open()))
    assert {row["channel"] for row in spectra} == {"velocity", "density", "pressure"}
    assert all(math.isfinite(logged[name]) for name in ("test_spectrum_error", "test_drift"))
