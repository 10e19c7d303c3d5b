"""The manifest of a checkpoint folder: which files belong to it, with size and SHA-256, and what wrote it.

A folder is a checkpoint only with its `manifest.json`, which is written last; it is valid if every file in it
has the size and the SHA-256 that stand there. The manifest carries the hash of its own content.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import fsync_folder

__all__ = [
    "MANIFEST",
    "damaged_files",
    "file_hash",
    "folder_damage",
    "is_sharded",
    "read_manifest",
    "require_whole",
    "write_manifest",
]

MANIFEST = "manifest.json"
FORMAT = 1
"""Version of a folder's layout that this code writes; it reads all up to it."""

Path_ = str | os.PathLike[str]


def is_sharded(path: Path_) -> bool:
    """Return whether `path` is a checkpoint folder of ours (or a link to one), whole or damaged."""
    return (Path(path) / MANIFEST).is_file()


def write_manifest(folder: Path_, facts: Mapping[str, Any], files: Mapping[str, tuple[str, int]]) -> Path:
    """Write `manifest.json` into `folder`, flushed to disk with the folder's entries.

    Args:
        folder: It holds the files already.
        facts: What is said of the checkpoint beside its files: step, epoch, world, mesh, versions.
        files: Name to SHA-256 and size in bytes.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        **facts,
        "files": {name: {"sha256": sha, "bytes": size} for name, (sha, size) in sorted(files.items())},
    }
    content["check"] = _check(content)
    path = Path(folder) / MANIFEST
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    fsync_folder(folder)
    return path


def read_manifest(folder: Path_) -> dict[str, Any]:
    """Return the manifest of `folder`, whose own hash holds.

    Raises:
        UserError: If it is missing, damaged or of a newer format.
    """
    path = Path(folder) / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        whole = content.pop("check") == _check(content) and isinstance(content["files"], dict)
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {folder} is a folder without {MANIFEST}; check the path") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"checkpoint {folder} has a damaged {MANIFEST}; use an earlier one") from error
    if not whole:
        raise UserError(f"checkpoint {folder} has a damaged {MANIFEST}; use an earlier one")
    if content["format"] > FORMAT:
        raise UserError(
            f"checkpoint {folder} has the folder format {content['format']} and this version of domainfm "
            f"reads up to {FORMAT}: update domainfm to use it"
        )
    return content


def folder_damage(folder: Path_) -> str | None:
    """Return what is wrong with the checkpoint folder in a few words, or None if all its files are whole."""
    if not is_sharded(folder):
        return f"is a folder without {MANIFEST}, no checkpoint"
    try:
        require_whole(folder)
    except UserError as error:
        sentence = str(error).removeprefix(f"checkpoint {folder} ").rpartition("; ")[0]
        return sentence or "has a newer format"
    return None


def require_whole(folder: Path_) -> dict[str, Any]:
    """Return the manifest of `folder` after all its files were verified.

    Raises:
        UserError: If it or a file is damaged, or its format is newer.
    """
    manifest = read_manifest(folder)
    if wrong := damaged_files(folder, manifest, manifest["files"]):
        raise UserError(f"checkpoint {folder} is damaged ({wrong}); use an earlier one or write it anew")
    return manifest


def damaged_files(folder: Path_, manifest: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """Return which of the files `names` is not as the manifest says, and how, or None."""
    for name in names:
        entry, path = manifest["files"][name], Path(folder) / name
        if Path(name).name != name:
            return f"{name} lies outside of it"
        try:
            if (size := path.stat().st_size) != entry["bytes"]:
                return f"{name} has {size} bytes of {entry['bytes']}"
            if file_hash(path)[0] != entry["sha256"]:
                return f"{name} fails its SHA-256 check"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def file_hash(path: Path) -> tuple[str, int]:
    """Return the SHA-256 and the size of a file; one that has not changed since is not read again."""
    now = path.stat()
    return _sha256(str(path), now.st_size, now.st_mtime_ns, now.st_ino), now.st_size


def _check(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=4096)
def _sha256(path: str, size: int, changed: int, inode: int) -> str:
    """Return the hash of a file; looking for a checkpoint, reading and resuming it hash it only once."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
