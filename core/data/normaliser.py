"""The module that holds a task's facts and saves them with the checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from torch import nn

from core.data.facts import Facts, plain_copy
from core.errors import UserError

__all__ = ["STATE", "Normaliser", "PlainNormaliser", "stored_facts"]

STATE = "normaliser._extra_state"
"""Entry of a checkpoint's `state_dict` that holds a task's facts."""

Kind = TypeVar("Kind", bound=Facts)


class Normaliser(nn.Module, Generic[Kind]):
    """Holds the facts of a task's data beside its network, outside every key map.

    They travel as the module's extra state in plain containers, not as buffers, so that neither a cast of the
    network to bfloat16 nor a new number of series touches them.

    Args:
        kind: The domain's facts.
        facts: The facts, where they are known already.
    """

    def __init__(self, kind: type[Kind], facts: Kind | None = None) -> None:
        super().__init__()
        self.kind = kind
        self._facts = facts

    @property
    def known(self) -> bool:
        """Whether there are facts."""
        return self._facts is not None

    @property
    def facts(self) -> Kind:
        """The facts.

        Raises:
            UserError: If there are none yet.
        """
        if self._facts is None:
            raise UserError("nothing is known of the data yet; fit the task, or load a checkpoint of it")
        return self._facts

    @facts.setter
    def facts(self, facts: Kind) -> None:
        facts.plain()  # what is not plain is refused where it comes from, not at the first checkpoint
        self._facts = facts

    def learn(self, **fields: Any) -> None:
        """Replace fields of the facts by what training found."""
        self.facts = replace(self.facts, **fields)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the facts in plain containers, empty if there are none, for the state dict."""
        return {} if self._facts is None else self._facts.plain()

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take the facts of a state dict in place of the present ones."""
        self._facts = self.kind.from_plain(copy.deepcopy(dict(state))) if state else None


class PlainNormaliser(nn.Module):
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
        added = plain_copy(dict(facts), "facts")  # all of them first: an error leaves the old facts whole
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
        self._facts = plain_copy(state, "facts")

    def extra_repr(self) -> str:
        """Return the names of the facts."""
        return ", ".join(sorted(self._facts))


def stored_facts(state: Mapping[str, Any], kind: type[Kind], *, where: str) -> Kind | None:
    """Return the facts that a checkpoint's `state_dict` holds, None where it holds none.

    Raises:
        UserError: If they are those of other data; see `Facts.from_plain`.
    """
    held = state.get(STATE)
    return kind.from_plain(held, where=where) if held else None
