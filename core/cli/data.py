"""`dfm data list|show|fetch|verify|generate`: what data there is, where it is from, whether it is whole."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from core.cli.parser import Parser, checked_verb, verb_parsers
from core.cli.recipes import domains
from core.errors import UserError, did_you_mean
from core.tables import text_table

__all__ = ["main"]

VERBS = {
    "list": "list the data cards of all domains, or of one",
    "show": "show a card: source, licence, files, splits",
    "fetch": "download a card's files and check them",
    "verify": "compare the files that are there with their hashes",
    "generate": "make data with a domain's own solver: DOMAIN/WHAT, or --list",
}


def main(argv: Sequence[str]) -> int:
    """Run `dfm data` with the words after it, and return the exit code."""
    words = checked_verb(argv, list(VERBS), command="dfm data")
    if words[0] == "generate":
        return _generate(words[1:])
    options = _parser().parse_args(words)
    return {"list": _list, "show": _show, "fetch": _fetch, "verify": _verify}[options.verb](options)


def _parser() -> Parser:
    parser = Parser(prog="dfm data", description="Data sets and their cards.")
    add = verb_parsers(parser, VERBS)
    add["list"]("domain", nargs="?", help="only this domain")
    add["show"]("card", help="name of a data card")
    add["fetch"]("card", nargs="+", help="names of data cards")
    add["fetch"]("--quiet", action="store_true", help="draw no progress bar")
    add["verify"]("card", nargs="*", help="names of data cards (default: all that are there)")
    for name in ("fetch", "verify"):
        add[name]("--folder", type=Path, help="data folder (default: DFM_DATA, else the cache)")
    return parser


def _list(options: argparse.Namespace) -> int:
    from core.data.cards import list_heads

    rows, listed = [], {head["name"] for head in list_heads(options.domain)}
    for head in list_heads(None):
        files, package = head.get("files"), head.get("package")
        size = f"in {package}" if package else "by hand"
        if files:
            size = _size(sum(file["bytes"] for file in files))
        rows.append((head["domain"], head["name"], size, head["licence"], head["title"]))
    lines = text_table(rows).splitlines()  # of all, so that columns stand alike whatever is listed
    print("\n".join(line for line, row in zip(lines, rows, strict=True) if row[1] in listed))
    return 0


def _show(options: argparse.Namespace) -> int:
    from core.data.cards import body, load_card

    card = load_card(options.card)
    print(f"{card.name}: {card.title}")
    names = "domain source licence citation layout frequency normalisation package hub".split()  # noqa: SIM905
    rows = [(name, value) for name in names if (value := getattr(card, name))]
    parts = {name: getattr(card.splits, name) for name in ("train", "val", "test")}
    sizes = ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)
    rows.append(("splits", f"{card.splits.kind}{f' ({sizes})' if sizes else ''}"))
    if card.time:
        rows.append(("time", ", ".join(card.time)))
    rows += [("column", f"{name}: {meaning}") for name, meaning in card.columns.items()]
    rows += [("note", note) for note in card.notes]
    for file in card.files:
        rows.append(("file", f"{file.path} ({_size(file.bytes)}, sha256 {file.sha256})"))
        rows += [("", f"{url}{f' : {file.member}' if file.member else ''}") for url in file.urls]
    print(text_table((f"  {name}:" if name else "", text) for name, text in rows))
    for program in re.findall(r"^```python\n(.*?)^```", body(card), flags=re.DOTALL | re.MULTILINE):
        print(f"\n{program.rstrip()}")
    return 0


def _fetch(options: argparse.Namespace) -> int:
    from core.data.cards import fetch, load_card

    cards = [load_card(name) for name in options.card]  # a mistyped name is said before anything is fetched
    for card in cards:
        if not card.files and card.package:
            print(f"{card.name}: nothing to fetch, it ships with {card.package}")
        elif not card.files:
            print(f"{card.name}: too large to fetch here; take it from {card.hub} and name its folder")
        for path in fetch(card, options.folder, progress=not options.quiet):
            print(path)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from core.data.cards import list_cards, load_card, verify

    named = [load_card(name) for name in options.card]
    rows = []
    for card in named or list_cards():
        states = verify(card, options.folder)
        if not named and all(state.state == "missing" for state in states):
            continue
        rows += [(state.state, card.name, str(state.path)) for state in states]
    if rows:
        print(text_table(rows))
    bad = list(dict.fromkeys(name for state, name, _ in rows if state != "good"))
    if bad:
        command = f"dfm data fetch {' '.join(bad)}"
        raise UserError(f"files of {', '.join(bad)} are missing or damaged; `{command}` gets them")
    if not rows:
        print("no data has been fetched")
    return 0


def _generate(words: Sequence[str]) -> int:
    """Hand the words to the domain's own command, which `GENERATE` in `apps/<domain>/__init__.py` names."""
    generators = {name: getattr(import_module(f"apps.{name}"), "GENERATE", None) for name in domains()}
    commands = {name: path for name, path in generators.items() if path}
    if not words or words[0] in ("-h", "--help"):
        print("usage: dfm data generate DOMAIN/WHAT [options]\n       dfm data generate --list\n")
        print(f"domains: {', '.join(commands)}; `dfm data generate DOMAIN --help` shows the options of one")
        return 0
    if words[0] == "--list":
        return max(_run(path, words) for path in commands.values())
    domain = words[0].partition("/")[0].replace("-", "_")
    if domain not in commands:
        raise UserError(
            f"cannot generate '{words[0]}'; write DOMAIN/WHAT first, with the domain one of "
            f"{', '.join(commands)}{did_you_mean(domain, commands)}"
        )
    return _run(commands[domain], words)


def _run(path: str, words: Sequence[str]) -> int:
    module, function = path.split(":")
    command: Callable[[Sequence[str]], int] = getattr(import_module(module), function)
    return command(words)


def _size(count: int) -> str:
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
