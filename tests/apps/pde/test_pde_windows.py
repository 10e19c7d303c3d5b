"""Pairs, histories, steady samples and splits by position."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.pde.data.card_details import SplitCounts
from apps.pde.data.sources import fractions, split
from apps.pde.data.windows import (
    RandomHistories,
    every_history,
    pairs,
    whole_trajectory,
)
from core.data.cards import load_card
from core.errors import UserError

PRETRAINING = ("ns_sines", "ns_gauss", "ce_rp", "ce_crp", "ce_kh", "ce_gauss")


@given(st.integers(1, 24), st.integers(1, 4))
def test_pairs_are_all_ordered_ones_by_input_then_label(k, s):
    found = pairs(k, step=s)

    assert len(found) == (k + 1) * (k + 2) // 2
    assert found == sorted(found)
    assert all(i <= j and i % s == 0 and j % s == 0 and j <= k * s for i, j in found)
    assert len(set(found)) == len(found)


def test_pairs_of_the_default_setting_start_and_end_where_the_paper_says():
    found = pairs(7, step=2)

    assert found[:3] == [(0, 0), (0, 2), (0, 4)] and found[-2:] == [(12, 14), (14, 14)]
    assert len(found) == 36


def test_pretraining_sees_five_million_pairs():
    trajectories = []
    for name in PRETRAINING:
        counts = load_card(name).details["split"]
        trajectories.append(len(split(SplitCounts(**counts))[0]))

    assert sum(trajectories) == 2 * 19_640 + 4 * 9_640 == 77_840
    assert len(pairs(10, step=2)) == 66
    assert 66 * sum(trajectories) == 5_137_440


@given(st.integers(1, 10), st.sets(st.integers(0, 10), min_size=1))
def test_allowed_leads_leave_only_these(k, leads):
    if not any(lead <= k for lead in leads):
        with pytest.raises(UserError, match="leaves no pair"):
            pairs(k, step=2, lead_steps=sorted(leads))
        return

    found = pairs(k, step=2, lead_steps=sorted(leads))

    assert {(j - i) // 2 for i, j in found} == {lead for lead in leads if lead <= k}


def test_a_fixed_input_gives_one_pair_a_step():
    assert pairs(3, step=2, fix_input_to=4) == [(4, 6), (4, 8), (4, 10)]


def test_a_fixed_input_honours_the_allowed_leads():
    assert pairs(3, step=2, fix_input_to=4, lead_steps=[1, 3, 50]) == [(4, 6), (4, 10)]
    with pytest.raises(UserError, match="leaves no pair; it must hold numbers from 1 to 3"):
        pairs(3, fix_input_to=0, lead_steps=[0, 4])


@given(
    st.integers(2, 30), st.integers(1, 5), st.integers(1, 4), st.lists(st.integers(1, 8), min_size=1),
    st.integers(0, 9), st.integers(0, 9), st.integers(0, 999),
)  # fmt: skip
def test_histories_stay_inside_and_depend_on_seed_epoch_and_index_alone(t, f, h, strides, seed, epoch, index):
    if min(strides) * (f + h - 1) >= t:
        with pytest.raises(UserError, match="too few"):
            RandomHistories(t, frames=f, horizon=h, strides=strides)
        return
    windows = RandomHistories(t, frames=f, horizon=h, strides=strides)

    one = windows.window(seed, epoch, index, index % len(windows))
    again = RandomHistories(t, frames=f, horizon=h, strides=strides).window(seed, epoch, index, 0)

    steps = [*one.inputs, *one.labels]
    assert one == again and len(windows) == t
    assert len(one.inputs) == f and len(one.labels) == h
    assert steps[0] >= 0 and steps[-1] < t
    assert len({b - a for a, b in pairwise(steps)}) <= 1


def test_histories_reach_every_start_and_stride():
    windows = RandomHistories(9, frames=2, horizon=1, strides=(1, 2, 3))
    drawn = [windows.window(0, epoch, index, 0) for epoch in range(10) for index in range(40)]

    strides = {(one.inputs[0], one.inputs[1] - one.inputs[0]) for one in drawn}
    assert strides == {(start, s) for s in (1, 2, 3) for start in range(9 - 2 * s)}


def test_sources_of_a_mixture_draw_windows_of_their_own():
    windows = RandomHistories(100, frames=2)

    first, second = ([windows.window(0, 0, k, 0, source=one) for k in range(20)] for one in (0, 1))

    assert first != second


def test_evaluation_goes_over_every_start_once():
    windows = every_history(14, frames=4, horizon=1)

    starts = [windows.window(0, 0, 0, number).inputs[0] for number in range(len(windows))]
    assert starts == list(range(10))


def test_whole_trajectories_have_all_later_frames_as_labels():
    assert whole_trajectory(14, frames=4).window(0, 0, 0, 0).labels == tuple(range(4, 14))
    seven = whole_trajectory(21, frames=1, step=2, labels=7).window(0, 0, 0, 0)
    assert seven.labels == (2, 4, 6, 8, 10, 12, 14)
    assert whole_trajectory(1, frames=1, labels=0).window(0, 0, 0, 0).labels == ()
    with pytest.raises(UserError, match="none is left"):
        whole_trajectory(4, frames=4)


def test_whole_trajectories_can_start_at_every_frame_that_leaves_all_labels():
    windows = whole_trajectory(9, frames=2, step=2, labels=2, every=True)

    found = [windows.window(0, 0, 0, number) for number in range(len(windows))]
    assert [(one.inputs, one.labels) for one in found] == [
        ((0, 2), (4, 6)), ((1, 3), (5, 7)), ((2, 4), (6, 8)),
    ]  # fmt: skip
    assert windows.labels == 2 and len(whole_trajectory(9, frames=2, step=2, labels=2)) == 1


@given(st.integers(3, 40_000), st.integers(0, 300), st.integers(0, 300), st.sampled_from([-1, -2, -8, 5]))
def test_splits_by_position_do_not_overlap_and_the_test_does_not_move(total, val, test, n):
    left = total - val - test
    if left < max(1, n if n > 0 else -n):
        return
    train, validation, tested = split(SplitCounts(total, val, test), n)

    assert len(train) == (n if n > 0 else left // -n) and train.start == 0
    assert (validation.start, len(validation)) == (left, val)
    assert (tested.stop, len(tested)) == (total, test)
    assert train.stop <= validation.start and validation.stop == tested.start


def test_wrong_numbers_of_trajectories_are_one_sentence():
    with pytest.raises(UserError, match="70 of 100 are for training; give 1 to 70"):
        split(SplitCounts(100, 10, 20), 71)
    with pytest.raises(UserError, match="do not fit into 100"):
        SplitCounts(100, 60, 50)


@given(st.integers(1, 1000))
def test_small_sets_keep_something_to_train_on(total):
    counts = fractions(total)

    assert counts.total - counts.val - counts.test >= 1
