"""Documents of the user: text files, JSON lines, or folders of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from apps.music.data.tokenizers import well_formed
from core.errors import UserError, did_you_mean

__all__ = ["SUFFIXES", "documents", "files_of"]

SUFFIXES = (".txt", ".md", ".rst", ".abc", ".jsonl", ".json")
_LINES = (".jsonl", ".json")


def files_of(path: str | Path) -> list[Path]:
    """Return the text files that `path` names: one file, or all of a folder by name.

    Raises:
        UserError: If there is none.
    """
    root = Path(path).expanduser()
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise UserError(f"data.path {path} does not exist; give a text file, JSON lines, or a folder of them")
    files = sorted(file for file in root.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise UserError(f"the folder {path} holds no text ({', '.join(SUFFIXES)}); give one that does")
    return files


def documents(path: str | Path, *, field: str = "text", limit: int | None = None) -> Iterator[str]:
    """Yield the documents of files: a text file is one, a line of JSON is one.

    Args:
        path: A file or a folder.
        field: Entry of a JSON line that holds the text.
        limit: Characters after which a document is split into several; None never splits.

    Raises:
        UserError: For a file that is no UTF-8 text, a line that is no JSON or lacks the field; the line is
            named.
    """
    for file in files_of(path):
        for text in _lines(file, field) if file.suffix.lower() in _LINES else [_whole(file)]:
            if limit is None or len(text) <= limit:
                if text.strip():
                    yield text
                continue
            yield from (text[first : first + limit] for first in range(0, len(text), limit))


def _whole(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is no UTF-8 text (byte {error.start}); convert it, or leave it out"
        ) from error


def _lines(file: Path, field: str) -> Iterator[str]:
    broken = False
    with file.open("rb") as lines:
        for line_number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{file}, line {line_number}, is no JSON; write one object a line") from error
            names = [str(name) for name in entry] if isinstance(entry, dict) else []
            if field in names and not isinstance(entry[field], str):
                raise UserError(
                    f"{file}, line {line_number}: '{field}' is {json.dumps(entry[field])[:40]} and no text; "
                    "mend or remove that line"
                )
            if field not in names:
                raise UserError(
                    f"{file}, line {line_number}, has no text under '{field}' "
                    f"({', '.join(names[:8]) or 'no entries'}){did_you_mean(field, names)}; name it with "
                    "--data.field"
                )
            text = well_formed(entry[field])
            if text != entry[field] and not broken:
                broken = True
                print(
                    f"data: {file}, line {line_number}: half of a character (a lone surrogate) is read as "
                    "\N{REPLACEMENT CHARACTER}, here and wherever else in this file",
                    file=sys.stderr,
                )
            yield text
