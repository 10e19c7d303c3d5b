"""Parameter names of classes and functions, read from their source: known before torch is loaded."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["parameters"]


def parameters(path: str) -> list[str] | None:
    """Return the parameter names of the class or function at a dotted path, or None if they are not certain.

    `**kwargs` is followed into the base class, or, for a function, into the class that its return annotation
    names. Nothing is imported, so that a misspelt key is found in milliseconds.
    """
    module, _, name = path.rpartition(".")
    return _of(module, name, ()) if module else None


def _of(module: str, name: str, seen: tuple[tuple[str, str], ...]) -> list[str] | None:
    if (module, name) in seen or len(seen) > 8:
        return None
    tree = _tree(module)
    if tree is None:
        return None
    here = (*seen, (module, name))
    for node in _definitions(tree):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            names = _arguments(node.args)
            if node.args.kwarg is None:
                return names
            returned = ast.unparse(node.returns) if node.returns else ""
            more = _of(module, returned, here) if returned.isidentifier() else None
            return None if more is None else list(dict.fromkeys(names + more))
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _of_class(module, node, here)
        if sized := _sized(node, name):
            return _of(module, sized, here)
        if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
            source = next(a.name for a in node.names if (a.asname or a.name) == name)
            base = module.rsplit(".", node.level)[0] + "." if node.level else ""
            return _of(f"{base}{node.module or ''}".rstrip("."), source, here)
    return None


def _definitions(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield a module's statements, those for type checkers too: a lazy head names its modules there."""
    for node in tree.body:
        yield from node.body if isinstance(node, ast.If) else [node]


def _sized(node: ast.stmt, name: str) -> str:
    """Return the class of a named size, `name = size(Class, …)`, and else nothing."""
    if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
        return ""
    if ast.unparse(node.value.func) != "size" or ast.unparse(node.targets[0]) != name:
        return ""
    return ast.unparse(node.value.args[0])


def _of_class(module: str, node: ast.ClassDef, seen: tuple[tuple[str, str], ...]) -> list[str] | None:
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    bases = [ast.unparse(base) for base in node.bases]
    inherited: list[str] | None = []
    if init is None or init.args.kwarg is not None:
        bases_names = [_of(module, base, seen) for base in bases if base.isidentifier()]
        certain = len(bases_names) == len(bases) and all(names is not None for names in bases_names)
        inherited = [name for names in bases_names for name in names or ()] if certain else None
    if init is not None:
        declared = _arguments(init.args)[1:]
        return None if inherited is None else list(dict.fromkeys(declared + inherited))
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        annotated = [n for n in node.body if isinstance(n, ast.AnnAssign)]
        fields = [n.target.id for n in annotated if isinstance(n.target, ast.Name)]
        fields = [name for name in fields if not name.startswith("_")]
        return None if inherited is None else list(dict.fromkeys(inherited + fields))
    return inherited


def _arguments(arguments: ast.arguments) -> list[str]:
    return [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


@cache
def _tree(module: str) -> ast.Module | None:
    """Return a module's syntax tree, found by its path: `find_spec` of a dotted name would import its
    parents.
    """
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent.joinpath(*rest)
    for file in (path.with_suffix(".py") if rest else Path(spec.origin), path / "__init__.py"):
        if file.is_file():
            try:
                return ast.parse(file.read_text(encoding="utf-8"))
            except (SyntaxError, UnicodeDecodeError):
                return None
    return None
