"""What was typed after `dfm <domain> <verb>`, put in order and checked as far as it goes without torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from core.cli.recipes import example, find_config
from core.cli.signatures import parameters
from core.errors import UserError, did_you_mean

__all__ = ["Request", "asked", "option", "prepare", "program", "read_yaml", "run_name"]

TOP_LEVEL = (
    "about",
    "ckpt_path",
    "checkpoints",
    "cpu",
    "cuda",
    "data",
    "launch",
    "model",
    "neuron",
    "profile",
    "runs",
    "seed_everything",
    "tracking",
    "trainer",
)
TRAINER = "lightning.pytorch.trainer.trainer.Trainer"
GROUPS = {
    "checkpoints": "core.trainer.Checkpoints",
    "cpu": "core.accelerators.cpu.Switches",
    "cuda": "core.accelerators.cuda.Switches",
    "neuron": "core.accelerators.neuron.Switches",
    "profile": "core.tracking.profiler.Profile",
    "launch": "core.strategies.launch.Launch",
    "tracking": "core.tracking.settings.Tracking",
}
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
        return run_name(self.configs[0])


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
        _check_file(path)
    _check_keys(configs, options)
    _check_complete(domain, verb, configs, ckpt_path, wants_help)
    return Request(domain, verb, configs, options, ckpt_path, wants_help)


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
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it does not parse"
        raise UserError(f"{path}{where} is not valid YAML: {problem}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no keys; a recipe has at least model: and data:")
    return content


class _UniqueKeys(yaml.SafeLoader):
    """YAML as it is meant: of a key that stands twice, one value would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for place, (key, _) in enumerate(node.value):
            if key.value in names[:place]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' stands twice", key.start_mark
                )
        return super().construct_mapping(node, deep=deep)


def option(request: Request, *names: str) -> str | None:
    """Return the value of an option among those typed, the last one if it stands there twice."""
    found = None
    for place, word in enumerate(request.options):
        name, equals, value = word.partition("=")
        if name in names:
            after = request.options[place + 1] if place + 1 < len(request.options) else None
            found = value if equals else after
    return None if found in (None, "null") else found


def asked(request: Request, name: str) -> Any:
    """Return what is asked for under a dotted name: the option typed, else the last file's value, or None."""
    found: Any = option(request, f"--{name}")
    for path in reversed(request.configs):
        value: Any = read_yaml(path)
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        found = value if found is None else found
    return found


def _value(domain: str, name: str, rest: list[str]) -> str:
    if not rest or rest[0].startswith("--"):
        raise UserError(
            f"{name} needs a value, as in {name} {example(domain)}"
            if name != "--ckpt_path"
            else "--ckpt_path needs a value: a file, `last` or `best`"
        )
    return rest.pop(0)


def _check_option(name: str) -> None:
    first = name.lstrip("-").split(".")[0].rstrip("+")
    extra = ("print_config", "config")
    if first not in (*TOP_LEVEL, *extra):
        raise UserError(f"unknown option {name}{did_you_mean(first, TOP_LEVEL)}")


def _check_file(path: Path) -> None:
    content = read_yaml(path)
    for key in content:
        if key not in TOP_LEVEL:
            raise UserError(f"unknown key '{key}' in {path}{did_you_mean(str(key), TOP_LEVEL)}")
    for key, place in (("trainer", TRAINER), *((name, path_) for name, path_ in GROUPS.items())):
        section = content.get(key)
        if isinstance(section, dict):
            _check_names(place, section, path)
    for key in ("model", "data"):
        _check_nested(content.get(key), path)


def _check_nested(value: Any, path: Path) -> None:
    """Refuse an unknown key of any class or function that a recipe names, as far as its source tells."""
    if isinstance(value, list):
        for item in value:
            _check_nested(item, path)
    if not isinstance(value, dict):
        return
    arguments = value.get("init_args")
    if isinstance(value.get("class_path"), str) and isinstance(arguments, dict):
        _check_names(value["class_path"], arguments, path)
    for item in value.values():
        _check_nested(item, path)


def _check_names(place: str, given: Iterable[str], where: Path | None) -> None:
    known = parameters(place)
    for name in given:
        name = str(name).rstrip("+")
        if known is not None and name not in known:
            file = f" in {where}" if where else ""
            raise UserError(f"unknown key '{name}' of {place}{file}{did_you_mean(name, known)}")


def _check_keys(configs: Sequence[Path], options: Sequence[str]) -> None:
    """Refuse an unknown key in `--trainer.X`, `--model.X` or `--data.X`; deeper ones are the parser's
    business.
    """
    contents = [read_yaml(path) for path in configs]
    for word in options:
        keys = word.partition("=")[0].lstrip("-").split(".")
        if len(keys) < 2 or not word.startswith("--"):
            continue
        section, name = keys[0], keys[1]
        if section == "trainer" or section in GROUPS:
            _check_names(TRAINER if section == "trainer" else GROUPS[section], [name], None)
        if section in ("model", "data") and name not in ("class_path", "init_args", "dict_kwargs", "help"):
            classes = [c[section].get("class_path") for c in contents if isinstance(c.get(section), dict)]
            if classes and isinstance(classes[-1], str):
                _check_names(classes[-1], [name], None)


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
            f"`dfm {spoken} fit` needs a recipe, as in --config {example(domain)};"
            f" `dfm recipes {spoken}` lists them"
        )
    if ckpt_path is None:
        raise UserError(f"`dfm {spoken} {verb}` needs --ckpt_path FILE, or a recipe given by --config")
    if ckpt_path in SPECIAL_CHECKPOINTS:
        raise UserError(
            f"--ckpt_path {ckpt_path} needs a recipe beside it, as in --config {example(domain)}, or give a"
            " file"
        )


def program(request: Request) -> str:
    """Return the command as the user typed it, for usage lines."""
    return f"{Path(sys.argv[0]).name or 'dfm'} {request.domain.replace('_', '-')} {request.verb}"
