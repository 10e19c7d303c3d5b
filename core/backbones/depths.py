"""Depth of each parameter of a network, counted in its repeated layers from the input's side."""

from __future__ import annotations

from torch import nn

from core.errors import UserError

__all__ = ["depths"]


def depths(network: nn.Module, why: str) -> tuple[dict[str, int], int]:
    """Return every parameter's depth by name, and the number of depths (blocks + 2).

    Parameters of block i are of depth i, counted from 1; those registered before the first block are of depth
    0, and all others outside the blocks of the largest.

    Raises:
        UserError: If the network has no `blocks()`, or they have no parameters; `why` says what needs them.
    """
    blocks = getattr(network, "blocks", None)
    if not callable(blocks):
        raise UserError(f"{why} needs a network with blocks(); {type(network).__name__} has none")
    inside = {id(p): i for i, block in enumerate(blocks(), start=1) for p in block.parameters()}
    if not inside:
        raise UserError(f"{why} needs blocks; those of {type(network).__name__} have no parameters")
    last = max(inside.values()) + 1
    found: dict[str, int] = {}
    seen = False
    for name, parameter in network.named_parameters():
        seen = seen or id(parameter) in inside
        found[name] = inside.get(id(parameter), last if seen else 0)
    return found, last + 1
