"""Frozen backbones, rates by depth, and layers that thaw or freeze one after the other."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from core.adaptation import LayerDecay, LightDecoder, LinearProbe, ProgressiveFreezing, ProgressiveThawing
from core.backbones.llama import llama_tiny
from core.errors import UserError


class Net(nn.Module):
    """An embedding, three blocks with dropout and BatchNorm, and behind them a neck and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(4, 6)
        block = [nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5)]
        self.stages = nn.ModuleList(nn.Sequential(*copy.deepcopy(block)) for _ in range(3))
        self.neck = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
        self.head = nn.Linear(6, 1)

    def blocks(self):
        yield from self.stages

    def forward(self, x):
        x = self.embed(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(self.neck(x))


def trained(network: nn.Module) -> set[str]:
    """Return the trained parameters' parts: `embed`, `stages.1`, `neck`, …"""
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    return {".".join(name.split(".")[: 2 if name.startswith("stages") else 1]) for name in names}


BLOCKS = [f"stages.{number}" for number in range(3)]
EVERYTHING = {"embed", *BLOCKS, "neck", "head"}


def test_a_light_decoder_is_what_stands_behind_the_blocks():
    network = Net()
    LightDecoder().prepare(network)
    assert trained(network) == {"neck", "head"}


def test_a_frozen_backbone_computes_as_in_evaluation():
    network = Net()
    adaptation = LightDecoder()
    adaptation.prepare(network)
    network.train()
    adaptation.apply(network, 0, 0)
    before = copy.deepcopy(network.stages.state_dict())
    x = torch.randn(8, 4)
    features = [network.stages[0](network.embed(x)) for _ in range(2)]
    network(x).mean().backward()
    assert torch.equal(*features), "no dropout is drawn"
    assert all(torch.equal(value, before[name]) for name, value in network.stages.state_dict().items())
    assert network.neck[1].training and not any(m.training for s in network.stages for m in s.modules())
    assert network.embed.weight.grad is None and network.head.weight.grad is not None


def test_a_light_decoder_is_named_and_takes_what_begins_anew():
    network = Net()
    LightDecoder(decoder="neck").prepare(network, fresh=["head.*"])
    assert trained(network) == {"neck", "head"}


def test_a_linear_probe_is_the_last_layer():
    network, language = Net(), llama_tiny(width=16, depth=2, heads=2)
    LinearProbe().prepare(network)
    LinearProbe().prepare(language)
    assert trained(network) == {"head"} and trained(language) == {"lm_head"}


@pytest.mark.parametrize("decay", [None, 0.8])
def test_layers_thaw_from_the_head_and_freeze_from_the_input(decay):
    network = Net()
    thaw = ProgressiveThawing(every_steps=10, decay=decay)
    freeze = ProgressiveFreezing(every_epochs=2, blocks=2, decay=decay)
    assert thaw.needs_unused and freeze.needs_unused
    assert thaw.layer_decay == freeze.layer_decay == decay
    thaw.prepare(network)
    assert trained(network) == EVERYTHING, "it is frozen only once the strategy has wrapped the network"
    for step, parts in ((0, set()), (9, set()), (10, {BLOCKS[2]}), (29, set(BLOCKS[1:])), (30, set(BLOCKS))):
        thaw.apply(network, step, 0)
        assert trained(network) == {"neck", "head"} | parts
    thaw.apply(network, 40, 0)
    assert trained(network) == EVERYTHING
    freeze.prepare(network)
    for epoch, parts in ((0, EVERYTHING), (1, EVERYTHING), (2, EVERYTHING - {"embed", BLOCKS[0]})):
        freeze.apply(network, 0, epoch)
        assert trained(network) == parts
    freeze.apply(network, 0, 99)
    assert trained(network) == {"neck", "head"}
    assert [stage[1].training for stage in network.stages] == [False] * 3


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.integers(0, 60), min_size=1, max_size=5), thaws=st.booleans())
def test_what_is_frozen_depends_on_the_step_alone(steps, thaws):
    kind = ProgressiveThawing if thaws else ProgressiveFreezing
    walked, jumped = Net(), Net()
    walking, jumping = kind(every_steps=10), kind(every_steps=10)
    for step in steps:
        walking.apply(walked, step, 0)
    jumping.apply(jumped, steps[-1], 0)
    assert trained(walked) == trained(jumped)
    assert [m.training for m in walked.modules()] == [m.training for m in jumped.modules()]


@pytest.mark.parametrize("adaptation", [LightDecoder(), LinearProbe(), ProgressiveThawing(), LayerDecay()])
def test_an_adaptation_is_copied_and_pickled_with_its_network(adaptation):
    network = Net()
    adaptation.prepare(network)
    adaptation.apply(network, 0, 0)
    for make in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))):
        other, same = make((network, adaptation))
        assert same == adaptation
        same.apply(other, 0, 0)
        assert trained(other) == trained(network)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LayerDecay(decay=0.0), "LayerDecay: decay is 0.0; it must be above 0 and at most 1"),
        (lambda: ProgressiveThawing(every_steps=1, every_epochs=1), "both given; give one of the two"),
        (lambda: ProgressiveFreezing(blocks=0), "ProgressiveFreezing: blocks is 0; it must be at least 1"),
        (lambda: ProgressiveThawing().prepare(nn.Linear(2, 2)), "needs a network with blocks"),
        (lambda: LightDecoder(decoder="haed").prepare(Net()), "no parameter of Net; did you mean 'head'"),
        (lambda: LinearProbe(decoder="stages").prepare(Net()), "holds 3 layers with matrices"),
        (lambda: LinearProbe(decoder="neck.1").prepare(Net()), "holds 0 layers with matrices"),
    ],
)
def test_mistakes_are_one_sentence(build, message):
    with pytest.raises(UserError, match=message):
        build()
