"""Downloads that go on after a break, try one mirror after another, and leave no wrong file; archives."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from core.errors import UserError
from core.files import data_folder, fsync_folder, replacing

if TYPE_CHECKING:
    from requests import Response

__all__ = ["data_folder", "download", "extract_member", "sha256_of"]

_CHUNK = 1 << 14  # what a broken connection loses at most
_TRIES = 4
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


class _TryAgain(Exception):
    """The connection broke or the server is busy: the same address may answer later."""


class _GiveUp(Exception):
    """The address will not give the file: another mirror may."""


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, 64 lower-case hexadecimal digits."""
    import pooch

    return pooch.file_hash(os.fspath(path), alg="sha256")


def download(
    urls: str | Sequence[str],
    destination: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    size: int | None = None,
    progress: bool = True,
    timeout: tuple[float, float] = (10.0, 60.0),
    pause: float = 1.0,
) -> Path:
    """Fetch a file over HTTP(S) and return its path.

    The body is written to `<destination>.part`, which is continued after a break (by this call, and by a
    later one if the hash is known to tell a good continuation from a bad one) and renamed only when it is
    complete and right. A file that is there already and has the hash (or the size, where no hash is known) is
    not fetched again.

    Args:
        urls: One address or several with the same content, tried in turn.
        destination: The file to write.
        sha256: The hash it must have; None checks the length only.
        size: Its length in bytes, where known.
        progress: Draw a bar on stderr if that is a terminal.
        timeout: Seconds to wait for a connection, and for the next bytes.
        pause: Seconds before the first repetition; doubled each time.

    Raises:
        UserError: If no address gives the right file, or it cannot be written. Nothing is left under the
            final name.
    """
    addresses = [urls] if isinstance(urls, str) else list(urls)
    final = Path(destination)
    for address in addresses:
        if urlsplit(address).scheme not in ("http", "https"):
            raise UserError(f"cannot download '{_shown(address)}': only http and https can be fetched")
    if not addresses:
        raise UserError(f"no address is known for {final.name}; put the file at {final} yourself")
    if final.is_file() and not _fault(final, sha256, size):
        return final
    part = final.with_name(final.name + ".part")
    reasons = []
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        for address in addresses:
            if sha256 is None:
                part.unlink(missing_ok=True)  # the rest of another file could not be told from the right one
            reason = _from(address, part, sha256, size, timeout, pause, final.name if progress else None)
            if reason is None:
                os.replace(part, final)
                fsync_folder(final.parent)
                return final
            reasons.append(f"{_shown(address)}: {reason}")
    except OSError as error:
        advice = "free some space" if error.errno == errno.ENOSPC else "choose a folder you can write to"
        raise UserError(f"cannot write {part}: {error.strerror}; {advice} and run it again") from error
    answers = "; ".join(reasons)
    raise UserError(f"cannot download {final.name} ({answers}); check the network and run it again")


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


def _from(
    address: str,
    part: Path,
    sha256: str | None,
    size: int | None,
    timeout: tuple[float, float],
    pause: float,
    label: str | None,
) -> str | None:
    """Fill `part` from one address; return None, or why that failed."""
    inherited = part.exists()
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _append(address, part, timeout, label)
        except _GiveUp as error:
            return str(error)
        except _TryAgain as error:
            after = part.stat().st_size if part.exists() else 0
            # A server that gives a little each time is worth asking on.
            failures = 1 if after > before else failures + 1
            if failures >= _TRIES:
                return str(error)
            time.sleep(pause * 2 ** (failures - 1))
            continue
        fault = _fault(part, sha256, size)
        if fault is None:
            return None
        part.unlink()
        if not inherited:
            return fault
        inherited = False  # an earlier run left the beginning of another file: once more, from byte 0


def _append(address: str, part: Path, timeout: tuple[float, float], label: str | None) -> None:
    """Ask for what `part` lacks and append it, until the announced length is there."""
    import requests

    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity", "User-Agent": "domainfm"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with requests.get(address, headers=headers, stream=True, timeout=timeout) as answer:
            if answer.status_code == 416:
                if _total(answer) == have:
                    return
                part.unlink()
                raise _TryAgain("the server has fewer bytes than were fetched already")
            if answer.status_code in (408, 425, 429) or answer.status_code >= 500:
                raise _TryAgain(f"the server answers {answer.status_code}")
            if answer.status_code not in (200, 206):
                raise _GiveUp(f"the server answers {answer.status_code}")
            resumed = answer.status_code == 206 and _first_byte(answer) == have
            if answer.status_code == 206 and not resumed:
                part.unlink(missing_ok=True)
                raise _TryAgain("the server sends another part than the one asked for")
            # A server that ignores Range sends all from the start: what is there is written over.
            begin = have if resumed else 0
            total = _total(answer)
            with open(part, "ab" if resumed else "wb") as file, _bar(label, begin, total) as advance:
                for chunk in answer.iter_content(_CHUNK):
                    file.write(chunk)
                    advance(len(chunk))
                file.flush()
                os.fsync(file.fileno())
                got = file.tell()
    except (requests.exceptions.InvalidURL, requests.exceptions.TooManyRedirects) as error:
        raise _GiveUp("the address is wrong") from error
    except requests.RequestException as error:
        raise _TryAgain(_plain_reason(error)) from error
    if total is not None and got < total:
        raise _TryAgain(f"the body ends after {got} of {total} bytes")


def _fault(path: Path, sha256: str | None, size: int | None) -> str | None:
    length = path.stat().st_size
    if size is not None and length != size:
        return f"it has {length} bytes instead of {size}"
    if sha256 is not None and (digest := sha256_of(path)) != sha256.lower():
        return f"its SHA-256 is {digest} instead of {sha256}"
    return None


def _first_byte(answer: Response) -> int | None:
    content = answer.headers.get("Content-Range", "")
    begin = content.removeprefix("bytes ").split("-")[0]
    return int(begin) if begin.isdigit() else None


def _total(answer: Response) -> int | None:
    """Return the length of the whole file, as the server announces it."""
    if answer.status_code in (206, 416):
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        total = answer.headers.get("Content-Length", "")
    return int(total) if total.isdigit() else None


def _plain_reason(error: Exception) -> str:
    from requests import exceptions

    reasons = {
        exceptions.Timeout: "no answer in time",
        exceptions.SSLError: "its certificate cannot be verified",
        exceptions.ChunkedEncodingError: "the connection broke off",
    }
    return next((reason for kind, reason in reasons.items() if isinstance(error, kind)), "no connection")


def _shown(address: str) -> str:
    """Return the address without user name, password and query, which may hold a secret."""
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@contextmanager
def _bar(label: str | None, begin: int, total: int | None) -> Iterator[Callable[[int], Any]]:
    if label is None or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(label, total=total, completed=begin)
        yield lambda count: shown.advance(task, count)
