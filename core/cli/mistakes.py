"""Turns what the argument parser and Lightning raise for a user's mistake into one sentence."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from collections.abc import Iterable
from typing import Any

from core.errors import UserError, did_you_mean

__all__ = ["explain", "missing_extra"]

EXTRAS = {
    "pandas": "timeseries",
    "pyarrow": "timeseries",
    "rasterio": "remote-sensing",
    "statsmodels": "timeseries",
    "sklearn": "timeseries",
    "h5py": "pde",
    "h5netcdf": "pde",
    "zarr": "pde",
    "imageio": "video",
    "av": "video",
    "tensorboard": "tensorboard",
}


def explain(error: argparse.ArgumentError, destinations: Iterable[str]) -> UserError | None:
    """Return the user's mistake behind a parser error, or None if a defect of ours lies behind it.

    The parser wraps a mistake in up to a dozen lines; the chain of causes ends at the real one, and the class
    paths and keys in the full text say where it is.

    Args:
        error: What the parser raised.
        destinations: The option names the parser knows, for suggestions.
    """
    innermost = _innermost(error)
    if isinstance(innermost, UserError):
        return innermost
    text = str(error)
    classes = re.findall(r"class_path '([^']+)'", text) + re.findall(r"'class_path': '([^']+)'", text)
    keys = re.findall(r'[Pp]arser key "([^"]+)"', text)
    if isinstance(innermost, ModuleNotFoundError) and innermost.name:
        return _missing_module(innermost.name, text)
    if isinstance(innermost, SyntaxError | NameError | ZeroDivisionError | RuntimeError | AssertionError):
        return None
    unknown = re.search(
        r"Option '([^']+)' is not accepted|does not accept option '([^']+)'"
        r"|[Uu]nrecognized arguments: ?-*([^\s=]+)|Key '([^']+)' is not expected"
        r"|No action for key \"([^\"]+)\"",
        text,
    )
    if unknown:
        key = next(group for group in unknown.groups() if group)
        return _unknown_key(key, classes, list(destinations))
    where = ".".join(dict.fromkeys(keys))
    short = re.search(r"Expected a dot import path string: (\S+)", str(innermost))
    if short:
        return _short_name(where, short[1])
    reason = _first_sentence(str(innermost), where) + _near_attribute(str(innermost))
    return UserError(f"{where}: {reason}" if where and not reason.startswith(where) else reason)


def _innermost(error: BaseException) -> BaseException:
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        deeper = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if deeper is None:
            break
        error = deeper
    return error


def _short_name(where: str, word: str) -> UserError:
    """Return the mistake of a class's name that is neither a path nor known where it stands."""
    module = {"model.adaptation": "core.adaptation", "model.schedule": "core.optim"}.get(where)
    known = importlib.import_module(module).__all__ if module else ()
    same = next((name for name in known if name.lower() == word.lower()), word)  # Lora for LoRA
    near = did_you_mean(same, known) or "; write the path of the class, as in apps.DOMAIN.MODULE.CLASS"
    return UserError(f"{where}: there is no class '{word}' by this name{near}")


def missing_extra(name: str | None) -> UserError | None:
    """Return how to install the optional package that a module belongs to, or None if it is no such."""
    top = (name or "").split(".")[0]
    if top not in EXTRAS:
        return None
    return UserError(
        f"this needs the optional package {top}; install it with pip install 'domainfm[{EXTRAS[top]}]'"
    )


def _missing_module(name: str, text: str) -> UserError | None:
    top = name.split(".")[0]
    if extra := missing_extra(name):
        return extra
    if top in ("core", "apps"):
        parent, _, last = name.rpartition(".")
        return UserError(
            f"there is no module {name}{did_you_mean(last, _submodules(parent))}; check the class_path"
        )
    if f"'{name}" in text or f'"{name}' in text or top in text:
        return UserError(f"there is no module {name}; check the class_path, or install the package it is in")
    return None


def _submodules(parent: str) -> list[str]:
    import pkgutil

    try:
        package = importlib.import_module(parent)
    except ImportError:
        return []
    return [module.name for module in pkgutil.iter_modules(getattr(package, "__path__", []))]


def _near_attribute(text: str) -> str:
    """Return the suggestion for a name that a module does not have, or an empty string."""
    found = re.search(r"module '([\w.]+)' has no attribute '(\w+)'", text)
    if not found:
        return ""
    module = importlib.import_module(found[1])
    return did_you_mean(found[2], [name for name in dir(module) if not name.startswith("_")])


def _unknown_key(key: str, classes: list[str], destinations: list[str]) -> UserError:
    last = key.split(".")[-1]
    for path in reversed(classes):
        names = _parameters(path)
        if names and last not in names:
            return UserError(f"unknown key '{last}' of {path}{did_you_mean(last, names)}")
    near = did_you_mean(key, destinations) or _near_last(key, destinations)
    return UserError(f"unknown option --{key}{near}")


def _near_last(key: str, destinations: list[str]) -> str:
    parent, _, last = key.rpartition(".")
    siblings = [d[len(parent) + 1 :] for d in destinations if parent and d.startswith(parent + ".")]
    return did_you_mean(last, siblings)


def _parameters(path: str) -> list[str]:
    module, _, name = path.rpartition(".")
    try:
        target: Any = getattr(importlib.import_module(module), name)
        names = list(inspect.signature(target).parameters)
    except (ImportError, AttributeError, TypeError, ValueError):
        return []
    returned = inspect.signature(target).return_annotation if inspect.isfunction(target) else None
    if "kw" in names or "kwargs" in names:
        owner = inspect.getmodule(target)
        klass = getattr(owner, returned, None) if isinstance(returned, str) else returned
        if inspect.isclass(klass):
            names += list(inspect.signature(klass).parameters)
    return [n for n in names if n not in ("kw", "kwargs", "self")]


def _first_sentence(text: str, where: str) -> str:
    text = re.sub(r"<class '(?:builtins\.)?([^']+)'>", r"\1", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    expected = [
        line.lstrip("- ") for line in lines if line.startswith("- Expected") or line.startswith("Expected")
    ]
    chosen = "; ".join(dict.fromkeys(expected)) if len(lines) > 3 and expected else " ".join(lines)
    chosen = re.sub(r"\s+", " ", chosen)
    chosen = re.sub(r'^Parser key "[^"]+":\s*', "", chosen)
    return chosen if len(chosen) < 400 else chosen[:397] + "..."
