"""Building a network from what a file says about it: a class path, or an official configuration."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from torch import nn

from core.errors import UserError, did_you_mean
from core.trust import classes, product_classes, resolve

__all__ = [
    "chosen_arguments",
    "describe_network",
    "home_of",
    "instantiate",
    "network_config",
    "system_module",
    "systems",
]


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
    """Call `class_path` with `init_args`, nested ones first, once all of them are seen to be harmless.

    Args:
        described: `class_path` and `init_args`.
        where: The file it stands in, for errors.

    Raises:
        UserError: If a path does not exist, may not be named (see `core.trust`), is no network or not what
            the argument it stands for takes, or does not take its arguments.
    """
    build = _prepared(described, (nn.Module,), where=where)
    network = build()
    if not isinstance(network, nn.Module):
        raise UserError(f"{where} names {described['class_path']}, which makes no network")
    return network


def chosen_arguments(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `init_args` that differ from the defaults of the class or named size, for a short line.

    A resolved config spells every argument. Those that a named size sets are kept: they say what it is. All
    are returned where the class path is not installed.
    """
    arguments = dict(described.get("init_args") or {})
    try:
        target = resolve(str(described["class_path"]), where="a checkpoint")
        network: Any = target if isinstance(target, type) else get_type_hints(target).get("return")
        defaults = {p.name: p.default for p in inspect.signature(network).parameters.values()}
    except (UserError, ValueError, NameError, TypeError):
        return arguments
    own = getattr(target, "chosen", {})
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
    """Tell whether a file says what the default is; files have lists where code has tuples, and name the
    class of settings.
    """
    if is_dataclass(default) and isinstance(value, Mapping):
        kind, given = type(default), value.get("init_args") or {}
        named = value.get("class_path") == f"{kind.__module__}.{kind.__name__}"
        return named and all(_equal(getattr(default, key, None), item) for key, item in given.items())
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
    # a package is a system if it has official layouts; others are parts of one
    heads = sorted(root.glob("apps/*/models/*/__init__.py"))
    files += [head.parent for head in heads if "KEY_MAP" in head.read_text(encoding="utf-8")]
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

    modules = systems()
    path = name if name in modules.values() else modules.get(name) or modules_by_layout().get(name)
    if path is None:
        choices = f"({', '.join(modules) or 'none'}){did_you_mean(name, modules)}"
        raise UserError(f"'{name}' is no system of domainfm {choices}; name it with --system")
    module = import_module(path)
    if not hasattr(module, "from_official_config"):
        raise UserError(f"{path} builds no network from an official configuration")
    return module


def _prepared(described: Mapping[str, Any], expected: tuple[type, ...], *, where: str) -> Callable[[], Any]:
    """Return what builds an object and those it is built of, all resolved; nothing is called yet."""
    path = described["class_path"]
    target = resolve(str(path), expected, where=where)
    hints: dict[str, Any] = {}
    for maker in (*getattr(target, "__mro__", ()), *product_classes(target), target):  # the nearest last
        with contextlib.suppress(NameError, TypeError):
            hints |= get_type_hints(maker.__init__ if isinstance(maker, type) else maker)  # type: ignore[misc]
    arguments = {**(described.get("init_args") or {}), **(described.get("dict_kwargs") or {})}
    built = {key: _argument(value, classes(hints.get(key)), where=where) for key, value in arguments.items()}

    def build() -> Any:
        values = {key: value() for key, value in built.items()}
        try:
            return target(**values)
        except TypeError as error:
            raise UserError(f"{where} names {path} with arguments that it does not take: {error}") from error

    return build


def _argument(value: Any, expected: tuple[type, ...], *, where: str) -> Callable[[], Any]:
    if isinstance(value, Mapping) and "class_path" in value:
        return _prepared(value, expected or (nn.Module,), where=where)
    if isinstance(value, list | tuple):
        items = [_argument(item, expected, where=where) for item in value]
        return lambda: type(value)(item() for item in items)
    kinds = [kind for kind in expected if is_dataclass(kind)]
    if isinstance(value, Mapping) and len(kinds) == 1:  # as parsed from a recipe that names no class
        return lambda: _settings(kinds[0], value, where=where)
    return lambda: dict(value) if isinstance(value, Mapping) else value


def _settings(kind: type, values: Mapping[str, Any], *, where: str) -> Any:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        entry = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{where} has {kind.__name__} with a wrong entry {entry}: {first['msg']}") from error
