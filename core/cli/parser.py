"""The parser of every command that is not a run: its complaints are one sentence, with a suggestion."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from core.errors import UserError, did_you_mean

__all__ = ["Parser", "checked_verb", "verb_parsers"]


class Parser(argparse.ArgumentParser):
    """`argparse` without abbreviations that raises `UserError` instead of printing its usage and leaving."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse an unknown option first: argparse would complain of a missing one, or not suggest anything.

        Raises:
            UserError: For an option that the parser does not have.
        """
        options = list(self._option_string_actions)
        for word in () if self._subparsers else args or ():
            name = word.partition("=")[0]
            if name.startswith("--") and len(name) > 2 and name not in options:
                raise UserError(f"unknown option {name} of {self.prog}{did_you_mean(name, options)}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise the parser's complaint."""
        raise UserError(f"{message}; `{self.prog} --help` shows what it takes")


def checked_verb(argv: Sequence[str], verbs: Sequence[str], *, command: str) -> list[str]:
    """Return the words of a command with verbs, `--help` where there are none.

    Raises:
        UserError: If the first word is no verb of it.
    """
    words = list(argv)
    if words and not words[0].startswith("-") and words[0] not in verbs:
        near = did_you_mean(words[0], verbs)
        raise UserError(f"'{words[0]}' is no verb of {command} ({', '.join(verbs)}){near}")
    return words or ["--help"]


def verb_parsers(parser: Parser, verbs: Mapping[str, str]) -> dict[str, Callable[..., Any]]:
    """Give a parser sub-commands with their one-line helps, and return `add_argument` of each."""
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)
    return {name: subparsers.add_parser(name, help=text).add_argument for name, text in verbs.items()}
