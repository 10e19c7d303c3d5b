"""Checkpoint files on disk: written whole or not at all, with a SHA-256 at the end, and verified when read.

A file is what `torch.save` writes, followed by `DFM-SHA256:<64 hex digits>` over all bytes before; zip
readers ignore what follows the archive, so that every torch reads it. Nothing here needs Lightning.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pickle
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import torch

from core.checkpoints.manifest import folder_damage, read_manifest, require_whole
from core.checkpoints.plain import plain
from core.errors import UserError
from core.files import put_back, remove, replacing

__all__ = [
    "FORMAT",
    "HashingWriter",
    "clean_leftovers",
    "damage",
    "disk_sentence",
    "is_valid",
    "newest_valid",
    "ordered",
    "read_checkpoint",
    "read_outline",
    "read_unverified",
    "write_checkpoint",
]

FORMAT = 1
"""Version of the layout of `checkpoint["domainfm"]` that this code writes; it reads all up to it."""

_TAG = b"DFM-SHA256:"
_TRAILER = len(_TAG) + 64
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CHUNK = 1 << 22
_STEP = re.compile(r"step[=_-]?0*(\d+)")

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
        try:
            self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise
        self.sha.update(data)
        size = memoryview(data).nbytes
        self.written += size
        return size

    def flush(self) -> None:
        """Hand the buffered bytes to the system."""
        try:
            self.file.flush()
        except OSError as error:
            self.error = self.error or error
            raise

    def close(self) -> None:
        """Flush and close the file."""
        try:
            self.file.close()
        except OSError as error:
            self.error = self.error or error
            raise

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self.written

    def fileno(self) -> int:
        """Return the file's number, for fsync."""
        return self.file.fileno()


