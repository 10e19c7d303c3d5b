"""One file out of a tar or zip archive, written where we say; nothing else of the archive is."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import replacing

__all__ = ["extract_member"]

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


def extract_member(archive: str | os.PathLike[str], member: str, destination: str | os.PathLike[str]) -> Path:
    """Write one member of a tar (plain, gz, bz2, xz) or zip archive to a file, whole or not at all, and
    return that.

    `member` is its path, or the end of it ("weather.csv" finds "weather/weather.csv").

    Raises:
        UserError: If the archive is missing, damaged or of another kind, or does not hold exactly one such
            member as a plain file.
    """
    source = Path(archive)
    if not source.is_file():
        raise UserError(f"there is no archive {source}")
    try:
        zipped = zipfile.is_zipfile(source)
        if not zipped and not tarfile.is_tarfile(source):
            raise UserError(f"{source} is neither a tar nor a zip archive, or it is damaged")
        with zipfile.ZipFile(source) if zipped else tarfile.open(source) as content:
            if isinstance(content, zipfile.ZipFile):
                plain = [entry.filename for entry in content.infolist() if _is_plain(entry)]
            else:
                plain = [entry.name for entry in content.getmembers() if entry.isfile()]
            names = [name for name in plain if f"/{name}".endswith(f"/{member}") and "__MACOSX" not in name]
            if len(names) != 1:
                raise UserError(f"{source} holds {len(names)} files '{member}' instead of one")
            read = content.open if isinstance(content, zipfile.ZipFile) else content.extractfile
            stream: Any = read(names[0])
            with stream, replacing(destination) as temporary, open(temporary, "wb") as file:
                shutil.copyfileobj(stream, file)
    except _DAMAGE as error:
        raise UserError(f"{source} is damaged ({error}); fetch it again") from error
    return Path(destination)


def _is_plain(entry: zipfile.ZipInfo) -> bool:
    return not entry.is_dir() and stat.S_IFMT(entry.external_attr >> 16) in (0, stat.S_IFREG)
