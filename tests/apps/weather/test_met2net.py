"""Met²Net: recorded runs, counts, official names, the two-stage step, and short records of one region."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from apps.weather.batch import Grid, States, Variables, WeatherBatch, WeatherFacts
from apps.weather.data.scaling import Scaling
from apps.weather.metrics.unweighted import UnweightedErrors
from apps.weather.models.daily_cycle import DailyCycle
from apps.weather.models.forecast import rollout
from apps.weather.models.met2net import (
    KEY_MAP,
    Met2Net,
    from_official_config,
    met2net_era5_128,
    met2net_mmfnist,
    met2net_wb1_4,
    met2net_wb1_5_fine,
    to_official_config,
)
from apps.weather.tasks import TwoStage
from core.data.normaliser import STATE, stored_facts
from core.errors import UserError
from core.parity import run_case

HOUR = 3600


def small(**changes: Any) -> Met2Net:
    settings = {"fields": 3, "history": 2, "width": 4, "translator_width": 16, "depth": 2, **changes}
    return Met2Net(**settings)


def windows(network: Met2Net, *, samples: int = 2) -> tuple[Tensor, Tensor]:
    return tuple(torch.randn(2, samples, network.history, network.fields, 8, 16))


def batch(*, history: int = 2, targets: int = 0) -> WeatherBatch:
    def states(count: int) -> States:
        return States(torch.randn(2, count, 1, 8, 16), torch.randn(2, count, 1, 2, 8, 16))

    variables = Variables(("2t",), ("z",), (500.0, 850.0))
    return WeatherBatch(
        inputs=states(history),
        static=torch.zeros(2, 0, 8, 16),
        targets=states(targets) if targets else None,
        time=torch.tensor([0, 5 * HOUR]),
        variables=variables,
        target_variables=variables,
        grid=Grid(np.linspace(60, 53, 8), np.arange(16.0)),
        step=1.0,
    )


def facts(**changes: Any) -> WeatherFacts:
    whole = batch()
    return replace(
        WeatherFacts(
            variables=whole.variables,
            target_variables=whole.variables,
            statistics={name: (0.0, 1.0) for name in whole.variables.names},
            latitude=tuple(whole.grid.latitude),
            longitude=tuple(whole.grid.longitude),
            history=2,
            step=1.0,
        ),
        **changes,
    )


@pytest.mark.parametrize("case", ["inference_three_variables", "train_two_variables", "train_with_drop_path"])
def test_recorded_runs_of_the_published_code_are_met(shared: Path, case: str) -> None:
    report = run_case(shared / "parity" / "met2net" / f"{case}.json")
    assert report.passed, str(report)


@pytest.mark.parametrize(
    ("named", "parameters"),
    [
        (met2net_wb1_4, 17_284_616),
        (met2net_wb1_5_fine, 18_046_730),
        (met2net_era5_128, 17_804_552),
        (met2net_mmfnist, 68_543_750),
    ],
)
def test_named_sizes_have_the_published_parameters(named: Any, parameters: int) -> None:
    with torch.device("meta"):
        network = named()
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_official_names_and_configuration_lead_there_and_back() -> None:
    network = small()
    state = network.state_dict()
    official = KEY_MAP.to_official(state)

    assert "hid_k.layers.1.ff.ff1.mlp.dwconv.dwconv.weight" in official
    assert "dec_q_list.2.dec.0.conv.conv.0.weight" in official
    back = KEY_MAP.from_official(official)
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)
    again = from_official_config(to_official_config(network))
    assert {name: one.shape for name, one in again.state_dict().items()} == {
        name: one.shape for name, one in state.items()
    }


def test_a_network_of_the_meta_device_is_drawn_as_any_other() -> None:
    with torch.device("meta"):
        network = small(cycle_grid=(8, 16))
    network.to_empty(device="cpu")
    torch.manual_seed(5)
    network.reset_parameters()
    other = small(cycle_grid=(8, 16))
    torch.manual_seed(5)
    other.reset_parameters()

    state = network.state_dict()
    assert all(torch.equal(one, state[name]) for name, one in other.state_dict().items())
    first, second = network.q.translator.layers
    assert torch.equal(first.tau.mlp.fc1.weight, second.tau.mlp.fc1.weight)
    assert torch.equal(
        network.q.encoders[1].units[0].convolution.weight, network.k.encoders[1].units[0].convolution.weight
    )


def test_the_averaged_translator_follows_after_the_backward_pass() -> None:
    network = small(momentum=0.75)
    with torch.no_grad():
        for parameter in network.q.parameters():
            parameter.add_(0.1)
    own, before = network.q.translator.conv1.weight, network.k.translator.conv1.weight.clone()
    network.two_stage(*windows(network)).total.backward()

    assert torch.equal(network.k.translator.conv1.weight, before)
    assert torch.equal(network.k.decoders[0].readout.weight, network.q.decoders[0].readout.weight)
    network.follow()
    torch.testing.assert_close(network.k.translator.conv1.weight, 0.75 * before + 0.25 * own)
    assert all(parameter.grad is None for parameter in network.k.parameters())


def test_an_evaluation_changes_nothing() -> None:
    network = small().eval()
    with torch.no_grad():
        network.q.translator.conv1.weight.add_(0.1)
    before = {name: one.clone() for name, one in network.state_dict().items()}
    x, y = windows(network)
    losses = network.two_stage(x, y, scored=True, reference_gradients=True)

    torch.testing.assert_close(losses.forecast, network(x))
    assert all(torch.equal(one, before[name]) for name, one in network.state_dict().items())


def test_all_frames_come_at_once_and_are_fed_back_at_once() -> None:
    network, whole = small().eval(), batch()
    scaling = Scaling({name: (0.0, 1.0) for name in whole.variables.names})
    with torch.no_grad():
        block = network.advance(whole)
        states = list(rollout(network, whole, scaling, 3))
        second = network.advance(replace(whole, inputs=block))

    assert block.surface.shape == (2, 2, 1, 8, 16) and block.atmospheric.shape == (2, 2, 1, 2, 8, 16)
    assert len(states) == 3 and states[0].steps == 1
    torch.testing.assert_close(states[1].atmospheric, block.atmospheric[:, 1:])
    torch.testing.assert_close(states[2].surface, second.surface[:, :1])


def test_a_daily_cycle_is_taken_off_and_put_back() -> None:
    times = torch.arange(72) * HOUR
    pattern = torch.randn(24, 1, 4, 4)
    noise = 0.5 * torch.tensor([1.0, -1.0, 0.0]).repeat_interleave(24)[:, None, None, None]
    fields = pattern.repeat(3, 1, 1, 1) + noise
    cycle = DailyCycle(1, (4, 4))
    cycle.learn([(times[:48], fields[:48]), (times[24:], fields[24:])])  # a day of both counts once
    anomalies = cycle.removed(fields[None], times[None])

    torch.testing.assert_close(cycle.mean, pattern)
    torch.testing.assert_close(anomalies.square().mean(), torch.tensor(1.0))
    torch.testing.assert_close(cycle.restored(anomalies, times[None])[0], fields)


def test_a_network_of_anomalies_forecasts_the_fields_themselves() -> None:
    network, whole = small(cycle_grid=(8, 16)).eval(), batch()
    network.cycle.mean.normal_()
    expected = (
        network(network.joined(whole.inputs, whole, first=-1))
        + network.cycle.mean[torch.tensor([[1, 2], [6, 7]])]
    )

    torch.testing.assert_close(network.advance(whole).surface, expected[:, :, :1])


def test_two_stages_learn() -> None:
    network = small(history=2, width=8)
    task = TwoStage(network)
    task.normaliser.facts = facts()
    optimizer = torch.optim.AdamW([one for one in network.parameters() if one.requires_grad], lr=1e-2)
    whole = batch(targets=2)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = task.loss(whole)
        loss.backward()
        network.follow()
        optimizer.step()
        losses.append(float(loss.detach()))

    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("changes", "network", "sentence"),
    [
        ({}, {"fields": 2}, "fields are 2 and the data has 3 .*model.network.fields=3"),
        ({"history": 4}, {}, "takes 2 states and data.history is 4"),
        ({"latitude": tuple(np.linspace(60, 53, 7))}, {}, "7 x 16 points .*data.patch=2"),
        ({}, {"cycle_grid": (4, 4)}, r"cycle_grid to \[8, 16\]"),
        ({"target_variables": Variables(("tp",))}, {}, "leave data.targets out"),
    ],
)
def test_data_that_do_not_fit_are_refused(changes: dict, network: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        TwoStage(small(**network)).check_facts(facts(**changes))


def test_windows_shorter_than_the_forecast_are_refused() -> None:
    task = TwoStage(small())
    task.normaliser.facts = facts()
    with pytest.raises(UserError, match=r"the windows have 1; give --data\.horizon=2"):
        task.loss(batch(targets=1))


@pytest.mark.parametrize(
    "settings", [{"coder_depth": 3}, {"width": 3}, {"translator_width": 12}, {"momentum": 2.0}]
)
def test_sizes_that_cannot_be_are_refused(settings: dict) -> None:
    with pytest.raises(UserError):
        small(**settings)


def test_a_checkpoint_of_averaged_weights_knows_the_data() -> None:
    task = TwoStage(small(), ema=0.99)
    task.normaliser.facts = facts()
    checkpoint: dict[str, Any] = {"state_dict": {STATE: {}}}  # a copy from before the data were known
    task.on_save_checkpoint(checkpoint)

    assert stored_facts(checkpoint["state_dict"], WeatherFacts, where="it").history == 2


def test_unweighted_errors_leave_out_points_without_a_truth() -> None:
    forecast, truth = batch(targets=2).targets, batch(targets=2).targets
    truth.surface[0, 0, 0, :4] = torch.nan
    errors = UnweightedErrors()
    for rows in ([0], [1]):
        errors.update("it", forecast.select(rows), truth.select(rows), batch().variables)
    errors.gather("cpu")
    table = {row["field"]: row for row in errors.table()}
    levels = (forecast.atmospheric - truth.atmospheric)[:, :, 0, 1].double()

    assert list(table) == ["2t", "z_500", "z_850"]
    assert table["z_850"]["mse"] == pytest.approx(float(levels.square().mean()))
    assert table["z_850"]["mae"] == pytest.approx(float(levels.abs().mean()))
    assert table["2t"]["mse"] == pytest.approx(float((forecast.surface - truth.surface).square().nanmean()))
