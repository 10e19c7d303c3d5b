"""What is trained and from when, as a function of step and epoch."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn

from core.adaptation import Adaptation, FreezeAtFirst, Full, HeadOnly
from core.errors import UserError
from core.optim import WSDS, Schedule, parameter_groups


class Net(nn.Module):
    """A backbone with BatchNorm, a table that is never trained, and a head with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.backbone.table = nn.Parameter(torch.ones(4), requires_grad=False)
        self.head = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, x):
        return self.head(self.backbone(x))


def trained(network: nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    network(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()


HEAD = {"head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias"}
BODY = {"backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias"}


def test_full_changes_nothing():
    network = Net()
    Full().prepare(network)
    Full().apply(network, 0, 0)
    assert trained(network) == HEAD | BODY
    assert not Full().needs_unused


def test_head_only_trains_the_head_and_keeps_the_statistics_of_the_rest():
    network = Net()
    adaptation = HeadOnly(head=("head",))
    adaptation.prepare(network)
    optimizer = torch.optim.AdamW(parameter_groups(network, lr=0.1))
    before = copy.deepcopy(network.backbone.state_dict())
    network.train()
    adaptation.apply(network, 0, 0)
    step(network, optimizer)
    assert trained(network) == HEAD
    assert all(torch.equal(value, before[name]) for name, value in network.backbone.state_dict().items())
    assert network.head[0].training and not network.backbone[1].training
    assert not adaptation.needs_unused


def test_head_only_takes_patterns_of_names():
    network = Net()
    HeadOnly(head=("head.1.*",)).prepare(network)
    assert trained(network) == {"head.1.weight", "head.1.bias"}


def test_freezing_at_first_waits_until_after_the_strategy_has_wrapped():
    network = Net()
    adaptation = FreezeAtFirst(patterns=("backbone",), until_step=3)
    adaptation.prepare(network)
    assert trained(network) == HEAD | BODY
    adaptation.apply(network, 0, 0)
    assert trained(network) == HEAD
    assert adaptation.needs_unused


@pytest.mark.parametrize(
    ("until", "step", "epoch", "frozen"),
    [
        ({"until_step": 3}, 2, 5, True),
        ({"until_step": 3}, 3, 0, False),
        ({"until_epoch": 2}, 900, 1, True),
        ({"until_epoch": 2}, 0, 2, False),
        ({"until_step": 0}, 0, 0, False),
    ],
)
def test_freezing_is_a_function_of_step_and_epoch(until, step, epoch, frozen):
    network = Net()
    adaptation = FreezeAtFirst(patterns=("backbone",), **until)
    adaptation.prepare(network)
    adaptation.apply(network, 0, 0)
    adaptation.apply(network, step, epoch)
    assert trained(network) == (HEAD if frozen else HEAD | BODY), "a table never trained stays untrained"
    assert network.backbone[1].training != frozen


def test_thawed_parameters_train_in_the_groups_they_always_had():
    network = Net()
    adaptation = FreezeAtFirst(patterns=("backbone",), until_step=1)
    adaptation.prepare(network)
    optimizer = torch.optim.AdamW(parameter_groups(network, lr=0.1, weight_decay=0.1))
    before = copy.deepcopy(network.backbone[0].weight)
    for number in range(3):
        adaptation.apply(network, number, 0)
        step(network, optimizer)
        if number == 0:
            assert torch.equal(network.backbone[0].weight, before), "not even decay moves what is frozen"
            assert network.backbone[0].weight not in optimizer.state
    assert not torch.equal(network.backbone[0].weight, before)
    assert float(optimizer.state[network.backbone[0].weight]["step"]) == 2.0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FreezeAtFirst(), "give exactly one of the two"),
        (lambda: FreezeAtFirst(until_step=1, until_epoch=1), "give exactly one of the two"),
        (lambda: FreezeAtFirst(until_step=-1), "until is -1; it must be at least 0"),
        (lambda: HeadOnly(head=()), "HeadOnly: head is empty"),
        (lambda: HeadOnly(head=("haed",)).prepare(Net()), "names no parameter of Net; did you mean 'head'"),
    ],
)
def test_mistakes_are_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()


@pytest.mark.parametrize("adaptation", [HeadOnly(), FreezeAtFirst(until_step=5), Full()])
def test_an_adaptation_is_copied_and_pickled_with_its_network(adaptation):
    network = Net()
    adaptation.prepare(network)
    adaptation.apply(network, 0, 0)
    for make in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))):
        other, same = make((network, adaptation))
        assert same == adaptation
        same.apply(other, 9, 9)
        assert trained(network) == (HEAD | BODY if isinstance(adaptation, Full) else HEAD)
        assert trained(other) == (HEAD if isinstance(adaptation, HeadOnly) else HEAD | BODY)


def test_schedules_and_adaptations_are_named_in_a_recipe():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--schedule", type=Schedule | None, default=None)
    parser.add_argument("--adaptation", type=Adaptation | None, default=None)
    config = parser.parse_object(
        {
            "schedule": {"class_path": "core.optim.WSDS", "init_args": {"ends": [100, 1.0], "warmup": 5}},
            "adaptation": {"class_path": "core.adaptation.HeadOnly", "init_args": {"head": ["decoder"]}},
        }
    )
    again = parser.parse_string(parser.dump(config))
    built = parser.instantiate_classes(again)
    assert built.schedule == WSDS(ends=(100, 1.0), warmup=5)
    assert built.adaptation == HeadOnly(head=("decoder",))
