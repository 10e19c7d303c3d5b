"""Two processes over gloo compute what one computes: the global batch is kept, so are the losses."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from in_process import dfm

from core.cli.arguments import merged
from core.files import configs_folder

WATCHING = Path(__file__).parents[1] / "cli"
STEPS = 20


@pytest.fixture
def recipe(tmp_path) -> Path:
    """The demo on gapless series without dropout: 20 steps of 8 windows each, nothing but training."""
    demo = yaml.safe_load((configs_folder() / "timeseries/ttm/demo.yaml").read_text())
    small = yaml.safe_load((WATCHING / "small.yaml").read_text())
    ours = {
        "about": {"test_after_fit": False},
        "model": {
            "init_args": {"network": {"init_args": {"dropout": 0.0, "head_dropout": 0.0}}},
        },
        "data": {"init_args": {"mix": {"sources": ["embedded:sunspots+elnino"]}, "windows": {"stride": 4}}},
        "trainer": {"max_epochs": -1, "max_steps": STEPS, "limit_train_batches": 10, "limit_val_batches": 0},
        "cpu": {"threads": 1},
    }
    path = tmp_path / "both.yaml"
    path.write_text(yaml.safe_dump(merged(merged(demo, small), ours)))
    return path


def words(recipe: Path, log: Path, *, processes: int, precision: str) -> list[str]:
    watch = {"class_path": "watching.Watch", "init_args": {"log": str(log)}}
    given = ["timeseries", "fit", "--trust=watching", "--config", str(recipe)]
    given += [f"--data.batch_size={8 // processes}"]
    given += [f"--trainer.precision={precision}", f"--trainer.devices={processes}"]
    given += ["--trainer.accelerator=cpu", f"--trainer.callbacks={json.dumps([watch])}"]
    given += ["--runs", str(log.with_suffix(""))]
    return [*given, "--trainer.strategy=ddp"] if processes > 1 else given


def in_processes_of_their_own(words: list[str], folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"PYTHONPATH": str(WATCHING), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    done = subprocess.run(
        [sys.executable, "-m", "core.cli", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **place},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def losses(log: Path) -> list[float]:
    """Return each step's loss over the global batch."""
    return [json.loads(line)["loss"] for line in log.read_text().splitlines()]


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("precision", "relative"), [("32-true", 1e-5), ("64-true", 1e-10)])
def test_two_processes_have_the_losses_of_one(recipe, tmp_path, monkeypatch, precision, relative):
    monkeypatch.syspath_prepend(WATCHING)
    single, double = tmp_path / "single.jsonl", tmp_path / "double.jsonl"

    alone = dfm(*words(recipe, single, processes=1, precision=precision))
    in_processes_of_their_own(words(recipe, double, processes=2, precision=precision), tmp_path)

    assert alone.code == 0, alone.err
    one, two = losses(single), losses(double)
    assert len(one) == len(two) == STEPS
    assert len(set(one)) == STEPS
    assert two == pytest.approx(one, rel=relative, abs=0)
