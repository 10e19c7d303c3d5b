"""Every named size of every system: the command line builds what a direct call does, and reaches it all."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.cli import LightningArgumentParser
from torch import nn

ROOT = Path(__file__).parents[2]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted(ROOT.glob("apps/*/models/*.py"))
    if path.stem != "__init__"
]


def network_class(module: Any, function: Callable[..., Any]) -> Any:
    """Return the network that a function's return annotation names, or None."""
    annotation = inspect.signature(function).return_annotation
    found = getattr(module, annotation, None) if isinstance(annotation, str) else annotation
    return found if inspect.isclass(found) and issubclass(found, nn.Module) else None


def size_functions() -> list[str]:
    """Return the dotted names of all public functions that need no argument and return a network."""
    names = []
    for place in MODULES:
        module = importlib.import_module(place)
        for name, function in vars(module).items():
            if not inspect.isfunction(function) or function.__module__ != place or name.startswith("_"):
                continue
            needed = [
                p
                for p in inspect.signature(function).parameters.values()
                if p.default is p.empty and p.kind is not p.VAR_KEYWORD
            ]
            if not needed and network_class(module, function) is not None:
                names.append(f"{place}.{name}")
    return names


SIZES = size_functions()


@pytest.fixture(scope="module")
def parsed() -> Callable[..., nn.Module]:
    """A function that builds a network as the command line does, on the meta device."""
    parser = LightningArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_subclass_arguments(nn.Module, "network")

    def build(*words: str) -> nn.Module:
        with torch.device("meta"):
            return parser.instantiate(parser.parse_args(list(words))).network

    return build


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def yaml(value: Any) -> str:
    """Return a default as one writes it in a recipe."""
    if value is None:
        return "null"
    if dataclasses.is_dataclass(value):
        kind = type(value)
        return json.dumps({"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": vars(value)})
    return str(list(value)) if isinstance(value, tuple) else str(value)


def test_the_walk_finds_the_sizes():
    assert "apps.timeseries.models.ttm.ttm_512_96" in SIZES
    assert len(SIZES) >= 16


@pytest.mark.parametrize("path", SIZES)
def test_the_parser_builds_what_a_direct_call_builds(path, parsed):
    module, _, name = path.rpartition(".")
    with torch.device("meta"):
        direct = getattr(importlib.import_module(module), name)()

    built = parsed(f"--network={path}")

    assert type(built) is type(direct)
    assert repr(built) == repr(direct)
    assert shapes(built) == shapes(direct)


@pytest.mark.parametrize("path", SIZES)
def test_every_parameter_of_the_class_reaches_it(path, monkeypatch):
    place, _, name = path.rpartition(".")
    module = importlib.import_module(place)
    function = getattr(module, name)
    network = network_class(module, function)
    arguments = [p for p in inspect.signature(network.__init__).parameters if p != "self"]
    reached: dict[str, Any] = {}
    monkeypatch.setattr(network, "__init__", lambda self, **given: reached.update(given))

    for key in arguments:
        reached.clear()
        function(**{key: 64})
        assert reached[key] == 64


@pytest.mark.parametrize("path", SIZES)
def test_the_parser_takes_every_parameter_of_the_class(path, parsed):
    place, _, name = path.rpartition(".")
    module = importlib.import_module(place)
    network = network_class(module, getattr(module, name))
    defaults = {
        key: p.default for key, p in inspect.signature(network.__init__).parameters.items() if key != "self"
    }
    own = {k: p.default for k, p in inspect.signature(getattr(module, name)).parameters.items() if k != "kw"}
    values = {**defaults, **own}

    words = [f"--network.{key}={yaml(value)}" for key, value in values.items()]

    assert shapes(parsed(f"--network={path}", *words)) == shapes(parsed(f"--network={path}"))
