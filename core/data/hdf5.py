"""HDF5 and netCDF-4 files: opened or refused in one true sentence, and safe in forked workers."""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.errors import UserError

__all__ = ["OpenFiles", "is_hdf5", "open_hdf5"]


def open_hdf5(path: str) -> Any:
    """Open an HDF5 or netCDF-4 file for reading; where it cannot be locked (network storage), without a lock.

    Raises:
        UserError: If another program is writing it, or it is damaged, cut off or no HDF5 file.
    """
    import h5py

    try:
        try:
            return h5py.File(path, "r")
        except OSError as error:
            if "lock" not in str(error) or error.errno == errno.EAGAIN or "open for write" in str(error):
                raise
            # "lock" is also said where this process has it open with other flags: then the same ones do.
            return h5py.File(path, "r", locking=False)
    except FileNotFoundError as error:
        raise UserError(f"the file {path} does not exist; check data.path") from error
    except OSError as error:
        if error.errno == errno.EAGAIN or "open for write" in str(error):
            raise UserError(
                f"{path} is held by a program that is writing it; wait until that has closed the file, or "
                f"mend what a program that ended left open with `h5clear -s {path}`"
            ) from error
        if "truncated file" in str(error):
            why = f"is cut off: it has {os.path.getsize(path)} bytes, its own header tells of more"
        else:
            why = f"is no HDF5 file or is damaged ({' '.join(str(error).split())})"
        raise UserError(f"{path} {why}; copy or download it again") from error


def is_hdf5(path: Path) -> bool:
    """Say whether a file begins as HDF5 and netCDF-4 files do; MATLAB's have a block of theirs before it."""
    with open(path, "rb") as file:
        return b"\x89HDF\r\n\x1a\n" in (file.read(8), file.read(512)[-8:])


class OpenFiles:
    """Files that each process opens for itself on its first read; the longest unused are closed.

    A forked process must not read through what its parent opened, and a pickled one holds nothing open.

    Args:
        opener: Opens a path; a function of a module, so that it can be pickled.
        most: Files held open at once.
    """

    def __init__(self, opener: Callable[[str], Any] = open_hdf5, *, most: int = 32) -> None:
        self.opener, self.most = opener, most
        self._files: OrderedDict[str, Any] = OrderedDict()
        self._process = os.getpid()

    def __getitem__(self, path: str) -> Any:
        """Return the open file."""
        if self._process != os.getpid():
            self.close()
            self._process = os.getpid()
        if path not in self._files:
            while len(self._files) >= self.most:
                _close(self._files.popitem(last=False)[1])
            self._files[path] = self.opener(path)
        self._files.move_to_end(path)
        return self._files[path]

    def close(self) -> None:
        """Close the files of this process; the next read opens them again."""
        for file in self._files.values():
            _close(file)
        self._files.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind: each process opens its own."""
        return {**self.__dict__, "_files": OrderedDict()}


def _close(file: Any) -> None:
    getattr(file, "close", lambda: None)()
