"""Environment variables that a block may change."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = ["variables_kept"]


@contextmanager
def variables_kept(names: Iterable[str]) -> Iterator[None]:
    """Give variables back the values that they had before the block."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
