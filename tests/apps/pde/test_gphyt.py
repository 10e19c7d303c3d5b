"""GPhyT: the recorded cases, its sizes, its options and its official layout."""

from __future__ import annotations

import math

import pytest
import torch

from apps.pde.models import gphyt
from apps.pde.models.gphyt import KEY_MAP, GPhyT, euler, from_official_config, heun, rk4, to_official_config
from apps.pde.models.physics_transformer.blocks import Attention
from apps.pde.models.physics_transformer.numerics import FiniteDifference
from apps.pde.models.physics_transformer.tokens import strides
from core.checkpoints.weights import load_weights
from core.errors import UserError
from core.parity import run_case

SMALL = {
    "in_channels": 2,
    "resolution": [16, 8],
    "patch": [1, 4, 4],
    "width": 12,
    "hidden": 24,
    "heads": 2,
    "depth": 2,
}


def fields(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("case", ["a_absolute_linear", "b_rope_causal_conv"])
def test_the_recorded_case_is_reproduced(shared, case):
    report = run_case(shared / "parity" / "gphyt" / f"{case}.json")

    assert [check.name for check in report.checks if not check.passed] == []
    assert {"output/rollout_3", "loss/mse_autoregressive_2"} <= {check.name for check in report.checks}


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("gphyt_s", 7_992_773),
        ("gphyt_m", 111_597_317),
        ("gphyt_l", 384_885_765),
        ("gphyt_xl", 795_813_125),
    ],
)
def test_sizes_have_the_published_number_of_parameters(size, parameters):
    with torch.device("meta"):
        network = getattr(gphyt, size)()

    assert sum(p.numel() for p in network.parameters()) == parameters


