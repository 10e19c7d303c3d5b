"""The two-way key map: names and layouts survive the round trip, and what does not fit is listed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from core.checkpoints.keymap import KeyMap, Rename, Reshape
from core.checkpoints.weights import load_weights
from core.errors import UserError

MAP = KeyMap(
    renames=(
        Rename("encoder.layer.{i}.{rest*}", "blocks.{i}.{rest*}"),
        Rename("blocks.{i}.attn.{part}_proj.{leaf}", "blocks.{i}.attention.{part}.{leaf}"),
        Rename("head.{leaf}", "head.{leaf}"),
    ),
    reshapes=(Reshape("head.weight", lambda t: t.squeeze(-1), lambda t: t.unsqueeze(-1)),),
)


@given(index=st.integers(0, 99), part=st.sampled_from(["q", "out"]), leaf=st.sampled_from(["weight", "bias"]))
def test_every_official_name_comes_back(index: int, part: str, leaf: str) -> None:
    official = f"encoder.layer.{index}.attn.{part}_proj.{leaf}"

    ours = MAP.our_name(official)

    assert ours == f"blocks.{index}.attention.{part}.{leaf}"
    assert MAP.official_name(ours) == official


def test_layouts_change_and_come_back_exactly() -> None:
    official = {"head.weight": torch.randn(3, 4, 1), "encoder.layer.0.norm.weight": torch.randn(4)}

    ours = MAP.from_official(official)
    again = MAP.to_official(ours)

    assert ours["head.weight"].shape == (3, 4)
    assert again.keys() == official.keys()
    assert all(torch.equal(again[key], official[key]) for key in official)


def test_names_that_no_rule_knows_are_listed() -> None:
    with pytest.raises(UserError, match="2 unknown parameters: bar, foo"):
        MAP.from_official({"foo": torch.zeros(1), "bar": torch.zeros(1)})


def test_missing_and_surplus_names_are_listed() -> None:
    network = nn.ModuleDict({"head": nn.Linear(4, 2, bias=False)})

    with pytest.raises(UserError, match=r"1 missing there \(head\.weight\), 1 unknown here \(head\.bias\)"):
        load_weights({"head.bias": torch.zeros(3)}, network, key_map=MAP)


def test_two_names_that_would_become_one_are_refused() -> None:
    both = KeyMap((Rename("a.{x}", "c.{x}"), Rename("b.{x}", "c.{x}")))

    with pytest.raises(UserError, match=r"both be named 'c\.weight'"):
        both.from_official({"a.weight": torch.zeros(1), "b.weight": torch.zeros(1)})


def test_loading_refuses_another_shape_and_names_both() -> None:
    network = nn.ModuleDict({"head": nn.Linear(4, 2)})

    with pytest.raises(UserError, match=r"head\.weight is \(3, 4\) there and \(2, 4\) here"):
        load_weights({"head.weight": torch.zeros(3, 4, 1), "head.bias": torch.zeros(2)}, network, key_map=MAP)


def test_loading_fills_the_network() -> None:
    network = nn.ModuleDict({"head": nn.Linear(4, 2)})

    load_weights({"head.weight": torch.ones(2, 4, 1), "head.bias": torch.zeros(2)}, network, key_map=MAP)

    assert torch.equal(network["head"].weight, torch.ones(2, 4))


def test_a_rule_with_a_placeholder_on_one_side_only_is_refused() -> None:
    with pytest.raises(ValueError, match="same placeholders"):
        Rename("a.{x}", "a.b")
