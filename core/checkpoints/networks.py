"""Building a network from what a file says about it: a class path, or an official configuration."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from torch import nn

from core.errors import UserError, did_you_mean

__all__ = [
    "chosen_arguments",
    "describe_network",
    "home_of",
    "instantiate",
    "network_config",
    "system_module",
    "systems",
]

_OURS = ("apps.", "core.")


def network_config(config: Any) -> dict[str, Any] | None:
    """Return `{"class_path", "init_args"}` of the network that a resolved config holds."""
    if not isinstance(config, Mapping):
        return None
    for keys in (("model", "init_args", "network"), ("model", "network"), ("network",)):
        inner: Any = config
        for key in keys:
            inner = inner.get(key) if isinstance(inner, Mapping) else None
        if isinstance(inner, Mapping) and "class_path" in inner:
            return dict(inner)
    return None


def instantiate(described: Mapping[str, Any], *, where: str) -> nn.Module:
    """Call `class_path` with `init_args`, nested ones first.

    A file must not be able to run any function there is: classes must be networks, functions must be ours.

    Args:
        described: `class_path` and `init_args`.
        where: The file it stands in, for errors.

    Raises:
        UserError: If the path does not exist, is not allowed, or does not take the arguments.
    """
    network = _build(described, where=where)
    if not isinstance(network, nn.Module):
        raise UserError(f"{where} names {described['class_path']}, which makes no network")
    return network


def chosen_arguments(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `init_args` that differ from the defaults of the class or named size, for a short line.

    A resolved config spells every argument. Those that a named size sets are kept: they say what it is. All
    are returned where the class path is not installed.
    """
    arguments = dict(described.get("init_args") or {})
    module, _, name = str(described["class_path"]).rpartition(".")
    try:
        target = getattr(import_module(module), name)
        made = target if isinstance(target, type) else get_type_hints(target).get("return")
        spelt = inspect.signature(made).parameters.values() if made else ()
        sized = inspect.signature(target).parameters
    except (ImportError, ValueError, AttributeError, NameError, TypeError):
        return arguments
    defaults = {parameter.name: parameter.default for parameter in spelt}
    own = {name for name, parameter in sized.items() if parameter.default != defaults.get(name)}
    return {
        key: _chosen(value)
        for key, value in arguments.items()
        if key in own or key not in defaults or not _equal(defaults[key], value)
    }


def _chosen(value: Any) -> Any:
    """Shorten what an argument that names a class says of it."""
    if not isinstance(value, Mapping) or "class_path" not in value:
        return value
    return {"class_path": value["class_path"], "init_args": chosen_arguments(value)}


def _equal(default: Any, value: Any) -> bool:
    """Tell whether a file says what the default is; files have lists where code has tuples."""
    if isinstance(default, tuple) and isinstance(value, list):
        return list(default) == value
    return bool(default == value)


def describe_network(network: nn.Module) -> dict[str, Any]:
    """Return `class_path` and `init_args` that rebuild `network` through its system's official configuration.

    Raises:
        UserError: If its module has no official configuration.
    """
    module = home_of(network)
    if not hasattr(module, "to_official_config"):
        raise UserError(f"{module.__name__} has no official configuration to describe a network with")
    return {
        "class_path": f"{module.__name__}.from_official_config",
        "init_args": {"config": module.to_official_config(network)},
    }


def home_of(network: nn.Module) -> ModuleType:
    """Return the module that exports the network's class with its key map: its own, or its system's.

    Without one it is the module that defines the class.
    """
    kind = type(network)
    own = sys.modules[kind.__module__]
    if hasattr(own, "KEY_MAP"):
        return own
    parts = kind.__module__.split(".")
    rooms = "core.checkpoints.official" if parts[0] == "core" else ".".join(parts[:3])
    for path in systems().values():
        if path.startswith(f"{rooms}."):
            module = import_module(path)
            if getattr(module, kind.__name__, None) is kind and hasattr(module, "KEY_MAP"):
                return module
    return own


def systems() -> dict[str, str]:
    """Return each system to its module, `ttm` to `apps.timeseries.models.ttm`; none is imported.

    Core's own backbones have theirs in `core.checkpoints.official`.
    """
    root = Path(__file__).parents[2]
    files = sorted(root.glob("core/checkpoints/official/*.py")) + sorted(root.glob("apps/*/models/*.py"))
    return {
        file.stem: ".".join(file.relative_to(root).with_suffix("").parts)
        for file in files
        if not file.stem.startswith("_")
    }


def system_module(name: str) -> ModuleType:
    """Return the module of a system by its name (`ttm`), module path, or official `model_type` (through
    the cards).

    Raises:
        UserError: If there is none, or it reads no official configuration.
    """
    from core.checkpoints.cards import modules_by_layout

    known = systems()
    path = name if name in known.values() else known.get(name) or modules_by_layout().get(name)
    if path is None:
        choices = ", ".join(known) or "none"
        raise UserError(
            f"'{name}' is no system of domainfm ({choices}){did_you_mean(name, known)}; name it with --system"
        )
    module = import_module(path)
    if not hasattr(module, "from_official_config"):
        raise UserError(f"{path} builds no network from an official configuration")
    return module


def _build(described: Mapping[str, Any], *, where: str) -> Any:
    path = str(described["class_path"])
    module, _, name = path.rpartition(".")
    try:
        target = getattr(import_module(module), name)
    except (ImportError, ValueError, AttributeError) as error:
        raise UserError(f"{where} needs {path}, which is not installed here ({error})") from error
    is_network = isinstance(target, type) and issubclass(target, nn.Module)
    if not is_network and not f"{getattr(target, '__module__', '')}.".startswith(_OURS):
        raise UserError(
            f"{where} names {path}, which is neither a network nor part of domainfm; it is not called"
        )
    arguments = {**(described.get("init_args") or {}), **(described.get("dict_kwargs") or {})}
    built = {key: _nested(value, where=where) for key, value in arguments.items()}
    try:
        return target(**built)
    except TypeError as error:
        raise UserError(f"{where} names {path} with arguments that it does not take: {error}") from error


def _nested(value: Any, *, where: str) -> Any:
    if isinstance(value, Mapping):
        return _build(value, where=where) if "class_path" in value else dict(value)
    if isinstance(value, list | tuple):
        return type(value)(_nested(item, where=where) for item in value)
    return value
