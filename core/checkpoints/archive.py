"""One checkpoint file: written whole or not at all, with a SHA-256 at its end, and verified when read.

A file is what `torch.save` writes, followed by `DFM-SHA256:<64 hex digits>` over all bytes before; zip
readers ignore what follows the archive, so that every torch reads it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import platform
import re
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, cast

import torch

from core.checkpoints.plain import plain
from core.errors import UserError
from core.files import replacing

__all__ = [
    "FORMAT",
    "HashingWriter",
    "archive_damage",
    "disk_sentence",
    "load_archive",
    "read_archive",
    "versions",
    "write_checkpoint",
]

FORMAT = 1
"""Version of the layout of `checkpoint["domainfm"]` that this code writes; it reads all up to it."""

_TAG = b"DFM-SHA256:"
_TRAILER = len(_TAG) + 64
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CHUNK = 1 << 22

Path_ = str | os.PathLike[str]


class HashingWriter:
    """A file object for `torch.save` that hashes what passes and keeps the first error of the disk.

    torch turns an `OSError` of its file into an unrelated `RuntimeError`; `error` is the true one.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.sha = hashlib.sha256()
        self.written = 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write and hash `data` (bytes or a buffer) and return its size in bytes."""
        self._noting(self.file.write, data)
        self.sha.update(data)
        size = memoryview(data).nbytes
        self.written += size
        return size

    def flush(self) -> None:
        """Hand the buffered bytes to the system."""
        self._noting(self.file.flush)

    def close(self) -> None:
        """Flush and close the file."""
        self._noting(self.file.close)

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self.written

    def fileno(self) -> int:
        """Return the file's number, for fsync."""
        return self.file.fileno()

    def _noting(self, call: Callable[..., Any], *data: Any) -> None:
        try:
            call(*data)
        except OSError as error:
            self.error = self.error or error
            raise


def write_checkpoint(checkpoint: dict[str, Any], path: Path_) -> Path:
    """Write `checkpoint` as plain containers to the file `path`, whole or not at all.

    A link at `path` is replaced, not followed.

    Raises:
        TypeError: If something in it is not plain (see `plain`).
        UserError: If the disk is full or refuses; `path` then holds what it held before.
    """
    content = plain(checkpoint, "checkpoint")
    path = Path(path)
    out: HashingWriter | None = None
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            out = HashingWriter(file)
            torch.save(content, cast(IO[bytes], out))  # all that torch asks of it is `write` and `flush`
            out.write(_TAG + out.sha.hexdigest().encode())
            out.flush()
    except Exception as error:
        cause = error if isinstance(error, OSError) else out.error if out else None
        if cause is None:
            raise
        written = out.written if out else 0
        raise UserError(disk_sentence(cause, path, written=written, of=_nbytes(content))) from error
    return path


def archive_damage(path: Path_) -> str | None:
    """Return what is wrong with the file at `path` in a few words, or None if its checksum holds.

    A file without our trailer (another program's) is checked by the CRC-32 of every record of the archive.
    """
    path, size = Path(path), -1
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            file.seek(max(size - _TRAILER, 0))
            trailer = file.read()
            if trailer.startswith(_TAG):
                file.seek(0)
                good = _sha(file, size - _TRAILER) == trailer[len(_TAG) :]
                return None if good else "fails its SHA-256 check"
            file.seek(max(size - _TRAILER - 22, 0))
            _, record, rest = file.read().rpartition(b"PK\5\6")  # the archive's end: 22 bytes and a comment
            if record and len(rest) != 18 + int.from_bytes(rest[16:18], "little"):
                return "has a damaged or truncated checksum"
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        return f"is damaged (its record {bad} fails the CRC check)" if bad else None
    except FileNotFoundError:
        return "does not exist" if not path.is_symlink() else "is a link to a file that does not exist"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError):
        return "is empty" if size == 0 else stand_in(path) or "is truncated or no checkpoint"


def stand_in(path: Path_) -> str:
    """Return what lies in the place of weights that were not fetched themselves, or an empty text."""
    with open(path, "rb") as file:
        head = file.read(64).lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS (`git lfs pull` fetches the file itself)"
    return "is a web page" if head.startswith((b"<!doctype", b"<html")) else ""


