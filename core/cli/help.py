"""`--help` of a run: its recipe's options with values and meanings, read from the sources without torch."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from core.cli.arguments import GROUPS, Request, merged, option, read_yaml
from core.cli.recipes import Recipe, all_recipes, example, find_config
from core.cli.signatures import described
from core.tables import text_table

__all__ = ["option_names", "recipe_options", "show_help"]

FREQUENT = (
    "--data.path", "--data.card", "--data.source.path", "--data.context", "--data.horizon",
    "--data.trajectories", "--data.batch_size", "--data.num_workers", "--trainer.max_epochs",
    "--trainer.max_steps", "--model.optimizer.lr", "--model.weights", "--model.adaptation",
    "--trainer.accelerator", "--trainer.devices", "--trainer.precision", "--tracking.wandb",
)  # fmt: skip
OF_TRAINING = (
    "--trainer.max_epochs", "--trainer.max_steps", "--model.optimizer.lr", "--model.weights",
    "--model.adaptation", "--about.test_after_fit",
)  # fmt: skip
MEANINGS = {
    "lr": "Learning rate, the highest of its schedule.",
    "weight_decay": "Share of a weight that decays, times the rate.",
    "betas": "Memory of the gradient's mean and of its square.",
    "momentum": "Memory of the gradient's mean.",
    "eps": "Added to the denominator.",
    "warmup": "Steps, or a share of the run, in which the rate rises.",
    "start": "First rate, as a share of the highest.",
    "minimum": "Last rate, as a share of the highest.",
    "every": "Steps, or a share of the run, between two falls of the rate.",
    "gamma": "Factor of the rate at each fall.",
    "power": "Exponent of the share of steps that are left.",
}
SET_BY_US = {"trainer.devices": "1", "trainer.log_every_n_steps": "10", "trainer.deterministic": "warn"}
WIDEST, INDENT = 120, 40


class Option(NamedTuple):
    """A line of help."""

    name: str
    value: str
    meaning: str


def show_help(request: Request) -> str:
    """Return the help of a command: of its recipe or checkpoint, or else how to get that."""
    spoken, config = request.domain.replace("_", "-"), _config(request)
    first = f"dfm {request.command}"
    common = _common(request, config)
    if not config:
        recipes = ((f"  {recipe.name}", recipe.summary) for recipe in all_recipes(request.domain))
        lines = [f"usage: {first} --config RECIPE [--config HARDWARE] [--ckpt_path last|best|RUN|FILE]"]
        lines += ["", *_lines("options of every recipe", common)]
        shown = f"`{first} --config {example(request.domain)} --help`"
        lines += ["Options of data, network and task are the recipe's, or with --ckpt_path the checkpoint's:"]
        return "\n".join([*lines, f"{shown} shows them. The recipes of {spoken}:", "", text_table(recipes)])
    groups = recipe_options(request, config)
    options = {line.name: line for lines in groups.values() for line in lines}
    frequent = [options[name] for name in FREQUENT if name in options]
    if request.verb != "fit":
        frequent = [line for line in frequent if line.name not in OF_TRAINING]
        groups = {title: group for title, group in groups.items() if title not in ("checkpoints", "profile")}
    named = f"--ckpt_path {request.ckpt_path}"
    if request.configs:
        recipe = next((r.name for r in all_recipes(request.domain) if r.path == request.configs[0]), None)
        named = f"--config {recipe or request.configs[0]}"
    lines = [f"usage: {first} {named} [options]", "", *_about(request, config)]
    for title, group in {"often changed": [*frequent, *common], **groups}.items():
        lines += _lines(title, group)
    return "\n".join([*lines, "Write --name=value or --name value, and `null` for none."])


def option_names(request: Request) -> list[str]:
    """Return the options of a command, as far as its recipe tells."""
    config = _config(request)
    lines = [*_common(request, config), *chain(*recipe_options(request, config).values())]
    return [line.name for line in lines]


def _common(request: Request, config: Mapping[str, Any]) -> list[Option]:
    every = [
        Option("--config", "", "A recipe's name or file; a second one for hardware, as in trainer/cuda."),
        Option("--ckpt_path", "", "`last` or `best` of the newest run, a run folder, or a checkpoint."),
        Option("--runs", "runs", "Folder of the run folders."),
        Option("--seed_everything", str(config.get("seed_everything", 0)), "Seed of every draw."),
        Option("--about.test_after_fit", "", "Whether the best epoch is tested when training ends."),
        Option("--trust", "", "A module of yours, in this folder or installed, that the recipe may name."),
        Option("--print_config", "", "Print the whole config, as a recipe, and leave."),
    ]
    return [line for line in every if request.verb == "fit" or line.name not in OF_TRAINING]


def recipe_options(request: Request, config: Mapping[str, Any]) -> dict[str, list[Option]]:
    """Return the options of a config: data, network, task, and what all recipes have."""
    groups: dict[str, list[Option]] = {}
    for part in ("data", "model"):
        path, values = _class_and_values(config.get(part))
        network = _class_and_values(values.get("network"))[0]
        lines = list(_options(f"--{part}", path, values, request))
        inner = [line for line in lines if line.name.startswith("--model.network")]
        if inner:
            groups[f"network: {network}"] = inner
        title = "data" if part == "data" else "task"
        groups[f"{title}: {path}"] = [line for line in lines if line not in inner]
    for name in ("trainer", *(group for group in GROUPS if group != "trainer")):
        groups[name] = list(_options(f"--{name}", GROUPS[name], config.get(name) or {}, request))
    return groups


def _config(request: Request) -> dict[str, Any]:
    """Return the recipe with its further files, on a parent's network, or else a checkpoint's config."""
    if request.configs:
        config: dict[str, Any] = {}
        for path in request.configs:
            config = merged(config, read_yaml(path))
        for name in _parents(config)[:1]:
            if not _class_and_values(config.get("model"))[1].get("network"):
                parent = _class_and_values(read_yaml(find_config(request.domain, name))["model"])[1]
                config = merged({"model": {"init_args": {"network": parent["network"]}}}, config)
        return config
    if request.ckpt_path is None:
        return {}
    from core.checkpoints.files import read_outline
    from core.cli.run_folders import checkpoint_in, locate

    path = Path(request.ckpt_path)
    if (path / "config.yaml").is_file():
        return read_yaml(path / "config.yaml")
    checkpoint = checkpoint_in(str(path)) if path.exists() else locate(request)[0]
    return (read_outline(checkpoint).get("domainfm") or {}).get("config") or {} if checkpoint else {}


def _parents(config: Mapping[str, Any]) -> list[str]:
    parents = (config.get("about") or {}).get("parent") or []
    return [parents] if isinstance(parents, str) else list(parents)


def _about(request: Request, config: Mapping[str, Any]) -> list[str]:
    lines = [Recipe(request.domain, "", request.configs[0]).summary] if request.configs else []
    if parents := _parents(config):
        lines.append(
            f"Network and sizes of its windows come from the newest run of {' or '.join(parents)}, or from"
            f" --model.weights; shown are those of {parents[0]}."
        )
    return [*lines, ""]


def _class_and_values(value: Any) -> tuple[str, dict[str, Any]]:
    """Return the class and the arguments that a recipe names in one place."""
    if isinstance(value, str):
        return value, {}
    if not isinstance(value, Mapping):
        return "", {}
    if "class_path" in value:
        return str(value["class_path"]), dict(value.get("init_args") or {})
    return "", dict(value)


def _options(prefix: str, path: str, values: Mapping[str, Any], request: Request) -> Iterator[Option]:
    """Yield the options of a class, and of the classes and settings that are set within it."""
    signature = described(path) or {}
    for name in dict.fromkeys([*signature, *values]):
        parameter, value = signature.get(name), values.get(name)
        nested, inner = _class_and_values(value)
        typed = option(request, f"{prefix}.{name}", f"{prefix}.init_args.{name}")
        kind = nested or (parameter.kind if parameter else "")
        if name == "params" and path.startswith("torch.optim"):
            continue
        meaning = (parameter.meaning if parameter else "") or MEANINGS.get(name, "")
        if nested or (isinstance(value, Mapping) and not kind) or not kind:
            default = parameter.default if parameter else ""
            default = SET_BY_US.get(f"{prefix}.{name}".lstrip("-"), default)
            default = "" if default.isupper() else default  # a name of the source's
            shown = typed or nested or (default if name not in values else _text(value))
            yield Option(f"{prefix}.{name}", shown, meaning)
        if kind and described(kind):
            yield from _options(f"{prefix}.{name}", kind, inner, request)


def _text(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip("'\n")


def _lines(title: str, options: list[Option]) -> list[str]:
    """Return a heading and, in two columns, `--name=value` and its meaning."""
    width = min(max(shutil.get_terminal_size((WIDEST, 0)).columns, 80), WIDEST)
    lines = [f"{title}:"] if options else []
    for name, value, meaning in options:
        head = f"  {name}" + (f"={value}" if value else "")
        text = textwrap.wrap(meaning, width - INDENT) or [""]
        if len(head) > INDENT - 2:
            lines += [head, *(" " * INDENT + line for line in text if line)]
        else:
            lines += [f"{head:<{INDENT}}{text[0]}".rstrip(), *(" " * INDENT + line for line in text[1:])]
    return [*lines, ""] if options else []
