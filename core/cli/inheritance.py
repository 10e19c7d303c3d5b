"""Inheritance of recipes that start from another recipe's run: its network, its window sizes, its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import pairwise
from typing import Any

import yaml

from core.cli.arguments import Request, merged, option, read_yaml, run_name
from core.cli.recipes import find_config
from core.cli.run_folders import best_in, runs_of
from core.errors import UserError

__all__ = ["inherited", "with_network_options"]


def inherited(request: Request, stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a recipe with a parent takes from it, as a config that lies under the recipe's own.

    A run that goes on, or a checkpoint that is tested, brings its own network. Otherwise the newest run of
    the recipes named in `about.parent` gives network and weights, unless `model.weights` names others.

    Raises:
        UserError: If no run of a parent is found; the sentence says which command makes one.
    """
    if not request.configs:
        return {}
    recipe = read_yaml(request.configs[0])
    parents = (recipe.get("about") or {}).get("parent")
    if not parents:
        return {}
    if stored is not None:
        return _sizes(request.domain, (stored.get("domainfm") or {}).get("config") or {})
    return _fitting(_adopted(_from_parent(request, recipe, parents), recipe, request), recipe, request)


def _from_parent(request: Request, recipe: Mapping[str, Any], parents: Any) -> dict[str, Any]:
    """Return what the weights that are named, or the newest run of a parent, give."""
    weights = option(request, "--model.weights", "--model.init_args.weights")
    weights = weights or _arguments(recipe, "model").get("weights")
    if weights:
        return _from_weights(request.domain, str(weights))
    names = [parents] if isinstance(parents, str) else list(parents)
    root = option(request, "--runs") or recipe.get("runs") or "runs"
    recipes = [run_name(find_config(request.domain, name)) for name in names]
    runs = [run for name in recipes for run in runs_of(request.domain, name, root)]
    for run in sorted(runs, key=lambda run: run.name, reverse=True):
        if best := best_in(run):
            return _sizes(request.domain, read_yaml(run / "config.yaml"), weights=str(best))
    spoken = request.domain.replace("_", "-")
    raise UserError(
        f"{request.configs[0].stem} starts from a run of {' or '.join(names)}, and there is none "
        f"under {root}; make one with `dfm {spoken} fit --config {names[0]}`, or give --model.weights"
    )


def with_network_options(config: Mapping[str, Any], options: Sequence[str]) -> dict[str, Any]:
    """Return the config with what is typed of the network itself, such as `--model.network.width=64`."""
    typed: dict[str, Any] = {}
    for word, after in pairwise([*options, "null"]):
        name, equals, value = word.partition("=")
        keys = [key for key in name.removeprefix("--").split(".") if key != "init_args"]
        if keys[:2] == ["model", "network"] and len(keys) > 2 and name.startswith("--"):
            with suppress(yaml.YAMLError):  # the parser refuses it with a sentence of its own
                setting = yaml.safe_load(value if equals else after)
                for key in reversed(keys[3:]):
                    setting = {key: setting} if key == "class_path" else {"init_args": {key: setting}}
                typed = merged(typed, {keys[2]: setting})
    if not typed:
        return dict(config)
    return merged(config, {"model": {"init_args": {"network": {"init_args": typed}}}})


def _adopted(base: dict[str, Any], recipe: Mapping[str, Any], request: Request) -> dict[str, Any]:
    """Let the domain make of the parent's network the one that the recipe builds on it.

    What is fine-tuned is often a part of what was pre-trained, its encoder for instance, within another
    network and for another task.
    """
    adopt = getattr(import_module(f"apps.{request.domain}"), "inherited_network", None)
    arguments = _arguments(base, "model")
    if adopt is None or not arguments.get("network"):
        return base
    network = adopt(arguments["network"], _arguments(recipe, "model").get("network") or {})
    task = (recipe.get("model") or {}).get("class_path") or base["model"].get("class_path")
    return {**base, "model": {"class_path": task, "init_args": {**arguments, "network": network}}}


def _fitting(base: dict[str, Any], recipe: Mapping[str, Any], request: Request) -> dict[str, Any]:
    """Leave out inherited values of the data that the recipe's own network is not built for."""
    unbound = getattr(import_module(f"apps.{request.domain}"), "unbound", None)
    values, own = _arguments(base, "data"), _arguments(recipe, "data")
    if unbound is None or not values:
        return base
    void = unbound(with_network_options(merged(base, recipe), request.options))
    kept = {name: value for name, value in values.items() if name not in void or name in own}
    return {**base, "data": {**base["data"], "init_args": kept}}


def _sizes(domain: str, config: Mapping[str, Any], *, weights: str | None = None) -> dict[str, Any]:
    """Return network, weights and those of the data's values that the network fixes."""
    values, names = _arguments(config, "data"), getattr(import_module(f"apps.{domain}"), "INHERITED", ())
    network = _arguments(config, "model").get("network")
    model = {"weights": weights} | ({} if network is None else {"network": network})
    data = {name: values[name] for name in names if name in values}
    return {
        part: {"class_path": (config.get(part) or {}).get("class_path"), "init_args": arguments}
        for part, arguments in (("model", model), ("data", data))
    }


def _arguments(config: Mapping[str, Any], part: str) -> dict[str, Any]:
    return (config.get(part) or {}).get("init_args") or {}


def _from_weights(domain: str, source: str) -> dict[str, Any]:
    """Return the network that a checkpoint, a folder, a card or a hub id describes."""
    from core.checkpoints.sources import read_weights

    network = read_weights(source).network
    if network is None:
        return {}
    arguments = network.get("init_args") or {}
    names = getattr(import_module(f"apps.{domain}"), "INHERITED", ())
    values = {name: arguments[name] for name in names if name in arguments}
    return {"model": {"init_args": {"network": network}}, "data": {"init_args": values}}