def read_archive(path: Path_, *, settings: str | None = None) -> dict[str, Any]:
    """Verify and load the file `path`; see `core.checkpoints.files.read_checkpoint`."""
    if wrong := archive_damage(path):
        hint = "check the path" if "exist" in wrong else "use an earlier one or write it anew"
        raise UserError(f"checkpoint {path} {wrong}; {hint}")
    checkpoint = load_archive(path, settings=settings)
    mark = checkpoint.get("domainfm")
    written = mark.get("format", 0) if isinstance(mark, dict) else 0
    if written > FORMAT:
        raise UserError(
            f"checkpoint {path} has format {written} and this version of domainfm reads up to format "
            f"{FORMAT}: update domainfm to use it"
        )
    return checkpoint


def load_archive(path: Path_, *, mmap: bool = False, settings: str | None = None) -> dict[str, Any]:
    """Load the file `path` whatever its checksum; see `core.checkpoints.files.read_unverified`."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        if settings is not None and (named := _with_names(path, settings)) is not None:
            return named
        culprit = re.search(r"(?:GLOBAL|type) ([\w.]+)", str(error))
        what = f"the Python object {culprit[1]}" if culprit else "Python objects"
        raise UserError(
            f"{path} holds {what}, and only tensors and plain containers are loaded because other objects "
            "can run code: save its state_dict alone, best as safetensors"
        ) from error
    except Exception as error:  # a pickle that was cut or written by hand fails in any way there is
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is no checkpoint that can be read: {reason}") from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint or a state_dict")
    if _deep(checkpoint):
        raise UserError(f"{path} holds containers within containers {_DEEPEST} deep; it is no checkpoint")
    return checkpoint


_DEEPEST = 200


def _deep(value: Any) -> bool:
    """Tell whether containers lie deeper in each other than anything that walks them can go."""
    level = [value]
    for _ in range(_DEEPEST):
        inner = (item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer))
        level = list({id(item): item for item in inner if isinstance(item, dict | list | tuple)}.values())
    return bool(level)


class _Named:
    """Stands for a function or class that a file names."""


def _with_names(path: Path_, entry: str) -> dict[str, Any] | None:
    """Load a file that names functions or classes inside `entry`, as text; None if it does so elsewhere."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        stand_ins: list[Any] = [(type(name.rpartition(".")[2], (_Named,), {}), name) for name in names]
        with torch.serialization.safe_globals(stand_ins):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, TypeError, AttributeError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get(entry), dict):
        return None
    content = dict(content)
    settings = {str(key): _as_text(value) for key, value in content.pop(entry).items()}
    return None if _holds_names(content) else {**content, entry: settings}


def _as_text(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_as_text(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _as_text(item) for key, item in value.items()}
    named = value if isinstance(value, type) else type(value)
    return named.__name__ if issubclass(named, _Named) else value


def _holds_names(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_holds_names(item) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple | set):
        return any(_holds_names(item) for item in value)
    return isinstance(value, _Named) or (isinstance(value, type) and issubclass(value, _Named))


def _sha(file: IO[bytes], size: int) -> bytes:
    sha = hashlib.sha256()
    while size > 0 and (chunk := file.read(min(size, _CHUNK))):
        sha.update(chunk)
        size -= len(chunk)
    return sha.hexdigest().encode()


def _nbytes(content: Any) -> int:
    """Return the bytes of all tensors in `content`, shared storages once."""
    storages: dict[int, int] = {}

    def walk(item: Any) -> None:
        if isinstance(item, torch.Tensor):
            if item.layout is torch.strided:
                storages[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
        elif isinstance(item, dict | list | tuple | set):
            for value in item.values() if isinstance(item, dict) else item:
                walk(value)

    walk(content)
    return sum(storages.values())


def disk_sentence(error: OSError, path: Path, *, written: int = 0, of: int = 0) -> str:
    """Return the sentence for a disk that is full or refuses, after `written` of `of` bytes."""
    if error.errno not in _FULL:
        return f"cannot write {path}: {error.strerror or error}"
    of = max(of, written)
    unit, name = next(((u, n) for u, n in ((1e9, "GB"), (1e6, "MB")) if of >= 0.1 * u), (1e3, "kB"))
    return (
        f"disk full: {written / unit:.1f} of {of / unit:.1f} {name} written to {path}; nothing is left of it "
        "and earlier files are untouched: free space or choose another folder"
    )


def versions() -> dict[str, str]:
    """Return the versions that decide what a run computes."""
    numbers = {"python": platform.python_version(), "platform": sys.platform}
    for name in ("domainfm", "torch", "lightning", "numpy"):
        try:
            numbers[name] = version(name)
        except PackageNotFoundError:
            numbers[name] = "not installed"
    return numbers
