"""Which layers of a network an adaptation means: patterns of module names, or the matrices of its blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from core.errors import UserError, did_you_mean

__all__ = ["find_layers", "is_matrix"]


def find_layers(
    network: nn.Module,
    patterns: Sequence[str] = (),
    *,
    skip: Sequence[str] = (),
    where: str,
    everywhere: bool = False,
) -> dict[str, nn.Module]:
    """Return the layers to adapt by name, in the order in which the network holds them.

    Args:
        network: Of any domain.
        patterns: Names of modules, `*` and `?` allowed. A layer is meant if its own name fits, or the name of
            a module that holds it. Empty means all linear layers of `blocks()`.
        skip: Patterns of what is left alone, in the same way.
        where: What the patterns belong to, for the error.
        everywhere: Whether an empty `patterns` means all linear layers of the network.

    Raises:
        UserError: If a pattern fits no layer with a weight, nothing is left, or two layers share one weight.
    """
    modules = {name: module for name, module in network.named_modules() if name and _has_weight(module)}
    kind = type(network).__name__
    for pattern in (*patterns, *skip):
        if not any(_fits(name, pattern) for name in modules):
            names = [name for name, _ in network.named_modules() if name]
            raise UserError(
                f"{where} has '{pattern}', which fits no layer of {kind} that has a weight"
                f"{did_you_mean(pattern, names)}"
            )
    if patterns:
        found = {name: m for name, m in modules.items() if any(_fits(name, p) for p in patterns)}
        # A pattern that names a part of the network means its matrices, not its norms and embeddings.
        exact = {name for name in found if any(fnmatchcase(name, p) and "*" not in p for p in patterns)}
        found = {name: m for name, m in found.items() if name in exact or is_matrix(m)}
    else:
        inside = {id(m) for block in _scope(network, where, everywhere) for m in block.modules()}
        found = {name: m for name, m in modules.items() if id(m) in inside and is_matrix(m)}
    found = {name: m for name, m in found.items() if not any(_fits(name, p) for p in skip)}
    if not found:
        raise UserError(f"{where}: {kind} has no linear layer to adapt; name layers by pattern")
    _refuse_shared(network, found, where)
    return found


def is_matrix(module: nn.Module) -> bool:
    """Tell whether a layer multiplies by a matrix: its weight is `(out, in)`, or that with sides of one."""
    weight = module._parameters.get("weight")
    return (
        weight is not None
        and not isinstance(module, nn.Embedding | nn.EmbeddingBag)
        and weight.ndim >= 2
        and math.prod(weight.shape[2:]) == 1
        and min(weight.shape[:2]) > 1
    )


def _has_weight(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    return weight is not None and weight.ndim >= 2 and weight.is_floating_point()


def _fits(name: str, pattern: str) -> bool:
    """Tell whether a module's name, or that of a module that holds it, fits."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def _scope(network: nn.Module, where: str, everywhere: bool) -> list[nn.Module]:
    if everywhere:
        return [network]
    blocks = getattr(network, "blocks", None)
    found = list(blocks()) if callable(blocks) else []
    if not found:
        raise UserError(
            f"{where}: {type(network).__name__} names no repeated layers (its blocks()); name the layers to "
            "adapt by pattern, as in ['*.attention.*']"
        )
    return found


def _refuse_shared(network: nn.Module, found: dict[str, nn.Module], where: str) -> None:
    """Refuse layers whose weight another one uses too: the update would be of one of them alone."""
    owners: dict[int, str] = {}
    for name, module in network.named_modules():
        for parameter in module._parameters.values():
            if parameter is None:
                continue
            first = owners.setdefault(id(parameter), name)
            if first != name and (first in found or name in found):
                raise UserError(f"{where}: {first} and {name} share one weight; leave both out with skip")
