"""A run that its launcher starts again ends bit by bit where the unbroken one ends."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def unbroken(launching, tmp_path_factory):
    """Weights and moments after 6 steps of 2 processes."""
    folder = tmp_path_factory.mktemp("unbroken")
    end = launching.outcome(*launching.srun(folder, [launching.words(folder)] * 2))
    assert end.codes == [0, 0], end.out
    return launching.state(folder)


def kill(folder: Path, **more: object) -> tuple[str, dict[str, object]]:
    """Return a callback that strikes once, at the second of an epoch's three steps."""
    return "Strike", {"batch": 4, "once": str(folder / "struck"), **more}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_killed_under_torchrun_changes_nothing(launching, unbroken, tmp_path, rank):
    words = launching.words(tmp_path, strike=kill(tmp_path, rank=rank))
    end = launching.outcome(launching.torchrun(tmp_path, words, "--standalone", "--max_restarts", 1))
    assert end.codes == [0], end.out
    assert end.out.count("going on from ") == 1
    launching.assert_same(launching.state(tmp_path), unbroken)


def test_a_run_killed_before_its_first_checkpoint_starts_again_in_its_folder(launching, unbroken, tmp_path):
    words = launching.words(tmp_path, strike=kill(tmp_path, batch=1))
    end = launching.outcome(launching.torchrun(tmp_path, words, "--standalone", "--max_restarts", 1))
    assert end.codes == [0], end.out
    assert "was stopped before its first checkpoint" in end.out
    launching.assert_same(launching.state(tmp_path), unbroken)


def test_two_agents_go_on_after_a_kill_on_the_second(launching, unbroken, tmp_path):
    words = launching.words(tmp_path, strike=kill(tmp_path))
    port = launching.free_port()
    meet = ["--nnodes", 2, "--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{port}"]
    meet += ["--rdzv_id", "flow-7", "--max_restarts", 1]
    agents = [launching.torchrun(tmp_path, words, *meet, processes=1) for _ in range(2)]
    end = launching.outcome(*agents)
    assert end.codes == [0, 0], end.out
    launching.assert_same(launching.state(tmp_path), unbroken)


def test_a_named_run_of_torchrun_goes_on_after_all_its_agents_died(launching, unbroken, tmp_path):
    words = launching.words(tmp_path, strike=kill(tmp_path))
    # --standalone would draw another id each time.
    name = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{launching.free_port()}"]
    name += ["--rdzv_id", "flow-7"]
    first = launching.outcome(launching.torchrun(tmp_path, words, *name))
    assert first.codes == [1], first.out
    again = launching.outcome(launching.torchrun(tmp_path, words, *name))
    assert again.codes == [0], again.out
    launching.assert_same(launching.state(tmp_path), unbroken)


def scontrol(folder: Path) -> str:
    """Write a `scontrol` that notes what it is asked; return the search path with it in front."""
    program = folder / "bin" / "scontrol"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\n')
    program.chmod(0o755)
    return f"{program.parent}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize(("number", "asked"), [("SIGUSR1", ["requeue 4711"]), ("SIGTERM", [])])
def test_a_preempted_job_saves_first_and_goes_on_once_it_is_back(
    launching, unbroken, tmp_path, number, asked
):
    path = scontrol(tmp_path)
    words = launching.words(tmp_path, "--launch.requeue=[USR1]", strike=kill(tmp_path, rank=1, how=number))
    first = launching.outcome(*launching.srun(tmp_path, [words, words], PATH=path))
    code = 128 + getattr(signal, number)
    assert first.codes == [code, code], first.out
    notes = tmp_path / "asked"
    assert (notes.read_text().splitlines() if notes.exists() else []) == asked

    again = launching.outcome(*launching.srun(tmp_path, [words, words], SLURM_RESTART_COUNT=1, PATH=path))
    assert again.codes == [0, 0], again.out
    launching.assert_same(launching.state(tmp_path), unbroken)


def test_the_same_job_started_by_hand_once_more_is_a_new_run(launching, tmp_path):
    words = launching.words(tmp_path, "--trainer.max_steps=1")
    for _ in range(2):
        end = launching.outcome(*launching.srun(tmp_path, [words, words]))
        assert end.codes == [0, 0], end.out
        time.sleep(1.1)  # folders are named by the second
    runs = list(tmp_path.glob("runs/timeseries/ttm-demo/*"))
    assert len(runs) == 2
    assert all(json.loads((run / "job.json").read_text())["finished"] for run in runs)
