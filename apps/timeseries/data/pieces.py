"""Long columns in pieces: no temporary as long as a column, of which a table has ten million rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np

__all__ = ["pieces"]

SIZE = 1 << 18

Array = TypeVar("Array", bound=np.ndarray)


def pieces(values: Array, *, beyond: int = 0) -> Iterator[tuple[int, Array]]:
    """Yield the first row of each piece, and the piece `(rows, …)` with `beyond` rows of the next one."""
    for first in range(0, len(values), SIZE):
        yield first, values[first : first + SIZE + beyond]
