"""Every command and snippet of every page is checked against the parser; the walk-throughs are run."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from core.cli import TOOLS, main
from core.cli.arguments import prepare
from core.cli.completion import candidates
from core.cli.help import option_names
from core.cli.recipes import domains, example
from core.cli.run_folders import best_in, runs_of

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "apps/*/README.md", "core/**/README.md", "configs/**/*.md", "data_cards/**/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"
)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
INLINE = re.compile(r"`((?:dfm|torchrun|make|python|pytest) [^`]+)`")
SCHEMATIC = re.compile(r"\bDOMAIN\b|\bRECIPE\b|<\w+>|…|\.\.\.|\|")  # how a command is made, and none itself


def blocks(page: Path, kind: str) -> list[str]:
    return [text for name, text in BLOCK.findall((ROOT / page).read_text()) if name == kind]


def commands(page: Path) -> list[str]:
    """Return the command lines of a page, continued lines joined and comments left out."""
    shell = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
    inline = [" ".join(text.split()) for text in INLINE.findall(BLOCK.sub("", (ROOT / page).read_text()))]
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in shell.splitlines()]
    return [line for line in [*lines, *inline] if line and not line.startswith("#")]


CASES = [(page, line) for page in PAGES for line in commands(page) if not SCHEMATIC.search(line)]
SNIPPETS = [(page, text) for page in PAGES for text in blocks(page, "python")]


@pytest.mark.parametrize(("page", "line"), CASES, ids=lambda value: str(value)[:70])
def test_every_command_of_a_page_is_one(page, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line)
    words = words[words.index("domainfm") :] if "domainfm" in words else words

    if Path(words[0]).name in ("dfm", "domainfm"):
        is_a_command(words[1:], tmp_path, page)
    elif words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
        assert all(word in targets for word in words[1:] if "=" not in word), line
    elif words[0] in ("python", "pytest", "bash"):
        files = [word for word in words[1:] if word.endswith((".py", ".sh")) or word.startswith("tests/")]
        assert all((ROOT / file).exists() for file in files), line
    else:
        assert re.match(r"export|source|eval|python3|pip|srun|sbatch|kubectl|torchrun|\w+=", words[0]), line


def is_a_command(words: list[str], folder: Path, page: Path) -> None:
    """Check domain, verb, recipe, options and cards; files that a page speaks of are made."""
    if not words or words[0].startswith("-"):
        assert main(words) == 0
        return
    domain, verb, rest = words[0].replace("-", "_"), words[1] if words[1:] else "", words[2:]
    options = {word.partition("=")[0] for word in rest if word.startswith("--")}
    if domain in domains() and verb in ("fit", "validate", "test"):
        for value in (word for word in rest if word.endswith(".yaml")):
            (folder / value).write_text(next(iter(blocks(page, "yaml")), "data: {}\nmodel: {}\n"))
        recipe = [] if "--config" in rest else ["--config", example(domain)]
        elsewhere = {"--ckpt_path", "--trust"}  # a run that is not there, and the dispatcher's
        words = [w for w, before in zip(rest, ["", *rest], strict=False) if not {w, before} & elsewhere]
        request = prepare(domain, verb, [*recipe, *words, "--help"])
        known = {*option_names(request), "--help", "--ckpt_path", "--config", "--trust"}
        inner = re.findall(r"(--\S+) (?:apps|core)\.", " ".join(rest))  # what these classes take is theirs
        unknown = [n for n in options - known if not any(name.startswith(f"{n}.") for name in known)]
        assert [name for name in unknown if not name.startswith(tuple(inner) or "-!")] == []
    elif domain in domains():
        takes_any = verb == "efficiency"  # the rest goes to every fit
        assert verb in candidates([words[0], verb]), f"{verb} is no verb"
        assert takes_any or all(name in candidates([words[0], verb, name]) for name in options), words
    else:
        assert words[0] in TOOLS
        assert verb[:1] in ("", "-") or words[0] in ("parity", "recipes") or candidates(words[:2])
        if verb == "generate":
            families = [word for word in rest[:1] if not word.startswith("-")]
            assert all(word.partition("/")[0].replace("-", "_") in domains() for word in families)
        elif verb[:1] not in ("", "-"):
            assert all(name in candidates([words[0], verb, name]) for name in options), words
        if words[0] == "data" and verb in ("show", "fetch") and rest and rest[0] != "NAME":
            assert rest[0] in candidates(["data", "show", rest[0]])


@pytest.mark.parametrize(("page", "text"), SNIPPETS, ids=lambda value: str(value)[:40])
def test_what_a_python_snippet_imports_is_there(page, text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module != "mynet":
            module = import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names), f"{page}: {ast.unparse(node)}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_of_a_page_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text())

    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


# --- the walk-throughs, on budgets of seconds ---

SHORT = {
    "timeseries": "--trainer.max_epochs=1 --trainer.max_steps=20 --tracking.wandb=off",
    "pde": "--trainer.max_epochs=1 --trainer.max_steps=4 --tracking.wandb=off",
    "remote-sensing": "--trainer.max_epochs=1 --trainer.limit_train_batches=2 --tracking.wandb=off",
    "music": "--trainer.max_steps=4 --trainer.limit_val_batches=2 --about.test_after_fit=false",
    "weather": "--trainer.max_steps=4 --data.generate.members=3 --data.generate.days=20"
    " --data.split.members=[1,1,1] --about.test_after_fit=false",
}
WALKS = [
    ("README.md", "## Your own data", "sh"),
    ("apps/timeseries/README.md", "## From a file to a forecast", "sh python"),
    ("apps/pde/README.md", "## From nothing to a prediction", "sh python"),
    ("apps/pde/README.md", "## Fine-tuning on your own trajectories", "sh"),
    ("apps/remote_sensing/README.md", "## From nothing to a map", "sh"),
    ("apps/music/README.md", "## From texts to a continuation", "sh python"),
    ("apps/weather/README.md", "## From nothing to a forecast", "sh python"),
]


def make_inputs(folder: Path) -> None:
    """Make the files that the pages call yours."""
    import pandas as pd

    stamps = pd.date_range("2020-01-01", periods=900, freq="D")
    values = [10 + (day % 7) + day / 300 for day in range(900)]
    pd.DataFrame({"date": stamps, "sales": values, "visits": values[::-1]}).to_csv(
        folder / "my.csv", index=False
    )
    (folder / "texts").mkdir()
    for k in range(4):
        (folder / "texts" / f"{k}.txt").write_text("A text of some words, again and again. " * 200)
    (folder / "prompts.txt").write_text("Return a list of the \n")


@pytest.fixture(scope="module")
def walked(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("walked")
    make_inputs(folder)
    return folder


def run(words: list[str], folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{words}:\n{done.stdout[-1500:]}\n{done.stderr[-2500:]}"


@pytest.mark.slow
@pytest.mark.parametrize(("page", "heading", "kinds"), WALKS, ids=lambda value: str(value)[:40])
def test_a_pages_walk_through_runs_as_written(page, heading, kinds, walked):
    section = (ROOT / page).read_text().split(f"{heading}\n", 1)[1].split("\n## ", 1)[0]
    for kind, text in BLOCK.findall(section):
        if kind == "sh" and kind in kinds:
            for line in text.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words and "A.yaml" not in words:
                    short = SHORT[words[1]].split() if words[2] == "fit" else []
                    run(["-m", "domainfm", *words[1:], *short], walked)
        if kind == "python" and kind in kinds:
            domain = Path(page).parent.name
            newest = next(filter(None, map(best_in, runs_of(domain, "*", walked / "runs"))))
            run(["-c", text.replace("RUN/checkpoints/best.ckpt", str(newest))], walked)
