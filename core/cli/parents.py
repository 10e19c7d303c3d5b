"""Recipes that start from another recipe's run: they inherit its network, its window sizes and its
weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from core.cli.arguments import Request, option, read_yaml, run_name
from core.cli.recipes import find_config
from core.cli.runs import best_in, runs_of
from core.errors import UserError

__all__ = ["inherited", "merged"]


def inherited(request: Request, stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a recipe with a parent takes from it, as a config that lies under the recipe's own.

    A run that goes on, or a checkpoint that is tested, brings its own network. Otherwise the newest run of
    the recipes named in `about.parent` gives network and weights, unless `model.weights` names others.

    Args:
        request: What was typed; its first file is the recipe.
        stored: The checkpoint given by `--ckpt_path`, if any.

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
    given = option(request, "--model.weights", "--model.init_args.weights")
    given = given or ((recipe.get("model") or {}).get("init_args") or {}).get("weights")
    if given:
        return _from_weights(request.domain, str(given))
    names = [parents] if isinstance(parents, str) else list(parents)
    root = option(request, "--runs") or recipe.get("runs") or "runs"
    newest: tuple[str, Path, Path] | None = None
    for name in names:
        for run in runs_of(request.domain, run_name(find_config(request.domain, name)), root):
            found = best_in(run)
            if found is not None and (newest is None or run.name > newest[0]):
                newest = (run.name, run, found)
                break
    if newest is None:
        spoken = request.domain.replace("_", "-")
        raise UserError(
            f"{request.configs[0].stem} starts from a run of {' or '.join(names)}, and there is none "
            f"under {root}; make one with `dfm {spoken} fit --config {names[0]}`, or give --model.weights"
        )
    _, run, weights = newest
    return _sizes(request.domain, read_yaml(run / "config.yaml"), weights=str(weights))


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


def _alike(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Say whether arguments carry over: not from one class to another."""
    return "class_path" not in after or before.get("class_path") in (None, after["class_path"])


def _sizes(domain: str, config: Mapping[str, Any], *, weights: str | None = None) -> dict[str, Any]:
    """Return network, weights and those of the data's values that the network fixes."""
    model, data = config.get("model") or {}, config.get("data") or {}
    network = (model.get("init_args") or {}).get("network")
    names = getattr(import_module(f"apps.{domain}"), "INHERITED", ())
    values = {name: data["init_args"][name] for name in names if name in (data.get("init_args") or {})}
    arguments: dict[str, Any] = {"weights": weights}
    if network is not None:
        arguments["network"] = network
    return {
        "model": {"class_path": model.get("class_path"), "init_args": arguments},
        "data": {"class_path": data.get("class_path"), "init_args": values},
    }


def _from_weights(domain: str, source: str) -> dict[str, Any]:
    """Return the network that a checkpoint, a folder, a card or a hub id describes."""
    from core.checkpoints.weights import read_weights

    weights = read_weights(source)
    network = weights.network
    if network is None:
        return {}
    arguments = network.get("init_args") or {}
    names = getattr(import_module(f"apps.{domain}"), "INHERITED", ())
    values = {name: arguments[name] for name in names if name in arguments}
    return {"model": {"init_args": {"network": network}}, "data": {"init_args": values}}
