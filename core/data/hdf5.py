"""HDF5 and netCDF-4 files: opened or refused in one true sentence, and safe in forked workers."""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from core.data.statistics import file_state
from core.errors import UserError

__all__ = ["OpenFiles", "is_hdf5", "open_hdf5"]


def open_hdf5(path: str) -> Any:
    """Open an HDF5 or netCDF-4 file for reading; where it cannot be locked (network storage), without a lock.

    Raises:
        UserError: If another program is writing it, it is damaged, cut off or no HDF5 file, or it takes its
            values from other files.
    """
    file = _opened(path)
    try:
        _check_enclosed(os.path.realpath(path), file_state(Path(path)))
    except BaseException:
        file.close()
        raise
    return file


def _opened(path: str) -> Any:
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
    """Say whether a file is of HDF5 or netCDF-4, also behind a block of another content, as in MATLAB's."""
    with open(path, "rb") as file:
        for start in (0, *(512 << power for power in range(12))):
            file.seek(start)
            if file.read(8) == b"\x89HDF\r\n\x1a\n":
                return True
    return False


@lru_cache(maxsize=4096)  # workers open the same files again and again, and a walk through all links is slow
def _check_enclosed(path: str, state: tuple[str, int, int]) -> None:
    """Refuse links, external storage and virtual data sets that lead to other files.

    A file from a stranger would have the suite read, and show in a figure, what he does not own. A file that
    was found right is walked through again only in another `state`.
    """
    with _opened(path) as file:
        _walk(file, path)


def _walk(file: Any, path: str) -> None:
    import h5py

    links: list[tuple[str, Any]] = []
    file.visititems_links(lambda name, link: links.append((name, link)))
    for name, link in links:
        if isinstance(link, h5py.ExternalLink):
            others = [("an external link", link.filename)]
        elif isinstance(link, h5py.HardLink) and isinstance(item := file[name], h5py.Dataset):
            others = [("external storage", other) for other, *_ in item.external or ()]
            if item.is_virtual:
                others += [("a virtual data set", source.file_name) for source in item.virtual_sources()]
        else:
            continue
        for kind, other in others:
            if other != "." and os.path.realpath(os.path.join(os.path.dirname(path), other)) != path:
                raise UserError(
                    f"{path} takes '{name}' from another file by {kind} ({other}), which is not followed; "
                    "write the values themselves into one file"
                )


class OpenFiles:
    """Files that each process opens for itself on its first read; beyond `most` the longest unused are
    closed.

    A forked process must not read through what its parent opened, and a pickled one holds nothing open. The
    `opener` is a function of a module, so that it can be pickled.
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
