"""The profiler's switch leaves a trace and tables in the run folder; a full memory gets one sentence."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from core.errors import UserError
from core.tracking.profiler import Profile


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_profiled_steps_leave_a_trace_and_tables(fit, tmp_path: Path) -> None:
    run = fit(tmp_path / "runs", "--profile.steps=[2,4]", "--trainer.max_epochs=1", "--about", "{}")

    assert "profile of steps 2 to 3" in run.outcome.out
    with gzip.open(run.folder / "profile" / "trace.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    assert any(event.get("name") == "aten::addmm" for event in events)
    assert sum(event.get("name", "").startswith("ProfilerStep") for event in events) == 0
    steps = [event for event in events if str(event.get("name", "")).startswith("Optimizer.step")]
    assert len(steps) == 2
    operations = rows_of(run.folder / "profile" / "operations.csv")
    assert 10 < len(operations) <= 30
    times = [float(row["cpu_ms"]) for row in operations]
    assert times == sorted(times, reverse=True) and times[0] > 0
    memory = rows_of(run.folder / "profile" / "memory.csv")
    assert float(memory[0]["cpu_mib"]) > 0


@pytest.mark.parametrize("steps", [[5], [5, 5], [7, 3], [-1, 3]])
def test_steps_that_make_no_range_are_refused(steps: list[int]) -> None:
    with pytest.raises(UserError, match=r"profile\.steps is .* as in \[10, 15\]"):
        Profile(steps=steps)


def test_a_wrong_range_on_the_command_line_gets_one_sentence(dfm, tmp_path: Path) -> None:
    outcome = dfm("timeseries", "fit", "--config", "ttm/demo", "--runs", tmp_path, "--profile.steps=[7,3]")

    assert outcome.code == 2
    assert "profile.steps is [7, 3]" in outcome.err and outcome.err.count("\n") == 1


def test_memory_that_runs_out_is_told_in_one_sentence(dfm, small: Path, tmp_path: Path, monkeypatch) -> None:
    import torch

    from apps.timeseries.tasks import Forecasting

    def large(self, batch, batch_idx):
        return torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(Forecasting, "training_step", large)
    outcome = dfm(
        "timeseries", "fit", "--config", "ttm/demo", "--config", small, "--runs", tmp_path, "--about", "{}"
    )

    assert outcome.code == 2, outcome.err
    assert outcome.err.count("\n") == 1
    assert "--data.batch_size 4 --trainer.accumulate_grad_batches 2" in outcome.err
