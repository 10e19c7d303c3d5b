"""Outputs of our commands: a mark that names the command, and writing that replaces only a former output.

The mark `made_by` lies in the file where its format has a place for one: an attribute of the root of netCDF,
HDF5 and Zarr, a tag of a GeoTIFF, a text of a PNG. Beside any other file (CSV, Parquet, JSON, text, GIF) lies
`.NAME.made_by` with the command and the digests of what it wrote; a file changed since is its owner's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import replacing

__all__ = ["MARK", "check_replaceable", "maker", "output"]

MARK = "made_by"
_OURS = "dfm "  # how the name of each of our commands begins
_HDF5, _PNG = b"\x89HDF\r\n\x1a\n", b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def maker(path: str | os.PathLike[str]) -> str:
    """Return the command of ours that wrote a file or Zarr group; empty if none did or it cannot be read."""
    file = Path(path)
    try:
        mark = _inside(file) or _beside(file)
    except Exception:  # a foreign file fails in whatever way its format's library fails
        return ""
    mark = mark.decode(errors="replace") if isinstance(mark, bytes) else str(mark)
    return mark if mark.startswith(_OURS) else ""


def check_replaceable(path: str | os.PathLike[str], command: str) -> Path:
    """Return the path, if nothing lies there but a former output of `command`.

    Raises:
        UserError: If something else does.
    """
    out = Path(path)
    if os.path.lexists(out) and maker(out) != command:
        raise UserError(f"--out {out} exists and is no output of `{command}`; choose another name")
    return out


@contextmanager
def output(path: str | os.PathLike[str], command: str) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` when the block ends well, marked as made by `command`,
    written as a user types it (`dfm pde predict`).

    A block that writes the mark into the file itself leaves nothing beside it.

    Raises:
        UserError: If what lies there is no former output of `command`.
        OSError: What the writing raised; `path` then holds what it held before.
    """
    final = check_replaceable(path, command)
    side = _side(final)
    with replacing(final) as temporary:
        yield temporary
        marked = bool(_inside(temporary))
        if not marked:
            digests = [*_noted(side)["digests"][-1:], _digest(temporary)]
            with replacing(side) as note:  # before the rename: whichever of the two has the name is ours
                note.write_text(json.dumps({MARK: command, "digests": digests}) + "\n")
    if marked:
        side.unlink(missing_ok=True)


def _inside(path: Path) -> Any:
    """Return the mark in a file or group, empty where its format has none."""
    if path.is_dir():
        return json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"].get(MARK, "")
    with path.open("rb") as file:
        head = file.read(8)
    if head == _HDF5:
        return _of_hdf5(path)
    if head == _PNG:
        from PIL import Image

        with Image.open(path) as picture:
            return picture.info.get(MARK, "")
    if head.startswith(_TIFF):
        import rasterio

        with rasterio.open(path, driver="GTiff") as raster:
            return raster.tags().get(MARK, "")
    return ""


def _of_hdf5(path: Path) -> Any:
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if "lock" not in str(error):
            raise
        file = h5py.File(path, "r", locking=False)
    with file:
        return file.attrs.get(MARK, "")


def _beside(path: Path) -> str:
    note = _noted(_side(path))
    return note[MARK] if note["digests"] and _digest(path) in note["digests"] else ""


def _side(path: Path) -> Path:
    return path.with_name(f".{path.name}.{MARK}")


def _noted(side: Path) -> dict[str, Any]:
    try:
        note = json.loads(side.read_text(encoding="utf-8"))
        return {MARK: str(note[MARK]), "digests": list(note["digests"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {MARK: "", "digests": []}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
