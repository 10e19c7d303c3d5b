"""The dependency direction of the packages, read from the source, and what no tracked file may hold."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FREE_TO_USE_ALL = {
    "cli",
    "labelled_task",
    "probe_task",
    "task",
    "trainer",
    "parity",
}  # rooms of core that may import every room; so may a room's own parity.py
OPEN_TO_ALL = {
    "backbones",
    "data",
    "environment",
    "errors",
    "files",
    "lazy",
    "tables",
    "trust",
}  # rooms and leaf modules that every room may import
FURTHER = {
    "strategies": {"checkpoints"},  # what writes pieces knows how pieces are read and written
    "adaptation": {"checkpoints"},  # an adapter's file is one of weights
    "inference": {"accelerators", "checkpoints", "figures", "metrics"},  # the rooms below it
    "tracking": {"figures"},  # which are written beside the run and mirrored
}
# Written in pieces, so that this file does not hold what it looks for.
FORBIDDEN = {
    "a machine's path": r"(?<![\w.~-])/(?:wor[k]|far[m]|roo[t]|hom[e]/\w+)/",
    "a package index's address": r"py[p]i\.org|pythonhoste[d]|registry\.npmj[s]|deb\.debia[n]",
    "an unfinished part": r"\bTOD[O]\b|\bFIXM[E]\b|raise NotImplementedErro[r]\b",
}


def sources() -> list[Path]:
    return sorted(path for top in ("core", "apps") for path in (ROOT / top).rglob("*.py"))


def tracked() -> list[Path]:
    try:
        run = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a git checkout")
    return [path for name in run.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything imported, anywhere in a file."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def room(dotted: str) -> str:
    """Return the room of `core.<room>…`, or the app of `apps.<app>…`."""
    return [*dotted.split("."), ""][1]


def offences() -> Iterator[str]:
    for path in sources():
        parts = path.relative_to(ROOT).with_suffix("").parts
        package, own = parts[0], parts[1]
        for line, name in imports(path):
            target, where = name.split(".")[0], f"{path.relative_to(ROOT)}:{line} imports {name}"
            if package == "core" and target == "apps":
                yield f"{where}; core never imports apps, it finds them by the domain's name"
            elif package == "core" and target == "core":
                allowed = (
                    own in FREE_TO_USE_ALL
                    or parts[-1] == "parity"
                    or (room(name) in OPEN_TO_ALL | FURTHER.get(own, set()) | {own})
                )
                if not allowed:
                    yield f"{where}; {own} may import only {', '.join(sorted(OPEN_TO_ALL))} and itself"
            elif package == "apps" and target == "apps" and room(name) != own:
                yield f"{where}; apps never import each other"
            elif target in ("tests", "configs"):
                yield f"{where}; that folder is not a package"


def test_apps_import_core_and_rooms_import_only_what_they_may() -> None:
    assert not list(offences())


def test_package_heads_import_nothing_heavy() -> None:
    light = {"__future__", "core", "apps", "collections", "dataclasses", "typing", "pathlib"}
    heads = [
        ROOT / "core" / "__init__.py",
        ROOT / "core" / "cli" / "__init__.py",
        *ROOT.glob("apps/__init__.py"),
    ]
    heads += sorted(ROOT.glob("apps/*/__init__.py"))
    heavy = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in heads
        for _, name in imports(path)
        if name.split(".")[0] not in light | {"sys", "importlib", "argparse", "io"}
    }
    assert not heavy


def test_tests_hold_no_packages() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py")), (
        "a package under tests hides the real one of that name"
    )


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_tracked_file_holds(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="ignore").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found


def test_no_tracked_file_is_larger_than_a_megabyte() -> None:
    assert not [
        f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes"
        for path in tracked()
        if path.stat().st_size > 1e6
    ]
