"""TTM: published sizes, the official layout both ways, options, refusals, the fast formulation's values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from apps.timeseries.models import ttm
from apps.timeseries.models.mixer.layers import _MLP, StackSettings, TokenLinear
from apps.timeseries.models.mixer.parts import scale_window
from apps.timeseries.models.mixer.settings import (
    DecoderSettings,
    ForecastLoss,
    ForecastMixing,
    Initialisation,
    MixerSettings,
    Patching,
)
from core.checkpoints.weights import load_weights
from core.errors import UserError
from core.tracking.flops import count_flops

SMALL: dict[str, Any] = {
    "context": 32,
    "horizon": 6,
    "patch": 8,
    "width": 16,
    "levels": 2,
    "depth": 1,
    "decoder": DecoderSettings(width=8, depth=1),
}


def _decoder(**changes: Any) -> DecoderSettings:
    return replace(SMALL["decoder"], **changes)


def _small(**changes: Any) -> ttm.TTM:
    torch.manual_seed(0)
    return ttm.TTM(**{**SMALL, **changes}).eval()


@pytest.mark.parametrize(
    ("size", "settings", "count"),
    [
        (ttm.ttm_512_96, {}, 805_280),
        (ttm.ttm_512_96_prefix, {}, 855_100),
        (ttm.ttm_512_96_prefix, {"patching": Patching(frequency_prefix=True, frequency_tokens=5)}, 854_780),
        (ttm.ttm_512_720, {}, 1_444_880),
        (ttm.ttm_1024_96_r1, {}, 946_336),
        (ttm.ttm_1024_96, {}, 2_964_960),
        (ttm.ttm_1536_96, {}, 3_081_120),
        (ttm.ttm_1536_720, {}, 4_998_672),
    ],
)
def test_published_sizes_have_the_published_parameter_counts(size: Any, settings: Any, count: int) -> None:
    with torch.device("meta"):
        network = size(**settings)

    assert sum(p.numel() for p in network.parameters()) == count


def test_the_512_96_network_has_the_134_official_tensors() -> None:
    with torch.device("meta"):
        network = ttm.ttm_512_96()

    official = ttm.KEY_MAP.to_official(network.state_dict())

    assert len(official) == 134
    assert official["backbone.encoder.patcher.weight"].shape == (192, 64)
    level = "backbone.encoder.mlp_mixer_encoder.mixers.{}.mixer_layers.0.{}"
    assert official[level.format(0, "patch_mixer.mlp.fc1.weight")].shape == (64, 32)
    assert official[level.format(2, "feature_mixer.mlp.fc1.weight")].shape == (384, 192)
    assert official["head.base_forecast_block.weight"].shape == (96, 1024)


@pytest.mark.parametrize("name", [name for name in ttm.__all__ if name.startswith("ttm_")])
def test_every_named_size_builds_and_can_be_changed(name: str) -> None:
    size = getattr(ttm, name)

    with torch.device("meta"):
        network, changed = size(), size(dropout=0.4, horizon=7)

    assert changed.horizon == 7
    assert changed.settings["dropout"] == 0.4
    assert name in ("ttm_small", "ttm_medium", "ttm_large") or f"_{network.context}_{network.horizon}" in name


@pytest.mark.parametrize(("context", "patch"), [(512, 64), (90, 2), (91, 2), (96, 8), (52, 4), (180, 4)])
def test_sizes_for_any_context_choose_their_patch(context: int, patch: int) -> None:
    with torch.device("meta"):
        network = ttm.ttm_small(context=context)

    assert network.patch == patch
    assert network.context == context - context % 2
    assert network.settings["width"] == 2 * patch


OPTIONS: list[dict[str, Any]] = [
    {},
    {"levels": 0, "mixer": MixerSettings(norm="batch")},
    {"mixer": MixerSettings(self_attention=True, heads=2), "patching": Patching(positions="sincos")},
    {"patching": Patching(positions="random", frequency_prefix=True), "decoder": _decoder(raw_residual=True)},
    {"decoder": None, "mixer": MixerSettings(gated=False)},
    {
        "channels": 3,
        "channel_mixing": True,
        "decoder": _decoder(channel_mixing=True, static_categories=[3, 5]),
    },
    {"channels": 3, "exogenous": [1], "forecast_mixing": ForecastMixing(mixer=True)},
    {
        "channels": 3,
        "targets": [2, 0],
        "kept_horizon": 4,
        "decoder": _decoder(levels=2),
        "patching": Patching(stride=4),
    },
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", [ttm.TTM, ttm.MaskedTTM])
def test_weights_and_config_survive_the_official_layout(kind: type[ttm.TTM], options: dict[str, Any]) -> None:
    network = kind(**{**SMALL, **options})
    state = network.state_dict()

    config = ttm.to_official_config(network)
    again = ttm.from_official_config(config)
    load_weights(ttm.KEY_MAP.to_official(state), again)

    assert type(again) is kind
    assert ttm.to_official_config(again) == config
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())


@pytest.mark.parametrize("options", OPTIONS)
def test_a_network_built_on_the_meta_device_is_initialised_whole(options: dict[str, Any]) -> None:
    with torch.device("meta"):
        network = ttm.TTM(**{**SMALL, **options})
    network.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.fill_(float("nan") if tensor.is_floating_point() else -1)

    network.reset_parameters()

    built = ttm.TTM(**{**SMALL, **options})
    assert all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values())
    for (key, buffer), (_, expected) in zip(network.named_buffers(), built.named_buffers(), strict=True):
        assert torch.equal(buffer, expected), key


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_forecasts_and_trains(options: dict[str, Any]) -> None:
    network = _small(**options)
    channels = network.channels
    past, future = torch.randn(4, 40, channels), torch.randn(4, 6, channels)

    output = network(
        past,
        future_values=future,
        freq_token=torch.tensor([1, 2, 3, 0]),
        static_categories=torch.tensor([[0, 1], [1, 2], [2, 3], [0, 4]]),
    )
    assert output.loss is not None
    output.loss.backward()

    targets = channels if network.targets is None else len(network.targets)
    assert output.prediction.shape == (4, network.kept, targets)
    assert output.loc.shape == output.scale.shape == (4, 1, targets)
    assert all(p.grad is not None for p in network.parameters())


def test_a_longer_past_is_cut_to_its_end() -> None:
    network, past = _small(), torch.randn(2, 50, 3)

    assert torch.equal(network(past).prediction, network(past[:, -32:]).prediction)


def test_a_channel_independent_network_treats_each_channel_alone() -> None:
    network, past = _small(), torch.randn(2, 32, 5)

    together, alone = network(past).prediction, network(past[:, :, 3:4]).prediction

    assert torch.allclose(together[:, :, 3:4], alone, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(shift=st.floats(-1e3, 1e3), factor=st.floats(0.1, 1e3))
def test_forecasts_follow_shift_and_scale(shift: float, factor: float) -> None:
    network = _small().double()
    past = torch.randn(2, 32, 2, generator=torch.Generator().manual_seed(1)).double()

    plain = network(past).prediction
    moved = network(past * factor + shift).prediction

    assert torch.allclose((moved - shift) / factor, plain, rtol=1e-2, atol=1e-2)


def test_the_scaler_reads_observed_points_only() -> None:
    x = torch.tensor([[[1.0], [3.0], [1000.0]]])
    observed = torch.tensor([[[True], [True], [False]]])

    _, loc, scale = scale_window(x, observed, "std")

    assert float(loc) == pytest.approx(2.0)
    assert float(scale) == pytest.approx((1 + 1e-5) ** 0.5)


def test_the_mean_scaler_takes_the_batch_where_nothing_is_observed() -> None:
    x = torch.tensor([[[2.0], [4.0]], [[9.0], [9.0]]])
    observed = torch.tensor([[[True], [True]], [[False], [False]]])

    _, _, scale = scale_window(x, observed, "mean")

    assert scale.flatten().tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
    ("loss", "expected"), [("mse", 2.5), ("mae", 1.5), ("huber", 1.0), ("pinball", (0.7 * 1 + 0.3 * 2) / 2)]
)
def test_each_loss_over_the_observed_points(loss: Any, expected: float) -> None:
    network = _small(loss=ForecastLoss(loss, quantile=0.7))
    prediction, target = torch.tensor([[0.0, 2.0, 5.0]]), torch.tensor([[1.0, 0.0, 99.0]])

    value = network.loss(prediction, target, torch.tensor([[True, True, False]]))

    assert value is not None
    assert float(value) == pytest.approx(expected)


def test_a_missing_label_leaves_the_gradient_finite() -> None:
    network, past = _small(), torch.randn(2, 32, 1)
    future = torch.full((2, 6, 1), float("nan"))

    loss = network(past, future_values=future, future_observed=torch.zeros(2, 6, 1)).loss
    loss.backward()

    assert float(loss.detach()) == 0.0
    assert all(bool(torch.isfinite(p.grad).all()) for p in network.parameters())


def test_without_a_loss_there_is_none() -> None:
    assert (
        _small(loss=ForecastLoss(None))(torch.randn(1, 32, 1), future_values=torch.randn(1, 6, 1)).loss
        is None
    )


def test_the_known_future_of_an_exogenous_channel_matters_and_the_target_s_does_not() -> None:
    network = _small(channels=2, exogenous=[1], forecast_mixing=ForecastMixing())
    past, future = torch.randn(1, 32, 2), torch.randn(1, 6, 2)
    other_target, other_exogenous = future.clone(), future.clone()
    other_target[..., 0] += 1
    other_exogenous[..., 1] += 1

    forecast = network(past, future_values=future).prediction

    assert torch.equal(network(past, future_values=other_target).prediction, forecast)
    assert not torch.equal(network(past, future_values=other_exogenous).prediction, forecast)


def test_masked_ttm_never_sees_the_future_of_its_targets() -> None:
    network = ttm.MaskedTTM(**SMALL, channels=2, exogenous=[1]).eval()
    past, future = torch.randn(2, 32, 2), torch.randn(2, 6, 2)
    hidden = future.clone()
    hidden[..., 0] = 0

    seen, unseen = network(past, future_values=future), network(past, future_values=hidden)

    assert torch.equal(seen.prediction, unseen.prediction)


def test_blocks_are_the_mixer_layers_in_order() -> None:
    network = _small(depth=2, channels=2, forecast_mixing=ForecastMixing(mixer=True))

    names = {module: name for name, module in network.named_modules()}
    blocks = [names[block] for block in network.blocks()]

    assert blocks[:4] == [f"backbone.mixer.levels.{i}.{j}" for i in (0, 1) for j in (0, 1)]
    assert blocks[4] == "decoder.mixer.layers.0"
    assert blocks[5:] == [f"head.forecast_mixer.mixer.layers.{i}" for i in (0, 1)]


@pytest.mark.parametrize(("patches", "width"), [(8, 192), (16, 96), (32, 48)])
def test_products_from_the_left_equal_linear_layers_on_the_transpose(patches: int, width: int) -> None:
    torch.manual_seed(0)
    layer, x = TokenLinear(patches, 2 * patches), torch.randn(6, patches, width)

    expected = F.linear(x.transpose(1, 2), layer.weight, layer.bias).transpose(1, 2)

    assert torch.allclose(layer(x), expected, atol=1e-6)


def test_post_init_draws_as_told() -> None:
    network = _small(initialisation=Initialisation(linear="normal", std=0.5), width=64, levels=1)
    linear = [m for m in network.modules() if isinstance(m, nn.Linear | TokenLinear)]

    assert all(not m.bias.any() for m in linear)
    assert float(network.backbone.embed.weight.std()) == pytest.approx(0.5, rel=0.15)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": ForecastLoss("nll")}, "loss is 'nll'"),
        ({"kept_horizon": 7}, "kept_horizon is 7"),
        ({"patch": 32}, "patch is 32"),
        ({"channels": 2, "exogenous": [2]}, "different channels"),
        ({"channels": 2, "targets": [1], "exogenous": [1]}, "different channels"),
        ({"exogenous": [0]}, "no channel to forecast"),
        ({"decoder": _decoder(static_categories=[3])}, "need decoder.channel_mixing"),
        ({"width": 22, "levels": 3}, "4 must divide it"),
        ({"mixer": MixerSettings(self_attention=True, heads=3)}, "must divide the width"),
        ({"scaling": "minmax"}, "scaling is 'minmax'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ttm.TTM(**{**SMALL, **changes})


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape)


@pytest.mark.parametrize(
    ("options", "past", "given", "message"),
    [
        ({}, (2, 31, 1), {}, "31 points long and this network needs 32"),
        ({}, (32, 1), {}, "must be \\(batch, time, channel\\)"),
        ({"channels": 3, "channel_mixing": True}, (2, 32, 2), {}, "2 channels; this network has 3"),
        ({}, (2, 32, 1), {"past_observed": _zeros(2, 30, 1)}, "past_observed"),
        ({}, (2, 32, 1), {"future_values": _zeros(2, 5, 1)}, "5 steps; this network forecasts 6"),
        ({}, (2, 32, 1), {"future_values": _zeros(3, 6, 1)}, "\\(2, 6, 1\\) is expected"),
        (
            {},
            (2, 32, 1),
            {"future_values": _zeros(2, 6, 1), "future_observed": _zeros(2, 6, 2)},
            "future_observed",
        ),
        ({"patching": Patching(frequency_prefix=True)}, (2, 32, 1), {}, "no freq_token"),
        (
            {"channels": 2, "exogenous": [1], "forecast_mixing": ForecastMixing()},
            (2, 32, 2),
            {},
            "needs the future",
        ),
        (
            {"decoder": _decoder(channel_mixing=True, static_categories=[3])},
            (2, 32, 1),
            {},
            "1 static categories and the batch has none",
        ),
    ],
)
def test_batches_that_do_not_fit_are_refused_with_found_and_expected(
    options: dict[str, Any], past: tuple[int, ...], given: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        _small(**options)(_zeros(*past), **given)


def test_an_official_extension_that_is_not_here_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="register_tokens=2"):
        ttm.from_official_config({"register_tokens": 2})


def test_an_empty_official_config_is_the_official_default() -> None:
    network = ttm.from_official_config({})

    assert (network.context, network.horizon, network.patches) == (64, 16, 8)
    assert len([name for name in network.state_dict() if name.startswith("decoder.mixer.layers")]) == 8 * 16


@pytest.mark.parametrize("tokens", [False, True])
def test_an_mlp_takes_dropouts_factors_into_its_weight(tokens: bool) -> None:
    settings = StackSettings(dropout=0.3)
    mlp = _MLP(6, settings, tokens=tokens).double().train()
    x = torch.randn(4, 6, 6, dtype=torch.float64)
    torch.manual_seed(2)
    folded = mlp(x)
    torch.manual_seed(2)
    plain = mlp.dropout2(mlp.fc2(mlp.dropout1(F.gelu(mlp.fc1(x)))))

    torch.testing.assert_close(folded, plain)
    assert (folded == 0).any()


def test_a_forecast_is_the_same_with_and_without_gradients() -> None:
    network = ttm.TTM(context=64, horizon=8, patch=8, width=16, decoder=DecoderSettings(width=8)).eval()
    past = torch.randn(3, 64, 2)
    with torch.no_grad():
        in_place = network(past).prediction

    torch.testing.assert_close(in_place, network(past).prediction)


def test_the_flops_of_a_forward_pass_are_those_of_its_products() -> None:
    network = ttm.TTM(context=64, horizon=8, patch=8, width=16, levels=0, depth=1, decoder=None)
    forward = count_flops(network, {"past_values": torch.empty(1, 64, 1)}, backward=False)
    patches, width, hidden = 8, 16, 32
    embed = patches * 8 * width
    over_patches = width * (2 * patches * 2 * patches + patches * patches)
    over_features = patches * (2 * width * hidden + width * width)
    head = patches * width * 8

    assert forward == 2 * (embed + over_patches + over_features + head)
