"""Text to tokens and back: the 256 bytes, or the pieces of a SentencePiece model.

A tokeniser describes itself in plain containers, which travel in the checkpoint: a checkpoint alone is
enough to continue a text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from core.errors import UserError, did_you_mean

__all__ = ["Bytes", "SentencePiece", "Tokenizer", "fingerprint", "from_state", "open_tokenizer"]

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece writes a space inside a piece


class Tokenizer(Protocol):
    """What data and generation ask of a tokeniser.

    Attributes:
        name: What messages call it.
        vocabulary: Number of ids, those of special tokens included.
        end: The id that ends a document.
    """

    name: str
    vocabulary: int
    end: int

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of a text `(N,)`, without any special token."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; special tokens give nothing."""
        ...

    @property
    def lengths(self) -> np.ndarray:
        """UTF-8 bytes that each id stands for `(vocabulary,)`, int32; 0 for special tokens."""
        ...

    def state(self) -> dict[str, Any]:
        """Return plain containers from which `from_state` makes the tokeniser again."""
        ...


class Bytes:
    """The UTF-8 bytes themselves, ids 0 to 255, and 256 for the end of a document."""

    name = "bytes"
    vocabulary = 257
    end = 256

    def encode(self, text: str) -> np.ndarray:
        """Return the bytes `(N,)` of a text as int64."""
        return np.frombuffer(text.encode("utf-8", errors="replace"), dtype=np.uint8).astype(np.int64)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text; bytes that are no UTF-8 become the replacement character."""
        return bytes(int(one) for one in ids if 0 <= one < 256).decode("utf-8", errors="replace")

    @cached_property
    def lengths(self) -> np.ndarray:
        """One byte each, none for the end."""
        return np.array([1] * 256 + [0], dtype=np.int32)

    def state(self) -> dict[str, Any]:
        """Return its kind."""
        return {"kind": "bytes"}


class SentencePiece:
    """The pieces of a SentencePiece model (Kudo and Richardson 2018, arXiv 1808.06226).

    `begin` is the id that some networks were trained to see before a document, or None; data never hold it.

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
        self._model = model
        self.name = name
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(model)
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"{name} is no SentencePiece model; give the .model file of the tokeniser"
            ) from error
        self.vocabulary = int(self._pieces.GetPieceSize())
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

    @property
    def model(self) -> bytes:
        """The bytes of the `.model` file."""
        return self._model

    def encode(self, text: str) -> np.ndarray:
        """Return the pieces `(N,)` of a text as int64."""
        return np.asarray(self._pieces.EncodeAsIds(text), dtype=np.int64)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of pieces; ids without a piece and control pieces give nothing."""
        known = [
            int(one) for one in ids if 0 <= one < self.vocabulary and not self._pieces.IsControl(int(one))
        ]
        return str(self._pieces.DecodeIds(known))

    @cached_property
    def lengths(self) -> np.ndarray:
        """UTF-8 bytes of each piece; a byte piece is one, a control or unused piece none."""
        sizes = np.zeros(self.vocabulary, dtype=np.int32)
        for one in range(self.vocabulary):
            if self._pieces.IsByte(one):
                sizes[one] = 1
            elif not (self._pieces.IsControl(one) or self._pieces.IsUnused(one)):
                sizes[one] = len(self._pieces.IdToPiece(one).replace(_SPACE, " ").encode())
        return sizes

    def state(self) -> dict[str, Any]:
        """Return the whole model, as numbers, so that no file is needed beside a checkpoint."""
        return {
            "kind": "sentencepiece",
            "name": self.name,
            "model": np.frombuffer(self._model, np.uint8).copy(),
        }


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


def from_state(state: Mapping[str, Any]) -> Tokenizer:
    """Make the tokeniser that `Tokenizer.state` described."""
    if state.get("kind") == "bytes":
        return Bytes()
    model = np.asarray(state["model"], dtype=np.uint8).tobytes()
    return SentencePiece(model, name=str(state.get("name", "SentencePiece model")))


def fingerprint(tokenizer: Tokenizer) -> str:
    """Return what tells tokenisers apart: `bytes`, or the hash of a SentencePiece model."""
    model = getattr(tokenizer, "model", None)
    return tokenizer.name if model is None else hashlib.sha256(model).hexdigest()
