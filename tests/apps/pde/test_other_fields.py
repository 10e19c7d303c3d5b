"""Which names of fields a recipe takes over from its parent, and which `--data.path` makes void."""

from __future__ import annotations

import pytest

from apps.pde import about_data, unbound
from core.cli.inheritance import with_network_options

FLOW = ["density", "velocity_x", "velocity_y", "pressure"]


def config(**network: int) -> dict:
    arguments = {"in_channels": 4, "out_channels": 4, **network}
    return {
        "model": {"init_args": {"network": {"class_path": "a.Net", "init_args": arguments}}},
        "data": {"init_args": {"inputs": FLOW, "outputs": FLOW}},
    }


@pytest.mark.parametrize(
    ("network", "void"),
    [
        ({}, ()),
        ({"in_channels": 2, "out_channels": 2}, ("inputs", "outputs")),
        ({"in_channels": 5}, ("inputs",)),
    ],
)
def test_names_stay_while_the_network_has_a_channel_for_each(network, void):
    assert unbound(config(**network)) == void
    assert set(about_data(config(**network))) >= {"card", "generate", *void}


def test_nothing_is_void_where_nothing_is_said():
    assert unbound({}) == unbound({"model": {"init_args": {"network": "a.Net"}}}) == ()
    assert unbound({"data": {"init_args": {"inputs": None}}}) == ()


def test_splits_of_a_config_that_names_a_file_stay():
    own = config(in_channels=2)
    own["data"]["init_args"] |= {"path": "mine.nc", "test_trajectories": 3}

    assert about_data(own) == ("inputs",)


@pytest.mark.parametrize(
    "options",
    [
        ["--model.network.in_channels=2", "--model.network.out_channels=2"],
        ["--model.network.in_channels", "2", "--model.init_args.network.init_args.out_channels", "2"],
    ],
)
def test_channels_that_are_typed_count(options):
    assert unbound(with_network_options(config(), options)) == ("inputs", "outputs")
    assert unbound(with_network_options(config(), ["--model.rollout=direct"])) == ()
