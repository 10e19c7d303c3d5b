"""The one exception for a user's mistake, and what its sentences are made of."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = ["UserError", "did_you_mean", "listed"]


class UserError(Exception):
    """A mistake the user can mend: one sentence that says what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2. It lives in a module of its own:
    defined in an entry script it would exist twice and not be caught.
    """


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the choice nearest to `word`, or an empty string if none is near."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def listed(words: Sequence[str], most: int) -> str:
    """Return the first `most` of the words between commas, and the number of the others."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
