"""Arrays of local Zarr stores that are read in the thread that asks for them.

zarr hands each read to a thread with an event loop and from there to others; with chunks of 50 kB that takes
longer than to read them, and a forked process has lost these threads.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

__all__ = ["DirectArray"]


class DirectArray:
    """A Zarr array, all of whose attributes it has, with another way of reading."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __getattr__(self, name: str) -> Any:
        return getattr(self._array, name)

    def __getitem__(self, where: Any) -> Any:
        """Return a part."""
        if asyncio._get_running_loop() is not None:  # as in a notebook
            return self._array[where]
        return _loop(os.getpid()).run_until_complete(self._array.async_array.getitem(where))


class _InPlace(ThreadPoolExecutor):
    """Runs what it is given at once."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(function(*args, **kwargs))
        except BaseException as error:
            done.set_exception(error)
        return done


@cache
def _loop(process: int) -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_default_executor(_InPlace(1))
    return loop
