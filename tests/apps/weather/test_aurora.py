"""Aurora: expansions, variables that may be absent or new, corrections by step, sizes, and recorded cases."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.weather.batch import Grid, States, Variables, WeatherBatch
from apps.weather.data.scaling import Scaling
from apps.weather.models.aurora import (
    Aurora,
    PerceiverShape,
    RolloutLoRA,
    SwinShape,
    aurora_0p1,
    aurora_finetuned,
    aurora_large,
    aurora_small,
)
from apps.weather.models.aurora.fourier import LEAD_TIME, LEVEL, POSITION, TIME, grid_encodings
from apps.weather.models.forecast import rollout
from core.errors import UserError
from core.parity import run_case
from core.strategies.parallelise import checkpoint_blocks

SHAPE = SwinShape((2, 3, 4), (2, 1), (1, 2), (1, 2), (2, 1))
VARIABLES = Variables(("2t", "msl"), ("z", "q"), (500.0, 700.5), ("lsm",))
GRID = Grid(np.linspace(80, -80, 20), np.arange(0, 360, 15.0))


def aurora(**changes: object) -> Aurora:
    settings = {
        "surface": VARIABLES.surface, "atmospheric": VARIABLES.atmospheric, "static": VARIABLES.static,
        "width": 8, "patch": 2, "latent_levels": 2, "swin": SHAPE, "perceiver": PerceiverShape(heads=2),
    }  # fmt: skip
    torch.manual_seed(0)
    network = Aurora(**settings | changes)
    with torch.no_grad():
        for weight in network.parameters():  # so that no branch is switched off
            weight.add_(torch.randn_like(weight) * 0.1)
    return network.eval()


def batch(variables: Variables = VARIABLES, *, history: int = 2, samples: int = 2, **changes) -> WeatherBatch:
    draw = torch.Generator().manual_seed(1)
    levels = len(variables.levels)
    shape = (samples, history, len(variables.atmospheric), levels, *GRID.shape)
    fields = {
        "inputs": States(
            torch.randn(samples, history, len(variables.surface), *GRID.shape, generator=draw),
            torch.randn(shape, generator=draw),
        ),
        "static": torch.rand(samples, len(variables.static), *GRID.shape, generator=draw),
        "targets": None,
        "time": torch.tensor([1591012800 + 21600 * n for n in range(samples)]),
        "variables": variables,
        "target_variables": variables,
        "grid": GRID,
        "step": 6.0,
    }
    return WeatherBatch(**fields | changes)


def equal(states: States, others: States) -> bool:
    return torch.equal(states.surface, others.surface) and torch.equal(states.atmospheric, others.atmospheric)


@pytest.mark.parametrize(
    ("expansion", "number", "values"),
    [
        (POSITION, 45.0, [0, 0.87240, -0.58832, 0.38268, 1, 0.48880, -0.80863, 0.92388]),
        (LEAD_TIME, 6.0, [0, -0.33957, 0.72512, 0.07473, 1, -0.94058, -0.68862, 0.99720]),
        (LEVEL, 500.0, [0, 0.47868, 0.46636, 0.03141, 1, 0.87799, 0.88460, 0.99951]),
        (TIME, 442128.0, [0, -0.99298, -0.29108, 0.38740, 1, 0.11824, 0.95670, -0.92191]),
    ],
)
def test_expansions_have_the_published_values(expansion, number, values):
    torch.testing.assert_close(
        expansion(torch.tensor([number]), 8)[0], torch.tensor(values), atol=6e-6, rtol=0
    )


def test_numbers_beyond_the_wavelengths_are_refused_but_zero_is_not():
    assert LEAD_TIME(torch.zeros(1), 4).tolist() == [[0, 0, 1, 1]]
    with pytest.raises(UserError, match="a step in hours is 600"):
        LEAD_TIME(torch.tensor([6.0, 600.0]), 4)


def test_encodings_are_kept_for_a_grid_and_the_same_for_one_given_as_matrices():
    longitude, latitude = np.meshgrid(GRID.longitude, GRID.latitude)
    encodings = grid_encodings(GRID, 2, 8, torch.device("cpu"))

    assert grid_encodings(Grid(GRID.latitude, GRID.longitude), 2, 8, torch.device("cpu")) is encodings
    torch.testing.assert_close(
        grid_encodings(Grid(latitude, longitude), 2, 8, torch.device("cpu")), encodings
    )


@pytest.mark.parametrize(
    ("build", "tensors", "parameters"),
    [
        (aurora_large, 668, 1_256_300_176),
        (aurora_finetuned, 860, 1_259_150_992),
        (aurora_small, 332, 112_797_584),
        (aurora_0p1, 796, 1_201_987_972),
    ],
)
def test_named_sizes_have_the_published_parameters(build, tensors, parameters):
    with torch.device("meta"):
        network = build()

    assert len(network.state_dict()) == tensors
    assert sum(weight.numel() for weight in network.parameters()) == parameters


def test_a_network_from_the_meta_device_computes_after_a_reset():
    with torch.device("meta"):
        network = Aurora(
            VARIABLES.surface, VARIABLES.static, VARIABLES.atmospheric, 2, 8, 2, SHAPE, PerceiverShape(2),
            lora=RolloutLoRA(),
        )  # fmt: skip
    network.to_empty(device="cpu").reset_parameters()
    fresh = batch()
    tokens = network.encoder(fresh)

    states = network.advance(fresh)

    assert states.surface.isfinite().all()
    assert states.atmospheric.isfinite().all()
    # the blocks of a fresh network are the identity: the last stage's tokens pass by them all
    torch.testing.assert_close(network.backbone_tokens(fresh)[..., 8:], tokens)


def test_every_parameter_learns():
    shape = PerceiverShape(2, 2, 2, stabilise=True)
    network = aurora(lora=RolloutLoRA(), separate=("q",), perceiver=shape, latent_levels=4)
    states = network.advance(batch())
    (states.surface.square().mean() + states.atmospheric.square().mean()).backward()

    assert not [name for name, weight in network.named_parameters() if weight.grad is None]
    # a norm's shift of all keys is the same for all of them, and the softmax does not see it
    still = [name for name, weight in network.named_parameters() if not weight.grad.abs().max() > 1e-9]
    assert not [name for name in still if not name.endswith("ln_k.bias")]


def test_samples_are_predicted_as_each_alone():
    network, whole = aurora(), batch()
    states = network.advance(whole)
    for number in range(2):
        at = slice(number, number + 1)
        inputs = States(whole.inputs.surface[at], whole.inputs.atmospheric[at])
        alone = replace(whole, inputs=inputs, static=whole.static[at], time=whole.time[at])
        state = network.advance(alone)
        torch.testing.assert_close(state.surface, states.surface[at], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(state.atmospheric, states.atmospheric[at], atol=1e-5, rtol=1e-4)


def test_shared_queries_folded_into_the_keys_equal_queries_of_each_place():
    resampler = aurora().encoder.level_agg
    queries, tokens = torch.randn(3, 8), torch.randn(5, 4, 8)
    layer = resampler.layers[0]

    torch.testing.assert_close(resampler(queries, tokens), layer(queries.expand(5, -1, -1), tokens))


def test_a_new_variable_with_zero_kernels_changes_no_prediction_bitwise():
    old = aurora()
    new = aurora(surface=(*VARIABLES.surface, "tp"), atmospheric=(*VARIABLES.atmospheric, "w"))
    missing = new.load_state_dict(old.state_dict(), strict=False).missing_keys
    with torch.no_grad():
        new.encoder.surf_token_embeds.weights["tp"].zero_()
        new.encoder.atmos_token_embeds.weights["w"].zero_()
    more = replace(VARIABLES, surface=("2t", "msl", "tp"), atmospheric=("z", "q", "w"))
    whole = batch(more)
    fewer = States(whole.inputs.surface[:, :, :2], whole.inputs.atmospheric[:, :, :2])

    before = old.advance(replace(whole, inputs=fewer, variables=VARIABLES))
    after = new.advance(whole)

    assert {name.split(".")[-1] for name in missing} == {"tp", "w", "weight", "bias"}
    assert torch.equal(after.surface[:, :, :2], before.surface)
    assert torch.equal(after.atmospheric[:, :, :2], before.atmospheric)


def test_absent_variables_and_levels_are_left_out():
    network = aurora()
    fewer = Variables(("msl",), ("q",), (850.0,), ())

    states = network.advance(batch(fewer, history=1))

    assert states.surface.shape == (2, 1, 1, *GRID.shape)
    assert states.atmospheric.shape == (2, 1, 1, 1, *GRID.shape)


@pytest.mark.parametrize("static", [(), ("lsm",)])
def test_surface_variables_may_be_absent_altogether(static):
    states = aurora().advance(batch(Variables((), ("z",), (500.0,), static)))

    assert states.surface.shape == (2, 1, 0, *GRID.shape)
    assert states.atmospheric.isfinite().all()


def test_a_network_without_surface_variables_has_no_weight_that_was_never_drawn():
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills memory that nobody wrote with NaN
    try:
        network = Aurora(
            (), (), ("z",), width=8, patch=2, latent_levels=2, swin=SHAPE, perceiver=PerceiverShape(heads=2)
        )
    finally:
        torch.use_deterministic_algorithms(False)

    assert all(weight.isfinite().all() for weight in network.parameters())


@pytest.mark.parametrize(
    ("mode", "corrected"), [("single", {0, 1}), ("from_second", {1}), ("all", {0, 1})], ids=str
)
def test_corrections_follow_the_step_of_the_roll_out(mode, corrected):
    network = aurora(lora=RolloutLoRA(mode, steps=2))
    plain = copy.deepcopy(network)
    with torch.no_grad():
        for name, weight in plain.named_parameters():
            if "lora_B" in name:
                weight.zero_()
    steps = [batch(rollout_step=step) for step in range(4)]

    changed = {s for s, b in enumerate(steps) if not equal(network.advance(b), plain.advance(b))}

    assert changed == corrected


def test_corrections_of_all_steps_are_apart():
    network = aurora(lora=RolloutLoRA("all", steps=2))
    network.advance(batch(rollout_step=1)).surface.sum().backward()

    touched = {
        name for name, weight in network.named_parameters() if ".loras." in name and weight.grad is not None
    }
    assert touched
    assert all(".loras.1." in name for name in touched)


def test_positive_variables_are_kept_from_zero_on_from_the_second_step():
    first, later = batch(), batch(rollout_step=1)
    free, kept = aurora(), aurora(positive=("q", "2t"))
    at_once = aurora(positive=("q", "2t"), clamp_at_first_step=True)
    q = VARIABLES.atmospheric.index("q")
    clamped = replace(first, inputs=kept._clamped(first.inputs, VARIABLES))

    assert equal(kept.advance(first), free.advance(clamped))
    assert kept.advance(first).atmospheric[:, :, q].min() < 0
    assert kept.advance(later).atmospheric[:, :, q].min() == 0
    assert at_once.advance(first).surface[:, :, 0].min() == 0
    assert at_once.advance(first).surface[:, :, 1].min() < 0


def test_variables_with_an_attention_of_their_own_keep_their_order():
    network = aurora(separate=("z",))
    network.decoder.level_decoder_alternate = network.decoder.level_decoder
    together = aurora()
    together.load_state_dict(network.state_dict(), strict=False)

    states, others = network.advance(batch()), together.advance(batch())

    torch.testing.assert_close(states.atmospheric, others.atmospheric)


def test_levels_may_have_kernels_and_heads_of_their_own():
    network = aurora(level_condition=VARIABLES.levels)
    shared = aurora()
    with torch.no_grad():
        weights = shared.state_dict()
        for name, weight in network.state_dict().items():
            weight.copy_(weights[name.replace(".layers.500.", ".").replace(".layers.700_5.", ".")])
    states, others = network.advance(batch()), shared.advance(batch())

    torch.testing.assert_close(states.atmospheric, others.atmospheric, atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="none for 850"):
        network.advance(batch(replace(VARIABLES, levels=(500.0, 850.0))))


@pytest.mark.parametrize("kind", ["selective", "full"])
def test_recomputing_blocks_changes_nothing(kind):
    network, again = aurora(lora=RolloutLoRA()), aurora(lora=RolloutLoRA())
    checkpoint_blocks(again.blocks(), kind)
    for one in (network, again):
        one.advance(batch()).atmospheric.square().mean().backward()

    for weight, other in zip(network.parameters(), again.parameters(), strict=True):
        if weight.grad is None:
            assert other.grad is None
        else:
            torch.testing.assert_close(other.grad, weight.grad)


def test_the_u_net_alone_may_compute_in_bfloat16():
    network, lower = aurora(), aurora(autocast=True)

    states, others = network.advance(batch()), lower.advance(batch())

    assert others.surface.dtype == torch.float32
    assert not torch.equal(states.surface, others.surface)
    torch.testing.assert_close(others.surface, states.surface, atol=0.3, rtol=0.1)


def test_a_roll_out_feeds_predictions_back():
    names = [*VARIABLES.names, "static_lsm"]
    scaling = Scaling({name: (1.0, 2.0) for name in names})
    network = aurora(lora=RolloutLoRA("from_second"))
    states = list(rollout(network, batch(), scaling, 3))

    assert len(states) == 3
    assert all(state.surface.isfinite().all() for state in states)
    assert not equal(states[1], states[2])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"variables": Variables(("2t",), (), (), ())}, "no variable on a pressure level"),
        ({"history": 3}, "the data give 3 states and this network takes 2"),
        ({"variables": replace(VARIABLES, surface=("2t", "sst"))}, "surface variables sst"),
        ({"step": 12.0}, "the data's step is 12 hours and the network's 6"),
        ({"grid": Grid(np.linspace(80, -80, 21), GRID.longitude)}, "21 x 24 cells, no multiple of the patch"),
    ],
)
def test_what_does_not_fit_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        aurora().advance(batch(**changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patch": 1}, "patch is 1"),
        ({"width": 6}, "width is 6"),
        ({"latent_levels": 3}, "3 latent levels, no multiple"),
        ({"positive": ("pm1",)}, "positive names pm1"),
        ({"swin": replace(SHAPE, encoder_heads=(3, 2))}, "which 3 heads do not divide"),
        ({"swin": replace(SHAPE, encoder_depths=(2, 2))}, "4 blocks in the encoder and 3"),
        ({"swin": replace(SHAPE, encoder_depths=(2,))}, "one of each for every stage"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        aurora(**changes)


@pytest.mark.parametrize(
    "case", ["fourier_expansions", "pretrained_tiny", "lora_newvars_rollout", "regional_history_clamp"]
)
def test_recorded_cases_pass(shared: Path, case: str) -> None:
    report = run_case(shared / "parity" / "aurora" / f"{case}.json")

    assert report.passed, str(report)


def test_patches_of_a_region_across_greenwich_have_their_places_on_the_globe() -> None:
    latitude, east = np.linspace(45, -45, 4), np.arange(0.0, 360.0, 3.0)
    globe, _ = grid_encodings(Grid(latitude, east), 2, 8, torch.device("cpu"))
    region, _ = grid_encodings(Grid(latitude, 348 + np.arange(0.0, 24.0, 3.0)), 2, 8, torch.device("cpu"))

    rows = globe.unflatten(0, (2, 60))[:, [58, 59, 0, 1]].flatten(0, 1)
    torch.testing.assert_close(region, rows, rtol=1e-4, atol=1e-2)
