"""Aurora's networks for air pollution and for ocean waves."""

from __future__ import annotations

import datetime
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from apps.weather.batch import Grid, States, Variables, WeatherBatch
from apps.weather.data.published import published_scaling
from apps.weather.models.aurora import AuroraAirPollution, AuroraWave, PerceiverShape, RolloutLoRA, SwinShape
from apps.weather.models.aurora.air_pollution import clock_features
from apps.weather.models.forecast import forecast, learnt, next_batch, prepared, rollout
from apps.weather.tasks.objective import WeightedAbsolute
from core.errors import UserError

SHAPE = SwinShape((2, 2, 2), (1, 1), (1, 2), (1, 1), (2, 1))
HEADS = PerceiverShape(heads=2)
GRID = Grid(np.linspace(60, -60, 8), np.arange(0, 360, 30.0))


def drawn(network: torch.nn.Module) -> torch.nn.Module:
    """Fill a network, whose blocks are identities at first, with small numbers."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(std=0.2)
    return network.eval()


def batch(variables: Variables, step: float, samples: int = 2) -> WeatherBatch:
    shape = (samples, 2, len(variables.atmospheric), len(variables.levels), *GRID.shape)
    return WeatherBatch(
        inputs=States(torch.randn(samples, 2, len(variables.surface), *GRID.shape), torch.randn(shape)),
        static=torch.rand(1, len(variables.static), *GRID.shape).expand(samples, -1, -1, -1),
        targets=None,
        time=torch.tensor([1655035200 + 47 * 3600 * n for n in range(samples)]),
        variables=variables,
        target_variables=variables,
        grid=GRID,
        step=step,
    )


def sample(whole: WeatherBatch, number: int) -> WeatherBatch:
    at = slice(number, number + 1)
    inputs = States(whole.inputs.surface[at], whole.inputs.atmospheric[at])
    return replace(whole, inputs=inputs, static=whole.static[at], time=whole.time[at])


POLLUTED = Variables(("2t", "pm2p5", "tcco"), ("z", "co", "so2"), (500.0, 850.0), ("lsm", "z", "static_co"))


def pollution(**changes: object) -> AuroraAirPollution:
    settings = {
        "surface": POLLUTED.surface, "atmospheric": POLLUTED.atmospheric, "static": POLLUTED.static,
        "width": 8, "patch": 2, "latent_levels": 2, "swin": SHAPE, "perceiver": HEADS, "step": 12.0,
        "lora": RolloutLoRA(),
        "positive": ("pm2p5", "tcco", "co", "so2"), "separate": ("co", "so2"), "level_condition": (500, 850),
    }  # fmt: skip
    return drawn(AuroraAirPollution(**{**settings, **changes}))  # type: ignore[return-value]


@torch.no_grad()
def test_samples_of_a_batch_are_predicted_as_each_alone() -> None:
    network, whole = pollution(), batch(POLLUTED, 12.0)

    together = network.advance(whole)

    for number in range(2):
        alone = network.advance(sample(whole, number))
        torch.testing.assert_close(together.surface[number : number + 1], alone.surface)
        torch.testing.assert_close(together.atmospheric[number : number + 1], alone.atmospheric)


@torch.no_grad()
def test_pollutants_change_from_their_own_earlier_state() -> None:
    network, whole = pollution(), batch(POLLUTED, 12.0)
    for name, head in network.decoder.surf_heads.items():
        head.weight.zero_()
        head.bias.fill_(0.5 if name.endswith("_mod") else 0.25)

    surface = network.advance(whole).surface

    earlier = torch.stack([whole.inputs.surface[:, 0, 1], whole.inputs.surface[:, 1, 2]], 1)
    torch.testing.assert_close(surface[:, 0, 0], torch.full_like(surface[:, 0, 0], 0.25))
    torch.testing.assert_close(surface[:, 0, 1:], 0.25 + 1.5 * earlier)


@torch.no_grad()
def test_sulphur_dioxide_near_the_ground_is_kept_from_growing() -> None:
    whole = batch(POLLUTED, 12.0)
    whole.inputs.atmospheric[:, :, 2] += 5

    so2 = pollution().advance(whole).atmospheric[:, :, 2]

    assert so2[:, :, 0].max() > 1
    assert so2[:, :, 1].max() == 1


def test_a_single_state_is_refused_where_changes_count_from_the_latest() -> None:
    whole = batch(POLLUTED, 12.0)

    with pytest.raises(UserError, match="tcco is predicted from 2 states"):
        pollution().advance(replace(whole, inputs=whole.inputs.at(slice(1, 2))))


def test_the_clock_is_that_of_the_calendar() -> None:
    moment = datetime.datetime
    moments = [
        moment(1970, 1, 1), moment(2000, 2, 29, 18), moment(2022, 6, 12, 12),
        moment(2023, 12, 31, 23), moment(2024, 3, 1, 6), moment(2100, 2, 28, 1),
    ]  # fmt: skip
    seconds = [round(x.replace(tzinfo=datetime.UTC).timestamp()) for x in moments]

    features = clock_features(torch.tensor(seconds))

    turns = [(x.hour / 24, x.weekday() / 7, x.day / 365.25) for x in moments]
    expected = [[f(2 * math.pi * x) for x in row for f in (math.cos, math.sin)] for row in turns]
    torch.testing.assert_close(features, torch.tensor(expected, dtype=torch.float64))


WAVY = Variables(
    ("2t", "swh", "mwd", "mwp", "shts", "mdts", "mpts", "wind", "dwi"), ("z",), (500.0,), ("lsm", "wmb")
)


def wave() -> AuroraWave:
    surface = (*WAVY.surface[:-1], "10u_wave", "10v_wave")
    return drawn(  # type: ignore[return-value]
        AuroraWave(surface, WAVY.static, WAVY.atmospheric, 2, 8, 2, SHAPE, HEADS)
    )


def sea_state() -> WeatherBatch:
    """A batch in which waves come from the north-east, with a calm corner and land in the west."""
    state = batch(WAVY, 6.0)
    state.inputs.surface[:] = torch.tensor([280.0, 2, 45, 8, 1, 350, 9, 10, 90])[:, None, None]
    state.inputs.surface[:, :, 1, :2, :2] = 0
    state.inputs.surface[:, :, 4, -1, -1] = 0
    state.inputs.atmospheric[:] = 54000
    depth = torch.ones(2, 2, *GRID.shape)
    depth[:, :, :, :3] = 0
    return replace(state, static=depth)


def field(states: States, variables: Variables, name: str) -> Tensor:
    return states.surface[:, :, variables.surface.index(name)]


def test_waves_are_prepared_once_and_for_all() -> None:
    ready = prepared(wave(), sea_state())
    again = prepared(wave(), ready)

    assert ready.variables.surface == (*WAVY.surface[:-1], "10u_wave", "10v_wave")
    values = {name: field(ready.inputs, ready.variables, name) for name in ready.variables.surface}
    torch.testing.assert_close(values["10u_wave"], torch.full_like(values["10u_wave"], -10))
    torch.testing.assert_close(values["10v_wave"], torch.zeros_like(values["10v_wave"]), atol=1e-5, rtol=0)
    for name in ("swh", "mwd", "mwp"):
        assert values[name][..., :2, :2].isnan().all() and values[name].isnan().sum() == 2 * 2 * 4
    assert values["shts"][..., -1, -1].isnan().all() and values["mdts"][..., -1, -1].isnan().all()
    assert not values["mpts"].isnan().any()
    assert torch.equal(again.inputs.surface.nan_to_num(-1), ready.inputs.surface.nan_to_num(-1))


@torch.no_grad()
def test_waves_roll_out_with_directions_in_degrees_and_none_over_land() -> None:
    network, start = wave(), sea_state()
    variables = prepared(network, start).variables

    states = list(rollout(network, start, published_scaling(variables), 2))

    for state in states:
        assert not field(state, variables, "2t").isnan().any()
        height, direction = field(state, variables, "swh"), field(state, variables, "mwd")
        assert height[..., :3].isnan().all() and direction[..., :3].isnan().all()
        assert not direction[..., 3:].isnan().all()
        seen = direction[~direction.isnan()]
        assert (seen >= 0).all() and (seen < 360).all()


@torch.no_grad()
def test_a_wave_is_where_its_density_says() -> None:
    network, start = wave(), sea_state()
    for name, bias in (("swh", -1.0), ("mwd", 1.0)):
        head = network.decoder.surf_heads[f"{name}_density"]
        head.weight.zero_()
        head.bias.fill_(bias)
    variables = prepared(network, start).variables

    state = forecast(network, start, published_scaling(variables))

    assert field(state, variables, "swh").isnan().all()
    assert not field(state, variables, "mwd")[..., 3:].isnan().any()


def test_waves_without_a_depth_are_refused() -> None:
    start = prepared(wave(), sea_state())
    variables = replace(start.variables, static=("lsm",))

    with pytest.raises(UserError, match="needs the static field wmb, the depth of the sea"):
        wave().advance(replace(start, variables=variables, static=start.static[:, :1]))


def test_waves_are_learnt_by_density_sine_and_cosine() -> None:
    network, start = wave(), sea_state()
    targets = start.inputs.at(slice(1, 2)).then(start.inputs.at(slice(1, 2)))
    variables = prepared(network, start).variables
    batch = learnt(network, replace(start, targets=targets), published_scaling(variables))

    first = network.advance(batch)
    second = network.advance(next_batch(batch, first))
    loss = WeightedAbsolute({"swh": 2.0})(first.then(second), batch.targets, batch.target_variables)
    loss.backward()

    names = batch.target_variables.surface
    assert [name for name in names if "mwd" in name] == ["mwd_sin", "mwd_cos", "mwd_density"]
    density = batch.targets.surface[:, :, names.index("swh_density")]
    assert density[..., :2, :2].max() == 0 and density.mean() > 0.9
    assert not first.surface.isnan().any() and loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    assert network.decoder.surf_heads["mwd_density"].weight.grad.abs().max() > 0


@torch.no_grad()
def test_the_data_as_learnt_give_the_same_forecast() -> None:
    network, start = wave(), sea_state()
    scaling = published_scaling(prepared(network, start).variables)
    plain = network.advance(scaling.normalised(prepared(network, start)))

    batch = learnt(network, start, scaling)
    seen = network.advance(batch)

    names = batch.variables.surface
    height = plain.surface[:, :, 1]
    there = ~height.isnan()
    torch.testing.assert_close(field(seen, batch.variables, "swh")[there], height[there])
    sea = slice(3, None)
    density = field(seen, batch.variables, "swh_density")
    assert torch.equal(density[..., sea] >= 0.5, there[..., sea])
    assert names[1:3] == ("swh", "swh_density")
