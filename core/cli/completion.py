"""`dfm completion bash|zsh|fish`: a script that completes domains, verbs, recipes and options."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from itertools import pairwise

from core.cli import TOOLS, VERBS
from core.cli.arguments import SPECIAL_CHECKPOINTS, prepare
from core.cli.help import option_names
from core.cli.parser import checked_verb
from core.cli.recipes import domains, recipe_names
from core.errors import UserError

__all__ = ["candidates", "main"]

_ASK = "dfm completion words"
SCRIPTS = {
    "bash": f"""\
# In ~/.bashrc: eval "$(dfm completion bash)"
_dfm() {{
    mapfile -t COMPREPLY < <({_ASK} "${{COMP_WORDS[@]:1:COMP_CWORD}}" 2>/dev/null)
}}
complete -o bashdefault -o default -F _dfm dfm""",
    "zsh": f"""\
# In ~/.zshrc, after compinit: eval "$(dfm completion zsh)"
_dfm() {{
    local -a answers
    answers=(${{(f)"$({_ASK} "${{(@)words[2,CURRENT]}}" 2>/dev/null)"}})
    if (( ${{#answers}} )); then compadd -- $answers; else _files; fi
}}
compdef _dfm dfm""",
    "fish": f"""\
# In ~/.config/fish/completions/dfm.fish: dfm completion fish | source
complete -c dfm -a '({_ASK} (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'""",
}


def main(argv: Sequence[str]) -> int:
    """Print a shell's script, or for `words …` what the last of them may become."""
    words = checked_verb(argv, [*SCRIPTS, "words"], command="dfm completion")
    if words[0] == "words":
        print("".join(f"{word}\n" for word in candidates(words[1:])), end="")
    elif words[0] in SCRIPTS:
        print(SCRIPTS[words[0]])
    else:
        print(f"usage: dfm completion {'|'.join(SCRIPTS)}\n\nPrint a script that completes what is typed:\n")
        print("\n".join(script.splitlines()[0].removeprefix("# ") for script in SCRIPTS.values()))
    return 0


def candidates(words: Sequence[str]) -> list[str]:
    """Return what the last word, which is being typed, may become after the others.

    None where a file is meant.
    """
    *before, current = words or [""]
    with contextlib.suppress(UserError):
        return sorted(word for word in _choices(before, current) if word.startswith(current))
    return []


def _choices(before: list[str], current: str) -> Iterable[str]:
    names = [name.replace("_", "-") for name in domains()]
    if not before:
        return [*names, *TOOLS, "--help", "--version"]
    head, last = before[0], before[-1]
    if head in TOOLS:
        return _of_tool(head, before[1:], current, names)
    domain = head.replace("-", "_")
    if domain not in domains():
        return []
    special: dict[str, str] = getattr(import_module(f"apps.{domain}"), "VERBS", {})
    if len(before) == 1:
        return dict.fromkeys([*VERBS, *special])
    if last in ("--config", "-c"):
        return recipe_names(domain)
    if last == "--ckpt_path":
        return SPECIAL_CHECKPOINTS
    if last == "--data.card":
        from core.data.cards import list_heads

        return [head["name"] for head in list_heads(domain)]
    if last.startswith("-") and not current.startswith("-"):
        return []  # the option's value: a file, or anything
    if before[1] in special:
        return _in_help(special[before[1]], ["--help"])
    return option_names(prepare(domain, before[1], [*_configs(before), "--help"]))


def _configs(words: list[str]) -> list[str]:
    """Return the words that name recipe files."""
    pairs = pairwise(words)
    return [word for option, value in pairs if option in ("--config", "-c") for word in ("--config", value)]


def _of_tool(tool: str, words: list[str], current: str, names: list[str]) -> Iterable[str]:
    if tool in ("recipes", "completion"):
        return names if tool == "recipes" else SCRIPTS
    if tool == "data" and words and not current.startswith("-"):
        from core.data.cards import card_names

        return names if words[0] == "list" else card_names() if words[0] != "generate" else []
    module = "core.parity" if tool == "parity" else f"core.cli.{tool}"
    if not words and (verbs := getattr(import_module(module), "VERBS", ())):
        return list(verbs)
    return _in_help(f"{module}:main", [*words[:1], "--help"]) if current.startswith("-") else []


def _in_help(path: str, words: list[str]) -> set[str]:
    """Return the options that a command's help shows."""
    module, _, function = path.partition(":")
    command: Callable[[Sequence[str]], int] = getattr(import_module(module), function)
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        command(words)
    return set(re.findall(r"--[a-z][\w.]*", text.getvalue()))
