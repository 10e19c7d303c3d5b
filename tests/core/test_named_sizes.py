"""A named size is a function with the network's signature, types and docstring, and other defaults."""

from __future__ import annotations

import inspect

import pytest
from torch import nn

from core.backbones.sizes import size


class Stack(nn.Module):
    """Linear layers in a row.

    Args:
        width: Channels.
        depth: Layers.
    """

    def __init__(self, width: int = 4, depth: int = 1, *, bias: bool = True) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=bias) for _ in range(depth))


wide = size(Stack, "Wide: 8 channels.", width=8)


def test_defaults_are_the_sizes_and_the_rest_the_networks() -> None:
    assert wide().layers[0].weight.shape == (8, 8) and len(wide().layers) == 1
    assert len(wide(depth=3, width=2).layers) == 3
    signature = inspect.signature(wide)
    assert {name: p.default for name, p in signature.parameters.items()} == {
        "width": 8,
        "depth": 1,
        "bias": True,
    }
    assert signature.return_annotation is Stack and signature.parameters["depth"].annotation is int


def test_the_docstring_says_what_the_size_is_and_what_the_network_takes() -> None:
    assert wide.__doc__.startswith("Wide: 8 channels.") and "depth: Layers." in wide.__doc__
    assert wide.__module__ == __name__


def test_a_size_refuses_what_the_network_does_not_take() -> None:
    with pytest.raises(TypeError, match="Stack has no argument height"):
        size(Stack, "High.", height=2)
    with pytest.raises(TypeError, match="height"):
        wide(height=2)
