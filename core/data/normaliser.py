"""The module that holds a task's facts and saves them with the checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Generic, TypeVar

from torch import nn

from core.data.facts import Facts
from core.errors import UserError

__all__ = ["STATE", "Normaliser", "stored_facts"]

STATE = "normaliser._extra_state"
"""Entry of a checkpoint's `state_dict` that holds a task's facts."""

Kind = TypeVar("Kind", bound=Facts)


class Normaliser(nn.Module, Generic[Kind]):
    """Holds the facts, of the domain's `kind`, of a task's data beside its network, outside every key map.

    They travel as the module's extra state in plain containers, not as buffers, so that neither a cast of the
    network to bfloat16 nor a new number of series touches them.
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


def stored_facts(state: Mapping[str, Any], kind: type[Kind], *, where: str) -> Kind | None:
    """Return the facts that a checkpoint's `state_dict` holds, None where it holds none.

    Raises:
        UserError: If they are those of other data; see `Facts.from_plain`.
    """
    held = state.get(STATE)
    return kind.from_plain(held, where=where) if held else None
