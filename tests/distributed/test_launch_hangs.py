"""A process that never comes, hangs or dies ends the others in one sentence after a time-out."""

from __future__ import annotations

import os
import signal

import pytest

TIMEOUT = "--launch.timeout=25"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_rank_that_never_comes_is_named(launching, tmp_path):
    end = launching.outcome(*launching.srun(tmp_path, [launching.words(tmp_path, "--launch.timeout=3")]))
    assert end.codes == [1]
    (sentence,) = launching.sentences(end.out)
    assert sentence.startswith("dfm: after 3 s only rank 0 of 2 came, not rank 1")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_stopped_ends_the_other(launching, tmp_path, rank):
    once = tmp_path / "stopped"
    how = {"batch": 2, "once": str(once), "rank": rank, "how": "SIGSTOP"}
    words = launching.words(tmp_path, TIMEOUT, strike=("Strike", how))
    started = launching.srun(tmp_path, [words, words])
    started[1 - rank].wait(timeout=120)
    os.kill(int(once.read_text()), signal.SIGKILL)  # as SLURM does once one of its tasks has failed
    end = launching.outcome(*started)
    assert end.codes[1 - rank] == 1, end.out
    assert len(launching.sentences(end.out)) == 1, end.out


def test_the_first_process_leaves_no_stopped_one_behind(launching, tmp_path):
    how = {"batch": 2, "once": str(tmp_path / "stopped"), "how": "SIGSTOP"}
    words = launching.words(tmp_path, TIMEOUT, strike=("Strike", how))
    end = launching.outcome(launching.first_process(tmp_path, words))
    assert end.codes == [1], end.out
    (sentence,) = launching.sentences(end.out)
    assert "rank 1" in sentence


def test_a_rank_that_hangs_while_its_threads_live_ends_the_run(launching, tmp_path):
    words = launching.words(tmp_path, "--launch.timeout=20", strike=("Sleep", {}))
    end = launching.outcome(launching.first_process(tmp_path, words))
    assert end.codes == [1], end.out
    assert len(launching.sentences(end.out)) == 1, end.out


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_is_named(launching, tmp_path, rank):
    how = {"batch": 2, "once": str(tmp_path / "killed"), "rank": rank}
    words = launching.words(tmp_path, strike=("Strike", how))
    end = launching.outcome(*launching.srun(tmp_path, [words, words]))
    assert end.codes[rank] == -9
    assert end.codes[1 - rank] == 1, end.out
    (sentence,) = launching.sentences(end.out)
    assert f"rank {rank}" in sentence


def test_the_first_process_says_which_of_its_own_was_killed(launching, tmp_path):
    how = {"batch": 2, "once": str(tmp_path / "killed")}
    words = launching.words(tmp_path, strike=("Strike", how))
    end = launching.outcome(launching.first_process(tmp_path, words))
    assert end.codes == [1], end.out
    (sentence,) = launching.sentences(end.out)
    assert sentence.startswith("dfm: rank 1 was killed by SIGKILL")
