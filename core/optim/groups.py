"""Parameter groups with names, made once before the first step: rate, weight decay, layer-wise decay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from core.backbones.depths import depths
from core.errors import UserError

__all__ = ["parameter_groups"]


def parameter_groups(
    network: nn.Module,
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
    no_decay: bool | Sequence[str] = (),
    layer_decay: float | None = None,
    rates: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Sort every parameter of `network`, frozen ones included, into exactly one group.

    Freezing and thawing then only switch `requires_grad`; no group is ever added to a running optimizer.

    Args:
        network: The finished network; with `layer_decay` it has `blocks()`.
        lr: Peak rate; None leaves it to the optimizer's own default (multiply that by the group's `scale`).
        weight_decay: Weight decay of the groups that have one; None leaves it to the optimizer's own default.
        no_decay: Which parameters have none: patterns of their names (`*.bias`), and `"1d"` (or simply True)
            for all with at most one dimension, i.e. biases and norms. A pattern with `!` in front takes back
            what those before it name.
        layer_decay: Factor per layer: block i of n has the rate `lr · layer_decay^(n + 1 − i)`, counted from
            1. Parameters registered before the first block are depth 0, all others outside the blocks depth n
            + 1.
        rates: Name pattern to a factor of the rate; the first pattern that fits a name counts, and other
            names have factor 1.

    Returns:
        Groups with `params`, `name`, `scale` (their rate relative to the peak), `lr` and `weight_decay`
        (unless None), and with a layer-wise decay also `layer` and `layers`; names are distinct, and the
        order depends only on the network.

    Raises:
        UserError: If a value is out of range, a pattern matches nothing, or the network has no blocks.
    """
    if lr is not None and not lr >= 0:
        raise UserError(f"the learning rate is {lr}; it must be at least 0")
    if weight_decay is not None and not weight_decay >= 0:
        raise UserError(f"weight_decay is {weight_decay}; it must be at least 0")
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise UserError(f"layer_decay is {layer_decay}; it must be above 0 and at most 1")
    names = dict(network.named_parameters())
    patterns = (("1d",) if no_decay else ()) if isinstance(no_decay, bool) else tuple(no_decay)
    rates = dict(rates or {})
    for where, entries in (("no_decay", patterns), ("rates", rates)):
        for pattern in entries:
            bare = pattern.removeprefix("!")
            if bare != "1d" and not any(fnmatchcase(name, bare) for name in names):
                kind = type(network).__name__
                raise UserError(f"{where} has '{pattern}', which matches no parameter of {kind}")
    for pattern, factor in rates.items():
        if not factor >= 0:
            raise UserError(f"rates gives '{pattern}' the factor {factor}; it must be at least 0")
    depth, layers = depths(network, "layer_decay") if layer_decay is not None else ({}, 1)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in names.items():
        exempt = _exempt(name, parameter, patterns)
        title = "no_decay" if exempt else "decay"
        fitting = next((pattern for pattern in rates if fnmatchcase(name, pattern)), None)
        group: dict[str, Any] = {"scale": 1.0 if fitting is None else rates[fitting]}
        if fitting is not None:
            title = f"{fitting}.{title}"
        if layer_decay is not None:
            layer = depth[name]
            title = f"layer{layer:03d}.{title}"
            group["scale"] *= layer_decay ** (layers - 1 - layer)
            group.update(layer=layer, layers=layers)
        if lr is not None:
            group["lr"] = lr * group["scale"]
        if exempt:
            group["weight_decay"] = 0.0
        elif weight_decay is not None:
            group["weight_decay"] = weight_decay
        groups.setdefault(title, {"params": [], "name": title, **group})["params"].append(parameter)
    if not groups:
        raise UserError(f"{type(network).__name__} has no parameters; choose a network to train")
    return [groups[title] for title in sorted(groups)]


def _exempt(name: str, parameter: nn.Parameter, patterns: Sequence[str]) -> bool:
    """Say whether the last of `patterns` that fits exempts from weight decay."""
    exempt = False
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        if parameter.ndim <= 1 if bare == "1d" else fnmatchcase(name, bare):
            exempt = bare == pattern
    return exempt