def write_checkpoint(checkpoint: dict[str, Any], path: Path_) -> Path:
    """Write `checkpoint` as plain containers to `path`, whole or not at all.

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
        kept = out.error if out else None
        cause = error if isinstance(error, OSError) else kept
        if cause is None:
            raise
        written = out.written if out else 0
        raise UserError(disk_sentence(cause, path, written=written, of=_nbytes(content))) from error
    return path


def damage(path: Path_) -> str | None:
    """Return what is wrong with the file or folder at `path` in a few words, or None if its checksums hold.

    A file without our trailer (another program's) is checked by the CRC-32 of every record of the archive.
    """
    path = Path(path)
    if path.is_dir():
        return folder_damage(path)
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
        return "is empty" if size == 0 else "is truncated or no checkpoint"


def is_valid(path: Path_) -> bool:
    """Return whether the file or folder at `path` is whole: its checksums hold."""
    return damage(path) is None


def read_checkpoint(path: Path_, *, settings: str | None = None, optimizers: bool = True) -> dict[str, Any]:
    """Verify and load the checkpoint at `path` onto the CPU, tensors and plain containers only.

    Args:
        path: The file, or a folder of shards, which is put together.
        settings: An entry that may name functions and classes (a network's constructor arguments in other
            programs' files); each becomes its name, and nothing is imported or called.
        optimizers: Whether what only training needs is read from a folder: the optimisers' state, and raw
            weights beside averaged ones.

    Raises:
        UserError: If it is missing, damaged, of a newer format, or holds other Python objects.
    """
    if Path(path).is_dir():
        from core.checkpoints.sharded import consolidate

        checkpoint = consolidate(path, optimizers=optimizers)
    else:
        wrong = damage(path)
        if wrong:
            hint = "check the path" if "exist" in wrong else "use an earlier one or write it anew"
            raise UserError(f"checkpoint {path} {wrong}; {hint}")
        checkpoint = read_unverified(path, settings=settings)
    mark = checkpoint.get("domainfm")
    version = mark.get("format", 0) if isinstance(mark, dict) else 0
    if version > FORMAT:
        raise UserError(
            f"checkpoint {path} has format {version} and this version of domainfm reads up to format "
            f"{FORMAT}: update domainfm to use it"
        )
    return checkpoint


def read_outline(path: Path_) -> dict[str, Any]:
    """Verify the checkpoint at `path` and return what it says of itself.

    A file is read as by `read_checkpoint`; a folder's sharded tensors are on the meta device.

    Raises:
        UserError: As `read_checkpoint`.
    """
    if not Path(path).is_dir():
        return read_checkpoint(path)
    require_whole(path)
    return read_unverified(path)


def read_unverified(path: Path_, *, mmap: bool = False, settings: str | None = None) -> dict[str, Any]:
    """Load the checkpoint at `path` whatever its checksum; with `mmap` its tensors are read when touched.

    Of a folder the sharded tensors are on the meta device: names and shapes without their values.
    `settings` is as in `read_checkpoint`.

    Raises:
        UserError: If it is no checkpoint or holds other Python objects than plain containers and tensors.
    """
    if Path(path).is_dir():
        from core.checkpoints.sharded import outline

        return outline(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        if settings is not None and (named := _with_names(path, settings)) is not None:
            return named
        found = re.search(r"(?:GLOBAL|type) ([\w.]+)", str(error))
        what = f"the Python object {found[1]}" if found else "Python objects"
        raise UserError(
            f"{path} holds {what}, and only tensors and plain containers are loaded because other objects "
            "can run code: save its state_dict alone, best as safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(f"{path} is no checkpoint that can be read: {str(error).splitlines()[0]}") from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint or a state_dict")
    return checkpoint


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
    found = {str(key): _as_text(value) for key, value in content.pop(entry).items()}
    return None if _holds_names(content) else {**content, entry: found}


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


def newest_valid(folder: Path_, *, report: Callable[[str], None] = print) -> Path | None:
    """Return the newest whole checkpoint (`*.ckpt`, file or folder) of `folder`, links resolved, or None.

    Newest is the highest step in the name (`step00000012.ckpt`), else in the file (`global_step`), else by
    time. Each damaged file newer than the result is reported in one line.
    """
    skipped: list[str] = []
    put_back(folder)
    for path in ordered(folder):
        wrong = damage(path)
        if wrong is None:
            for line in skipped:
                report(f"{line}; using {path.name} instead")
            return path
        skipped.append(f"checkpoint {path} {wrong}")
    for line in skipped:
        report(f"{line}; no other is left in {folder}")
    return None


def ordered(folder: Path_) -> list[Path]:
    """Return the checkpoints of `folder`, newest first, each once, links resolved, dangling ones left out."""
    files = {path.resolve() for path in Path(folder).glob("*.ckpt")}
    return sorted((path for path in files if path.exists()), key=_age, reverse=True)


def clean_leftovers(folder: Path_) -> list[Path]:
    """Delete the `*.tmp` files and folders in `folder` whose writing process has ended, and return them.

    The name carries the writer's process id (`<name>.<pid>.tmp`). One that lives but started after the file
    was last written is another process with the same id. A name without an id counts as left over
    after one hour.
    """
    removed = []
    put_back(folder)
    for path in sorted(Path(folder).glob("*.tmp")):
        with contextlib.suppress(FileNotFoundError):
            written = path.stat().st_mtime
            pid = path.suffixes[-2][1:] if len(path.suffixes) > 1 else ""
            alive = _alive(int(pid), since=written) if pid.isdigit() else time.time() - written < 3600
            if not alive:
                remove(path)
                removed.append(path)
    return removed


def _age(path: Path) -> tuple[float, float]:
    """Sort key: step and time; a file whose step cannot be read stands first, so that it is reported."""
    found = _STEP.search(path.stem)
    if found:
        step = float(found[1])
    else:
        try:
            content = read_manifest(path) if path.is_dir() else read_unverified(path, mmap=True)
            step = float(content["step" if path.is_dir() else "global_step"])
        except KeyError:
            step = -1.0
        except (UserError, TypeError, ValueError):
            step = float("inf")
    return step, path.stat().st_mtime


def _alive(pid: int, *, since: float) -> bool:
    """Return whether process `pid` runs and already ran at the time `since` (seconds since 1970)."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    try:  # Linux: start time in clock ticks after boot, the 20th field after the name in parentheses
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
        started = int(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):
        return True
    return started <= since + 1.0  # the boot time is known to the second


def _sha(file: IO[bytes], size: int) -> bytes:
    sha = hashlib.sha256()
    while size > 0 and (chunk := file.read(min(size, _CHUNK))):
        sha.update(chunk)
        size -= len(chunk)
    return sha.hexdigest().encode()


def _nbytes(obj: Any) -> int:
    """Return the bytes of all tensors in `obj`, shared storages once."""
    seen: dict[int, int] = {}

    def walk(item: Any) -> None:
        if isinstance(item, torch.Tensor):
            if item.layout is torch.strided:
                storage = item.untyped_storage()
                seen[storage.data_ptr()] = storage.nbytes()
        elif isinstance(item, dict):
            for value in item.values():
                walk(value)
        elif isinstance(item, list | tuple | set):
            for value in item:
                walk(value)

    walk(obj)
    return sum(seen.values())


def disk_sentence(error: OSError, path: Path, *, written: int, of: int) -> str:
    """Return the sentence for a disk that is full or refuses, after `written` of `of` bytes."""
    if error.errno not in _FULL:
        return f"cannot write {path}: {error.strerror or error}"
    of = max(of, written)
    unit, name = next(((u, n) for u, n in ((1e9, "GB"), (1e6, "MB")) if of >= 0.1 * u), (1e3, "kB"))
    return (
        f"disk full: {written / unit:.1f} of {of / unit:.1f} {name} written to {path}; nothing is left of it "
        "and earlier files are untouched: free space or choose another folder"
    )
