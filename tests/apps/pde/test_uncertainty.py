"""An ensemble's spread in tests: bars, coverage, tables, figures, and members that roll out alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from apps.pde.batch import FieldBatch, FieldFacts
from apps.pde.figures import drawings
from apps.pde.metrics.evaluation import Evaluation
from apps.pde.metrics.uncertainty import Uncertainty
from apps.pde.models.ensemble import Ensemble
from apps.pde.models.fno import FNO, TimedFNO
from apps.pde.tasks import Operator
from core.inference.rollout import autoregressive, by_member, direct, member_steps

FIELDS = ["u", "v"]


def facts(space: list[int], **more: object) -> FieldFacts:
    dataset = {
        "name": "set", "mean": [0.0, 5.0], "std": [1.0, 2.0], "out_mean": [0.0, 5.0], "out_std": [1.0, 2.0],
        "interest": FIELDS, "masked": [], "time_constant": 1.0, "units": {"u": "m", "v": "s"},
        "times": [0.0, 0.5, 1.0], "periodic": True,
        "coordinates": {axis: [0.0, 1 - 1 / n, n] for axis, n in zip("xy", space, strict=False)},
    }  # fmt: skip
    plain = {
        "inputs": FIELDS, "outputs": FIELDS, "groups": [0, 1, 2], "group_names": FIELDS, "frames": 1,
        "windows": "history", "space": space, "datasets": [{**dataset, **more}],
    }  # fmt: skip
    return FieldFacts.from_plain(plain)


def batch(targets: Tensor, *, mask: Tensor | None = None) -> FieldBatch:
    rows, frames = targets.shape[:2]
    return FieldBatch(
        inputs=torch.randn(rows, 1, *targets.shape[2:], generator=torch.Generator().manual_seed(1)),
        targets=targets,
        time=torch.linspace(0.5, 1.0, frames).expand(rows, -1),
        mask=mask,
        parameters=None,
        source=torch.zeros(rows, dtype=torch.int64),
        trajectory=torch.arange(rows),
        snapshots=torch.arange(frames + 1).expand(rows, -1),
    )


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def test_a_normal_ensemble_covers_what_a_normal_distribution_does():
    truth = normal(4, 2, 2, 4096)
    noise = torch.randn(65, *truth.shape, generator=torch.Generator().manual_seed(4))
    scores = Uncertainty(facts([4096]))

    scores.update(noise[1:], batch(noise[0]))

    rows = scores.results()
    assert [(row["step"], row["channel"]) for row in rows] == [
        (step, name) for step in (1, 2) for name in ("u", "v", "all")
    ]
    # the truth is one more draw: within two deviations in 95.4 % of the points, a little less of 64 members
    assert all(row["coverage_2_sigma"] == pytest.approx(0.95, abs=0.01) for row in rows)


def test_bars_are_those_of_the_members_errors():
    truth = torch.ones(3, 1, 2, 8)
    sizes = torch.tensor([[0.1, 0.1, 0.1], [0.3, 0.1, 0.1], [0.2, 0.1, 0.1]])  # member, trajectory
    members = truth * (1 + sizes.view(3, 3, 1, 1, 1))
    scores = Uncertainty(facts([8], out_mean=[0.0, 0.0]))

    scores.update(members, batch(truth))

    row = scores.results()[0]
    assert row["worst"] == pytest.approx(0.2, rel=1e-5)
    assert row["worst_2_sigma"] == pytest.approx(0.2, rel=1e-5)  # 0.1, 0.2, 0.3 deviate by 0.1
    assert row["worst_plus_2_sigma"] == pytest.approx(0.4, rel=1e-5)
    assert row["members"] == pytest.approx((0.2 + 0.1 + 0.1) / 3, rel=1e-5)
    assert row["relative_l2_worst"] == pytest.approx(0.2, rel=1e-5)
    headline = scores.headline(scores.results())
    assert headline["test_worst_plus_2_sigma"] == pytest.approx(0.4, rel=1e-5)
    assert "worst + 2 sigma" in scores.text(scores.results())


def test_masked_points_do_not_count():
    truth = torch.zeros(1, 1, 2, 4)
    members = torch.stack([truth + 1, truth + 1.1])
    members[..., :2] = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1, 1)
    mask = torch.tensor([False, False, True, True]).expand(1, 2, 4)
    open_, masked = Uncertainty(facts([4])), Uncertainty(facts([4]))

    open_.update(members, batch(truth))
    masked.update(members, batch(truth, mask=mask))

    assert open_.results()[0]["coverage_2_sigma"] == 0.5
    assert masked.results()[0]["coverage_2_sigma"] == 1.0


@pytest.mark.parametrize("kind", [FNO, TimedFNO])
def test_every_member_is_fed_with_its_own_output(kind):
    torch.manual_seed(2)
    ensemble = Ensemble(kind(modes=(4,), in_channels=2, out_channels=2, width=6, depth=1), members=3)
    history, times = normal(2, 1, 2, 8), torch.tensor([[0.2, 0.5, 1.0]]).expand(2, -1)
    way = "direct" if kind is TimedFNO else "autoregressive"

    together = by_member(ensemble, history, times, way="autoregressive")
    walked = torch.cat(list(member_steps(ensemble, history, times)), dim=2)

    alone = torch.stack([autoregressive(member, history, times) for member in ensemble.members])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(walked, alone)
    if way == "direct":
        once = torch.stack([direct(member, history, times) for member in ensemble.members])
        torch.testing.assert_close(by_member(ensemble, history, times, way=way), once)


def test_members_are_trained_over_several_frames():
    torch.manual_seed(2)
    ensemble = Ensemble(FNO(modes=(4,), in_channels=2, out_channels=2, width=6, depth=1), members=2)
    task = Operator(ensemble, objective=nn.Identity())
    task._groups = [0, 1, 2]
    task._error = lambda prediction, target, batch: (prediction - target).square().mean()
    example = batch(normal(2, 3, 2, 8))

    loss = task.loss(example)

    outs = by_member(ensemble, example.inputs, example.time, way="autoregressive")
    torch.testing.assert_close(loss, (outs - example.targets).square().mean())


@pytest.mark.parametrize(
    ("space", "more", "expected"),
    [
        ((8, 8), {}, ["rollout-1", "uncertainty-1", "spectra", "error_by_time", "uncertainty_by_field"]),
        ((16,), {}, ["rollout-1", "uncertainty-1", "error_by_time", "uncertainty_by_field"]),
        ((16,), {"axes": ["time"]}, ["rollout-1", "error_by_time", "uncertainty_by_field"]),
    ],
)
def test_figures_show_the_spread(space, more, expected):
    known = facts(list(space), **more)
    evaluation, spread = Evaluation(known), Uncertainty(known)
    example = batch(normal(2, 2, 2, *space))
    members = example.targets + 0.1 * normal(3, 2, 2, 2, *space)
    evaluation.update("net", members.mean(0), example)
    spread.update(members, example)
    drawn = evaluation.example(example, members.mean(0), 0, std=members.std(0))

    figures = dict(drawings(evaluation, [drawn], title="net", spread=spread))

    assert list(figures) == expected
    torch.testing.assert_close(drawn["std"][:, 1], 2 * members.std(0)[0, :, 1])  # physical units
    assert {len(figure.axes) > 0 for figure in figures.values()} == {True}


def test_the_task_logs_and_tabulates_the_spread(monkeypatch):
    torch.manual_seed(2)
    ensemble = Ensemble(FNO(modes=(4,), in_channels=2, out_channels=2, width=6, depth=1), members=3)
    task = Operator(ensemble, rollout="autoregressive")
    tables, logged, said = {}, {}, []
    monkeypatch.setattr(task, "write_table", lambda name, rows: tables.update({name: rows}))
    monkeypatch.setattr(task, "log_dict", lambda values, **how: logged.update(values))
    monkeypatch.setattr(task, "say", said.append)
    monkeypatch.setattr(task, "log_figure", lambda name, figure: tables.update({name: figure}))
    known = facts([16])
    task._trainer = SimpleNamespace(datamodule=SimpleNamespace(facts=known), is_global_zero=True)
    task._feedback, task._groups, task.movie = [0, 1], [0, 1, 2], False

    task.on_test_start()
    task.test_step(batch(normal(3, 2, 2, 16)), 0)
    task.on_test_epoch_end()

    assert {"results", "uncertainty", "uncertainty-1", "uncertainty_by_field"} <= set(tables)
    assert {"test_worst_relative_l2", "test_worst_plus_2_sigma", "test_coverage_2_sigma"} <= set(logged)
    assert any("spread of 3 members" in text for text in said)
