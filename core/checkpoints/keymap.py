"""Two-way tables between the parameter names and shapes of official checkpoints and ours.

A `KeyMap` is a list of rules that are read in order from official to ours and in reverse order back, so that
one table serves import and export and the two cannot drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from core.errors import UserError, listed

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["KeyMap", "Rename", "Reshape", "computed_names"]

_SHOWN = 12  # keys listed in a message; the rest are counted


@dataclass(frozen=True)
class Rename:
    """One renaming, valid in both directions.

    A template is a whole dotted name; `{i}` stands for one part of it, `{rest*}` for one or more parts. Both
    templates must hold the same placeholders. A rule whose two sides are equal declares a name that both
    layouts share. `official` is also the template of what the rules before this one made of a name.

    Raises:
        ValueError: If a placeholder stands on one side only.
    """

    official: str
    ours: str

    def __post_init__(self) -> None:
        if _placeholders(self.official) != _placeholders(self.ours):
            raise ValueError(f"'{self.official}' and '{self.ours}' must hold the same placeholders")

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        return _pattern(self.official), _pattern(self.ours)

    def forward(self, key: str) -> str | None:
        """Return our name for `key`, or None where the rule does not apply."""
        match = self._patterns[0].fullmatch(key)
        return _filled(self.ours, match) if match else None

    def backward(self, key: str) -> str | None:
        """Return the official name for `key`, or None where the rule does not apply."""
        match = self._patterns[1].fullmatch(key)
        return _filled(self.official, match) if match else None


@dataclass(frozen=True)
class Reshape:
    """A pair of layout changes for the tensors whose (our) name fits a template; each must undo the other
    exactly.

    Args:
        ours: Template of our names, as in `Rename`.
        to_ours: Changes the official tensor's layout into ours (a transpose, a reshape, a flip).
        to_official: The exact inverse.
    """

    ours: str
    to_ours: Callable[[Tensor], Tensor]
    to_official: Callable[[Tensor], Tensor]

    def fits(self, key: str) -> bool:
        """Tell whether our name `key` is one of those meant."""
        return _pattern(self.ours).fullmatch(key) is not None


@dataclass(frozen=True)
class KeyMap:
    """The table of one system: renaming rules in order, then layout changes.

    Args:
        renames: Applied one after the other, each at most once to a name; a name that no rule knows is an
            error.
        reshapes: At most one fits any name.
        ignored: Templates of official names that carry nothing the network needs; they are passed over.
    """

    renames: tuple[Rename, ...] = ()
    reshapes: tuple[Reshape, ...] = ()
    ignored: tuple[str, ...] = ()

    def ignores(self, official: str) -> bool:
        """Tell whether an official name carries nothing the network needs."""
        return any(_pattern(template).fullmatch(official) for template in self.ignored)

    def our_name(self, official: str) -> str | None:
        """Return our name of an official parameter, or None if no rule knows it."""
        return _walk(official, [rule.forward for rule in self.renames])

    def official_name(self, ours: str) -> str | None:
        """Return the official name of one of our parameters, or None if no rule knows it."""
        return _walk(ours, [rule.backward for rule in reversed(self.renames)])

    def from_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return official weights, by their names, under our names and in our layouts.

        Raises:
            UserError: If names are unknown to the table or collide; all are listed.
        """
        wanted = {key: tensor for key, tensor in state.items() if not self.ignores(key)}
        named = _renamed(wanted, self.our_name, "official checkpoint")
        for key in named:
            if (rule := self._reshape(key)) is not None:
                named[key] = rule.to_ours(named[key])
        return named

    def described_by(self, config: Mapping[str, Any] | None) -> KeyMap:
        """Return the table for a checkpoint that says `config` of its network; a system may add to it."""
        return self

    def to_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return our weights under the official names and in the official layouts, the inverse of
        `from_official`.

        Raises:
            UserError: If names are unknown to the table or collide; all are listed.
        """
        changed = {}
        for key, tensor in state.items():
            rule = self._reshape(key)
            changed[key] = tensor if rule is None else rule.to_official(tensor)
        return _renamed(changed, self.official_name, "network")

    def _reshape(self, key: str) -> Reshape | None:
        fitting = [rule for rule in self.reshapes if rule.fits(key)]
        if len(fitting) > 1:
            raise ValueError(f"{len(fitting)} layout changes fit '{key}'; at most one may")
        return fitting[0] if fitting else None


def computed_names(network: nn.Module) -> set[str]:
    """Return the names of the buffers that follow from the network's settings alone.

    A module lists its own as `computed_buffers`. They stand in checkpoints, for other programs; they are not
    loaded, because tables of positions in a checkpoint may be those of another grid.
    """
    return {
        f"{path}.{name}" if path else name
        for path, module in network.named_modules()
        for name in getattr(module, "computed_buffers", ())
    }


def _walk(key: str, steps: Iterable[Callable[[str], str | None]]) -> str | None:
    renamed = False
    for step in steps:
        new = step(key)
        if new is not None:
            key, renamed = new, True
    return key if renamed else None


def _renamed(
    state: Mapping[str, Tensor], rename: Callable[[str], str | None], where: str
) -> dict[str, Tensor]:
    names = {key: rename(key) for key in state}
    unknown = sorted(key for key, new in names.items() if new is None)
    if unknown:
        raise UserError(f"The {where} holds {len(unknown)} unknown parameters: {listed(unknown, _SHOWN)}.")
    result: dict[str, Tensor] = {}
    for key, new in names.items():
        assert new is not None
        if new in result:
            raise UserError(f"Two parameters of the {where} would both be named '{new}' (one is '{key}').")
        result[new] = state[key]
    return result


_PLACEHOLDER = re.compile(r"\{(\w+)(\*?)\}")


def _placeholders(template: str) -> list[str]:
    return sorted(match.group(0) for match in _PLACEHOLDER.finditer(template))


def _pattern(template: str) -> re.Pattern[str]:
    parts, last = [], 0
    for match in _PLACEHOLDER.finditer(template):
        parts.append(re.escape(template[last : match.start()]))
        inner = r"[^.]+(?:\.[^.]+)*" if match.group(2) else r"[^.]+"
        parts.append(f"(?P<{match.group(1)}>{inner})")
        last = match.end()
    return re.compile("".join(parts) + re.escape(template[last:]))


def _filled(template: str, found: re.Match[str]) -> str:
    return _PLACEHOLDER.sub(lambda match: found[match.group(1)], template)
