"""Whose code a checkpoint or a recipe may name, and what it may name there.

Both may come from a stranger and must be as harmless as a picture (`core/checkpoints/README.md`). A name in
them is looked up only in the suite, in the libraries that it builds on, and in modules that the user names
himself (`--trust mynet`); it must be a class, or a function of a models' module that says which network it
returns; and all that is seen before anything is called.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, get_args, get_origin, get_type_hints

from core.errors import UserError, did_you_mean

__all__ = [
    "check",
    "check_options",
    "classes",
    "is_trusted",
    "parser_settings",
    "product_classes",
    "refusal",
    "resolve",
    "trust",
]

_OURS = ("apps", "core")
_LIBRARIES = ("torch", "torchvision", "lightning", "timm")
_BUILDERS = ("models", "backbones", "official")  # modules of ours whose functions may be named
_users: set[str] = set()


def trust(*modules: str) -> None:
    """Let recipes and checkpoints name what is in `modules`, in this process: `--trust` does so.

    A module in the current folder is found too.

    Raises:
        UserError: If there is no such module, or it is one of Python's own.
    """
    for name in modules:
        root = name.partition(".")[0]
        if root in sys.stdlib_module_names:
            raise UserError(f"--trust {name}: Python's own modules are not trusted; give a module of yours")
        if not _exists(root):
            sys.path.append(os.getcwd())
        if not _exists(root):
            raise UserError(f"--trust {name}: there is no module {root} in this folder, nor is one installed")
        _users.add(name)


def is_trusted(path: str) -> bool:
    """Tell whether a dotted path lies in code that may be named."""
    named = any(path == name or path.startswith(f"{name}.") for name in _users)
    return named or (path.partition(".")[0] in (*_OURS, *_LIBRARIES) and "__main__" not in path.split("."))


def resolve(path: str, expected: Iterable[type] = (), *, where: str) -> Any:
    """Return the class or function with the dotted name `path`; nothing is called.

    Args:
        path: As a checkpoint or a recipe names it.
        expected: What it must be, or return, a subclass of one of; none accepts every class.
        where: The file that names it, for errors.

    Raises:
        UserError: If it does not exist, may not be named, or is something else.
    """
    if not is_trusted(path):
        raise refusal(path, where=where)
    module, _, name = path.rpartition(".")
    try:
        target = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{where} needs {path}, which is not installed here ({error})") from error
    kinds = tuple(expected)
    products = product_classes(target)
    if not products or (kinds and not all(issubclass(kind, kinds) for kind in products)):
        wanted = " or ".join(kind.__name__ for kind in kinds) or "class that may be named"
        raise UserError(f"{where} names {path}, which is no {wanted}; it is not called")
    return target


def refusal(path: str, *, where: str) -> UserError:
    """Return the mistake of a path that lies in no trusted code."""
    root = path.partition(".")[0]
    if not _exists(root):
        near = did_you_mean(root, (*_OURS, *_LIBRARIES))
        return UserError(
            f"{where} names {path}, and there is no module {root}{near or ';'} check the class_path, or "
            "install the package it is in"
        )
    known = root in sys.stdlib_module_names or root in (*_OURS, *_LIBRARIES)
    hint = "" if known else f"; if you trust it, add --trust {root}"
    return UserError(
        f"{where} names {path}, which is part neither of domainfm nor of the libraries that networks are "
        f"made of, and is not run{hint}"
    )


def classes(annotation: Any) -> tuple[type, ...]:
    """Return the classes in a type: those of a union, of a sequence's items, of what a callable returns."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        plain = annotation.__module__ in ("builtins", "typing", "types", "collections.abc")
        return () if plain else (annotation,)
    inner = get_args(annotation)
    if inner and isinstance(inner[0], list):  # a callable's arguments
        inner = inner[1:]
    return tuple(kind for item in inner for kind in classes(item))


def product_classes(target: Any) -> tuple[type, ...]:
    """Return the classes that calling `target` makes instances of; none where it may not be called."""
    home = str(getattr(target, "__module__", ""))
    if isinstance(target, type):
        return (target,) if is_trusted(home) else ()
    of_suite = home.partition(".")[0] in _OURS
    if not inspect.isfunction(target) or not is_trusted(home):
        return ()
    if of_suite and not any(part in _BUILDERS for part in home.split(".")):
        return ()
    try:
        returned = classes(get_type_hints(target).get("return"))
    except (NameError, TypeError):
        return ()
    from torch import nn

    return returned if all(issubclass(kind, nn.Module) for kind in returned) else ()


def check(value: Any, *, where: str) -> None:
    """Look through a config at any depth, before it is parsed or built, and refuse what may not be named.

    What does not exist at all is left to the parser, which says more about it.

    Raises:
        UserError: If a class path, a text that names a function, or a function itself may not be used.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            named = str(key).rpartition(".")[2] == "class_path" and isinstance(item, str) and "." in item
            if named and not is_trusted(item):
                raise refusal(item, where=where)
            check(item, where=where)
    elif isinstance(value, list | tuple | set):
        for item in value:
            check(item, where=where)
    elif isinstance(value, str):
        target = _named(value)
        if callable(target) and not isinstance(target, type):
            _check_function(target, value, where=where)
    elif inspect.isroutine(value):
        _check_function(value, f"{value.__module__}.{value.__qualname__}", where=where)


def _check_function(function: Any, path: str, *, where: str) -> None:
    if not product_classes(function):
        raise UserError(f"{where} names {path}, a function that may not stand there; it is not called")


def check_options(words: Sequence[str]) -> None:
    """Look through options of the command line, `--name=value` or `--name value`, as `check` does."""
    import yaml

    name = ""
    for word in words:
        value = word
        if word.startswith("--"):
            name, _, value = word.partition("=")
        try:
            content = yaml.safe_load(value)
        except yaml.YAMLError:
            content = value
        check({name.lstrip("-"): content}, where="the command line")


def parser_settings() -> dict[str, Any]:
    """Return the settings of jsonargparse by which it imports trusted code alone."""
    return {
        "import_path_denylist": ["*", "core.cli"],
        "import_path_allowlist": [*_OURS, *_LIBRARIES, *sorted(_users)],
        "instantiate_subclass_spec_in_any": False,
    }


def _exists(root: str) -> bool:
    return root in sys.modules or (root.isidentifier() and importlib.util.find_spec(root) is not None)


def _named(text: str) -> Any:
    """Return what a text names if it is a dotted path to something, else None."""
    module, _, name = text.rpartition(".")
    if not module or not all(part.isidentifier() for part in text.split(".")):
        return None
    try:
        home = import_module(module) if is_trusted(text) else sys.modules.get(module)
        return getattr(home, name, None)
    except (ImportError, ValueError):
        return None
