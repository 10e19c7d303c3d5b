"""Real signals to real processes: exit codes, checkpoints, and what is printed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from core.checkpoints.files import newest_valid, read_checkpoint
from core.resume import StopGracefully, resume_command

SCRIPT = Path(__file__).with_name("tiny_run.py")


def start(folder: Path, *words: str) -> subprocess.Popen:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder: Path, *words: str) -> tuple[int, str]:
    process = start(folder, *words)
    out, err = process.communicate(timeout=120)
    return process.returncode, out + err


def assert_same_weights_and_moments(folder: Path, reference: Path) -> None:
    ends = [read_checkpoint(newest_valid(f / "checkpoints")) for f in (folder, reference)]
    for name, tensor in ends[1]["state_dict"].items():
        assert torch.equal(ends[0]["state_dict"][name], tensor), f"{name} differs"
    moments = [end["optimizer_states"][0]["state"] for end in ends]
    for index, state in moments[1].items():
        assert all(torch.equal(moments[0][index][key], value) for key, value in state.items())
    assert ends[0]["global_step"] == ends[1]["global_step"]


@pytest.mark.parametrize(("how", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129)])
def test_a_signal_at_an_odd_micro_batch_leaves_after_a_checkpoint_that_resumes_exactly(
    tiny, tmp_path, how, code
):
    found, said = finish(tmp_path / "run", "--at", "2", "--how", how, "--accumulate", "2")
    assert found == code, said
    assert len([line for line in said.splitlines() if "go on with:" in line]) == 1
    assert f"--ckpt_path {tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}" in said
    stopped = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert stopped["global_step"] == 2, "micro-batch 2 is the first half of step 2 and may not be saved alone"
    tiny.run(tmp_path / "run", resume=True, accumulate_grad_batches=2)
    tiny.run(tmp_path / "unbroken", accumulate_grad_batches=2)
    assert_same_weights_and_moments(tmp_path / "run", tmp_path / "unbroken")


def test_a_run_whose_terminal_is_closed_leaves_after_a_checkpoint(tmp_path):
    ours, theirs = os.openpty()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, str(SCRIPT), str(tmp_path / "run"), "--at", "2", "--how", "SIGHUP"]
    process = subprocess.Popen(words, env=environment, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.close(ours)
    assert process.wait(timeout=120) == 129
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 3


@pytest.mark.slow
def test_a_killed_run_with_workers_resumes_exactly(tiny, tmp_path):
    for number, at in enumerate(["4", "7", "12"]):
        words = ["--at", at, "--how", "SIGKILL", "--every", "1", "--workers", "2"]
        resume = ["--ckpt_path", "last"] if number else []
        assert finish(tmp_path / "run", *words, *resume)[0] == -signal.SIGKILL
    tiny.run(tmp_path / "run", resume=True)
    tiny.run(tmp_path / "unbroken")
    assert_same_weights_and_moments(tmp_path / "run", tmp_path / "unbroken")


@pytest.mark.slow
def test_a_signal_from_outside_stops_a_running_process(tmp_path):
    process = start(tmp_path / "run", "--every", "1")
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "record.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, out + err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "strike", "step"),
    [
        ([], ["--at", "1"], 2),
        (["--until_epoch", "1"], ["--at", "1"], 2),
        ([], ["--at", "3", "--validation"], 3),
    ],
)
def test_two_ranks_leave_at_the_same_step_when_one_is_hit_and_resume_exactly(tmp_path, more, strike, step):
    many = ["--devices", "2", *more]
    code, said = finish(tmp_path / "run", *many, *strike, "--rank", "1")
    assert code in (143, 1), said
    stopped = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert stopped["global_step"] == step
    assert len(stopped["callbacks"]["RandomState"]["ranks"]) == 2
    assert finish(tmp_path / "run", *many, "--ckpt_path", "last")[0] == 0
    assert finish(tmp_path / "unbroken", *many)[0] == 0
    assert_same_weights_and_moments(tmp_path / "run", tmp_path / "unbroken")


@pytest.mark.slow
def test_a_loss_that_one_rank_finds_later_is_in_no_checkpoint_of_the_other(tmp_path):
    words = ["--devices", "2", "--bad", "0", "--deferred", "--every", "1"]
    code, said = finish(tmp_path, *words)
    assert code == 1 and "the loss is nan at step" in said, said
    noted = json.loads((tmp_path / "nonfinite.jsonl").read_text())
    assert noted["rank"] == 1 and 0 in noted["index"]
    written = read_checkpoint(newest_valid(tmp_path / "checkpoints"))
    assert written["global_step"] == noted["step"]
    assert all(torch.isfinite(tensor).all() for tensor in written["state_dict"].values())


def test_handlers_are_given_back(tiny, tmp_path):
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    tiny.run(tmp_path / "whole", max_epochs=1)
    assert {number: signal.getsignal(number) for number in before} == before
    with pytest.raises(SystemExit):
        tiny.run(tmp_path / "stopped", at=2)
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_second_ctrl_c_leaves_at_once_unless_it_is_the_same_one(tmp_path, monkeypatch):
    stop = StopGracefully(tmp_path)
    for _ in range(3):  # tenths of a second apart
        stop._on_signal(signal.SIGINT, None)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3)
    stop._saving = True
    stop._on_signal(signal.SIGINT, None)
    stop._saving = False
    with pytest.raises(SystemExit) as leaving:
        stop._on_signal(signal.SIGINT, None)
    assert leaving.value.code == 130


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["/bin/dfm", "pde", "fit", "--config", "a b"], "dfm pde fit --config 'a b' --ckpt_path x.ckpt"),
        (["/x/core/cli/__main__.py", "pde", "fit"], "python -m core.cli pde fit --ckpt_path x.ckpt"),
        (["dfm", "fit", "--ckpt_path", "last", "-v"], "dfm fit -v --ckpt_path x.ckpt"),
        (["dfm", "fit", "--ckpt_path=last"], "dfm fit --ckpt_path x.ckpt"),
        (["go.py", "fit"], "python go.py fit --ckpt_path x.ckpt"),
    ],
)
def test_the_command_to_go_on_repeats_the_command_line(argv, command):
    assert resume_command("x.ckpt", argv) == command
