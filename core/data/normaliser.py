"""Facts about the data that a checkpoint must carry so that it alone can predict in physical units."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Normaliser"]

_SCALARS = (str, int, float, bool, type(None))


class Normaliser(nn.Module):
    """Holds a data module's facts (means, scales, names, residuals) and saves them with the checkpoint.

    It lives beside the network in a task, outside every key map. Facts are plain containers, numbers,
    strings, None and tensors, of any shape, which may differ from those at loading: they travel as the
    module's extra state, not as buffers, so that neither a cast of the network to bfloat16 nor a new number
    of series touches them.
    """

    def __init__(self, facts: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._facts: dict[str, Any] = {}
        if facts:
            self.update(facts)

    @property
    def facts(self) -> Mapping[str, Any]:
        """All facts, read-only."""
        return MappingProxyType(self._facts)

    def update(self, facts: Mapping[str, Any]) -> None:
        """Add facts, or replace those of the same name; arrays become tensors, tuples become lists.

        Raises:
            TypeError: If a value is not plain; the message names its path.
        """
        added = _plain(dict(facts), "facts")  # all of them first: an error leaves the old facts whole
        self._facts.update(added)

    def __getitem__(self, name: str) -> Any:
        """Return one fact.

        Raises:
            KeyError: If there is none of that name; the message lists the names there are.
        """
        if name not in self._facts:
            raise KeyError(f"no fact '{name}'; there are {', '.join(sorted(self._facts)) or 'none yet'}")
        return self._facts[name]

    def __contains__(self, name: object) -> bool:
        """Say whether a fact of that name is there."""
        return name in self._facts

    def get(self, name: str, default: Any = None) -> Any:
        """Return one fact, or `default`."""
        return self._facts.get(name, default)

    def get_extra_state(self) -> dict[str, Any]:
        """Return a copy of the facts, for the state dict."""
        return copy.deepcopy(self._facts)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the facts of a state dict in place of the present ones."""
        self._facts = _plain(state, "facts")

    def extra_repr(self) -> str:
        """Return the names of the facts."""
        return ", ".join(sorted(self._facts))


def _plain(value: Any, where: str) -> Any:
    """Return `value` in plain containers, numbers, strings and CPU tensors that share no memory with it."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, (str, int)):
                raise TypeError(f"{where} has the key {name!r}; keys must be strings or whole numbers")
        return {name: _plain(entry, f"{where}.{name}") for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry, f"{where}.{number}") for number, entry in enumerate(value)]
    if type(value) in _SCALARS:
        return value
    if hasattr(value, "__array__") and hasattr(value, "dtype"):  # numpy arrays and scalars
        return value.item() if getattr(value, "shape", ()) == () else torch.as_tensor(value).clone()
    kind = type(value).__name__
    raise TypeError(f"{where} is a {kind}; only plain containers, numbers, strings and tensors are kept")
