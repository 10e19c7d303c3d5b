"""The plan of every house, read from the source: doors, circles, doubles, arguments and names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOORS = {
    "README.md", "__init__.py", "batch.py", "data", "figures.py", "finetune.ipynb", "metrics",
    "metrics.py", "models", "parity.py", "parity_cases", "predict", "simulation", "simulation.py", "tasks",
    "tasks.py",
}  # fmt: skip
MOST_DOORS = 12
MOST_ARGUMENTS = 20
LIKE_LINES = 10
MOST_TO_LOSS, MOST_TO_FIGURE = 10, 14
DOMAINS = sorted(path.name for path in (ROOT / "apps").iterdir() if (path / "__init__.py").is_file())


def modules() -> dict[str, Path]:
    """Return every module of the suite by its dotted name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for top in ("core", "apps")
        for path in sorted((ROOT / top).rglob("*.py"))
    }


def imported(path: Path, names: set[str]) -> set[str]:
    """Return the suite's modules that a module imports, in functions too, but not for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (
                {node.module} if {f"{node.module}.{alias.name}" for alias in node.names} - names else set()
            )
    return found & names


def circles() -> list[list[str]]:
    """Return the groups of modules that import each other in a circle (Tarjan 1972)."""
    known = modules()
    edges = {name: imported(path, set(known)) for name, path in known.items()}
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for target in sorted(edges[name]):
            if target not in order:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], order[target])
        if low[name] == order[name]:
            cut = stack.index(name)
            group, stack[cut:] = stack[cut:], []
            if len(group) > 1 or name in edges[name]:
                groups.append(sorted(group))

    for name in edges:
        if name not in order:
            visit(name)
    return groups


def shapes(domain: str) -> dict[str, str]:
    """Return the place of each definition of ten or more lines of a domain, by its code."""
    found = {}
    for path in sorted((ROOT / "apps" / domain).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                continue
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            if not body or body[-1].end_lineno - body[0].lineno + 1 < LIKE_LINES:
                continue
            found["\n".join(ast.unparse(statement) for statement in body)] = (
                f"{path.relative_to(ROOT)}:{node.lineno}"
            )
    return found


def trip(domain: str) -> list[tuple[str, str]]:
    """Return the files that a domain's page lists on the way to loss and figure, and what it says of each."""
    rows = []
    for line in (ROOT / "apps" / domain / "README.md").read_text(encoding="utf-8").splitlines():
        row = re.match(r"\| `([\w/]+\.py)`.*? \| (.*) \|$", line)
        if row:
            path = row[1] if row[1].startswith("core/") else f"apps/{domain}/{row[1]}"
            rows.append((path, row[2]))
    return rows


def public(body: list[ast.stmt]) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            if not any(ast.unparse(mark).endswith(".setter") for mark in node.decorator_list):
                yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_sample_is_followed_through_few_files_that_import_each_other(domain: str) -> None:
    rows = trip(domain)
    files = [path for path, _ in rows]
    to_loss = next(n for n, (_, what) in enumerate(rows, 1) if "**loss**" in what)
    to_figure = next(n for n, (_, what) in enumerate(rows, 1) if "**figure**" in what)
    known = modules()
    names = {str(path.relative_to(ROOT)): name for name, path in known.items()}
    edges = {file: imported(ROOT / file, set(known)) for file in files}
    recipes = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "configs" / domain).rglob("*.yaml")
    )
    chosen = {name for name in known if re.search(rf"class_path: {re.escape(name)}\.\w+[,}}\s]", recipes)}
    hubs = {*chosen, *(target for name in chosen for target in imported(known[name], set(known)))}
    apart = [
        file
        for file in files
        if names[file] not in hubs
        and not any(names[file] in edges[one] or names[one] in edges[file] for one in files if one != file)
    ]

    assert to_loss <= MOST_TO_LOSS and to_figure <= MOST_TO_FIGURE
    assert not apart, "these import none of the listed files and are imported by none"


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_domain_has_the_doors_of_the_plan_and_no_others(domain: str) -> None:
    doors = {path.name for path in (ROOT / "apps" / domain).iterdir() if path.name != "__pycache__"}

    assert not doors - DOORS
    assert len([door for door in doors if not door.endswith((".md", ".ipynb"))]) <= MOST_DOORS


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert not circles()


def test_no_two_domains_define_the_same_thing() -> None:
    of_domains = {domain: shapes(domain) for domain in DOMAINS}
    doubles = [
        f"{of_domains[one][shape]} ~ {of_domains[other][shape]}"
        for one, other in combinations(DOMAINS, 2)
        for shape in of_domains[one].keys() & of_domains[other].keys()
    ]

    assert not doubles, "move what both need to core"


def test_no_class_takes_more_than_twenty_arguments() -> None:
    crowded = []
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ClassDef):
                continue
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    count = len(method.args.args) + len(method.args.kwonlyargs) - 1
                    if count > MOST_ARGUMENTS:
                        crowded.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} takes {count}")

    assert not crowded, "put options that belong together into a small frozen dataclass"


def test_every_public_name_has_a_docstring() -> None:
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in modules().values()
        for node in public(ast.parse(path.read_text(encoding="utf-8")).body)
        if ast.get_docstring(node) is None
    ]

    assert not silent


def test_a_class_name_stands_once() -> None:
    homes: dict[str, list[str]] = {}
    for name, path in modules().items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(name)

    assert not {name: found for name, found in homes.items() if len(found) > 1}
