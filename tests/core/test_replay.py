"""The plan of roll-out training: what the buffer holds at every step."""

from __future__ import annotations

import pytest

from core.data.replay import Replay, ReplayBatches, ReplayStep
from core.data.sampler import ResumableSampler
from core.errors import UserError


def steps(
    replay: Replay, *, epoch: int = 0, start: int = 0, length: int = 40, reach: int = 12, **how: int
) -> list[ReplayStep]:
    sampler = ResumableSampler(length, seed=3, batch_size=2, **how)
    sampler.epoch, sampler.start = epoch, start
    batches = ReplayBatches(sampler, 2, replay=replay, reach=lambda index: reach, hours=6.0)
    return [step for (step,) in batches]


SMALL = Replay(capacity=5, refresh=4, leads={0: 24.0, 10: 60.0})


def test_a_resumed_plan_is_the_unbroken_one() -> None:
    whole = steps(SMALL) + steps(SMALL, epoch=1)
    assert steps(SMALL, start=2 * 7) == whole[7:20]
    assert steps(SMALL, epoch=1, start=2 * 3) == whole[23:]


def test_the_buffer_never_holds_more_than_its_capacity() -> None:
    held: set[int] = set()
    for step in steps(SMALL):
        held |= {step.fresh[0]} if step.fresh else set()
        assert step.drawn in held
        held |= {step.added} if step.added is not None else set()
        held -= set(step.dropped)
        assert 0 < len(held) <= 5


def test_fresh_states_come_at_every_refresh() -> None:
    fresh = [number for number, step in enumerate(steps(SMALL)) if step.fresh is not None]
    assert fresh == [0, 4, 8, 12, 16]


def test_leads_grow_to_the_longest_that_is_allowed() -> None:
    plan = [step for epoch in range(20) for step in steps(SMALL, epoch=epoch)]
    assert max(step.lead for step in plan[:10]) <= 3
    assert max(step.lead for step in plan) == 9  # 60 hours are ten steps of six


def test_no_step_goes_beyond_the_data() -> None:
    plan = [step for epoch in range(10) for step in steps(SMALL, epoch=epoch, reach=3)]
    assert max(step.lead for step in plan) == 2


def test_every_sample_starts_once_in_a_pass_over_the_data() -> None:
    plan = [step for epoch in range(4) for step in steps(Replay(refresh=4), epoch=epoch)]
    started = [index for step in plan if step.fresh for turn, index in step.fresh[1] if turn == 0]
    assert sorted(started) == list(range(40))


def test_processes_start_from_different_samples() -> None:
    first, second = (steps(SMALL, rank=rank, world=2) for rank in (0, 1))
    begun = [{pair for step in plan if step.fresh for pair in step.fresh[1]} for plan in (first, second)]
    assert begun[0] and not begun[0] & begun[1]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"capacity": 0}, "model.replay.capacity is 0"),
        ({"refresh": 0}, "model.replay.refresh is 0"),
        ({"leads": {100: 24.0}}, "the first of which is 0"),
        ({"leads": {0: -6.0}}, "hours above 0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Replay(**wrong)
