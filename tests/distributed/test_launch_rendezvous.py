"""Processes meet over a store: every attempt anew, or not at all in time. Threads stand for them here."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch.distributed as dist

from core.strategies.heartbeat import Heartbeat
from core.strategies.launch import RankInfo
from core.strategies.rendezvous import ProcessLost, Rendezvous, RunEnded, rank_list

WORLD = 3


@pytest.fixture
def store(launching):
    """The store that torchrun's agent would serve."""
    return dist.TCPStore("127.0.0.1", launching.free_port(), is_master=True, wait_for_workers=False)


@pytest.fixture
def threads():
    with ThreadPoolExecutor(2 * WORLD) as pool:
        yield pool


def rendezvous(store: dist.TCPStore, rank: int, timeout: float = 20.0, restarts: int = 0) -> Rendezvous:
    info = RankInfo("torchrun", rank, WORLD, WORLD, "127.0.0.1", store.port, False, "run", restarts)
    return Rendezvous(info, timeout=timeout)


def gathered(threads, store, ranks=range(WORLD), **how) -> list[Future]:
    """Let `ranks` come in this order, each once the one before is on its way."""

    def come(rank: int) -> Rendezvous:
        own = rendezvous(store, rank, **how)
        own.gather()
        return own

    return [threads.submit(come, rank) for rank in ranks]


def test_all_meet_and_hear_what_rank_zero_decides(store, threads):
    met = [future.result() for future in gathered(threads, store, (2, 0, 1))]
    met.sort(key=lambda one: one.info.rank)
    asked = [threads.submit(one.share, "folder", lambda one=one: f"runs/{one.info.rank}") for one in met]
    assert [future.result() for future in asked] == ["runs/0"] * WORLD


def test_a_second_attempt_meets_by_itself_over_the_same_store(store, threads):
    first = [future.result() for future in gathered(threads, store)]
    late = gathered(threads, store, (1, 2))  # they see the first attempt, open still, with other tokens
    time.sleep(0.3)
    assert not any(future.done() for future in late)
    second = [future.result() for future in [*gathered(threads, store, (0,)), *late]]
    assert {one.attempt for one in first} == {1}
    assert {one.attempt for one in second} == {2}


def test_an_attempt_that_broke_off_while_meeting_harms_no_later_one(store, threads):
    dead = gathered(threads, store, (0, 1), timeout=0.5)
    assert all(isinstance(future.exception(), ProcessLost) for future in dead)
    again = [future.result() for future in gathered(threads, store, (2, 1, 0))]
    assert {one.attempt for one in again} == {2}


def test_who_came_is_named_when_one_does_not(store, threads):
    errors = [future.exception() for future in gathered(threads, store, (0, 2), timeout=0.5)]
    assert all(isinstance(error, ProcessLost) for error in errors)
    assert "only ranks 0 and 2 of 3 came, not rank 1" in str(errors[0])


def test_who_came_is_named_when_rank_zero_does_not(store, threads):
    (error,) = [future.exception() for future in gathered(threads, store, (1,), timeout=0.5)]
    assert "only rank 1 of 3 came, not ranks 0 and 2" in str(error)


def test_a_store_that_nobody_serves_is_said_to_be_missing(launching):
    info = RankInfo("slurm", 1, 2, 2, "127.0.0.1", launching.free_port(), False)
    with pytest.raises(ProcessLost, match=r"rank 1 of 2 waited 0\.5 s in vain"):
        Rendezvous(info, timeout=0.5)


def test_a_mistake_before_the_meeting_is_said_once_and_ends_all_attempts(store, threads):
    waiting = gathered(threads, store, (0,))
    speaks = [rendezvous(store, rank).end(2, "no such file") for rank in (1, 2)]
    error = waiting[0].exception()
    assert speaks == [True, False]
    assert isinstance(error, RunEnded) and (error.code, error.text) == (2, "no such file")
    assert isinstance(gathered(threads, store, (1,), restarts=1)[0].exception(), RunEnded)


def test_a_loss_ends_one_attempt_and_not_the_next(store, threads):
    met = [future.result() for future in gathered(threads, store)]
    assert [one.end(1, "rank 2 is gone") for one in met] == [True, False, False]
    assert all(one.ended().code == 1 for one in met)
    assert all(future.result().ended() is None for future in gathered(threads, store))


def test_a_process_that_falls_silent_ends_the_others(store, threads, capsys):
    met = [future.result() for future in gathered(threads, store)]
    heartbeats = [Heartbeat(one, timeout=0.6, grace=60.0, interval=0.05) for one in met]
    for heartbeat in heartbeats[:2]:
        heartbeat.start()
    until = time.monotonic() + 10
    while not all(heartbeat.code for heartbeat in heartbeats[:2]) and time.monotonic() < until:
        time.sleep(0.05)
    said = capsys.readouterr().err
    for heartbeat in heartbeats[:2]:
        heartbeat.stop()
    assert [heartbeat.code for heartbeat in heartbeats[:2]] == [1, 1]
    assert said.count("dfm: ") == 1
    assert "rank 2 has given no sign of life" in said


def test_a_process_that_is_done_is_not_missed(store, threads):
    met = [future.result() for future in gathered(threads, store)]
    heartbeats = [Heartbeat(one, timeout=0.5, grace=60.0, interval=0.05) for one in met]
    for heartbeat in heartbeats:
        heartbeat.start()
    time.sleep(0.2)
    heartbeats[2].stop()
    time.sleep(1.0)
    codes = [heartbeat.code for heartbeat in heartbeats[:2]]
    for heartbeat in heartbeats[:2]:
        heartbeat.stop()
    assert codes == [None, None]


def test_a_run_of_another_name_in_the_same_store_is_another_run(store, threads):
    met = [future.result() for future in gathered(threads, store)]
    other = Rendezvous(replace(met[0].info, run="other"), timeout=1.0)
    met[0].end(2, "no such file")
    assert other.ended() is None


@pytest.mark.parametrize(
    ("ranks", "words"),
    [([], "no rank"), ([3], "rank 3"), ([0, 2, 5], "ranks 0, 2 and 5"), (list(range(99)), "99 ranks (0, 1,")],
)
def test_ranks_are_listed_as_one_would_say_them(ranks, words):
    assert rank_list(ranks).startswith(words)
