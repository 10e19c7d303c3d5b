"""Parameter groups: every parameter once, with its rate and its decay."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from core.errors import UserError
from core.optim import parameter_groups


class Blocks(nn.Module):
    """An embedding, some blocks, a norm and a head; one parameter is frozen, one is shared."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Linear(4, 4)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(depth))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 4)
        self.head.weight = self.embedding.weight
        self.norm.weight.requires_grad_(False)

    def blocks(self):
        return iter(self.layers)


@settings(max_examples=30, deadline=None)
@given(
    depth=st.integers(1, 5),
    no_decay=st.sampled_from([True, False, (), ("1d",), ("*.bias",), ("head.*", "norm.*")]),
    layer_decay=st.sampled_from([None, 0.5, 1.0]),
)
def test_every_parameter_is_in_exactly_one_group(depth, no_decay, layer_decay):
    network = Blocks(depth)
    groups = parameter_groups(network, lr=0.1, weight_decay=0.2, no_decay=no_decay, layer_decay=layer_decay)
    found = [id(p) for group in groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in network.parameters())
    assert len({group["name"] for group in groups}) == len(groups)
    torch.optim.AdamW(groups)


def test_one_dimensional_parameters_have_no_decay():
    groups = parameter_groups(Blocks(), lr=0.1, weight_decay=0.2, no_decay=True)
    decay = {group["name"]: group["weight_decay"] for group in groups}
    assert decay == {"decay": 0.2, "no_decay": 0.0}
    dimensions = {group["name"]: {p.ndim for p in group["params"]} for group in groups}
    assert dimensions == {"decay": {2}, "no_decay": {1}}


def test_each_block_has_the_rate_of_the_next_times_the_factor():
    network = Blocks(2)
    groups = parameter_groups(network, lr=1.0, layer_decay=0.5)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rates[id(network.head.bias)] == 1.0
    assert rates[id(network.layers[1][0].weight)] == 0.5
    assert rates[id(network.layers[0][0].weight)] == 0.25
    assert rates[id(network.embedding.bias)] == 0.125
    assert [group["layer"] for group in groups] == [0, 1, 2, 3]


def test_the_first_pattern_that_fits_gives_the_factor_of_the_rate():
    network = Blocks()
    groups = parameter_groups(network, lr=1.0, no_decay=["*.bias"], rates={"embedding.*": 10.0, "*": 0.5})
    found = {id(p): (group["lr"], group.get("weight_decay")) for group in groups for p in group["params"]}
    assert found[id(network.embedding.weight)] == (10.0, None)
    assert found[id(network.embedding.bias)] == (10.0, 0.0)
    assert found[id(network.norm.weight)] == (0.5, None)
    assert len({group["name"] for group in groups}) == len(groups)


def test_a_pattern_with_an_exclamation_mark_takes_back_an_exemption():
    network = Blocks()
    groups = parameter_groups(network, lr=1.0, weight_decay=0.1, no_decay=["*.bias", "!embedding.*"])
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decay[id(network.head.bias)] == 0.0
    assert decay[id(network.embedding.bias)] == 0.1


def test_without_rate_or_decay_the_optimizer_decides():
    (group,) = parameter_groups(Blocks())
    assert {"lr", "weight_decay"}.isdisjoint(group)
    assert torch.optim.AdamW([group], lr=0.3, weight_decay=0.4).param_groups[0]["weight_decay"] == 0.4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "the learning rate is -1.0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"layer_decay": 0.0}, "layer_decay is 0.0; it must be above 0 and at most 1"),
        ({"rates": {"haed.*": 2.0}}, r"rates has 'haed\.\*', which matches no parameter of Blocks"),
        ({"rates": {"head.*": -1.0}}, "the factor -1.0; it must be at least 0"),
        ({"no_decay": ["haed.*"]}, r"no_decay has 'haed\.\*', which matches no parameter of Blocks"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        parameter_groups(Blocks(), **{"lr": 0.1, **options})


def test_layer_wise_decay_needs_blocks():
    with pytest.raises(UserError, match=r"layer_decay needs a network with blocks\(\); Linear has none"):
        parameter_groups(nn.Linear(2, 2), lr=0.1, layer_decay=0.5)
