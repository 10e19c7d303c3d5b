"""Checkpoints on disk, single files and folders of shards alike: reading, checking, finding the newest.

Nothing here needs Lightning, nor torch.distributed (seconds to import) before a folder is met, and nothing
but tensors and plain containers is ever unpickled.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.checkpoints.archive import FORMAT, archive_damage, load_archive, read_archive, write_checkpoint
from core.checkpoints.manifest import folder_damage, read_manifest, require_whole
from core.errors import UserError
from core.files import put_back, remove

__all__ = [
    "FORMAT",
    "clean_leftovers",
    "damage",
    "newest_valid",
    "ordered",
    "read_checkpoint",
    "read_outline",
    "read_unverified",
    "write_checkpoint",
]

_STEP = re.compile(r"step[=_-]?0*(\d+)")

Path_ = str | os.PathLike[str]


def damage(path: Path_) -> str | None:
    """Return what is wrong with the file or folder at `path` in a few words, or None if its checksums hold.

    A file without our trailer (another program's) is checked by the CRC-32 of every record of the archive.
    """
    return folder_damage(path) if Path(path).is_dir() else archive_damage(path)


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
        from core.checkpoints.folders import consolidate

        return consolidate(path, optimizers=optimizers)
    return read_archive(path, settings=settings)


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


def read_unverified(path: Path_, *, mmap: bool = False) -> dict[str, Any]:
    """Load the checkpoint at `path` whatever its checksum; with `mmap` its tensors are read when touched.

    Of a folder the sharded tensors are on the meta device: names and shapes without their values.

    Raises:
        UserError: If it is no checkpoint or holds other Python objects than plain containers and tensors.
    """
    if not Path(path).is_dir():
        return load_archive(path, mmap=mmap)
    from core.checkpoints.folders import outline

    return outline(path)


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
    files = {Path(os.path.realpath(path)) for path in Path(folder).glob("*.ckpt")}
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
    named = _STEP.search(path.stem)
    if named:
        step = float(named[1])
    else:
        try:
            content = read_manifest(path) if path.is_dir() else load_archive(path, mmap=True)
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
