"""scOT: recorded cases, sizes, official names and folders, options, resolutions, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from published import write_folder
from torch import nn

from apps.pde.models.poseidon import (
    KEY_MAP,
    ScOT,
    from_official_config,
    poseidon_b,
    poseidon_l,
    poseidon_s,
    poseidon_t,
    to_official_config,
)
from apps.pde.models.scot.levels import resample_spectrally
from core.checkpoints.weights import load_weights, network_from
from core.cli.checkpoint import main as checkpoint
from core.errors import UserError
from core.parity import load_case, run_case

SMALL = {
    "resolution": 16,
    "patch": 2,
    "in_channels": 2,
    "out_channels": 2,
    "width": 8,
    "depths": [2, 1],
    "heads": [2, 4],
    "skips": [1, 0],
    "window": 4,
    "mlp_ratio": 2.0,
}
CASES = ("a_convnext_time", "b_resnet_steady_padded")


def small(**changed) -> ScOT:
    """Return a small network, drawn with seed 0, whose conditioning does something."""
    torch.manual_seed(0)
    return ScOT(**{**SMALL, "initial_std": 0.2, **changed})


def fields(*, channels: int = 2, side: int = 16, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, side, side, generator=generator)


TIME = torch.tensor([0.3, 0.9])


@pytest.mark.parametrize("name", CASES)
def test_recorded_case_is_reproduced(shared: Path, name: str) -> None:
    report = run_case(shared / f"parity/scot/{name}.json")

    assert [check.name for check in report.checks if not check.passed] == []
    assert report.passed


@pytest.mark.parametrize("name", CASES)
def test_official_names_and_configuration_make_the_round_trip(shared: Path, name: str) -> None:
    case = load_case(shared / f"parity/scot/{name}.json")
    network = from_official_config(case.config)
    official = case.state()

    ours = KEY_MAP.from_official(official)
    assert ours.keys() == network.state_dict().keys()
    again = KEY_MAP.to_official(ours)

    assert len(official) == case.head["n_state_tensors"]
    assert again.keys() == official.keys()
    assert all(torch.equal(again[key], tensor) for key, tensor in official.items())
    assert {key: to_official_config(network)[key] for key in case.config} == case.config


@pytest.mark.parametrize(
    ("size", "parameters", "inner", "tensors"),
    [
        (poseidon_t, 20_774_444, 20_767_656, 844),
        (poseidon_s, 39_901_076, 39_894_288, 1580),
        (poseidon_b, 157_729_988, 157_716_816, 1580),
        (poseidon_l, 628_575_524, 628_549_584, 1580),
    ],
)
def test_sizes_have_the_published_numbers_of_parameters(size, parameters, inner, tensors):
    with torch.device("meta"):
        network = size()

    counts = {name: parameter.numel() for name, parameter in network.named_parameters()}
    ends = ("embeddings.", "patch_recovery.")
    assert sum(counts.values()) == parameters
    assert sum(n for name, n in counts.items() if not name.startswith(ends)) == inner
    assert len(network.state_dict()) == tensors


def test_weights_start_as_published():
    network = small(initial_std=0.02, width=32, absolute_positions=True)
    state = dict(network.named_parameters())
    linear = torch.cat(
        [m.weight.detach().flatten() for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    )

    assert float(linear.std()) == pytest.approx(0.02, rel=0.02)
    assert all(
        not bool(m.bias.any())
        for m in network.modules()
        if isinstance(m, nn.Linear | nn.Conv2d) and m.bias is not None
    )
    assert float(state["encoder.layers.0.blocks.0.attention.logit_scale"].detach()[0]) == pytest.approx(
        math.log(10)
    )
    assert state["residual_blocks.0.0.weight"].tolist() == pytest.approx([1e-6] * 32)
    assert not bool(state["embeddings.position_embeddings"].any())
    bound = 1 / math.sqrt(2 * 2**2)  # torch's own, from the transposed convolution's fan-in
    assert float(state["patch_recovery.projection.weight"].detach().abs().max()) == pytest.approx(
        bound, rel=0.1
    )


@pytest.mark.parametrize("kind", ["convnext", "resnet"])
def test_a_network_from_the_meta_device_equals_one_built_directly(kind):
    given = {**SMALL, "width": 32, "residual_blocks": kind, "absolute_positions": True, "mask_token": True}
    with torch.device("meta"):
        late = ScOT(**given)
    late = late.to_empty(device="cpu")
    for tensor in late.state_dict().values():
        tensor.fill_(7)

    late.reset_parameters()
    direct = ScOT(**given)

    for (name, a), b in zip(late.state_dict().items(), direct.state_dict().values(), strict=True):
        drawn = bool((b != b.flatten()[0]).any())
        assert drawn or torch.equal(a, b), name
        # Five standard errors of a standard deviation.
        allowed = 5 / math.sqrt(b.numel())
        assert not drawn or float(a.std()) == pytest.approx(float(b.std()), rel=allowed), name
    assert torch.isfinite(late.eval()(fields(), TIME)).all()


def test_conditioning_is_off_at_time_zero_and_on_later():
    network = small(skips=[0, 0]).eval()
    nothing = torch.zeros(2)

    # Every norm is 0 at time 0, so no input can reach the output.
    assert torch.equal(network(fields(), nothing), network(2 * fields(), nothing))
    assert not torch.allclose(network(fields(), TIME), network(2 * fields() + 1, TIME))


def test_samples_do_not_see_each_other():
    network = small().eval()

    alone = network(fields()[1:], TIME[1:])

    torch.testing.assert_close(network(fields(), TIME)[1:], alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"conditioned": False},
        {"residual_blocks": "resnet"},
        {"absolute_positions": True},
        {"qkv_bias": False},
        {"in_channels": 3, "learn_residual": True},
        {"depths": [1, 1], "heads": [1, 8], "skips": [0, 2]},
        {"resolution": 22},
        {"resolution": 15},
        {"window": 32},
        {"eps": 1e-3, "hidden_act": "gelu_new"},
        {"hidden_act": "relu"},
        {"hidden_act": "tanh"},
        {"hidden_act": "silu"},
        {"rates": (0.3, 0.1, 0.1)},
        {"depths": [2], "heads": [2], "skips": [1]},
    ],
)
def test_every_option_trains_and_makes_the_round_trip_through_the_official_layout(options):
    network = small(**options).train()
    given = fields(channels=network.in_channels, side=network.native_resolution)

    network(given, TIME).square().mean().backward()

    silent = [name for name, p in network.named_parameters() if p.grad is None]
    assert silent == []
    again = from_official_config(json.loads(json.dumps(to_official_config(network))))
    load_weights(KEY_MAP.to_official(network.state_dict()), again)
    assert again.settings == network.settings
    assert torch.equal(again.eval()(given, TIME), network.eval()(given, TIME))


def test_a_learnt_residual_adds_the_first_channels_of_the_input():
    without = small(in_channels=3).eval()
    with_it = small(in_channels=3, learn_residual=True).eval()
    given = fields(channels=3)

    torch.testing.assert_close(with_it(given, TIME), without(given, TIME) + given[:, :2])


def test_the_residual_needs_conditioning():
    given = {"in_channels": 2, "conditioned": False}

    assert torch.equal(small(**given, learn_residual=True)(fields()), small(**given)(fields()))


def test_hidden_tokens_have_no_influence():
    network = small(mask_token=True).eval()
    masked = torch.zeros(2, 64, dtype=torch.bool)
    masked[:, 0] = True
    changed = fields()
    changed[:, :, :2, :2] += 5.0

    assert torch.equal(network(changed, TIME, masked=masked), network(fields(), TIME, masked=masked))
    assert not torch.equal(network(changed, TIME), network(fields(), TIME))


@pytest.mark.parametrize(("size", "target"), [(16, 24), (24, 16), (15, 25), (25, 15), (16, 16)])
def test_resampling_is_exact_for_waves_that_both_grids_hold(size, target):
    def waves(n: int) -> torch.Tensor:
        x = torch.arange(n, dtype=torch.float64) / n * 2 * torch.pi
        return torch.sin(2 * x)[:, None] + torch.cos(3 * x)[None] * torch.sin(x)[:, None] + 0.5

    torch.testing.assert_close(resample_spectrally(waves(size)[None, None], target)[0, 0], waves(target))


@pytest.mark.parametrize("side", [12, 20, 32])
def test_other_square_grids_are_resampled_before_and_after(side):
    network = small().eval()
    given = fields(side=side)

    found = network(given, TIME)

    wanted = resample_spectrally(network(resample_spectrally(given, 16), TIME), side)
    assert found.shape == given.shape
    assert torch.equal(found, wanted)


def test_advance_takes_a_history_and_goes_through_hooks():
    network = small().eval()
    seen = []
    network.register_forward_hook(lambda *_: seen.append(1))

    frame = network.advance(fields()[:, None], TIME)

    assert torch.equal(frame, network(fields(), TIME)[:, None])
    assert (network.frames, network.resolution, network.native_resolution) == (1, None, 16)
    assert len(seen) == 2
    assert len(list(network.blocks())) == 2 * 3 + 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"depths": [2, 2, 2]}, "there are 3, 2 and 2"),
        ({"heads": [3, 4]}, "8 channels, which 3 heads do not divide"),
        ({"patch": 8}, "coarsest grid would be 1x1"),
        ({"window": 1}, "window is 1"),
        ({"patch": 0}, "patch is 0"),
        ({"skips": [-1, 0]}, "-1 skip blocks"),
        ({"residual_blocks": "dense"}, "must be convnext or resnet"),
        ({"hidden_act": "gleu"}, "did you mean 'gelu'"),
        ({"out_channels": 3, "learn_residual": True}, "there are 2 for 3"),
        ({"rates": (1.0, 0.0, 0.0)}, r"must lie in \[0, 1\)"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changed, words):
    with pytest.raises(UserError, match=words):
        small(**changed)


@pytest.mark.parametrize(
    ("shape", "time", "words"),
    [
        ((2, 3, 16, 16), TIME, r"it takes \(batch, 2 channels"),
        ((2, 2, 16, 12), TIME, "square grids only"),
        ((2, 2, 16, 16), None, "conditioned on the lead time"),
        ((2, 2, 16, 16), torch.ones(3), "3 lead times for 2 samples"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(shape, time, words):
    with pytest.raises(UserError, match=words):
        small()(torch.zeros(shape), time)


def test_configurations_of_other_networks_are_refused():
    with pytest.raises(UserError, match="Swin V2 image encoder"):
        from_official_config({"model_type": "swinv2", "image_size": 224})
    with pytest.raises(UserError, match=r"image_size is \[128, 64\]"):
        from_official_config({"num_out_channels": 1, "image_size": [128, 64]})


@pytest.fixture
def official(tmp_path) -> tuple[Path, ScOT]:
    """A folder as the hub holds it, and the network it was written from."""
    network = small()
    write_folder(tmp_path / "hub", KEY_MAP.to_official(network.state_dict()), to_official_config(network))
    return tmp_path / "hub", network


def test_an_official_folder_is_recognised_by_its_model_type(official):
    folder, network = official

    found = network_from(folder)

    assert isinstance(found, ScOT)
    assert torch.equal(found.eval()(fields(), TIME), network.eval()(fields(), TIME))


def test_weights_for_other_channels_are_refused_then_replaced_and_reported(official):
    folder, network = official
    other = small(in_channels=3, out_channels=1)
    fresh = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(
        UserError, match=r"of another shape .*embeddings\.patch_embeddings\.projection\.weight"
    ):
        load_weights(folder, other)

    report = load_weights(folder, other, reinitialise=["embeddings.patch_embeddings.*", "patch_recovery.*"])

    replaced = {
        "embeddings.patch_embeddings.projection.weight",
        "embeddings.patch_embeddings.projection.bias",
        "patch_recovery.projection.weight",
        "patch_recovery.projection.bias",
        "patch_recovery.mixup.weight",
    }
    assert set(report.initialised) == replaced
    assert "initialised anew" in str(report)
    wanted = {**network.state_dict(), **{name: fresh[name] for name in replaced}}
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in other.state_dict().items())


def test_import_inspect_and_export_keep_every_weight_and_the_loss_fields(official, tmp_path, capsys):
    folder, network = official
    config = json.loads((folder / "config.json").read_text())
    config |= {"p": 2, "channel_slice_list_normalized_loss": [0, 1, 2]}
    (folder / "config.json").write_text(json.dumps(config))

    assert checkpoint(["inspect", str(folder)]) == 0
    assert checkpoint(["import", str(folder), "--out", str(tmp_path / "x.ckpt")]) == 0
    assert checkpoint(["export", str(tmp_path / "x.ckpt"), "--out", str(tmp_path / "again")]) == 0

    assert "swinv2" in capsys.readouterr().out
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == config
    found = network_from(tmp_path / "again")
    assert all(torch.equal(found.state_dict()[key], t) for key, t in network.state_dict().items())


def test_an_older_torch_file_is_imported_too(official, tmp_path):
    folder, network = official
    (folder / "model.safetensors").unlink()
    torch.save(KEY_MAP.to_official(network.state_dict()), folder / "pytorch_model.bin")

    for source in (folder, folder / "pytorch_model.bin"):
        found = network_from(source)
        assert all(torch.equal(found.state_dict()[key], t) for key, t in network.state_dict().items())
