"""Low-rank adapters on networks of every domain: nothing changes at first, merging is exact, mistakes are one
sentence.
"""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from apps.pde.models.fno import FNO
from apps.pde.models.poseidon import ScOT
from apps.remote_sensing.models.decoders import FCN
from apps.remote_sensing.models.mapper import Mapper
from apps.remote_sensing.models.prithvi import Prithvi
from apps.timeseries.models.mixer.settings import DecoderSettings, MixerSettings
from apps.timeseries.models.ttm import TTM
from core.adaptation import DoRA, LoRA, LowRank, kept_names, trained_table
from core.adaptation.parity import CASES
from core.backbones.adapters import LowRankUpdate, adapted_layers, is_adapter, merge, merged, merged_state
from core.backbones.llama import llama_tiny
from core.errors import UserError
from core.parity import run_case

ADAPTATIONS = [LoRA(rank=2), LoRA(rank=2, stabilised=True), DoRA(rank=2), LowRank(ratio=1.2, smallest=2)]


def series() -> tuple[nn.Module, tuple]:
    sizes = {"width": 16, "levels": 1, "depth": 1, "decoder": DecoderSettings(width=8), "dropout": 0.1}
    return TTM(context=32, horizon=8, patch=8, **sizes), (torch.randn(2, 32, 1),)


def series_with_attention() -> tuple[nn.Module, tuple]:
    sizes = {"width": 16, "levels": 0, "depth": 1, "decoder": DecoderSettings(width=8)}
    mixer = MixerSettings(self_attention=True)
    return TTM(context=32, horizon=8, patch=8, mixer=mixer, **sizes), (torch.randn(2, 32, 1),)


def fields() -> tuple[nn.Module, tuple]:
    sizes = {"width": 8, "depths": [1, 1], "heads": [2, 4], "skips": [1, 0], "window": 4}
    network = ScOT(resolution=16, patch=2, in_channels=2, out_channels=2, **sizes)
    return network, (torch.randn(1, 2, 16, 16), torch.rand(1))


def spectra() -> tuple[nn.Module, tuple]:
    network = FNO(modes=(4, 4), in_channels=2, out_channels=2, width=8, depth=1)
    return network, (torch.randn(1, 2, 8, 8),)


def words() -> tuple[nn.Module, tuple]:
    return llama_tiny(width=16, depth=2, heads=2), (torch.randint(0, 256, (2, 8)),)


def scenes() -> tuple[nn.Module, tuple]:
    encoder = Prithvi(resolution=16, frames=1, patch=(1, 4, 4), width=16, depth=1, heads=2)
    return Mapper(encoder, decoder=FCN(channels=4, steps=1)), (torch.randn(2, 6, 1, 16, 16),)


MAKERS = [series, series_with_attention, fields, spectra, words, scenes]


def made(maker) -> tuple[nn.Module, tuple]:
    """Return a network in float64, in evaluation mode, and what it is called with."""
    torch.manual_seed(0)
    network, given = maker()
    wide = tuple(value.double() if value.is_floating_point() else value for value in given)
    return network.double().eval(), wide


def output(network: nn.Module, given: tuple) -> torch.Tensor:
    with torch.no_grad():
        out = network(*given)
    return getattr(out, "logits", getattr(out, "prediction", out))


