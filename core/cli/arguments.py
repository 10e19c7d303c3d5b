"""What was typed after `dfm <domain> <verb>`, put in order and checked as far as it goes without torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from core.cli.recipes import find_config
from core.errors import UserError, did_you_mean

__all__ = ["Request", "prepare"]

TOP_LEVEL = (
    "about",
    "ckpt_path",
    "checkpoints",
    "cpu",
    "data",
    "model",
    "runs",
    "seed_everything",
    "tracking",
    "trainer",
)
SPECIAL_CHECKPOINTS = ("last", "best")


@dataclass(frozen=True)
class Request:
    """One call of `dfm <domain> <verb>`.

    Attributes:
        domain: The package under `apps`.
        verb: fit, validate or test, or predict.
        configs: The recipe and hardware files in the order given.
        options: All other words, in the order given; they win over every file wherever they stood.
        ckpt_path: `last`, `best`, a file, or None.
        wants_help: Whether `--help` was among the words.
    """

    domain: str
    verb: str
    configs: list[Path] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    ckpt_path: str | None = None
    wants_help: bool = False

    @property
    def recipe_name(self) -> str | None:
        """`<system>-<recipe>` of the first file, as in the run folder; None when a checkpoint alone was
        given.
        """
        if not self.configs:
            return None
        about = read_yaml(self.configs[0]).get("about") or {}
        system = about.get("system") if isinstance(about, dict) else None
        return f"{system or self.configs[0].resolve().parent.name}-{self.configs[0].stem}"


def prepare(domain: str, verb: str, words: Sequence[str]) -> Request:
    """Sort `words` into recipe files, checkpoint and options, and refuse what is wrong at sight.

    Raises:
        UserError: For a missing recipe or checkpoint, YAML that does not parse, an unknown top-level key, or
            an option without its value.
    """
    configs: list[Path] = []
    options: list[str] = []
    ckpt_path: str | None = None
    wants_help = False
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name in ("--config", "-c"):
            configs.append(find_config(domain, value if equals else _value(name, rest)))
        elif name == "--ckpt_path":
            ckpt_path = value if equals else _value(name, rest)
        elif word in ("-h", "--help"):
            wants_help = True
        elif name.startswith("-"):
            _check_option(name)
            options.append(word)
        elif options and "=" not in options[-1]:
            options.append(word)
        else:
            raise UserError(f"'{word}' stands alone; options are written --name=value or --name value")
    if ckpt_path in ("", "null", "None"):
        ckpt_path = None
    for path in configs:
        _check_top_level(path)
    _check_complete(domain, verb, configs, ckpt_path, wants_help)
    return Request(domain, verb, configs, options, ckpt_path, wants_help)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        UserError: If it does not parse (with line and column) or is no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text, so it is no recipe") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it does not parse"
        raise UserError(f"{path}{where} is not valid YAML: {problem}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no keys; a recipe has at least model: and data:")
    return content


def _value(name: str, rest: list[str]) -> str:
    if not rest or rest[0].startswith("--"):
        raise UserError(
            f"{name} needs a value, as in {name} ttm/demo"
            if name != "--ckpt_path"
            else "--ckpt_path needs a value: a file, `last` or `best`"
        )
    return rest.pop(0)


def _check_option(name: str) -> None:
    first = name.lstrip("-").split(".")[0].rstrip("+")
    extra = ("print_config", "config")
    if first not in (*TOP_LEVEL, *extra):
        raise UserError(f"unknown option {name}{did_you_mean(first, TOP_LEVEL)}")


def _check_top_level(path: Path) -> None:
    for key in read_yaml(path):
        if key not in TOP_LEVEL:
            raise UserError(f"unknown key '{key}' in {path}{did_you_mean(str(key), TOP_LEVEL)}")


def _check_complete(
    domain: str, verb: str, configs: list[Path], ckpt_path: str | None, wants_help: bool
) -> None:
    spoken = domain.replace("_", "-")
    if ckpt_path is not None and ckpt_path not in SPECIAL_CHECKPOINTS and not Path(ckpt_path).exists():
        folder = Path(ckpt_path).parent
        near = did_you_mean(
            Path(ckpt_path).name, [p.name for p in folder.glob("*.ckpt")] if folder.is_dir() else []
        )
        raise UserError(
            f"checkpoint {ckpt_path} does not exist{near}; `dfm checkpoint list` shows what there is"
        )
    if wants_help or configs:
        return
    if verb == "fit":
        raise UserError(
            f"`dfm {spoken} fit` needs a recipe, as in --config ttm/demo; `dfm recipes {spoken}` lists them"
        )
    if ckpt_path is None:
        raise UserError(f"`dfm {spoken} {verb}` needs --ckpt_path FILE, or a recipe given by --config")
    if ckpt_path in SPECIAL_CHECKPOINTS:
        raise UserError(
            f"--ckpt_path {ckpt_path} needs a recipe beside it, as in --config ttm/demo, or give a file"
        )


def program(request: Request) -> str:
    """Return the command as the user typed it, for usage lines."""
    return f"{Path(sys.argv[0]).name or 'dfm'} {request.domain.replace('_', '-')} {request.verb}"
