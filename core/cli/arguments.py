"""Arguments after `dfm <domain> <verb>`, put in order and checked as far as it goes without torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from core.cli.recipes import example, find_config
from core.cli.signatures import parameters
from core.errors import UserError, did_you_mean

__all__ = ["GROUPS", "Request", "asked", "merged", "option", "prepare", "program", "read_yaml", "run_name"]

GROUPS = {
    "checkpoints": "core.trainer.Checkpoints",
    "cpu": "core.accelerators.cpu.CPUSwitches",
    "cuda": "core.accelerators.cuda.CUDASwitches",
    "launch": "core.strategies.launch.Launch",
    "neuron": "core.accelerators.neuron.NeuronSwitches",
    "profile": "core.tracking.profiler.Profile",
    "tracking": "core.tracking.settings.Tracking",
    "trainer": "lightning.pytorch.trainer.trainer.Trainer",
}
TOP_LEVEL = sorted([*GROUPS, "about", "ckpt_path", "data", "model", "runs", "seed_everything"])
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
        """`<system>-<recipe>` of the first file, as in the run folder; None for a checkpoint alone."""
        return run_name(self.configs[0]) if self.configs else None

    @property
    def command(self) -> str:
        """Domain and verb as they are typed: `remote-sensing fit`."""
        return f"{self.domain.replace('_', '-')} {self.verb}"


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
            configs.append(find_config(domain, value if equals else _value(domain, name, rest)))
        elif name == "--ckpt_path":
            ckpt_path = value if equals else _value(domain, name, rest)
        elif word in ("-h", "--help"):
            wants_help = True
        elif name.startswith("-") and not name[1:2].isdigit():
            _check_option(name)
            options.append(word)
        elif options and "=" not in options[-1]:
            options.append(word)
        else:
            raise UserError(f"'{word}' stands alone; options are written --name=value or --name value")
    if ckpt_path in ("", "null", "None"):
        ckpt_path = None
    for path in configs:
        _check_file(path)
    request = Request(domain, verb, configs, options, ckpt_path, wants_help)
    _check_keys(request)
    _check_complete(request)
    return request


def run_name(recipe: Path) -> str:
    """Return `<system>-<recipe>`, which a recipe's run folders lie under."""
    about = read_yaml(recipe).get("about") or {}
    system = about.get("system") if isinstance(about, dict) else None
    return f"{system or recipe.resolve().parent.name}-{recipe.stem}"


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        UserError: If it does not parse (with line and column) or is no mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text, so it is no recipe") from error
    except RecursionError as error:
        raise UserError(f"{path} holds lists within lists without end, so it is no recipe") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it does not parse"
        raise UserError(f"{path}{where} is not valid YAML: {problem}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no keys; a recipe has at least model: and data:")
    return content


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return both mappings as one, deeply; values of `over` win, and lists are replaced."""
    result = dict(under)
    for key, value in over.items():
        before = result.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping) and _alike(before, value):
            result[key] = merged(before, value)
        else:
            result[key] = value
    return result


class _UniqueKeys(yaml.SafeLoader):
    """YAML as it is meant: of a key that stands twice, one value would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' stands twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


def option(request: Request, *names: str) -> str | None:
    """Return the value of an option among those typed, the last one if it stands there twice."""
    typed = None
    for word, after in pairwise([*request.options, None]):
        name, equals, value = str(word).partition("=")
        if name in names:
            typed = value if equals else after
    return None if typed == "null" else typed


def asked(request: Request, name: str) -> Any:
    """Return what is asked for under a dotted name: the option typed, else the last file's value, or None."""
    setting: Any = option(request, f"--{name}")
    for path in reversed(request.configs):
        value: Any = read_yaml(path)
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        setting = value if setting is None else setting
    return setting


def _alike(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Say whether arguments carry over: not from one class to another."""
    return "class_path" not in after or before.get("class_path") in (None, after["class_path"])


def _value(domain: str, name: str, rest: list[str]) -> str:
    if not rest or rest[0].startswith("--"):
        choice = (
            ": a file, `last` or `best`" if name == "--ckpt_path" else f", as in {name} {example(domain)}"
        )
        raise UserError(f"{name} needs a value{choice}")
    return rest.pop(0)


def _check_option(name: str) -> None:
    first = name.lstrip("-").split(".")[0].rstrip("+")
    if first not in (*TOP_LEVEL, "print_config", "config"):
        raise UserError(f"unknown option {name}{did_you_mean(first, TOP_LEVEL)}")


def _check_file(path: Path) -> None:
    content = read_yaml(path)
    for key in content:
        if key not in TOP_LEVEL:
            raise UserError(f"unknown key '{key}' in {path}{did_you_mean(str(key), TOP_LEVEL)}")
        if key in GROUPS and isinstance(content[key], dict):
            _check_names(GROUPS[key], content[key], f" in {path}")
        if key in ("model", "data"):
            _check_nested(content[key], path)


def _check_nested(value: Any, path: Path) -> None:
    """Refuse an unknown key of any class or function that a recipe names, as far as its source tells."""
    if isinstance(value, list):
        for item in value:
            _check_nested(item, path)
    if not isinstance(value, dict):
        return
    arguments = value.get("init_args")
    if isinstance(value.get("class_path"), str) and isinstance(arguments, dict):
        _check_names(value["class_path"], arguments, f" in {path}")
    for item in value.values():
        _check_nested(item, path)


def _check_names(function: str, names: Iterable[Any], where: str = "") -> None:
    known = parameters(function)
    for name in (str(name).rstrip("+") for name in names):
        if known is not None and name not in known:
            raise UserError(f"unknown key '{name}' of {function}{where}{did_you_mean(name, known)}")


def _check_keys(request: Request) -> None:
    """Refuse an unknown key in `--trainer.X`, `--model.X` or `--data.X`; deeper ones the parser sees."""
    for word in request.options:
        section, _, rest = word.partition("=")[0].lstrip("-").partition(".")
        name = rest.partition(".")[0]
        if not rest or not word.startswith("--"):
            continue
        if section in GROUPS:
            _check_names(GROUPS[section], [name])
        if section in ("model", "data") and name not in ("class_path", "init_args", "dict_kwargs", "help"):
            class_path = asked(request, f"{section}.class_path")
            if isinstance(class_path, str):
                _check_names(class_path, [name])


def _check_complete(request: Request) -> None:
    path = request.ckpt_path
    if path is not None and path not in SPECIAL_CHECKPOINTS and not Path(path).exists():
        near = did_you_mean(Path(path).name, [file.name for file in Path(path).parent.glob("*.ckpt")])
        raise UserError(f"checkpoint {path} does not exist{near}; `dfm checkpoint list` shows what there is")
    if request.wants_help or request.configs:
        return
    recipe = f"--config {example(request.domain)}"
    if request.verb == "fit":
        spoken = request.domain.replace("_", "-")
        raise UserError(
            f"`dfm {request.command}` needs a recipe, as in {recipe}; `dfm recipes {spoken}` lists them"
        )
    if path is None:
        raise UserError(f"`dfm {request.command}` needs --ckpt_path FILE, or a recipe given by --config")


def program(request: Request) -> str:
    """Return the command as the user typed it, for usage lines."""
    return f"{Path(sys.argv[0]).name or 'dfm'} {request.command}"
