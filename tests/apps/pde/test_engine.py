"""The diesel engine: steady states an engine can have, convergence, and windows that chain."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.pde.data import DrivenSeries, Fields, Generation
from apps.pde.models.chained import Chained, chain
from apps.pde.models.deeponet import DeepONet
from apps.pde.simulation.families import family
from apps.pde.simulation.families.diesel_engine import DURATION, RANGES, commands_at
from apps.pde.simulation.solvers.diesel_engine import (
    COMMANDS,
    OUTPUTS,
    Engine,
    derivative,
    solve_engine,
    steady_state,
)
from core.data.sample_store import Store
from core.errors import UserError


def at(speed: float, fuel: float, egr: float, vgt: float) -> torch.Tensor:
    return torch.tensor([[speed], [fuel], [egr], [vgt]], dtype=torch.float64)


@pytest.fixture(scope="module")
def map_of_states() -> tuple[torch.Tensor, torch.Tensor]:
    """Commands `(4, B)` over their whole ranges and the states in which the engine comes to rest."""
    axes = [torch.linspace(low, high, 4, dtype=torch.float64) for low, high in RANGES]
    commands = torch.stack([one.flatten() for one in torch.meshgrid(*axes, indexing="ij")])
    return commands, steady_state(commands)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """The first 10 seconds of four trajectories of the family, 100 samples."""
    d, one = drawn(4), family("diesel_engine")
    times = torch.arange(100, dtype=torch.float64) * 0.1
    outputs = solve_engine(lambda t: commands_at(d, t), times)
    outputs[:, :2] /= 1e5
    values = torch.cat([commands_at(d, times).transpose(0, 1), outputs], dim=1)[:, None]
    made = Store.create(
        tmp_path_factory.mktemp("engine") / "store",
        samples=4,
        channels=one.channels,
        times=[0.0],
        coordinates=[times.numpy()],
        units=one.units,
    )
    made.write(range(4), values.float().numpy())
    return made.path


def drawn(count: int) -> dict[str, torch.Tensor]:
    one = family("diesel_engine")
    samples = [one.draw(torch.Generator().manual_seed(i), one.parameters) for i in range(count)]
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def test_the_engine_comes_to_rest_everywhere(map_of_states):
    commands, states = map_of_states

    rates = derivative(states, commands, Engine())

    assert (rates[:2].abs() < 1).all(), "pressures drift by more than 1 Pa a second"
    assert (rates[2:].abs() < 1e-3).all()


def test_states_at_rest_are_those_of_an_engine(map_of_states):
    _, states = map_of_states
    low = torch.tensor([0.9e5, 1.0e5, 0.005, 305.0, 0, 0, 0], dtype=torch.float64)
    high = torch.tensor([3.5e5, 4.0e5, 0.12, 400.0, 100, 100, 100], dtype=torch.float64)

    assert (states.T.clamp(low, high) == states.T).all()
    assert states[0].max() > 2.3e5, "no boost at full load"


ACTIONS = {
    "fuel boosts": (at(1500, 60, 0, 50), at(1500, 160, 0, 50), "p_im", 1),
    "speed boosts": (at(1000, 100, 0, 50), at(1800, 100, 0, 50), "p_im", 1),
    "vanes hold back": (at(1500, 100, 0, 20), at(1500, 100, 0, 90), "p_em", -1),
    "vanes boost": (at(1500, 100, 0, 20), at(1500, 100, 0, 90), "p_im", -1),
    "EGR relieves": (at(1500, 100, 0, 40), at(1500, 100, 80, 40), "p_em", -1),
    "load heats": (at(1500, 60, 0, 50), at(1500, 160, 0, 50), "T_1", 1),
}


@pytest.fixture(scope="module")
def rests() -> dict[str, torch.Tensor]:
    """The states `(7, 2)` before and after each action."""
    commands = torch.cat([torch.cat([less, more], dim=1) for less, more, *_ in ACTIONS.values()], dim=1)
    return dict(zip(ACTIONS, steady_state(commands).split(2, dim=1), strict=True))


@pytest.mark.parametrize("action", list(ACTIONS))
def test_commands_act_the_way_they_do_on_an_engine(rests, action):
    _, _, output, sign = ACTIONS[action]

    before, after = rests[action][OUTPUTS.index(output)].tolist()

    assert sign * (after - before) > 0


def test_the_egr_valve_overshoots_and_the_vanes_do_not():
    before, after = at(1500, 100, 0, 20), at(1500, 100, 50, 80)
    times = torch.linspace(0, 1, 101, dtype=torch.float64)

    out = solve_engine(lambda t: after[..., None].expand(4, 1, len(t)), times, start=steady_state(before))[0]

    engine = Engine()
    valve = engine.egr_gain * out[4] - (engine.egr_gain - 1) * out[5]
    assert 51 < valve.max() < 65
    assert abs(valve[-1] - 50) < 0.5
    exact = 80 - 60 * torch.exp(-times / engine.vgt_lag)
    torch.testing.assert_close(out[6], exact, rtol=0, atol=0.05)


def test_halving_the_step_takes_the_error_to_a_sixteenth():
    middle, swing = at(1500, 90, 30, 60), at(200, 20, 10, 10)
    times = torch.linspace(0, 1, 5, dtype=torch.float64)
    start = steady_state(middle)

    def commands(t: torch.Tensor) -> torch.Tensor:
        return middle[..., None] + swing[..., None] * torch.sin(2 * math.pi * t)

    coarse, fine, finest = (
        solve_engine(commands, times, start=start, step=step) for step in (0.01, 0.005, 0.0025)
    )

    ratio = (coarse - fine).abs().amax((0, 2)) / (fine - finest).abs().amax((0, 2))
    assert (ratio > 11).all()
    assert ((coarse - fine)[:, :2].abs() < 5).all(), "more than 5 Pa"


def test_a_jump_between_steps_does_not_spoil_the_accuracy():
    d = drawn(2)
    times = torch.arange(40, dtype=torch.float64) * 0.2
    start = steady_state(commands_at(d, times[:1])[..., 0])

    coarse, fine = (
        solve_engine(lambda t: commands_at(d, t), times, start=start, step=s) for s in (0.01, 0.005)
    )

    assert ((coarse - fine)[:, :2].abs() < 100).all(), "more than 1 mbar"


def test_commands_stay_in_range_and_the_speed_has_no_jumps():
    times = torch.linspace(0, DURATION, 6001, dtype=torch.float64)

    commands = commands_at(drawn(20), times)

    low, high = torch.tensor(RANGES, dtype=torch.float64).T[..., None, None]
    assert commands.shape == (4, 20, 6001)
    assert ((commands >= low) & (commands <= high)).all()
    assert (commands[0].diff() / 0.01).abs().max() < 4000, "rpm a second"
    assert commands[1].diff().abs().max() > 50, "fuel jumps"


def test_a_sample_is_the_same_alone_and_in_a_batch():
    times = torch.arange(4, dtype=torch.float64) * 0.2
    both, alone = drawn(2), {name: values[1:] for name, values in drawn(2).items()}

    outs = [
        solve_engine(
            lambda t, d=d: commands_at(d, t), times, start=steady_state(commands_at(d, times[:1])[..., 0])
        )
        for d in (both, alone)
    ]

    torch.testing.assert_close(outs[0][1], outs[1][0], rtol=1e-12, atol=1e-9)


def windows(store: Path, **more) -> Fields:
    """Windows of 20 samples unless `more` says otherwise."""
    how = {"path": str(store), "inputs": list(COMMANDS), "outputs": list(OUTPUTS), "trajectories": 2}
    how |= {"val_trajectories": 1, "test_trajectories": 1, "windows": DrivenSeries()}
    return Fields(**(how | more))


@pytest.mark.slow
def test_the_family_generates_and_its_windows_read_it(tmp_path):
    data = Fields(
        generate=Generation({"diesel_engine": 4}, resolution=100, folder=str(tmp_path / "store")),
        windows=DrivenSeries(window=30, stride=30), val_trajectories=1, test_trajectories=1,
    )  # fmt: skip

    assert [len(part) for part in (data.train_set(), data.val_set(), data.test_set())] == [6, 3, 1]
    assert data.test_set()[(0, 0)].targets.shape == (1, 1, 7, 90)
    assert data.facts.licences and data.facts.outputs == OUTPUTS


def test_windows_begin_where_the_outputs_stood(store):
    data = windows(store, windows=DrivenSeries(stride=7))

    batch = data.train_set().__getitems__([(0, 0), (0, 1), (0, 12)])
    facts, raw = data.facts.datasets[0], Store.open(store).read(0, [0])[0]
    mean, std = (
        np.array([*values[:4], *outputs], dtype=np.float32)[:, None]
        for values, outputs in ((facts.mean, facts.out_mean), (facts.std, facts.out_std))
    )
    values = torch.from_numpy((raw - mean) / std)

    assert batch.inputs.shape == (3, 1, 11, 20)
    assert batch.targets.shape == (3, 1, 7, 20)
    assert batch.trajectory.tolist() == [0, 0, 1]
    assert torch.equal(batch.targets[1, 0], values[4:, 8:28])
    assert torch.equal(batch.inputs[1, 0, :4], values[:4, 7:27])
    assert torch.equal(batch.inputs[1, 0, 4:], values[4:, 7:8].expand(-1, 20))
    assert len(data.train_set()) == 2 * 12


def test_facts_say_how_to_get_back_to_bar_and_kelvin(store):
    data = windows(store)

    facts = data.facts

    one = facts.datasets[0]
    scale = dict(zip(facts.outputs, zip(one.out_mean, one.out_std, strict=True), strict=True))
    pressure = data.test_set()[(0, 0)].targets[0, 0, 0] * scale["p_im"][1] + scale["p_im"][0]
    assert 0.9 < pressure.min() < pressure.max() < 3.5
    assert facts.inputs == (*COMMANDS, *(f"initial {name}" for name in OUTPUTS))
    assert len(one.mean) == len(facts.inputs)
    assert one.units["initial p_im"] == "bar"
    assert facts.space == (20,)
    assert one.coordinates["x"] == pytest.approx((0.0, 0.1 * 19, 20))


def test_statistics_of_a_checkpoint_are_taken(store):
    first, second = windows(store), windows(store, trajectories=1)
    facts = first.facts

    second.use_statistics(facts)

    assert second.facts.datasets[0].out_mean == facts.datasets[0].out_mean


def test_the_exact_operator_chains_to_the_exact_trajectory(store):
    data = windows(store, windows=DrivenSeries(window=33))
    batch = data.test_set()[(0, 0)]
    truth = batch.targets[0, 0]

    class Known(DeepONet):
        """Adds the true change over a window, whichever value it is told to start from."""

        calls = 0

        def forward(self, fields: torch.Tensor, points: torch.Tensor | None = None) -> torch.Tensor:
            first = self.calls * 33
            self.calls += 1
            before = batch.inputs[0, 0, 4:, 0] if first == 0 else truth[:, first - 1]
            return fields[:, 4:] + (truth[:, first : first + 33] - before[:, None])

    network = Chained(Known(resolution=(33,), in_channels=11, out_channels=7, constants=7))
    out = network.advance(batch.inputs)

    assert truth.shape == (7, 99)
    torch.testing.assert_close(out[0, 0], truth, rtol=0, atol=1e-5)


def test_a_chain_takes_each_windows_last_value_on():
    torch.manual_seed(0)
    network = DeepONet(resolution=(5,), in_channels=3, out_channels=1, constants=1)
    commands, initial = torch.randn(2, 2, 15), torch.randn(2, 1)

    out = chain(network, commands, initial, window=5)

    first = network(torch.cat([commands[..., :5], initial[..., None].expand(2, 1, 5)], 1))
    second = network(torch.cat([commands[..., 5:10], first[..., -1:].expand(2, 1, 5)], 1))
    torch.testing.assert_close(out[..., :10], torch.cat([first, second], -1))
    with pytest.raises(ValueError, match="no multiple of a window of 5"):
        chain(network, commands[..., :7], initial, window=5)


def test_a_network_on_any_grid_cannot_be_chained():
    from apps.pde.models.fno import FNO

    with pytest.raises(UserError, match="a fixed resolution and one frame"):
        Chained(FNO(modes=(4,)))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (lambda: {"windows": DrivenSeries(window=0)}, "data.windows.window is 0"),
        (lambda: {"windows": DrivenSeries(window=100)}, "has 100 samples; windows have 100"),
        (lambda: {"trajectories": 9}, "data.trajectories is 9, but 2 of 4 are for training"),
        (lambda: {"outputs": ["p_in"]}, "did you mean 'p_im'"),
    ],
)
def test_data_that_do_not_fit_are_refused_in_one_sentence(store, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        windows(store, **arguments()).setup()
