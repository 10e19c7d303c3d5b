"""From what a recipe names to a body of tokens: Python's own text, files of the user, or a container."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apps.music.data.corpus import TokenCorpus, corpus_of
from apps.music.data.readers import python_text, texts
from apps.music.data.readers.container import is_container, open_container, paths_of
from apps.music.data.tokenizers import SentencePiece, Tokenizer, open_tokenizer
from core.data.cards import load_card
from core.errors import UserError
from core.files import replacing

__all__ = [
    "CARD",
    "TokenSource",
    "documents_of",
    "ids_of",
    "note_tokenizer",
    "noted_tokenizer",
    "open_source",
]

CARD = "python_text"


@dataclass(frozen=True)
class TokenSource:
    """A body of tokens and what is known of it.

    Attributes:
        corpus: The tokens.
        tokenizer: What made them, or None where nobody says.
        vocabulary: Ids lie below it.
        licence: Of the texts, empty where it is not known.
        mixed: Whether documents may be dealt out by a hash of what they say; a container keeps its order.
    """

    corpus: TokenCorpus
    tokenizer: Tokenizer | None
    vocabulary: int
    licence: str
    mixed: bool


def open_source(
    path: str | None,
    card: str | None,
    *,
    tokenizer: Tokenizer | None = None,
    vocabulary: int | None = None,
    field: str = "text",
    end: bool = True,
    limit: int | None = None,
) -> TokenSource:
    """Open a container, or read and tokenise texts.

    Args:
        path: A text file, JSON lines, a folder of them, or a container.
        card: `python_text`, or a part of it (`python_text:topics`), where no path is given.
        tokenizer: Of texts; of a container only to read it back. None is bytes, or what the container says.
        vocabulary: Of a container whose tokeniser is not known.
        field: Entry of a JSON line that holds the text.
        end: Whether the id that ends a document follows each.
        limit: Characters after which a document is split into several.

    Raises:
        UserError: If there is nothing to read, or the tokeniser is not the one that made the container.
    """
    if path is not None and is_container(path):
        return _container(path, tokenizer, vocabulary)
    if tokenizer is None:
        tokenizer = open_tokenizer("bytes")
    documents = documents_of(path, card, field=field, limit=limit)
    name = path or str(card)
    corpus = corpus_of(ids_of(documents, tokenizer, end=end), name=name, vocabulary=tokenizer.vocabulary)
    licence = python_text.LICENCE if path is None else ""
    return TokenSource(corpus, tokenizer, tokenizer.vocabulary, licence, mixed=True)


def documents_of(
    path: str | None, card: str | None, *, field: str = "text", limit: int | None = None
) -> Iterator[str]:
    """Yield the documents of files, or of Python's own text.

    Raises:
        UserError: If the card is of another domain, or a file cannot be read.
    """
    if path is not None:
        return texts.documents(path, field=field, limit=limit)
    name, _, parts = str(card).partition(":")
    if name != CARD:
        raise UserError(
            f"the card {name} holds data of {load_card(name).domain}, not text; give {CARD}, or data.path"
        )
    return python_text.documents(parts)


def ids_of(documents: Iterator[str], tokenizer: Tokenizer, *, end: bool) -> Iterator[np.ndarray]:
    """Yield the ids `(N,)` of each document, ended where that is asked for."""
    last = [tokenizer.end] if end else []
    for text in documents:
        yield np.append(tokenizer.encode(text), last).astype(np.int64)


def note_tokenizer(path: str | Path, tokenizer: Tokenizer) -> Path:
    """Write beside a container what made it: `<prefix>.tokenizer.json`, and the `.model` if there is one."""
    stem = paths_of(path)[0].with_suffix("")
    note = {"tokenizer": tokenizer.name, "vocabulary": tokenizer.vocabulary, "sha256": None}
    if isinstance(tokenizer, SentencePiece):
        note["unknown"] = tokenizer.unknown.tolist()
        model = stem.with_name(stem.name + ".model")
        with replacing(model) as temporary:
            temporary.write_bytes(tokenizer.model)
        note |= {"tokenizer": model.name, "sha256": tokenizer.fingerprint}
    target = stem.with_name(stem.name + ".tokenizer.json")
    with replacing(target) as temporary:
        temporary.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    return target


def noted_tokenizer(path: str | Path) -> Tokenizer | None:
    """Return the tokeniser that is noted beside a container, or None.

    Raises:
        UserError: If the note is damaged, or names a model that is missing or another one.
    """
    stem = paths_of(path)[0].with_suffix("")
    file = stem.with_name(stem.name + ".tokenizer.json")
    if not file.is_file():
        return None
    try:
        note = json.loads(file.read_text(encoding="utf-8"))
        name, digest = str(note["tokenizer"]), note["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is damaged; remove it and name the tokeniser with data.tokenizer") from error
    tokenizer = open_tokenizer(name if name == "bytes" else str(stem.with_name(name)))
    if digest is not None and tokenizer.fingerprint != digest:
        model = stem.with_name(name)
        raise UserError(f"{model} is not the tokeniser that {file.name} names; put that one back")
    if isinstance(tokenizer, SentencePiece):
        tokenizer.unknown += np.asarray(note.get("unknown", (0, 0)), dtype=np.int64)
    return tokenizer


def _container(path: str, tokenizer: Tokenizer | None, vocabulary: int | None) -> TokenSource:
    corpus = open_container(path)
    noted = noted_tokenizer(path)
    if noted is not None and tokenizer is not None and noted.fingerprint != tokenizer.fingerprint:
        raise UserError(
            f"{path} was made with the tokeniser {noted.name} ({noted.vocabulary} ids), and data.tokenizer "
            f"is {tokenizer.name} ({tokenizer.vocabulary} ids); leave data.tokenizer out"
        )
    maker = noted or tokenizer
    size = vocabulary if maker is None else maker.vocabulary
    if size is None:
        raise UserError(
            f"nothing says which tokeniser made {path}; name it with data.tokenizer, or give data.vocabulary"
        )
    return TokenSource(corpus, maker, size, "", mixed=False)
