"""Unpacking of tar and zip archives that cannot write outside their folder."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

from core.errors import UserError
from core.files import replacing

__all__ = ["extract", "extract_member"]

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


def extract(archive: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Path:
    """Unpack a tar (plain, gz, bz2, xz) or zip archive into a new folder and return it.

    All members are checked before the first is written; then they are unpacked into a temporary folder beside
    the final one, which is renamed at the end, so that the final one is complete or not there.

    Raises:
        UserError: If a member would leave the folder, is a link or a device; if the folder is there already;
            if the archive is damaged, of another kind, or larger than the free space.
    """
    source, final = Path(archive), Path(folder)
    if final.exists():
        raise UserError(f"{final} is there already; remove it to unpack {source.name} again")
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".tmp", dir=final.parent))
    try:
        with _open(source) as opened:
            _check(source, _members(opened), final.parent)
            if isinstance(opened, tarfile.TarFile):
                opened.extractall(temporary, filter="data")
            else:
                opened.extractall(temporary)
        os.chmod(temporary, 0o755)  # mkdtemp makes it private
        os.rename(temporary, final)
    except _DAMAGE as error:
        raise UserError(f"{source} is damaged ({error}); fetch it again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def extract_member(archive: str | os.PathLike[str], member: str, destination: str | os.PathLike[str]) -> Path:
    """Write one member of an archive to a file of our own choice, and return that.

    Args:
        archive: Tar or zip.
        member: The member's path, or the end of it ("weather.csv" finds "weather/weather.csv").
        destination: The file to write, whole or not at all.

    Raises:
        UserError: If the archive is damaged, or does not hold exactly one such member as a plain file.
    """
    source = Path(archive)
    try:
        with _open(source) as opened:
            plain = [one for one in _members(opened) if one.kind == "file"]
            found = [one for one in plain if one.name == member or one.name.endswith("/" + member)]
            found = [one for one in found if "__MACOSX" not in one.name]
            if len(found) != 1:
                raise UserError(f"{source} holds {len(found)} files '{member}' instead of one")
            name = found[0].name
            stream = opened.extractfile(name) if isinstance(opened, tarfile.TarFile) else opened.open(name)
            assert stream is not None
            with stream, replacing(destination) as temporary, open(temporary, "wb") as file:
                shutil.copyfileobj(stream, file)
    except _DAMAGE as error:
        raise UserError(f"{source} is damaged ({error}); fetch it again") from error
    return Path(destination)


class _Member:
    """What is checked of a member: its name, its kind (file, folder, link, other) and its size in bytes."""

    def __init__(self, name: str, kind: str, size: int) -> None:
        self.name, self.kind, self.size = name, kind, size


def _open(source: Path) -> tarfile.TarFile | zipfile.ZipFile:
    if not source.is_file():
        raise UserError(f"there is no archive {source}")
    if zipfile.is_zipfile(source):
        return zipfile.ZipFile(source)
    if tarfile.is_tarfile(source):
        return tarfile.open(source)
    raise UserError(f"{source} is neither a tar nor a zip archive, or it is damaged")


def _members(opened: tarfile.TarFile | zipfile.ZipFile) -> list[_Member]:
    if isinstance(opened, tarfile.TarFile):
        return [_Member(one.name, _tar_kind(one), one.size) for one in opened.getmembers()]
    return [_Member(one.filename, _zip_kind(one), one.file_size) for one in opened.infolist()]


def _tar_kind(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return "link"
    return "file" if member.isfile() else "folder" if member.isdir() else "other"


def _zip_kind(member: zipfile.ZipInfo) -> str:
    mode = member.external_attr >> 16
    if stat.S_ISLNK(mode):
        return "link"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "other"
    return "folder" if member.is_dir() else "file"


def _check(source: Path, members: Iterable[_Member], folder: Path) -> None:
    size = 0
    for member in members:
        outside = (
            PurePosixPath(member.name).is_absolute()
            or PureWindowsPath(member.name).drive
            or PureWindowsPath(member.name).root
            or ".." in PureWindowsPath(member.name).parts  # splits at both kinds of slash
        )
        if outside:
            raise UserError(f"{source} is refused: its member '{member.name}' would lie outside the folder")
        if member.kind in ("link", "other"):
            raise UserError(f"{source} is refused: its member '{member.name}' is a link or a device")
        size += member.size
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(f"{source} unpacks to {size} bytes, {folder} has {free} free; make room there")
