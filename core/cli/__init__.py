"""The `dfm` command: a dispatcher that checks what was typed before anything heavy is imported."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from core.errors import UserError, did_you_mean

__all__ = ["main"]

VERBS = ("fit", "validate", "test", "predict")
TOOLS = {
    "recipes": "list the recipes of all domains, or of one",
    "data": "list, show, fetch, verify and generate data sets",
    "checkpoint": "list, fetch, inspect, import and export checkpoints",
    "parity": "compare this machine's results with recorded ones",
    "completion": "print a script that completes commands in bash, zsh or fish",
    "doctor": "show versions, devices, memory and what is missing",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `dfm` with `argv` (default: the process's own) and return its exit code.

    0 done, 2 the user's mistake (one sentence on stderr), 1 a defect (traceback), 130 interrupted, 143
    terminated.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal of another encoding must not end a run
            stream.reconfigure(errors="replace")
    try:
        code = _dispatch(_trusting(words))
        if sys.stdout is not None:  # closed by who called us
            sys.stdout.flush()
        return code
    except UserError as mistake:
        if _speaks(mistake):
            print(f"dfm: {mistake}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        from core.cli.error_messages import missing_extra

        extra = missing_extra(error.name)
        if extra is None:
            raise
        print(f"dfm: {extra}", file=sys.stderr)
        return 2
    except OSError as error:
        from core.cli.error_messages import output_failed

        return output_failed(error)
    except KeyboardInterrupt:
        print("dfm: interrupted", file=sys.stderr)
        return 130


def _trusting(words: list[str]) -> list[str]:
    """Take `--trust MODULE` out of the words: recipes and checkpoints may name what is in such a module."""
    from core.trust import trust

    rest: list[str] = []
    remaining = iter(words)
    for word in remaining:
        name, equals, value = word.partition("=")
        if name != "--trust":
            rest.append(word)
        elif value or (value := "" if equals else next(remaining, "")):
            trust(value)
        else:
            raise UserError("--trust needs a module's name, as in --trust mynet")
    return rest


def _speaks(mistake: UserError) -> bool:
    """Tell whether this process says what is wrong: of several of one run, one does, and all leave with 2."""
    from core.strategies.launch import rank_info

    info = rank_info()
    if info is None:
        return True
    from core.strategies.rendezvous import announce

    return announce(info, str(mistake))


def _dispatch(words: list[str]) -> int:
    from core.cli.recipes import domains

    if not words or words[0] in ("-h", "--help", "help"):
        print(_help(domains()))
        return 0
    if words[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"domainfm {version('domainfm')}")
        return 0
    command, rest = words[0], words[1:]
    if command == "recipes":
        from core.cli import recipes

        return recipes.main(rest)
    if command in TOOLS:
        module = "core.parity" if command == "parity" else f"core.cli.{command}"
        tool: Callable[[Sequence[str]], int] = import_module(module).main
        return tool(rest)
    domain = command.replace("-", "_")
    if domain not in domains():
        names = [name.replace("_", "-") for name in domains()]
        choices = [*names, *TOOLS]
        raise UserError(
            f"'{command}' is neither a domain ({', '.join(names)}) nor a command ({', '.join(TOOLS)})"
            f"{did_you_mean(command, choices)}"
        )
    return _run_domain(domain, rest)


def _run_domain(domain: str, words: list[str]) -> int:
    spoken = domain.replace("_", "-")
    own: dict[str, str] = getattr(import_module(f"apps.{domain}"), "VERBS", {})
    verbs = list(dict.fromkeys([*VERBS, *own]))
    if not words or words[0] in ("-h", "--help"):
        print(_domain_help(spoken, verbs))
        return 0
    verb, rest = words[0], words[1:]
    if verb not in verbs:
        choices = ", ".join(verbs)
        order = f"; write the verb first: dfm {spoken} fit {verb} …" if verb.startswith("-") else ""
        raise UserError(f"'{verb}' is no verb of {spoken} ({choices}){order or did_you_mean(verb, verbs)}")
    if verb in own:
        module, function = own[verb].split(":")
        own_verb: Callable[[Sequence[str]], int] = getattr(import_module(module), function)
        return own_verb(["--help"] if {"-h", "--help"} & {*rest} else rest)
    from core.cli.arguments import prepare
    from core.cli.environment import set_environment

    request = prepare(domain, verb, rest)  # finds every mistake that can be found without torch
    if request.wants_help:
        from core.cli.help import show_help

        print(show_help(request))
        return 0
    set_environment(request)
    from core.cli.run import run

    return run(request)


def _help(domains: Sequence[str]) -> str:
    lines = [
        "usage: dfm <domain> fit|validate|test|predict --config RECIPE [options]",
        "       dfm <command> ...",
        "",
    ]
    lines += ["domains:  " + ", ".join(name.replace("_", "-") for name in domains), "", "commands:"]
    lines += [f"  {name:<12}{text}" for name, text in TOOLS.items()]
    lines += [
        "",
        "examples:",
        "  dfm timeseries fit --config ttm/demo",
        "  dfm timeseries test --ckpt_path best --data.path my.csv",
        "  dfm timeseries predict --ckpt_path best --data.path my.csv --data.horizon 96 --out out.csv",
        "  dfm data generate pde/ns_sines --samples 64 --out flows.zarr",
        "  dfm pde predict --ckpt_path best --data.path initial.nc --out trajectory.nc",
        "",
        "`dfm <domain> fit --config RECIPE --help` shows a recipe's options; see `dfm completion` too.",
    ]
    return "\n".join(lines)


def _domain_help(domain: str, verbs: Sequence[str]) -> str:
    return (
        f"usage: dfm {domain} {'|'.join(verbs)} --config RECIPE [--config HARDWARE]\n"
        "           [--ckpt_path last|best|RUN|FILE] [options]\n\n"
        f"`dfm recipes {domain}` lists the recipes, `dfm {domain} fit --config RECIPE --help` all options."
    )
