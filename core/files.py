"""Where the suite's own files lie, and writing that never leaves a half-written file."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from core.errors import UserError

__all__ = [
    "cards_folder",
    "configs_folder",
    "data_folder",
    "fsync_folder",
    "locked",
    "put_back",
    "put_in_place",
    "remove",
    "replacing",
    "replacing_folder",
]

_ASIDE = ".aside"  # before the process id, in the name of what stood where something is being put


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
        put_in_place(temporary, final)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


@contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the name of a folder to make beside `path`: on success it is renamed to `path`, on error removed.

    Raises:
        OSError: What the writing raised; `path` then holds what it held before.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f"{final.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        yield temporary
        put_in_place(temporary, final)
    finally:
        if not os.path.lexists(final):
            put_back(final.parent)  # what stood there, if it was put aside and nothing came in its place
        shutil.rmtree(temporary, ignore_errors=True)


def put_in_place(temporary: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Rename a finished file or folder to `path` in one step and flush the folder it lies in.

    What stood at `path`, a file, a folder or a link, is gone then. A folder takes another's place by one
    exchange of the two names; on a file system without such an exchange the old one is put aside first, and
    `put_back` brings it back if the process ends in between.
    """
    new, final = Path(temporary), Path(path)
    if not os.path.lexists(final):
        os.rename(new, final)
    elif not _is_folder(new) and not _is_folder(final):
        os.replace(new, final)
    elif _exchange(new, final):
        fsync_folder(final.parent)
        remove(new)
    else:
        aside = final.with_name(f"{final.name}{_ASIDE}.{os.getpid()}.tmp")
        os.rename(final, aside)
        os.rename(new, final)
        fsync_folder(final.parent)
        remove(aside)
    fsync_folder(final.parent)


def put_back(folder: str | os.PathLike[str]) -> list[Path]:
    """Give back its name to what a process had put aside when it ended, and return the paths."""
    back = []
    for aside in Path(folder).glob(f"*{_ASIDE}.*.tmp"):
        final = aside.with_name(aside.name.rpartition(f"{_ASIDE}.")[0])
        if not os.path.lexists(final):
            with suppress(OSError):
                os.rename(aside, final)
                back.append(final)
    return back


def remove(path: str | os.PathLike[str]) -> None:
    """Delete a file, a link (not its target) or a folder; a missing one is no error.

    A folder is first renamed to end in `.tmp`, so that half of it is never taken for the whole.
    """
    doomed = Path(path)
    if not _is_folder(doomed):
        doomed.unlink(missing_ok=True)
        return
    if doomed.suffix != ".tmp":
        renamed = doomed.with_name(f"{doomed.name}.{os.getpid()}.tmp")
        shutil.rmtree(renamed, ignore_errors=True)
        os.rename(doomed, renamed)
        doomed = renamed
    shutil.rmtree(doomed, ignore_errors=True)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where system or file system cannot."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    here, swap = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    return call(here, os.fsencode(one), here, os.fsencode(other), swap) == 0


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

    The system gives the lock back however the process ends. The file stays, but whoever holds it may remove
    it within the block: a process that waited then takes the lock of the file that has the name now.

    Raises:
        UserError: If the file cannot be made.
    """
    handle = _lock(Path(path))
    try:
        yield
    finally:
        os.close(handle)


def _lock(file: Path) -> int:
    """Return the locked handle of the file that has this name."""
    import fcntl

    while True:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(
                f"cannot write {file}: {error.strerror}; choose a folder you can write to"
            ) from error
        kept = False
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"waiting for another process that holds {file}", file=sys.stderr, flush=True)
                fcntl.flock(handle, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                kept = os.path.samestat(os.fstat(handle), os.stat(file))
        finally:
            if not kept:
                os.close(handle)
        if kept:
            return handle
