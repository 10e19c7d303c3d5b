"""Runs whose checkpoints are folders, written at once or in a thread: resumed, kept, linked, put back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from checkpointed import final

from core.checkpoints.files import read_checkpoint
from core.checkpoints.manifest import is_sharded
from core.resume import RandomState
from core.resume.streams import capture, restore

SCRIPT = Path(__file__).with_name("tiny_run.py")
HOW = {
    "folders": {"sharded": True},
    "folders from a thread": {"sharded": True, "asynchronous": True},
    "files from a thread": {"asynchronous": True},
}


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture(scope="module")
def unbroken(tiny, tmp_path_factory):
    """What a run that never stopped, with single files, ends with."""
    folder = tmp_path_factory.mktemp("unbroken")
    tiny.run(folder / "plain")
    tiny.run(folder / "averaged", ema=True)
    return {name: final(folder / name) for name in ("plain", "averaged")}


@pytest.mark.parametrize("how", HOW)
def test_chain_of_signals_equals_unbroken_run_with_single_files(tiny, unbroken, tmp_path, how):
    for number, at in enumerate([3, 6, 13]):
        with pytest.raises(SystemExit):
            tiny.run(tmp_path, at=at, resume=number > 0, **HOW[how])
    tiny.run(tmp_path, resume=True, **HOW[how])

    assert same(final(tmp_path), unbroken["plain"])


@pytest.mark.parametrize("how", ["folders", "folders from a thread"])
def test_averaged_weights_resume_from_folders_and_files_in_turn(tiny, unbroken, tmp_path, how):
    with pytest.raises(tiny.Killed):
        tiny.run(tmp_path, at=5, how="kill", every=1, ema=True, **HOW[how])
    with pytest.raises(tiny.Killed):
        tiny.run(tmp_path, at=10, how="kill", every=1, ema=True, resume=True)
    tiny.run(tmp_path, resume=True, ema=True, **HOW[how])

    assert same(final(tmp_path), unbroken["averaged"])


@pytest.mark.parametrize("how", HOW)
def test_newest_and_best_are_kept_and_the_last_is_linked(tiny, tmp_path, how):
    task, _ = tiny.run(tmp_path, every=4, best=True, **HOW[how])
    folder = tmp_path / "checkpoints"

    found = sorted(path.name for path in folder.iterdir())
    assert found == ["best.ckpt", "last.ckpt", "step00000020.ckpt", "step00000021.ckpt"]
    assert all(is_sharded(folder / name) == ("sharded" in HOW[how]) for name in found)
    assert (folder / "last.ckpt").resolve().name == "step00000021.ckpt"
    assert same(dict(task.state_dict()), dict(read_checkpoint(folder / "best.ckpt")["state_dict"]))


@pytest.mark.slow
def test_a_run_killed_again_and_again_while_a_thread_writes_resumes_exactly(tiny, unbroken, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
    for number, at in enumerate(["4", "9", "15"]):
        words = ["--at", at, "--how", "SIGKILL", "--every", "1", "--sharded", "--asynchronous"]
        words += ["--ckpt_path", "last"] if number else []
        done = subprocess.run(
            [sys.executable, str(SCRIPT), str(tmp_path), *words], env=environment, timeout=120, check=False
        )
        assert done.returncode == -signal.SIGKILL
    tiny.run(tmp_path, resume=True, sharded=True, asynchronous=True)

    assert same(final(tmp_path), unbroken["plain"])


def streams(*seeds: int) -> dict:
    """What a checkpoint of as many processes holds, each with a seed of its own."""
    kept = []
    for seed in seeds:
        torch.manual_seed(seed)
        kept.append(capture())
    return {"ranks": kept}


def drawn(state: dict, *, rank: int, world: int, data_rank: int | None = None) -> float:
    """What a rank draws first after it was resumed."""
    before = capture()
    callback = RandomState()
    callback.load_state_dict(state)
    strategy = SimpleNamespace(
        distributed_sampler_kwargs={"rank": rank if data_rank is None else data_rank, "num_replicas": world}
    )
    trainer = SimpleNamespace(world_size=world, global_rank=rank, is_global_zero=rank == 0, strategy=strategy)
    callback.on_train_start(trainer, None)
    number = float(torch.rand(()))
    restore(before)
    return number


def test_streams_are_each_ranks_own_where_the_number_is_the_same(capsys):
    state = streams(1, 2)
    expected = []
    for kept in state["ranks"]:
        restore(kept)
        expected.append(float(torch.rand(())))

    assert [drawn(state, rank=rank, world=2) for rank in range(2)] == expected
    assert capsys.readouterr().out == ""


def test_streams_that_were_equal_stay_equal_for_any_number(capsys):
    torch.manual_seed(3)
    expected = float(torch.rand(()))

    assert {drawn(streams(3, 3, 3, 3), rank=rank, world=2) for rank in range(2)} == {expected}
    assert capsys.readouterr().out == ""


def test_other_streams_are_derived_alike_every_time_and_said_once(capsys):
    state = streams(1, 2, 3, 4)

    first = [drawn(state, rank=rank, world=2) for rank in range(2)]

    assert first == [drawn(state, rank=rank, world=2) for rank in range(2)]
    assert first[0] != first[1]
    assert drawn(state, rank=1, world=2, data_rank=0) == first[0], "tensor-parallel peers draw alike"
    said = capsys.readouterr().out.splitlines()
    assert set(said) == {
        "random streams: the checkpoint has those of 4 processes and this run has 2; new ones are derived "
        "from the first"
    }
