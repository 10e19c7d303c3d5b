"""Text to tokens and back: the 256 bytes, or the pieces of a SentencePiece model.

A tokeniser describes itself in plain values, which travel in the checkpoint: a checkpoint alone is enough to
continue a text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from apps.music.batch import TokenizerState
from core.errors import UserError, did_you_mean

__all__ = ["Bytes", "SentencePiece", "Tokenizer", "from_state", "open_tokenizer", "well_formed"]

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece writes a space inside a piece


class Tokenizer(Protocol):
    """Protocol of a tokeniser, as data and generation use it.

    Attributes:
        name: What messages call it.
        vocabulary: Number of ids, those of special tokens included.
        end: The id that ends a document.
        begin: The id that some networks were trained to see before a document, or None; data never hold it.
        fingerprint: What tells tokenisers apart: `bytes`, or the hash of a SentencePiece model.
    """

    name: str
    vocabulary: int
    end: int
    begin: int | None
    fingerprint: str

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of a text `(N,)`, without any special token."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; special tokens give nothing."""
        ...

    @property
    def lengths(self) -> np.ndarray:
        """UTF-8 bytes that each id stands for `(vocabulary,)`; 0 for special tokens."""
        ...

    def state(self) -> TokenizerState:
        """Return what `from_state` makes the tokeniser from again."""
        ...


class Bytes:
    """The UTF-8 bytes themselves, ids 0 to 255, and 256 for the end of a document."""

    name = fingerprint = "bytes"
    vocabulary = 257
    end = 256
    begin: int | None = 256

    def encode(self, text: str) -> np.ndarray:
        """Return the bytes `(N,)` of a text as int64."""
        return np.frombuffer(well_formed(text).encode(), dtype=np.uint8).astype(np.int64)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text; bytes that are no UTF-8 become the replacement character."""
        return bytes(int(token) for token in ids if 0 <= token < 256).decode("utf-8", errors="replace")

    @cached_property
    def lengths(self) -> np.ndarray:
        """One byte each, none for the end."""
        return np.array([1] * 256 + [0], dtype=np.int32)

    def state(self) -> TokenizerState:
        """Return its kind."""
        return TokenizerState("bytes")


class SentencePiece:
    """The pieces of a SentencePiece model (Kudo and Richardson 2018, arXiv 1808.06226).

    Args:
        model: The bytes of a `.model` file.
        name: What messages call it.

    Raises:
        UserError: If they are no SentencePiece model, or it has no id that ends a document.
    """

    def __init__(self, model: bytes, *, name: str = "SentencePiece model") -> None:
        try:
            import sentencepiece
        except ImportError as error:
            raise UserError(
                "a SentencePiece tokeniser needs the package sentencepiece; type pip install "
                "'domainfm[music]'"
            ) from error
        self.model, self.name = model, name
        self.fingerprint = hashlib.sha256(model).hexdigest()
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(model)
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"{name} is no SentencePiece model; give the .model file of the tokeniser"
            ) from error
        self.vocabulary = int(self._pieces.GetPieceSize())
        self.unknown = np.zeros(2, dtype=np.int64)  # pieces and bytes of the texts encoded so far
        self.end = int(self._pieces.eos_id())
        first = int(self._pieces.bos_id())
        self.begin = None if first < 0 else first
        if self.end < 0:
            raise UserError(f"{name} has no piece that ends a document (eos); train one with eos_id set")

    @classmethod
    def open(cls, path: str | Path) -> SentencePiece:
        """Read a `.model` file.

        Raises:
            UserError: If it does not exist or is no SentencePiece model.
        """
        file = Path(path).expanduser()
        if not file.is_file():
            raise UserError(f"tokeniser {path} does not exist; give 'bytes' or a SentencePiece .model file")
        return cls(file.read_bytes(), name=str(path))

    def encode(self, text: str) -> np.ndarray:
        """Return the pieces `(N,)` of a text as int64."""
        text, unknown = well_formed(text), self._pieces.unk_id()
        ids = np.asarray(self._pieces.EncodeAsIds(text), dtype=np.int64)
        if (ids == unknown).any():
            pieces = zip(
                self._pieces.EncodeAsPieces(text), ids, strict=True
            )  # an unknown one as it was spelt
            sizes = [len(piece.replace(_SPACE, " ").encode()) for piece, id_ in pieces if id_ == unknown]
            self.unknown += len(sizes), sum(sizes)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of pieces; ids without a piece and control pieces give nothing."""
        pieces = [
            int(id_) for id_ in ids if 0 <= id_ < self.vocabulary and not self._pieces.IsControl(int(id_))
        ]
        return str(self._pieces.DecodeIds(pieces))

    @property
    def lengths(self) -> np.ndarray:
        """UTF-8 bytes of each piece; an unknown one stands for as many as it did on average in the texts
        encoded so far.
        """
        unknown, count = self._pieces.unk_id(), max(self.unknown[0], 1)
        return np.where(np.arange(self.vocabulary) == unknown, self.unknown[1] / count, self._sizes)

    @cached_property
    def _sizes(self) -> np.ndarray:
        """UTF-8 bytes of each piece; a byte piece is one, a control or unused piece none."""
        sizes = np.zeros(self.vocabulary, dtype=np.int32)
        for piece in range(self.vocabulary):
            if self._pieces.IsByte(piece):
                sizes[piece] = 1
            elif not (self._pieces.IsControl(piece) or self._pieces.IsUnused(piece)):
                sizes[piece] = len(self._pieces.IdToPiece(piece).replace(_SPACE, " ").encode())
        return sizes

    def state(self) -> TokenizerState:
        """Return the whole model."""
        return TokenizerState(
            "sentencepiece", self.name, torch.from_numpy(np.frombuffer(self.model, np.uint8).copy())
        )


def well_formed(text: str) -> str:
    """Return a text in which no half of a character (a lone surrogate) is left: each becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def open_tokenizer(name: str) -> Tokenizer:
    """Return the tokeniser that a recipe names: `bytes`, a `.model` file, or a folder that holds one.

    Raises:
        UserError: If there is none of that name.
    """
    if name == "bytes":
        return Bytes()
    path = Path(name).expanduser()
    if path.is_dir():
        path = path / "tokenizer.model"
        if not path.is_file():
            raise UserError(
                f"the folder {name} holds no tokenizer.model; a tokenizer.json alone is not read, give a "
                "SentencePiece .model file"
            )
    elif path.suffix != ".model" and not path.exists():
        raise UserError(
            f"there is no tokeniser '{name}'{did_you_mean(name, ['bytes'])}; give 'bytes' or a SentencePiece "
            ".model file"
        )
    return SentencePiece.open(path)


def from_state(state: TokenizerState) -> Tokenizer:
    """Return the tokeniser that `Tokenizer.state` described."""
    if state.model is None:
        return Bytes()
    return SentencePiece(state.model.numpy().tobytes(), name=state.name)
