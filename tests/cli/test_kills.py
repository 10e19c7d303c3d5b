"""`kill -9` at any moment: the run goes on bit by bit, in real processes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from core.checkpoints.files import read_checkpoint

HERE = Path(__file__).parent


def watch(log: Path, after: int | None = None) -> str:
    """Return the option that watches a run, and kills it after some steps."""
    callback = {"class_path": "watching.Watch", "init_args": {"log": str(log), "after": after}}
    return f"--trainer.callbacks={json.dumps([callback])}"


def start(words: list[object], folder: Path) -> subprocess.Popen:
    """Start `dfm` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(HERE), "HOME": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "core.cli", *map(str, words)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def seen(log: Path) -> dict[int, list]:
    """Return the windows of each step; a step that was repeated must have seen the same ones."""
    steps: dict[int, list] = {}
    for row in map(json.loads, log.read_text().splitlines()):
        assert steps.setdefault(row["number"], row["windows"]) == row["windows"], f"step {row['number']}"
    return steps


def state(runs: Path) -> dict[str, torch.Tensor]:
    """Return weights and moments at the end of the only run under `runs`."""
    (last,) = runs.glob("timeseries/ttm-demo/*/checkpoints/last.ckpt")
    content = read_checkpoint(last)
    moments = content["optimizer_states"][0]["state"]
    return {
        **content["state_dict"],
        **{f"{place}.{name}": value for place, kept in moments.items() for name, value in kept.items()},
    }


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [
        name for name, value in one.items() if torch.is_tensor(value) and not torch.equal(value, other[name])
    ]
    assert not different, f"these differ from the unbroken run: {different}"


@pytest.fixture
def words(small) -> list[object]:
    return [
        "timeseries", "fit", "--config", "ttm/demo", "--config", small, "--checkpoints.every_n_steps=2",
        "--about.test_after_fit=false", "--trust=watching",
    ]  # fmt: skip


def test_three_kills_end_bit_by_bit_where_the_unbroken_run_ends(dfm, words, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    assert dfm(*words, "--runs", unbroken, watch(tmp_path / "unbroken.log")).code == 0
    log = tmp_path / "killed.log"
    again: list[str] = []

    for after, workers in ((3, 0), (5, 2), (8, 0)):  # 5 is an epoch's last
        options = ["--runs", killed, f"--data.num_workers={workers}", watch(log, after), *again]
        process = start([*words, *options], tmp_path)
        shown, _ = process.communicate(timeout=120)
        assert process.returncode == -9, shown
        again = ["--ckpt_path=last"]
    end = dfm(*words, "--runs", killed, "--data.num_workers=2", watch(log), *again)

    assert end.code == 0, end.err
    assert_same(state(killed), state(unbroken))
    assert seen(log) == seen(tmp_path / "unbroken.log")
    assert len(seen(log)) == 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_kills_at_random_moments_end_bit_by_bit_where_the_unbroken_run_ends(
    dfm, words, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(HERE)
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    long = [*words, "--data.windows.stride=2", "--checkpoints.every_n_steps=7", "--trainer.max_epochs=40"]
    assert dfm(*long, "--runs", unbroken, watch(tmp_path / "unbroken.log")).code == 0
    log, draw, kills, again = tmp_path / "killed.log", random.Random(0), 0, []

    while kills < 20:
        process = start([*long, "--runs", killed, watch(log), *again], tmp_path)
        for line in process.stdout:
            if line.startswith("run folder"):
                break
        time.sleep(draw.uniform(0, 3))
        process.kill()
        process.communicate()
        assert process.returncode == -9, "the run is too short for twenty kills"
        kills, again = kills + 1, ["--ckpt_path=last"]
    end = dfm(*long, "--runs", killed, watch(log), *again)

    assert end.code == 0, end.err
    assert_same(state(killed), state(unbroken))
    assert seen(log) == seen(tmp_path / "unbroken.log")