def moved(network: nn.Module) -> None:
    """Move what is trained, as some steps of training would."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("adaptation", ADAPTATIONS[:3])
def test_an_adapted_network_begins_as_it_was_and_trains_little(maker, adaptation):
    network, given = made(maker)
    before = output(network, given)
    adaptation.prepare(network)
    assert (output(network, given) - before).abs().max() <= 1e-12
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained and all(is_adapter(name) for name in trained)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_merging_changes_nothing_and_leaves_the_networks_own_names(maker, adaptation):
    network, given = made(maker)
    plain, names = copy.deepcopy(network), set(network.state_dict())
    adaptation.prepare(network)
    moved(network)
    adapted = output(network, given)
    assert (adapted - output(plain, given)).abs().max() > 1e-6, "the adapters do something"
    plain.load_state_dict(merged_state(network.state_dict()))
    assert merge(network) > 0 and next(adapted_layers(network), None) is None
    assert set(network.state_dict()) == names
    assert (output(network, given) - adapted).abs().max() <= 1e-12
    assert (output(plain, given) - adapted).abs().max() <= 1e-12


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_adapters_are_folded_for_a_while_and_come_back_bitwise(adaptation):
    network, given = made(words)
    adaptation.prepare(network)
    moved(network)
    before, trained = copy.deepcopy(network.state_dict()), {id(p) for p in network.parameters()}
    y = output(network, given)
    with merged(network):
        assert not any(map(is_adapter, network.state_dict()))
        assert (output(network, given) - y).abs().max() <= 1e-12
    after = network.state_dict()
    assert set(after) == set(before) and all(torch.equal(after[n], t) for n, t in before.items())
    assert {id(p) for p in network.parameters()} == trained, "an optimizer's parameters are still its own"
    assert torch.equal(output(network, given), y)


@settings(max_examples=30, deadline=None)
@given(
    out=st.integers(2, 9),
    inner=st.integers(2, 9),
    rank=st.integers(1, 9),
    alpha=st.floats(0.1, 64),
    bias=st.booleans(),
    stabilised=st.booleans(),
    magnitude=st.booleans(),
    seed=st.integers(0, 99),
)
def test_forward_weight_and_merged_layer_agree(out, inner, rank, alpha, bias, stabilised, magnitude, seed):
    torch.manual_seed(seed)
    layer = nn.Linear(inner, out, bias=bias).double()
    rank = min(rank, inner, out)
    LowRankUpdate.install(layer, rank, alpha=alpha, stabilised=stabilised, magnitude=magnitude)
    moved(layer)
    x = torch.randn(3, inner, dtype=torch.float64)
    y, weight = layer(x), layer.weight
    size = 1 + y.abs().max()
    assert (nn.functional.linear(x, weight, layer.bias) - y).abs().max() <= 1e-12 * size
    merge(layer)
    assert type(layer) is nn.Linear and isinstance(layer.weight, nn.Parameter)
    assert (layer(x) - y).abs().max() <= 1e-12 * size


@pytest.mark.parametrize("magnitude", [False, True])
def test_both_ways_of_computing_have_one_gradient(magnitude):
    torch.manual_seed(0)
    layer = nn.Linear(6, 5).double()
    LowRankUpdate.install(layer, 2, alpha=4.0, magnitude=magnitude)
    moved(layer)
    x, target = torch.randn(7, 6).double(), torch.randn(7, 5).double()
    own = [p for p in layer.parameters() if p.requires_grad]
    fast = torch.autograd.grad((layer(x) * target).sum(), own)
    slow = torch.autograd.grad((nn.functional.linear(x, layer.weight, layer.bias) * target).sum(), own)
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in zip(fast, slow, strict=True))


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_adapted_networks_are_copied_pickled_and_drawn_anew(adaptation):
    network, given = made(words)
    adaptation.prepare(network)
    moved(network)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(output(other, given), output(network, given))
        names = list(other.state_dict())
        torch.manual_seed(3)
        other.reset_parameters()
        assert list(other.state_dict()) == names
        fresh = llama_tiny(width=16, depth=2, heads=2)
        torch.manual_seed(3)
        fresh.double().reset_parameters()
        if not isinstance(adaptation, LowRank):
            assert (output(other, given) - output(fresh, given)).abs().max() <= 1e-12
        assert not torch.equal(output(other, given), output(network, given))


def test_an_update_depends_on_the_seed_and_moves_no_other_draws():
    drawn = []
    for seed in (5, 5, 6):
        network, _ = made(words)
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        LoRA(rank=2).prepare(network)
        assert torch.equal(torch.get_rng_state(), before)
        drawn.append(network.layers[0].mlp.up_proj.lora_a)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_a_network_on_the_meta_device_is_adapted_there(adaptation):
    with torch.device("meta"):
        network = llama_tiny(width=16, depth=2, heads=2)
    adaptation.prepare(network)
    assert all(p.is_meta for p in network.parameters())
    network.to_empty(device="cpu")
    network.reset_parameters()
    ids = torch.randint(0, 256, (1, 4))
    assert torch.isfinite(network(ids).logits).all()
    assert all(
        float(b) == 16 / 2
        for n, b in network.named_buffers()
        if n.endswith("lora_scale") and not getattr(adaptation, "stabilised", False)
    )


def test_only_the_adapters_are_given_gradients_and_optimizer_state():
    network, given = made(words)
    DoRA(rank=2, train=("norm",)).prepare(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    network(*given).logits.square().mean().backward()
    optimizer.step()
    held = {name for name, parameter in network.named_parameters() if parameter in optimizer.state}
    assert held == {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert "norm.weight" in held and "layers.0.self_attn.q_proj.weight" not in held


def test_statistics_of_frozen_layers_stay_with_the_weights():
    network = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.BatchNorm1d(8))
    adaptation = LoRA(rank=2, targets=("0", "2"), train=("3",))
    adaptation.prepare(network)
    network.train()
    adaptation.apply(network, 0, 0)
    network(torch.randn(4, 8))
    assert not network[1].running_mean.any() and network[3].running_mean.any()
    assert [name for name in kept_names(network) if name.startswith(("1", "3"))] == [
        f"3.{part}" for part in ("bias", "num_batches_tracked", "running_mean", "running_var", "weight")
    ]


def test_patterns_choose_layers_of_any_kind():
    network, _ = made(words)
    LoRA(rank=2, targets=("layers.1", "embed_tokens"), skip=("*.mlp",)).prepare(network)
    found = {name for name, _ in adapted_layers(network)}
    assert found == {"embed_tokens", *(f"layers.1.self_attn.{part}_proj" for part in "qkvo")}


def test_what_begins_anew_is_trained_too():
    network, _ = made(words)
    LoRA(rank=2).prepare(network, fresh=["lm_head*"])
    assert network.lm_head.weight.requires_grad and not network.embed_tokens.weight.requires_grad


def test_the_table_says_what_is_trained():
    network, _ = made(words)
    LoRA(rank=2, targets="*.q_proj").prepare(network)
    lines = trained_table(network).splitlines()
    assert lines[0].split() == ["module", "shape", "trained", "share"]
    assert lines[1].startswith("layers.*.self_attn.q_proj (2 of them)")
    assert "lora_a 2x16, lora_b 16x2" in lines[1] and "128" in lines[1]
    assert lines[-1].startswith("all") and "128 of " in lines[-1]


def twice(network: nn.Module) -> None:
    LoRA().prepare(network)
    LoRA().prepare(network)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda n: LoRA(rank=0), "LoRA: rank is 0; it must be at least 1"),
        (lambda n: DoRA(alpha=0.0), "DoRA: alpha is 0.0; it must be above 0"),
        (lambda n: LowRank(ratio=0.5), "LowRank: ratio is 0.5; it must be at least 1"),
        (lambda n: LoRA(targets=("*.qproj",)).prepare(n), "has '\\*.qproj', which fits no layer of Llama"),
        (lambda n: LoRA(train=("haed",)).prepare(n), "LoRA: train has 'haed', which names no parameter"),
        (lambda n: LoRA(rank=99).prepare(n), "an update of rank 99 is no smaller than any linear layer"),
        (lambda n: LoRA(rank=20, targets=("*.q_proj",)).prepare(n), "is 16x16; lower the rank to 16"),
        (lambda n: LoRA().prepare(nn.Linear(4, 4)), "Linear names no repeated layers"),
        (lambda n: LowRank(smallest=999).prepare(n), "no linear layer of Llama is large enough"),
        (twice, "Llama is adapted already; merge it first"),
    ],
)
def test_mistakes_are_one_sentence(build, message):
    network, _ = made(words)
    with pytest.raises(UserError, match=message):
        build(network)


def test_recorded_case_is_reproduced(shared: Path):
    assert run_case(shared / "parity" / "recipes" / "adapters.json", known=CASES).passed
