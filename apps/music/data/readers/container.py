"""The Megatron container of tokens, `.bin` beside `.idx`: read by memory map, written piece by piece.

`.idx`: `MMIDIDX` and two zero bytes, uint64 version 1, uint8 code of the tokens' type, uint64 number of
sequences S, uint64 number of borders D, int32 lengths `(S,)`, int64 byte offsets `(S,)`, int64 document
borders `(D,)` from 0; all little-endian. `.bin`: the tokens back to back. A document is a run of sequences.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from apps.music.data.corpus import TokenCorpus
from core.errors import UserError
from core.files import replacing

__all__ = ["is_container", "open_container", "paths_of", "write_container"]

_MAGIC = b"MMIDIDX\x00\x00"
_HEAD = struct.Struct("<9sQBQQ")
_CODES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f8", 7: "<f4", 8: "<u2"}
_LIMIT = 65500  # up to here a vocabulary fits uint16


def paths_of(path: str | Path) -> tuple[Path, Path]:
    """Return the `.bin` and `.idx` that a prefix or one of the two names."""
    prefix = Path(path).expanduser()
    stem = prefix.with_suffix("") if prefix.suffix in (".bin", ".idx") else prefix
    return stem.with_name(stem.name + ".bin"), stem.with_name(stem.name + ".idx")


def is_container(path: str | Path) -> bool:
    """Say whether a path names a container: by its suffix, or as the prefix of one that exists."""
    file = Path(path).expanduser()
    if file.suffix in (".bin", ".idx"):
        return True
    return not file.exists() and paths_of(file)[1].is_file()


def open_container(path: str | Path) -> TokenCorpus:
    """Open a container and check that index and tokens belong together; the tokens stay on disk, mapped.

    Raises:
        UserError: If a file is missing, the index is damaged, or it points outside the tokens.
    """
    data, index = paths_of(path)
    for file in (data, index):
        if not file.is_file():
            raise UserError(
                f"{file} does not exist; a container of tokens is {data.name} beside {index.name}"
            )
    content = index.read_bytes()
    again = "; write it again with `dfm music tokenize`"
    if len(content) < _HEAD.size or not content.startswith(_MAGIC):
        raise UserError(f"{index} is no index of tokens (it does not begin with MMIDIDX){again}")
    _, version, code, sequences, borders = _HEAD.unpack_from(content)
    if version != 1 or code not in _CODES:
        raise UserError(
            f"{index} has version {version} and type code {code}; known are version 1, codes 1 to 8"
        )
    wanted = _HEAD.size + 12 * sequences + 8 * borders
    if len(content) != wanted:
        raise UserError(
            f"{index} has {len(content)} bytes, and its head asks for {wanted}: it is damaged{again}"
        )
    dtype = np.dtype(_CODES[code])
    if dtype.kind == "f":
        raise UserError(f"{index} holds floating-point numbers (code {code}); tokens are whole numbers")
    offset = _HEAD.size
    lengths = np.frombuffer(content, "<i4", sequences, offset).astype(np.int64)
    offsets = np.frombuffer(content, "<i8", sequences, offset + 4 * sequences)
    documents = np.frombuffer(content, "<i8", borders, offset + 12 * sequences).astype(np.int64)
    size = data.stat().st_size
    starts, odd = np.divmod(offsets, dtype.itemsize)
    if sequences == 0 or size == 0:
        raise UserError(f"{index} holds no tokens; give texts that are not empty")
    if size % dtype.itemsize or odd.any() or lengths.min() < 0 or starts.min() < 0:
        raise UserError(f"{index} points between the tokens of {data.name}: it is damaged{again}")
    asked = int((starts + lengths).max()) * dtype.itemsize
    if asked > size:
        raise UserError(
            f"{index} asks for {asked} bytes and {data.name} has {size}: one of them is incomplete{again}"
        )
    if borders == 0 or documents[0] != 0 or documents[-1] != sequences or (np.diff(documents) < 0).any():
        raise UserError(f"{index} has document borders that do not ascend from 0 to {sequences}{again}")
    return TokenCorpus(str(data), np.memmap(data, dtype=dtype, mode="r"), starts, lengths, documents)


def write_container(
    path: str | Path, documents: Iterable[Sequence[np.ndarray]], *, vocabulary: int
) -> tuple[int, int]:
    """Write documents as a container, without ever holding them all, and return their number and the tokens'.

    Args:
        path: Prefix, or one of the two files.
        documents: Each a run of sequences of ids `(N,)`.
        vocabulary: Ids below it; up to 65 500 two bytes a token are enough, else four.

    Raises:
        UserError: If an id lies outside the vocabulary, or there is nothing to write.
    """
    data, index = paths_of(path)
    dtype, code = (np.dtype("<u2"), 8) if vocabulary < _LIMIT else (np.dtype("<i4"), 4)
    lengths: list[int] = []
    borders = [0]
    with ExitStack() as stack:
        # The index is renamed last: with it there, both are whole.
        index_file = stack.enter_context(replacing(index))
        data_file = stack.enter_context(replacing(data))
        with open(data_file, "wb") as out:
            for document in documents:
                for ids in document:
                    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
                        wrong = int(ids.max()) if int(ids.max()) >= vocabulary else int(ids.min())
                        raise UserError(
                            f"id {wrong} lies outside the vocabulary of {vocabulary}; give another tokeniser"
                        )
                    out.write(np.asarray(ids).astype(dtype).tobytes())
                    lengths.append(len(ids))
                borders.append(len(lengths))
        if not sum(lengths):
            raise UserError(f"there is no text to write into {data}; give a file that is not empty")
        sizes = np.array(lengths, dtype="<i4")
        offsets = np.concatenate([[0], np.cumsum(sizes[:-1], dtype=np.int64)]) * dtype.itemsize
        head = _HEAD.pack(_MAGIC, 1, code, len(lengths), len(borders))
        with open(index_file, "wb") as out:
            out.write(head + sizes.tobytes() + offsets.astype("<i8").tobytes())
            out.write(np.array(borders, "<i8").tobytes())
            out.flush()
            os.fsync(out.fileno())
    return len(borders) - 1, int(sizes.sum(dtype=np.int64))
