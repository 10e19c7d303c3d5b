"""On a real accelerator the small demo trains as on the CPU; skipped where there is none."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
import torch

from core.accelerators.choice import available
from core.cli import main
from core.tracking.metrics_csv import read_metrics

SMALL = Path(__file__).parents[1] / "cli" / "small.yaml"
NO_DROPOUT = ["--model.network.init_args.dropout=0", "--model.network.init_args.head_dropout=0"]
EXACT = {"cuda": ["--cuda.matmul", "highest", "--cuda.convolutions", "false"], "neuron": []}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize(
        "device",
        [
            pytest.param(name, marks=pytest.mark.skipif(not available(name), reason=f"needs {name}"))
            for name in ("cuda", "neuron")
        ],
    ),
]


def fit(folder: Path, *words: object) -> tuple[list[dict[str, Any]], str]:
    """Train for four epochs and return the metrics and what was printed."""
    base = ["timeseries", "fit", "--config", "ttm/demo", "--config", SMALL, *NO_DROPOUT, "--about", "{}"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main([str(word) for word in [*base, "--runs", folder, "--trainer.max_epochs", "4", *words]])
    text = out.getvalue()
    assert code == 0, text
    run = next(line for line in text.splitlines() if line.startswith("run folder: "))
    return [row for row in read_metrics(run.removeprefix("run folder: ")) if "train_loss" in row], text


def losses(rows: list[dict[str, Any]]) -> list[float]:
    return [row["train_loss"] for row in rows]


def test_float32_losses_are_those_of_the_cpu(tmp_path: Path, device: str) -> None:
    cpu, _ = fit(tmp_path / "cpu", "--config", "trainer/cpu_plain")
    words = ["--config", f"trainer/{device}", "--trainer.precision", "32-true", *EXACT[device]]
    there, _ = fit(tmp_path / device, *words)

    assert losses(there) == pytest.approx(losses(cpu), rel=1e-4)


def test_bfloat16_losses_are_near_those_of_the_cpu(tmp_path: Path, device: str) -> None:
    cpu, _ = fit(tmp_path / "cpu", "--config", "trainer/cpu_plain")
    there, _ = fit(tmp_path / device, "--config", f"trainer/{device}")

    assert losses(there) == pytest.approx(losses(cpu), rel=2e-2, abs=2e-2)
    assert there[-1]["memory/peak_gib"] > 0
    assert 0 < there[-1]["throughput/mfu"] < 1


def test_profile_has_the_device_s_time(tmp_path: Path, device: str) -> None:
    _, text = fit(tmp_path, "--config", f"trainer/{device}", "--profile.steps=[5,8]")

    place = next(line for line in text.splitlines() if line.startswith("profile of steps"))
    table = (Path(place.rpartition(": ")[2]) / "operations.csv").read_text().splitlines()
    column = table[0].split(",").index("device_ms")
    assert any(float(line.rsplit(",", table[0].count(","))[column]) > 0 for line in table[1:])


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_blocks_train_as_eager_ones(tmp_path: Path, device: str, mode: str) -> None:
    if device != "cuda":
        pytest.skip("modes are CUDA's")
    words = ["--config", "trainer/cuda", "--trainer.precision", "32-true", *EXACT["cuda"]]
    eager, _ = fit(tmp_path / "eager", *words)
    compiled, _ = fit(tmp_path / "compiled", *words, "--cuda.compile", mode)

    assert losses(compiled) == pytest.approx(losses(eager), rel=1e-3)
    torch.compiler.reset()
