"""Scenes that are no files of this disk: in an archive, or at an address, as GDAL reads them."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["as_path", "as_text", "is_address"]

_INSIDE = re.compile(r"(zip|tar)://(?P<archive>[^!]+)!/?(?P<file>.+)")
_GDAL = re.compile(r"/vsi(zip|tar)/(?P<archive>/[^{}]+?\.(?:zip|tar|tgz|tar\.gz|kmz))/(?P<file>.+)", re.I)


def as_path(word: str) -> Path:
    """Return a scene as the user wrote it, as a path that `as_text` reads.

    Args:
        word: A file or folder, `zip://ARCHIVE!FILE`, an address such as `https://…`, or a name of GDAL's such
            as `/vsizip/ARCHIVE/FILE`.
    """
    for known in (_INSIDE, _GDAL):
        if found := known.fullmatch(word):
            # in braces the archive's path is clear to GDAL, whatever slashes it has
            archive = os.path.abspath(os.path.expanduser(found["archive"]))
            return Path(f"/vsi{found[1].lower()}/{{{archive}}}/{found['file']}")
    return Path(word).expanduser()


def as_text(path: str | os.PathLike[str]) -> str:
    """Return what GDAL is given for a scene: paths have no double slashes, which addresses need."""
    return re.sub(r"(^|/)([a-z][a-z0-9+]+):/(?=[^/])", r"\1\2://", os.fspath(path))


def is_address(path: str | os.PathLike[str]) -> bool:
    """Return whether a scene is none of this disk's files."""
    text = as_text(path)
    return text.startswith("/vsi") or "://" in text
