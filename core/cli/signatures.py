"""Parameters of classes and functions, read from their source: known before torch is loaded."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

__all__ = ["Parameter", "described", "parameters"]

_SENTENCE = re.compile(r"(?<=\.)\s+(?=[A-Z`])|\s*\n\s*[-*] ")


@dataclass(frozen=True)
class Parameter:
    """A parameter as its source has it.

    Attributes:
        default: The expression, or nothing if it must be given.
        kind: Dotted path of the settings' class that it is annotated with, if it is one.
        meaning: First sentence of what the docstring says of it.
    """

    default: str = ""
    kind: str = ""
    meaning: str = ""


def parameters(path: str) -> list[str] | None:
    """Return the parameter names of the class or function at a dotted path, or None if they are not certain.

    `**kwargs` is followed into the base class, or, for a function, into the class that its return annotation
    names. Nothing is imported, so that a misspelt key is found in milliseconds.
    """
    signature = described(path)
    return None if signature is None else list(signature)


@cache
def described(path: str) -> dict[str, Parameter] | None:
    """Return the parameters at a dotted path with default and meaning, or None as `parameters` does."""
    module, _, name = path.rpartition(".")
    return _of(module, name, ()) if module else None


def _of(module: str, name: str, seen: tuple[tuple[str, str], ...]) -> dict[str, Parameter] | None:
    if (module, name) in seen or len(seen) > 8:
        return None
    tree = _tree(module)
    if tree is None:
        return None
    here = (*seen, (module, name))
    for node in _definitions(tree):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            declared = _with_meanings(_arguments(module, node.args), node)
            if node.args.kwarg is None:
                return declared
            returned = ast.unparse(node.returns) if node.returns else ""
            more = _of(module, returned, here) if returned.isidentifier() else None
            return None if more is None else _merged(more, declared)
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _of_class(module, node, here)
        if sized := _sized(node, name):
            base = _of(module, ast.unparse(sized.args[0]), here)
            fixed = {word.arg: _text(word.value) for word in sized.keywords}
            return base and {
                key: replace(value, default=fixed.get(key, value.default)) for key, value in base.items()
            }
        if other := _other_name(node, name):
            return _of(module, other, here)
        if source := _source(module, node, name):
            return _of(*source, here)
    return None


def _definitions(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield a module's statements, those for type checkers too: a lazy head names its modules there."""
    for node in tree.body:
        yield from node.body if isinstance(node, ast.If) else [node]


def _sized(node: ast.stmt, name: str) -> ast.Call | None:
    """Return the call that makes a named size, `name = size(Class, …)`, and else nothing."""
    if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
        return None
    named = ast.unparse(node.value.func) == "size" and ast.unparse(node.targets[0]) == name
    return node.value if named else None


def _other_name(node: ast.stmt, name: str) -> str:
    """Return what `name = Other` gives a further name, and else nothing."""
    if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Name)):
        return ""
    return node.value.id if ast.unparse(node.targets[0]) == name else ""


def _source(module: str, node: ast.stmt, name: str) -> tuple[str, str] | None:
    """Return module and name that an import statement takes `name` from."""
    if isinstance(node, ast.ImportFrom):
        for alias in node.names:
            if (alias.asname or alias.name) == name:
                base = module.rsplit(".", node.level)[0] + "." if node.level else ""
                return f"{base}{node.module or ''}".rstrip("."), alias.name
    return None


def _of_class(
    module: str, node: ast.ClassDef, seen: tuple[tuple[str, str], ...]
) -> dict[str, Parameter] | None:
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    bases = [ast.unparse(base) for base in node.bases]
    inherited: dict[str, Parameter] | None = {}
    if init is None or init.args.kwarg is not None:
        sources = [_of(module, base, seen) for base in bases if base.isidentifier()]
        certain = len(sources) == len(bases) and all(source is not None for source in sources)
        inherited = _merged(*(source or {} for source in sources)) if certain else None
    if inherited is None:
        return None
    if init is not None:
        declared = dict(list(_arguments(module, init.args).items())[1:])
        declared |= {name: value for name, value in inherited.items() if name not in declared}
        return _with_meanings(declared, node, init)
    if _is_dataclass(node):
        annotated = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
        fields = {
            ast.unparse(n.target): Parameter(_text(n.value), _kind(module, n.annotation))
            for n in annotated
            if not (ast.unparse(n.target).startswith("_") or ast.unparse(n.annotation).startswith("ClassVar"))
        }
        inherited = _merged(inherited, fields)
    return _with_meanings(inherited, node)


def _merged(*signatures: dict[str, Parameter]) -> dict[str, Parameter]:
    return {name: value for signature in signatures for name, value in signature.items()}


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def _arguments(module: str, arguments: ast.arguments) -> dict[str, Parameter]:
    placed = [*arguments.posonlyargs, *arguments.args]
    defaults = [
        *[None] * (len(placed) - len(arguments.defaults)),
        *arguments.defaults,
        *arguments.kw_defaults,
    ]
    every = zip([*placed, *arguments.kwonlyargs], defaults, strict=True)
    return {a.arg: Parameter(_text(value), _kind(module, a.annotation)) for a, value in every}


def _text(default: ast.expr | None) -> str:
    """Return a default as YAML would have it; a factory's or a settings' own defaults stand elsewhere."""
    if isinstance(default, ast.Call):
        factory = next((word.value for word in default.keywords if word.arg == "default_factory"), None)
        if not isinstance(factory, ast.Lambda):
            name = ast.unparse(factory) if factory else ""
            return {"list": "[]", "tuple": "[]", "dict": "{}"}.get(name, "null")
        default = factory.body
    text = "" if default is None else ast.unparse(default)
    if isinstance(default, ast.Tuple):
        text = f"[{text.strip('()')}]"
    return {"None": "null", "True": "true", "False": "false"}.get(text, text.strip("'"))


def _kind(module: str, annotation: ast.expr | None) -> str:
    """Return the path of the dataclass in an annotation, or nothing."""
    words = re.findall(r"\b[A-Z]\w+", ast.unparse(annotation)) if annotation is not None else []
    return next((f"{home}.{word}" for word in words if (home := _home_of_dataclass(module, word))), "")


@cache
def _home_of_dataclass(module: str, name: str, depth: int = 0) -> str:
    tree = _tree(module) if depth < 4 and module.startswith(("apps", "core")) else None
    for node in _definitions(tree) if tree is not None else ():
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module if _is_dataclass(node) else ""
        if source := _source(module, node, name):
            return _home_of_dataclass(*source, depth + 1)
    return ""


def _with_meanings(
    signature: dict[str, Parameter], *nodes: ast.ClassDef | ast.FunctionDef
) -> dict[str, Parameter]:
    """Fill in the first sentence that docstrings (`Args:`, `Attributes:`) say of each parameter."""
    for node in nodes:
        text = inspect.cleandoc(ast.get_docstring(node) or "")
        for section in re.findall(r"^(?:Args|Attributes):\n((?:[ ]+.*\n?|\n)+)", text, re.M):
            for entry in re.split(r"\n(?=\w)", inspect.cleandoc(section)):
                names, _, meaning = entry.partition(":")
                words = " ".join(_SENTENCE.split(meaning.strip(), maxsplit=1)[0].split())
                for name in re.sub(r"\(.*\)", "", names).replace("*", "").split(","):
                    if name.strip() in signature and words:
                        signature[name.strip()] = replace(signature[name.strip()], meaning=words)
    return signature


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
