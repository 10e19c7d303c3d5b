"""Text that ships with Python itself, for a demo that downloads nothing.

Two parts: the topics of Python's interactive help (`pydoc_data.topics`, the language reference), and the
documentation strings of the standard library, read from its source without importing any of it.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from core.errors import UserError, did_you_mean

__all__ = ["LICENCE", "PARTS", "documents"]

LICENCE = "PSF-2.0"
PARTS = ("topics", "docstrings")
_LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip", "site-packages", "__pycache__"}
_SHORTEST = 200  # characters; shorter documentation strings are mostly one formula repeated


def documents(parts: str = "") -> Iterator[str]:
    """Yield the documents of the parts named in `"topics+docstrings"`, all of them for `""`; none twice.

    The order is that of the names, so it is the same on every machine with the same Python.

    Raises:
        UserError: For a part that does not exist, or a Python that ships without its documentation.
    """
    wanted = PARTS if parts in ("", "all") else tuple(parts.split("+"))
    for name in wanted:
        if name not in PARTS:
            raise UserError(
                f"Python's text has no part '{name}' (there are {' and '.join(PARTS)})"
                f"{did_you_mean(name, PARTS)}"
            )
    seen: set[str] = set()
    for name in wanted:
        count = 0
        for text in _topics() if name == "topics" else _docstrings():
            if text not in seen:
                seen.add(text)
                count += 1
                yield text
        if not count:
            raise UserError(f"this Python ships without its {name}; give data.path with texts of your own")


def _topics() -> Iterator[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise UserError("this Python ships without pydoc's topics; give data.path with texts") from error
    for name in sorted(topics):
        yield topics[name].strip() + "\n"


def _docstrings() -> Iterator[str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for name in sorted(sys.stdlib_module_names):
        if name.startswith("_") or name in _LEFT_OUT:
            continue
        file, folder = root / f"{name}.py", root / name
        for path in [file] if file.is_file() else sorted(folder.rglob("*.py")):
            if not _LEFT_OUT & set(path.relative_to(root).parts):
                yield from _docstrings_of(path)


def _docstrings_of(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text and len(text) >= _SHORTEST:
                yield text.strip() + "\n"
