"""One sentence for what the argument parser and Lightning raise when the user is mistaken."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator

from core.cli.signatures import parameters
from core.errors import UserError, did_you_mean
from core.trust import refusal

__all__ = ["explain", "missing_extra", "output_failed"]

EXTRAS = {
    **dict.fromkeys(("pandas", "pyarrow", "statsmodels", "sklearn"), "timeseries"),
    **dict.fromkeys(("h5py", "h5netcdf", "zarr"), "pde"),
    **dict.fromkeys(("zarrs", "cfgrib", "eccodes"), "weather"),
    **dict.fromkeys(("imageio", "av"), "video"),
    "rasterio": "remote-sensing",
    "tensorboard": "tensorboard",
}
_UNKNOWN = re.compile(
    r"Option '([^']+)' is not accepted|does not accept option '([^']+)'"
    r"|[Uu]nrecognized arguments: ?-*([^\s=]+)|Key '([^']+)' is not expected|No action for key \"([^\"]+)\""
)


def explain(error: BaseException, options: Callable[[], list[str]]) -> UserError | None:
    """Return the user's mistake behind a parser error, or None if a defect of ours lies behind it.

    The parser wraps a mistake in up to a dozen lines; the chain of causes ends at the real one, and the class
    paths and keys in the full text say where it is.
    """
    causes = list(_causes(error))
    if mistakes := [cause for cause in causes if isinstance(cause, UserError)]:
        return mistakes[-1]
    if not isinstance(error, argparse.ArgumentError):
        return None
    innermost = causes[-1]
    text = str(error)
    if denied := re.search(r"Importing '([\w.]+)' is not allowed", text):
        return refusal(denied[1], where=".".join(dict.fromkeys(re.findall(r'[Pp]arser key "([^"]+)"', text))))
    classes = re.findall(r"class_path '([^']+)'", text) + re.findall(r"'class_path': '([^']+)'", text)
    keys = re.findall(r'[Pp]arser key "([^"]+)"', text)
    if isinstance(innermost, ModuleNotFoundError) and innermost.name:
        return _missing_module(innermost.name, text)
    if isinstance(innermost, SyntaxError | NameError | ZeroDivisionError | RuntimeError | AssertionError):
        return None
    if unknown := _UNKNOWN.search(text):
        key = next(group for group in unknown.groups() if group)
        return _unknown_key(key, classes, options())
    where = ".".join(dict.fromkeys(keys))
    short = re.search(r"Expected a dot import path string: (\S+)", str(innermost))
    if short:
        return _short_name(where, short[1])
    reason = _first_sentence(str(innermost), where) + _near_attribute(str(innermost))
    return UserError(f"{where}: {reason}" if where and not reason.startswith(where) else reason)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what it was raised from, the innermost last."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _short_name(where: str, word: str) -> UserError:
    """Return the mistake of a class's name that is neither a path nor known where it stands."""
    module = {"model.adaptation": "core.adaptation", "model.schedule": "core.optim"}.get(where)
    names = importlib.import_module(module).__all__ if module else ()
    spelt = next((name for name in names if name.lower() == word.lower()), word)  # Lora for LoRA
    near = did_you_mean(spelt, names) or "; write the path of the class, as in apps.DOMAIN.MODULE.CLASS"
    return UserError(f"{where}: there is no class '{word}' by this name{near}")


def missing_extra(name: str | None) -> UserError | None:
    """Return how to install the optional package that a module belongs to, or None if it is no such."""
    top = (name or "").split(".")[0]
    if top not in EXTRAS:
        return None
    return UserError(
        f"this needs the optional package {top}; install it with pip install 'domainfm[{EXTRAS[top]}]'"
    )


def output_failed(error: OSError) -> int:
    """Return the exit code for output that nobody takes (`dfm recipes | head`), or that finds no room, and
    for a name that no file can have.

    Raises:
        OSError: Again, if it was no such error.
    """
    if error.errno == errno.ENAMETOOLONG:
        print(f"dfm: no file can have the name {str(error.filename)[:60]}…: it is too long", file=sys.stderr)
        return 2
    broken = isinstance(error, BrokenPipeError)
    if not broken and (error.errno != errno.ENOSPC or error.filename):
        raise error
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())  # else the interpreter tries again at its end
    if not broken:
        print(f"dfm: the output cannot be written: {error.strerror}", file=sys.stderr)
    return 0 if broken else 2


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
    absent = re.search(r"module '([\w.]+)' has no attribute '(\w+)'", text)
    if not absent:
        return ""
    module = importlib.import_module(absent[1])
    return did_you_mean(absent[2], [name for name in dir(module) if not name.startswith("_")])


def _unknown_key(key: str, classes: list[str], options: list[str]) -> UserError:
    last = key.split(".")[-1]
    for path in reversed(classes):
        names = parameters(path)
        if names and last not in names:
            return UserError(f"unknown key '{last}' of {path}{did_you_mean(last, names)}")
    parent = key.rpartition(".")[0] + "."
    siblings = [option.removeprefix(parent) for option in options if option.startswith(parent)]
    near = did_you_mean(key, options) or did_you_mean(last, siblings)
    return UserError(f"unknown option --{key}{near}")


def _first_sentence(text: str, where: str) -> str:
    text = re.sub(r"<class '(?:builtins\.)?([^']+)'>", r"\1", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    expected = [line.lstrip("- ") for line in lines if line.startswith(("- Expected", "Expected"))]
    chosen = "; ".join(dict.fromkeys(expected)) if len(lines) > 3 and expected else " ".join(lines)
    chosen = re.sub(r"\s+", " ", chosen)
    chosen = re.sub(r'^Parser key "[^"]+":\s*', "", chosen)
    return chosen if len(chosen) < 400 else chosen[:397] + "..."