OPTIONS = [
    {},
    {"derivatives": None, "positions": "rotary", "attention": "causal"},
    {"derivatives": 4, "patch": [2, 4, 2]},
    {"tokenizer_overlap": 2, "detokenizer_overlap": 2},
    {"tokenizer": "convolutions", "tokenizer_channels": [4, 6], "patch": [2, 8, 4]},
    {"detokenizer": "convolutions", "detokenizer_channels": [6], "patch": [4, 4, 2]},
    {"positions": "rotary", "tokenizer": "convolutions", "tokenizer_channels": []},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_runs_and_keeps_its_weights_through_the_official_layout(options):
    network = GPhyT(**{**SMALL, **options}).eval()
    x = fields(2, 4, 2, 16, 8)

    out = network.advance(x)
    official = KEY_MAP.to_official(network.state_dict())
    again = from_official_config(to_official_config(network)).eval()
    load_weights(official, again)

    assert out.shape == (2, 1, 2, 16, 8)
    assert torch.equal(again(x), out)
    assert KEY_MAP.from_official(official).keys() == network.state_dict().keys()


@pytest.mark.parametrize("options", OPTIONS)
def test_one_step_is_an_euler_step_of_the_raw_change(options):
    network = GPhyT(**{**SMALL, **options}).eval()
    x = fields(2, 4, 2, 16, 8)

    assert torch.allclose(network(x), euler(network.differentiate, x)[:, -1:], atol=1e-6)


def test_further_input_channels_help_to_predict_the_first_ones():
    network = GPhyT(**{**SMALL, "in_channels": 3}, out_channels=2)

    assert network(fields(1, 4, 3, 16, 8)).shape == (1, 1, 2, 16, 8)
    with pytest.raises(UserError, match="takes 3 channels and gives 2"):
        to_official_config(network)


@pytest.mark.parametrize(("order", "size"), [(2, 1), (4, 2)])
def test_differences_equal_a_convolution_with_the_official_filters(order, size):
    x = fields(2, 3, 4, 6, 5)
    difference = FiniteDifference(3, order=order)
    filters = (difference.dt_filter, difference.dh_filter, difference.dw_filter)
    pads = ((0, 0, 0, 0, size, size), (0, 0, size, size, 0, 0), (size, size, 0, 0, 0, 0))

    for ours, weight, pad in zip(difference(x), filters, pads, strict=True):
        padded = torch.nn.functional.pad(x, pad, mode="replicate")
        assert torch.allclose(ours, torch.nn.functional.conv3d(padded, weight, groups=3), atol=1e-6)


def test_differences_carry_no_gradient():
    x = fields(1, 1, 2, 2, 2).requires_grad_()

    assert not any(part.requires_grad for part in FiniteDifference(1)(x))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("batch", [1, 4])
def test_attention_equals_torchs_layer_behind_the_first_projection(causal, batch):
    attention = Attention(12, 3, grid=(3, 2, 2), causal=causal, rotary=False, dropout=0.0)
    torch.nn.init.normal_(attention.second.bias)
    layer = torch.nn.MultiheadAttention(12, 3, batch_first=True)
    names = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    own = (attention.second.weight, attention.second.bias, attention.out.weight, attention.out.bias)
    layer.load_state_dict(dict(zip(names, own, strict=True)))
    x = fields(batch, 12, 12)

    wanted, _ = layer(*attention.first(x).chunk(3, dim=-1), attn_mask=attention.mask if causal else None)

    assert torch.allclose(attention(x, None), wanted, atol=1e-5)


def test_causal_tokens_do_not_see_later_frames():
    network = GPhyT(**SMALL, derivatives=None, attention="causal").eval()
    x, other = fields(1, 4, 2, 16, 8), fields(1, 4, 2, 16, 8, seed=1)
    mixed = torch.cat([x[:, :3], other[:, 3:]], dim=1)

    assert torch.allclose(network.differentiate(mixed)[:, :3], network.differentiate(x)[:, :3], atol=1e-6)
    assert not torch.allclose(network(mixed), network(x))


@pytest.mark.parametrize(
    ("patch", "layers", "wanted"),
    [(8, 3, [2, 2, 2]), (16, 3, [4, 2, 2]), (2, 3, [2, 1, 1]), (1, 2, [1, 1]), (64, 2, [8, 8]), (4, 1, [4])],
)
def test_strides_multiply_to_the_patch(patch, layers, wanted):
    assert strides(patch, layers) == wanted


@pytest.mark.parametrize(("integrator", "order"), [(euler, 1), (heun, 2), (rk4, 4)])
def test_an_integrator_has_its_order(integrator, order):
    def error(step: float) -> float:
        x = torch.ones(1, dtype=torch.float64)
        for _ in range(round(1 / step)):
            x = integrator(lambda y: -y, x, step)
        return abs(float(x) - math.exp(-1))

    assert math.log2(error(0.05) / error(0.025)) == pytest.approx(order, abs=0.1)


def test_stochastic_depth_leaves_out_whole_samples_in_training_only():
    network = GPhyT(**SMALL, stochastic_depth=0.5)
    block, x = network.layers[0], torch.ones(4000, 3, 2)

    kept = block.train()._sometimes(x)

    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert bool((kept == kept[:, :1, :1]).all())
    assert float(kept.mean()) == pytest.approx(1.0, abs=0.1)
    assert block.eval()._sometimes(x) is x


@pytest.mark.parametrize("options", [{}, {"positions": "rotary", "attention": "causal"}])
def test_a_network_made_on_the_meta_device_gets_all_buffers(options):
    with torch.device("meta"):
        network = GPhyT(**SMALL, **options)
    network = network.to_empty(device="cpu")
    for tensor in network.state_dict().values():
        tensor.fill_(1) if tensor.dtype == torch.bool else tensor.fill_(77)
    network.reset_parameters()

    wanted = dict(GPhyT(**SMALL, **options).named_buffers())
    assert wanted.keys() == dict(network.named_buffers()).keys()
    assert all(torch.equal(buffer, wanted[name]) for name, buffer in network.named_buffers())
    assert all(bool((p.abs() < 10).all()) for p in network.parameters())
    assert bool((network.layers[0].attention.second.weight.abs() <= math.sqrt(6 / (12 + 36))).all())
    assert len(list(network.blocks())) == 2


def test_a_published_training_file_loads(tmp_path):
    source, network = GPhyT(**SMALL), GPhyT(**SMALL)
    state = KEY_MAP.to_official(source.state_dict())
    content = {
        "model_state_dict": {f"module._orig_mod.{k}": v for k, v in state.items()},
        "samples_trained": 5,
    }
    torch.save({**content, "optimizer_state_dict": {"state": {}, "param_groups": []}}, tmp_path / "gphyt.pth")

    report = load_weights(tmp_path / "gphyt.pth", network)

    assert report.metadata["layout"] == "official"
    assert torch.equal(network.place, source.place)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"resolution": [15, 8]}, "first axis has 15 points, which a patch of 4 does not divide"),
        ({"heads": 5}, "heads must divide"),
        ({"positions": "rotary", "width": 16}, "multiple of 6"),
        ({"positions": "rope"}, "must be one of absolute, rotary"),
        ({"derivatives": 3}, "must be null, 2 or 4"),
        ({"tokenizer_overlap": 1}, "even"),
        ({"tokenizer": "convolutions"}, "tokenizer_channels is not set"),
        (
            {
                "detokenizer": "convolutions",
                "detokenizer_channels": [4],
                "patch": [1, 3, 4],
                "resolution": 12,
            },
            "3",
        ),
        ({"out_channels": 3}, "at most in_channels, 2"),
        ({"depth": 0}, "depth is 0"),
    ],
)
def test_a_mistake_is_one_sentence(options, sentence):
    with pytest.raises(UserError, match=sentence):
        GPhyT(**{**SMALL, **options})


def test_fields_of_another_grid_are_refused():
    with pytest.raises(UserError, match=r"needs \(B, 4, 2, 16, 8\)"):
        GPhyT(**SMALL)(torch.zeros(1, 4, 2, 16, 16))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"att_mode": "full_casual"}, "did you mean 'full_causal'"), ({"integrator": "RK3"}, "known are Euler")],
)
def test_an_unknown_word_of_the_official_config_is_refused(change, sentence):
    with pytest.raises(UserError, match=sentence):
        from_official_config({**to_official_config(GPhyT(**SMALL)), **change})


def test_an_official_config_without_its_grid_is_refused():
    config = to_official_config(GPhyT(**SMALL))
    del config["img_size"]

    with pytest.raises(UserError, match="lacks img_size"):
        from_official_config(config)
