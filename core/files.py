"""Where the suite's own files lie, and writing that never leaves a half-written file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from core.errors import UserError

__all__ = ["cards_folder", "configs_folder", "data_folder", "fsync_folder", "locked", "replacing"]


def configs_folder() -> Path:
    """Return the folder of recipes: right in a clone, an editable install and a wheel alike."""
    return Path(__file__).parents[1] / "configs"


def cards_folder() -> Path:
    """Return the folder of data cards: right in a clone, an editable install and a wheel alike."""
    return Path(__file__).parents[1] / "data_cards"


def data_folder() -> Path:
    """Return the folder of fetched data: `$DFM_DATA`, else `domainfm/data` under the user's cache folder."""
    if os.environ.get("DFM_DATA"):
        return Path(os.environ["DFM_DATA"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "domainfm" / "data"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`: on success it is fsynced and renamed to `path`, on error removed.

    The temporary file lies in the same folder, so that the rename is atomic, and ends in `.tmp`, so that no
    search by suffix finds it.

    Raises:
        OSError: What the writing raised; `path` then holds what it held before.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f"{final.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, final)
        fsync_folder(final.parent)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def fsync_folder(folder: str | os.PathLike[str]) -> None:
    """Flush a folder's entries to disk, where the system can open folders."""
    with suppress(PermissionError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold the lock file `path` within the block; other processes wait for it, and say so on stderr.

    The system gives the lock back however the process ends. The file stays: removing it would let two
    processes hold two files of one name.

    Raises:
        UserError: If the file cannot be made.
    """
    import fcntl

    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}; choose a folder you can write to") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that holds {file}", file=sys.stderr, flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
