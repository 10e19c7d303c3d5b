"""Learning-rate schedules: recorded rates, torch's own one cycle, exact resume, and refusals."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from core.errors import UserError
from core.optim import (
    WSD,
    WSDS,
    Constant,
    Cosine,
    FlooredCosine,
    FreezeOut,
    Infinite,
    LinearRamp,
    OneCycle,
    Polynomial,
    RewarmCosine,
    ScheduleLR,
    Staircase,
    parameter_groups,
)
from core.optim.parity import CASES

ALL = [
    Constant(warmup=5),
    LinearRamp(),
    Cosine(),
    WSD(),
    WSD(shape="half"),
    WSDS(ends=(0.5, 1.0), rewarmup=3),
    Infinite(),
    RewarmCosine(ends=(0.4, 1.0), warmup=10),
    OneCycle(),
    FreezeOut(),
    Polynomial(power=0.9, warmup=0.2),
    Staircase(every=0.25),
]


def adamw(lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=lr)


def follow(optimizer: torch.optim.Optimizer, scheduler, steps: int) -> list[tuple[float, float]]:
    seen = []
    for _ in range(steps):
        seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"][0]))
        optimizer.step()
        scheduler.step()
    return seen


def test_recorded_rates_are_met(shared):
    folder = shared / "parity" / "recipes"
    case = SimpleNamespace(
        config=json.loads((folder / "schedules.json").read_text())["config"],
        tensors=load_file(folder / "schedules.safetensors"),
    )
    outputs = CASES["recipes", "schedules"](case)
    recorded = {name: tensor for name, tensor in case.tensors.items() if name.startswith("output/")}
    assert outputs.keys() == recorded.keys()
    for name, reference in recorded.items():
        error = (outputs[name] - reference).abs().max()
        assert error <= 1e-9 * reference.abs().max(), f"{name}: off by {error}"


@settings(max_examples=60, deadline=None)
@given(
    total=st.integers(2, 120),
    warmup=st.floats(0.0, 1.0),
    linear=st.booleans(),
    three_phase=st.booleans(),
    divisor=st.floats(1.0, 100.0),
    final=st.floats(1.0, 1e5),
    momenta=st.tuples(st.floats(0.0, 0.9), st.floats(0.0, 0.99)),
)
def test_one_cycle_equals_torch(total, warmup, linear, three_phase, divisor, final, momenta):
    theirs, ours = adamw(), adamw()
    try:
        reference = torch.optim.lr_scheduler.OneCycleLR(
            theirs,
            max_lr=0.1,
            total_steps=total,
            pct_start=warmup,
            anneal_strategy="linear" if linear else "cos",
            base_momentum=momenta[0],
            max_momentum=momenta[1],
            div_factor=divisor,
            final_div_factor=final,
            three_phase=three_phase,
        )
        expected = follow(theirs, reference, total)
    except ZeroDivisionError:  # torch divides by an empty phase
        return
    schedule = OneCycle(
        warmup=warmup,
        shape="linear" if linear else "cosine",
        divisor=divisor,
        final_divisor=final,
        three_phase=three_phase,
        base_momentum=momenta[0],
        max_momentum=momenta[1],
    )
    assert follow(ours, ScheduleLR(ours, schedule, total), total) == [
        (pytest.approx(rate, rel=1e-9, abs=1e-13), pytest.approx(beta, rel=1e-9, abs=1e-12))
        for rate, beta in expected
    ]


def test_polynomial_and_staircase_are_torchs() -> None:
    total = 23
    for ours, make in (
        (Polynomial(power=0.9), lambda o: torch.optim.lr_scheduler.PolynomialLR(o, total, 0.9)),
        (Staircase(every=5, gamma=0.7), lambda o: torch.optim.lr_scheduler.StepLR(o, 5, 0.7)),
    ):
        own, theirs = adamw(), adamw()
        expected = [rate for rate, _ in follow(theirs, make(theirs), total)]
        found = [rate for rate, _ in follow(own, ScheduleLR(own, ours, total), total)]
        assert found == pytest.approx(expected)


def test_the_warm_up_of_a_polynomial_scales_the_falling_rate() -> None:
    """The rule of mmsegmentation: update 3 of a warm-up of 10 from 1e-6 in a run of 100."""
    schedule = Polynomial(warmup=10, start=1e-6)
    assert schedule.factor(3, 100) == pytest.approx(0.97 * (1 - 0.7 * (1 - 1e-6)))
    assert schedule.factor(10, 100) == pytest.approx(0.9)


@settings(max_examples=30, deadline=None)
@given(total=st.integers(1, 50), start=st.floats(0.01, 1.0), end=st.floats(0.0, 1.0))
def test_linear_equals_torch(total, start, end):
    theirs, ours = adamw(), adamw()
    reference = torch.optim.lr_scheduler.LinearLR(theirs, start, end, total_iters=total)
    expected = follow(theirs, reference, total + 5)
    found = follow(ours, ScheduleLR(ours, LinearRamp(start=start, end=end, duration=total), 1000), total + 5)
    assert [rate for rate, _ in found] == pytest.approx([rate for rate, _ in expected], rel=1e-9, abs=1e-15)


@settings(max_examples=100, deadline=None)
@given(schedule=st.sampled_from(ALL), total=st.integers(20, 10_000), share=st.floats(0.0, 1.2))
def test_factors_stay_between_zero_and_the_peak(schedule, total, share):
    top = 2.0 if isinstance(schedule, FreezeOut) else 1.0
    assert 0.0 <= schedule.factor(int(share * total), total) <= top + 1e-12


@pytest.mark.parametrize("schedule", ALL, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("cut", [0, 1, 17, 39])
def test_a_resumed_schedule_equals_the_unbroken_one(schedule, cut, tmp_path):
    unbroken = adamw()
    expected = follow(unbroken, ScheduleLR(unbroken, schedule, 40), 40)
    first = adamw()
    scheduler = ScheduleLR(first, schedule, 40)
    begun = follow(first, scheduler, cut)
    torch.save({"optimizer": first.state_dict(), "scheduler": scheduler.state_dict()}, tmp_path / "state.pt")

    state = torch.load(tmp_path / "state.pt", weights_only=True)
    second = adamw(lr=0.7)
    resumed = ScheduleLR(second, schedule, 40)
    second.load_state_dict(state["optimizer"])
    resumed.load_state_dict(state["scheduler"])
    assert begun + follow(second, resumed, 40 - cut) == expected


def test_wsds_repeats_the_first_rate_of_each_decay_and_jumps_back_to_the_peak():
    schedule = WSDS(ends=(250, 500, 1000), warmup=50)
    assert schedule.factor(225, 1000) == schedule.factor(226, 1000) < 1.0
    assert schedule.factor(250, 1000) == 1.0


def test_half_life_decay_halves():
    schedule = WSD(warmup=0, decay=100, shape="half", half_life=20, minimum=0.0)
    assert [schedule.factor(s, 1000) for s in (900, 920, 960)] == [1.0, 0.5, 0.125]


def test_infinite_in_steps_needs_no_end():
    schedule = Infinite(warmup=10, cooldown=100, constant=None, level=0.4)
    assert schedule.factor(10**9, float("inf")) == 0.4


def test_each_layer_freezes_at_its_own_time_and_early_ones_first():
    schedule = FreezeOut(first=0.5, cubic=False, scaled=True)
    assert schedule.layer_factor(0, 100, layer=0, layers=3) == 2.0
    assert schedule.layer_factor(50, 100, layer=0, layers=3) == 0.0
    assert schedule.layer_factor(50, 100, layer=1, layers=3) > 0.0
    assert schedule.layer_factor(75, 100, layer=1, layers=3) == 0.0


def test_groups_with_depth_get_their_own_rates():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    network.blocks = lambda: [network[1]]
    optimizer = torch.optim.SGD(parameter_groups(network, lr=1.0, layer_decay=1.0), lr=1.0)
    ScheduleLR(optimizer, FreezeOut(first=0.5, cubic=False), 10)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([2.0, 4 / 3, 1.0])


def test_one_cycle_refuses_an_optimizer_without_momentum():
    optimizer = torch.optim.Adagrad([torch.nn.Parameter(torch.ones(1))])
    with pytest.raises(UserError, match=r"Adagrad.*cycle_momentum"):
        ScheduleLR(optimizer, OneCycle(), 10)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Cosine(warmup=-1), "warmup is -1; a number of steps must be at least 0"),
        (lambda: Cosine(warmup=1.5), r"warmup is 1.5; a share of the run must be 0.0 to 1.0"),
        (lambda: Cosine(warmup=True), "warmup is True"),
        (lambda: Cosine(minimum=2.0), "minimum is 2.0; it must be at least 0 and at most 1"),
        (lambda: Cosine(minimum=float("nan")), "minimum is nan"),
        (lambda: WSD(shape="inv", minimum=0.0), "minimum is 0.0; it must be above 0"),
        (lambda: WSD(shape="linaer"), "did you mean 'linear'"),
        (lambda: WSDS(ends=()), "ends is empty"),
        (lambda: WSDS(ends=(0.5, 2.0)), "an end is 2.0"),
        (lambda: WSDS(ends=(500, 250)).factor(0, 1000), "must ascend"),
        (lambda: OneCycle(divisor=0.0), "divisor is 0.0; it must be above 0 and finite"),
        (lambda: Cosine().factor(0, float("inf")), "set trainer.max_steps"),
        (lambda: Infinite().factor(0, float("inf")), "a share of the run, which has no length"),
    ],
)
def test_values_out_of_range_are_refused_with_what_is_allowed(build, message):
    with pytest.raises(UserError, match=message):
        build()


HLAT = FlooredCosine(warmup=2000, length=500_000, floor=0.1)


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.0),
        (1000, 0.5),
        (2000, 1.0),
        (251_000, 0.5),
        (100_000, 0.5 * (1 + math.cos(math.pi * 98_000 / 498_000))),
        (400_000, 0.1),
        (499_999, 0.1),
        (600_000, 0.1),
    ],
)
def test_hlats_factors(step, factor):
    assert HLAT.factor(step, 500_000) == pytest.approx(factor, abs=1e-12)


def test_the_curve_flattens_where_the_cosine_meets_the_floor():
    meeting = 2000 + 498_000 * math.acos(-0.8) / math.pi

    assert (meeting - 2000) / 498_000 == pytest.approx(0.795, abs=1e-3)
    assert HLAT.factor(math.floor(meeting) - 10, math.inf) > 0.1
    assert HLAT.factor(math.ceil(meeting), math.inf) == 0.1


def test_a_plateau_delays_the_decay():
    stable = FlooredCosine(warmup=10, plateau=60, length=100, floor=0.0)

    assert [stable.factor(step, 100) for step in (10, 70, 85, 100)] == pytest.approx([1, 1, 0.5, 0])


def test_a_share_of_a_run_without_an_end_is_refused():
    with pytest.raises(UserError, match="needs the run's length"):
        FlooredCosine().factor(3000, math.inf)
