"""How far a long piece of work is: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["counted"]

_PAUSE = 5.0  # seconds between two lines where there is no terminal


@contextmanager
def counted(
    label: str, total: int, *, done: int = 0, unit: str = "items", shown: bool = True
) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how many more of `total` items are done; progress goes to stderr.

    `done` were there before; where `shown` is False nothing is drawn.
    """
    if not shown or done >= total:
        yield lambda count: None
    elif sys.stderr.isatty():
        with _bar(label, total, done, unit) as advance:
            yield advance
    else:
        yield _Lines(label, total, done, unit).advance


@contextmanager
def _bar(label: str, total: int, done: int, unit: str) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as drawn:
        task = drawn.add_task(label, total=total, completed=done)
        yield lambda count: drawn.advance(task, count)


class _Lines:
    """Prints `label  12/64 trajectories  0.8 s each  eta 00:42`, every few seconds and at the end."""

    def __init__(self, label: str, total: int, done: int, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._first = self._done = done
        self._began = self._spoke = time.monotonic()

    def advance(self, count: int) -> None:
        """Count, and print where the last line is old or nothing is left."""
        self._done += count
        now = time.monotonic()
        if now - self._spoke < _PAUSE and self._done < self._total:
            return
        each = (now - self._began) / max(self._done - self._first, 1)
        left = round(each * (self._total - self._done))
        hours, rest = divmod(left, 3600)
        eta = (f"{hours}:" if hours else "") + f"{rest // 60:02d}:{rest % 60:02d}"
        print(
            f"{self._label}  {self._done}/{self._total} {self._unit}  {each:.2g} s each  eta {eta}",
            file=sys.stderr,
            flush=True,
        )
        self._spoke = now
