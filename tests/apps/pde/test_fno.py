"""The Fourier neural operator: against recorded runs, a plain transcription, and what it must not change."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu

from apps.pde.models.fno import (
    FNO,
    KEY_MAP,
    TimedFNO,
    fno_large2d,
    fno_medium2d,
    fno_small2d,
    from_official_config,
    to_official_config,
)
from apps.pde.models.fourier.spectral import analyse, synthesise
from core.checkpoints.exchange import export_weights, import_weights
from core.checkpoints.sources import read_weights
from core.checkpoints.weights import load_weights, network_from
from core.errors import UserError
from core.parity import run_case


class Convolution(nn.Module):
    """A class that an official file names and that must never be imported for it."""


@pytest.fixture(scope="module")
def plain(repository: Path) -> ModuleType:
    """The transcription of the formulas that the benchmark times."""
    place = repository / "tests" / "benchmarks" / "fno_plain.py"
    spec = importlib.util.spec_from_file_location("fno_plain", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small(modes: tuple[int, ...] = (4, 6), kind: type[FNO] = FNO, **more: Any) -> FNO:
    torch.manual_seed(3)
    return kind(modes=modes, width=8, depth=2, **more)


def shaken(network: nn.Module) -> nn.Module:
    """Move every parameter and statistic away from where it starts, so that none can be left out unseen."""
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
    return network.eval()


@pytest.mark.parametrize("case", ["a_default_2d", "b_padded_group_norm"])
def test_a_recorded_run_is_repeated(case, shared):
    report = run_case(shared / "parity" / "fno" / f"{case}.json")

    assert report.passed, [check for check in report.checks if not check.passed]


OPTIONS: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
    ("1-D", {"modes": (7,)}, (19,)),
    ("2-D, odd modes", {"modes": (5, 7)}, (12, 15)),
    ("3-D", {"modes": (4, 3, 6)}, (8, 7, 10)),
    ("as many modes as points", {"modes": (8, 8)}, (8, 8)),
    ("more modes than points, even", {"modes": (12, 12)}, (8, 6)),
    ("more modes than points, odd", {"modes": (11, 9)}, (7, 5)),
    ("more modes than points, mixed", {"modes": (12, 8)}, (7, 9)),
    ("few modes of many points", {"modes": (3, 4)}, (24, 32)),
    ("stored modes", {"modes": (3, 4), "stored_modes": (8, 8)}, (12, 12)),
    ("no grid", {"grid": False}, (9, 10)),
    ("padding", {"padding": 0.25}, (10, 8)),
    ("padding of each axis", {"padding": (0.3, 0.0)}, (10, 8)),
    ("soft-gating, linear", {"skips": ("soft-gating", "linear")}, (9, 10)),
    ("identity", {"skips": ("identity", "identity")}, (9, 10)),
    ("no skips", {"skips": ("none", "none")}, (9, 10)),
    ("group norm", {"norm": "group_norm", "norm_groups": 4}, (9, 10)),
    ("instance norm", {"norm": "instance_norm"}, (9, 10)),
    ("batch norm", {"norm": "batch_norm"}, (9, 10)),
    ("adaptive norm", {"norm": "ada_in", "condition_features": 3}, (9, 10)),
    ("tanh", {"stabiliser": True}, (9, 10)),
    ("pre-activation", {"preactivation": True, "norm": "group_norm"}, (9, 10)),
    ("pre-activation without MLP", {"preactivation": True, "mlp": False}, (9, 10)),
    (
        "pre-activation without MLP, normed",
        {"preactivation": True, "mlp": False, "norm": "group_norm"},
        (9, 10),
    ),
    (
        "pre-activation without skips, normed, tanh",
        {"preactivation": True, "skips": ("none", "none"), "norm": "batch_norm", "stabiliser": True},
        (9, 10),
    ),
    ("no MLP", {"mlp": False, "norm": "instance_norm"}, (9, 10)),
    ("wide MLP, no lifting MLP", {"mlp_ratio": 1.5, "ratios": (0, 4)}, (9, 10)),
    ("channels", {"in_channels": 3, "out_channels": 2, "frames": 2}, (9, 10)),
]


@pytest.mark.parametrize(("settings", "space"), [o[1:] for o in OPTIONS], ids=[o[0] for o in OPTIONS])
def test_every_option_equals_the_plain_formulas(settings, space, plain):
    network = shaken(small(**settings)).double()
    config = to_official_config(network)
    x = torch.randn(2, config["in_channels"], *space, dtype=torch.float64)
    condition = torch.randn(3, dtype=torch.float64) if settings.get("norm") == "ada_in" else None
    state = KEY_MAP.to_official(network.state_dict())

    torch.testing.assert_close(network(x, condition), plain.plain_fno(state, config, x, condition))


@pytest.mark.parametrize(("settings", "space"), [o[1:] for o in OPTIONS], ids=[o[0] for o in OPTIONS])
def test_every_option_survives_official_names_and_arguments(settings, space):
    network = shaken(small(**settings))

    again = from_official_config(to_official_config(network))
    load_weights(KEY_MAP.to_official(network.state_dict()), again)

    assert to_official_config(again) == to_official_config(network)
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_batch_norms_in_a_module_of_their_own_are_read():
    network = shaken(small(norm="batch_norm"))
    official = KEY_MAP.to_official(network.state_dict())

    nested = {re.sub(r"(\.norm\.\d+\.)", r"\1norm.", name): value for name, value in official.items()}

    assert nested.keys() != official.keys()
    assert KEY_MAP.from_official(nested).keys() == network.state_dict().keys()


@pytest.mark.parametrize("space", [(9,), (8,), (4, 5), (5, 4), (4, 3, 4)], ids=str)
def test_the_written_gradients_of_the_transforms_are_right(space):
    kept = (*[min(3, n) for n in space[:-1]], space[-1] // 2 + 1)
    x = torch.randn(2, 1, *space, dtype=torch.float64, requires_grad=True)
    modes = torch.randn(*kept, 2, 1, dtype=torch.complex128, requires_grad=True)

    assert torch.autograd.gradcheck(lambda x: analyse(x, kept), (x,), check_batched_grad=False)
    assert torch.autograd.gradcheck(lambda m: synthesise(m, space), (modes,), check_batched_grad=False)
    assert torch.autograd.gradgradcheck(lambda x: analyse(x, kept), (x,), check_batched_grad=False)


@pytest.mark.parametrize("space", [(8, 8), (7, 9)])
def test_what_a_real_field_cannot_have_is_not_looked_at_on_a_cpu(space):
    kept = (5, space[-1] // 2 + 1)
    modes = torch.randn(*kept, 2, 1, dtype=torch.complex128)

    free = synthesise(modes, space, enforce_hermitian=False)

    shifted = torch.zeros(2, 1, *space[:1], kept[1], dtype=torch.complex128)
    shifted[:, :, :3], shifted[:, :, -2:] = (
        modes.permute(2, 3, 0, 1)[:, :, 2:],
        modes.permute(2, 3, 0, 1)[:, :, :2],
    )
    columns = torch.fft.ifft(shifted, dim=-2, norm="forward")
    columns[..., 0].imag.zero_()
    columns[..., -1].imag.mul_(0 if space[-1] % 2 == 0 else 1)
    torch.testing.assert_close(free, torch.fft.irfft(columns, n=space[-1], norm="forward"))


def test_the_same_function_gives_the_same_field_at_twice_the_resolution():
    network = small(modes=(4, 4), grid=False).double()
    angle = [2 * torch.pi * torch.arange(n, dtype=torch.float64) / n for n in (16, 32)]
    coarse, fine = ((torch.sin(a)[:, None] * torch.cos(a)[None])[None, None] for a in angle)

    # the lifting's GELU makes higher harmonics, which fall off fast
    torch.testing.assert_close(network(fine)[..., ::2, ::2], network(coarse), rtol=0, atol=1e-5)


def test_the_named_sizes_have_the_published_numbers():
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in size().parameters()) for size in (fno_small2d, fno_medium2d, fno_large2d)
        ]

    assert counts == [671_113, 69_265_345, 277_057_409]


def test_a_network_without_memory_is_filled_by_its_own_reset():
    with torch.device("meta"):
        network = small(norm="batch_norm")
    network.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            tensor.fill_(7)

    torch.manual_seed(3)
    network.reset_parameters()

    assert not any(bool((tensor == 7).any()) for tensor in network.state_dict().values())
    assert torch.isfinite(network(torch.randn(2, 1, 9, 10))).all()
    assert abs(network.layers[0].spectral.weight.square().sum(-1).mean() - 2 / (8 + 8)) < 0.02


def test_frames_become_channels_and_the_next_frame_comes_out():
    network = small(in_channels=3, out_channels=2, frames=4)
    history = torch.randn(5, 4, 3, 8, 9)

    after = network.advance(history)

    assert after.shape == (5, 1, 2, 8, 9)
    assert torch.equal(after[:, 0], network(history.flatten(1, 2)))
    assert list(network.blocks()) == list(network.layers)


def test_a_lead_time_is_one_more_constant_channel():
    network = small(kind=TimedFNO, in_channels=2, out_channels=2)
    under = FNO(modes=(4, 6), width=8, depth=2, in_channels=3, out_channels=2)
    under.load_state_dict(network.state_dict())
    fields, time = torch.randn(2, 2, 8, 8), torch.tensor([0.25, 0.5])

    constant = time.view(2, 1, 1, 1).expand(2, 1, 8, 8)
    torch.testing.assert_close(network(fields, time), under(torch.cat([fields, constant], 1)))
    assert torch.equal(network.advance(fields[:, None], time)[:, 0], network(fields, time))
    assert (network.timed, FNO.timed) == (True, False)
    with pytest.raises(ValueError, match="needs the lead time"):
        network.advance(fields[:, None])


@pytest.mark.parametrize("fused", [True, False])
def test_complex_weights_train_in_a_fused_optimiser(fused):
    network = small()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, fused=fused)
    x = synthesise(torch.randn(3, 2, 4, 1, dtype=torch.complex64), (8, 8))
    losses = []
    for _ in range(40):
        loss = (network(x) - x.roll(1, -1)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())

    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("how", ["autocast", "true"])
def test_half_precision_stays_close(how):
    network, x = small(), torch.randn(2, 1, 16, 16)
    whole = network(x)

    if how == "true":
        half = network.bfloat16()(x.bfloat16())
    else:
        with torch.autocast("cpu", torch.bfloat16):
            half = network(x)

    assert (half.float() - whole).abs().max() < 0.1 * whole.abs().max()


@pytest.mark.parametrize("named", [False, True], ids=["plain", "with classes and functions"])
def test_an_official_file_loads_with_its_arguments(tmp_path, named):
    network = shaken(small())
    arguments = {"n_modes": (4, 6), "in_channels": 1, "hidden_channels": 8, "n_layers": 2, "_name": "FNO"}
    more = {"non_linearity": gelu, "conv_module": Convolution} if named else {}
    state = {**KEY_MAP.to_official(network.state_dict()), "_metadata": {**arguments, **more}}
    torch.save(state, tmp_path / "model_state_dict.pt")

    again = network_from(tmp_path / "model_state_dict.pt")

    assert state["fno_blocks.convs.0.weight.tensor"].dtype == torch.complex64
    found = again.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in network.state_dict().items())


def test_a_class_elsewhere_in_an_official_file_is_refused(tmp_path):
    state = {**KEY_MAP.to_official(small().state_dict()), "_metadata": {"_name": "FNO"}, "more": Convolution}
    torch.save(state, tmp_path / "w.pt")

    with pytest.raises(UserError, match="holds the Python object"):
        read_weights(tmp_path / "w.pt")


def test_complex_weights_go_out_as_safetensors_and_come_back(tmp_path):
    network = shaken(small())
    state = {**KEY_MAP.to_official(network.state_dict())}
    arguments = {key: value for key, value in to_official_config(network).items() if key != "model_type"}
    torch.save({**state, "_metadata": {**arguments, "_name": "FNO"}}, tmp_path / "w.pt")

    import_weights(tmp_path / "w.pt", tmp_path / "own.ckpt")
    folder = export_weights(tmp_path / "own.ckpt", tmp_path / "official")

    out = read_weights(folder).tensors
    assert out.keys() == state.keys()
    assert all(torch.equal(out[key], state[key]) for key in state)


WRONG: list[tuple[str, Callable[[], object], str]] = [
    ("modes", lambda: FNO(modes=()), "network.modes is"),
    ("skip", lambda: FNO(skips=("linaer", "none")), "did you mean 'linear'"),
    ("padding", lambda: FNO(padding=(0.1,)), "one an axis"),
    ("groups", lambda: FNO(norm="group_norm", norm_groups=5), "must divide the width 24"),
    ("stored", lambda: FNO(stored_modes=(8, 32)), "at least modes"),
    ("official", lambda: from_official_config({"n_modes": [4], "factorization": "tucker"}), "tucker"),
    ("official modes", lambda: from_official_config({}), "lacks n_modes"),
]


@pytest.mark.parametrize(("make", "sentence"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_a_wrong_argument_is_named(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


def test_fields_of_another_shape_are_named():
    with pytest.raises(ValueError, match=r"takes \(batch, 1 channels, 2 space axes\)"):
        small()(torch.randn(2, 1, 8))
    with pytest.raises(ValueError, match="condition is missing"):
        small(norm="ada_in").advance(torch.randn(2, 1, 1, 8, 8))
