"""SineNet: the recorded cases, its size, its options and its official layout."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from apps.pde.models import sinenet
from apps.pde.models.sinenet import KEY_MAP, SineNet, from_official_config, to_official_config
from apps.pde.models.waves.layers import doubling, fourier_features
from core.checkpoints.weights import load_weights
from core.errors import UserError
from core.parity import run_case

SMALL = {"frames": 2, "width": 4, "waves": 2}
CASES = ["a_zeros_3waves", "b_circular_unet", "c_conditioned_adagn"]


def fields(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("case", CASES)
def test_the_recorded_case_is_reproduced(shared, case):
    report = run_case(shared / "parity" / "sinenet" / f"{case}.json")

    assert [check.name for check in report.checks if not check.passed] == []
    assert "output/rollout_3_steps" in [check.name for check in report.checks]


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("sinenet8_dual", 35_490_219),
        ("sinenet6_dual", 35_475_499),
        ("sinenet4_dual", 35_493_699),
        ("sinenet2_dual", 35_499_989),
    ],
)
def test_sizes_share_the_published_budget(size, parameters):
    with torch.device("meta"):
        network = getattr(sinenet, size)()

    assert sum(p.numel() for p in network.parameters()) == parameters


def test_widths_of_the_levels_are_truncated():
    network = SineNet(width=8, waves=1, multiplier=1.425)

    assert [level.shortcut.out_channels for level in network.waves[0].down] == [11, 16, 23, 32]


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "circular"},
        {"interpolation": "nearest", "pooling": "max"},
        {"interpolation": "bilinear", "padding": "circular", "activation": "silu"},
        {"norm": False, "residual": False, "wave_residual": False, "activation": "relu"},
        {"blocks": 2, "disentangle": False, "future": 3, "out_channels": 2},
        {"conditioning": "scale_shift", "parameter": True},
        {"conditioning": "add", "activation": "tanh", "width": 5},
        {"levels": 2, "in_channels": 1, "out_channels": 1},
    ],
)
def test_every_option_runs_and_keeps_its_weights_through_the_official_layout(options):
    network = SineNet(**{**SMALL, **options}).eval()
    x, time, z = (
        fields(2, 2, network.in_channels, 16, 32),
        torch.tensor([0.5, 2.0]),
        torch.tensor([[0.1], [0.3]]),
    )

    out = network.advance(x, time, z)
    official = KEY_MAP.to_official(network.state_dict())
    again = from_official_config(to_official_config(network)).eval()
    load_weights(official, again)

    assert out.shape == (2, network.future, network.out_channels, 16, 32)
    assert torch.equal(again.advance(x, time, z), out)
    assert to_official_config(again) == to_official_config(network)
    assert KEY_MAP.from_official(official).keys() == network.state_dict().keys()


def test_official_names_are_the_published_ones():
    names = set(KEY_MAP.to_official(SineNet(**SMALL, conditioning="add", parameter=True).state_dict()))

    assert {
        "image_proj.weight",
        "final.bias",
        "time_embed.0.weight",
        "pde_emb.2.bias",
        "down.1.3.conv.0.cond_emb.weight",
        "up.0.0.shortcut.bias",
        "down.0.0.conv.0.norm2.weight",
    } <= names


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_doubling_by_a_product_equals_torchs_interpolation(mode):
    x = fields(2, 3, 6, 10)
    rows, columns = (doubling(n, mode=mode, circular=False, like=x) for n in (6, 10))

    assert torch.allclose(rows.mT @ (x @ columns), F.interpolate(x, scale_factor=2, mode=mode), atol=1e-6)


def test_circular_doubling_pads_around_the_edge():
    x = fields(1, 2, 8, 4)
    around = F.interpolate(F.pad(x, (2, 2, 2, 2), mode="circular"), scale_factor=2, mode="bicubic")
    rows, columns = (doubling(n, mode="bicubic", circular=True, like=x) for n in (8, 4))

    assert torch.allclose(rows.mT @ (x @ columns), around[..., 4:-4, 4:-4], atol=1e-6)


def test_a_periodic_network_commutes_with_shifts_of_the_coarsest_cell():
    network = SineNet(**SMALL, padding="circular").eval()
    x = fields(1, 2, 3, 32, 48)

    moved = network(x.roll((16, 32), dims=(3, 4)))

    assert torch.allclose(moved, network(x).roll((16, 32), dims=(3, 4)), atol=1e-5)


def test_fourier_features_are_cosines_before_sines():
    features = fourier_features(torch.tensor([2.0]), 5)

    wanted = [
        torch.tensor(2.0).cos(),
        torch.tensor(0.02).cos(),
        torch.tensor(2.0).sin(),
        torch.tensor(0.02).sin(),
        0.0,
    ]
    assert features[0].tolist() == pytest.approx([float(w) for w in wanted])


def test_conditions_change_the_prediction_and_a_plain_network_ignores_them():
    plain, conditioned = SineNet(**SMALL), SineNet(**SMALL, conditioning="scale_shift", parameter=True)
    x = fields(1, 2, 3, 16, 16)
    one, two = torch.ones(1), torch.full((1,), 2.0)

    assert torch.equal(plain.advance(x, one), plain.advance(x, two, two[:, None]))
    assert not torch.equal(conditioned.advance(x, one), conditioned.advance(x, two))
    assert not torch.equal(
        conditioned.advance(x, one, one[:, None]), conditioned.advance(x, one, two[:, None])
    )
    assert (plain.timed, conditioned.timed) == (False, True)


def test_a_network_made_on_the_meta_device_is_drawn_anew():
    with torch.device("meta"):
        network = SineNet(**SMALL)
    network = network.to_empty(device="cpu")
    torch.manual_seed(0)
    network.reset_parameters()

    assert all(torch.isfinite(p).all() for p in network.parameters())
    assert torch.equal(network.waves[0].up[0].blocks[0].norm1.weight, torch.ones(11))
    assert len(list(network.blocks())) == 2


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: SineNet(**SMALL)(torch.zeros(1, 2, 3, 24, 32)), "24x32 points.*multiples of 16"),
        (lambda: SineNet(**SMALL)(torch.zeros(1, 3, 3, 32, 32)), r"needs \(B, 2, 3, H, W\)"),
        (lambda: SineNet(**SMALL, conditioning="add")(torch.zeros(1, 2, 3, 16, 16)), "give `time`"),
        (lambda: SineNet(padding="circle"), "did you mean 'circular'"),
        (lambda: SineNet(activation="gelo"), "must be one of gelu"),
        (lambda: SineNet(waves=0), "waves is 0"),
        (lambda: SineNet(parameter=True), "set conditioning"),
        (lambda: SineNet(multiplier=0.1, width=4), "multiplier is 0.1"),
        (lambda: from_official_config({"time_history": 4}), "lacks time_future"),
        (
            lambda: from_official_config({**to_official_config(SineNet(**SMALL)), "down_pool": False}),
            "turns down_pool off",
        ),
        (
            lambda: from_official_config(
                {**to_official_config(SineNet(**SMALL)), "param_conditioning": "map"}
            ),
            "must be scalar or null",
        ),
    ],
)
def test_a_mistake_is_one_sentence(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()
