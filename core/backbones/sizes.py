"""Named sizes of networks, one line each: a function with the network's signature and other defaults."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from torch import nn

__all__ = ["size"]

Network = TypeVar("Network", bound=nn.Module)


def size(network: type[Network], about: str, **defaults: Any) -> Callable[..., Network]:
    """Return a function that builds `network` with other defaults.

    Its signature, types and docstring are the network's, so that the command line parses, overrides and
    refuses as for the network itself, and a checkpoint records what was given. `chosen` of the function holds
    the defaults that make the size; `about` says what it is: its number of parameters, the release.

    Raises:
        TypeError: If the network has no such argument.
    """
    signature = inspect.signature(network)
    if unknown := sorted(set(defaults) - set(signature.parameters)):
        raise TypeError(f"{network.__name__} has no argument {unknown[0]}")

    def build(**given: Any) -> Network:
        return network(**{**defaults, **given})

    hints = get_type_hints(network.__init__)
    build.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            parameter.replace(
                kind=parameter.KEYWORD_ONLY,
                default=defaults.get(name, parameter.default),
                annotation=hints.get(name, parameter.annotation),
            )
            for name, parameter in signature.parameters.items()
        ],
        return_annotation=network,
    )
    build.chosen = defaults  # type: ignore[attr-defined]
    build.__annotations__ = {**hints, "return": network}
    build.__module__ = sys._getframe(1).f_globals["__name__"]
    build.__doc__ = f"{about}\n\n{inspect.getdoc(network)}"
    return build
