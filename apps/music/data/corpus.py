"""A body of tokens: one flat array, the sequences in it, and the documents that sequences make."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from core.errors import UserError

__all__ = ["Stream", "TokenCorpus", "corpus_of", "split_documents"]

_FEW = 20  # documents below which parts are cut out of the text instead of dealt out whole


@dataclass(frozen=True)
class TokenCorpus:
    """Tokens in memory or mapped from a file.

    Attributes:
        name: What messages call it.
        tokens: All tokens `(T,)`, of any whole-number type.
        starts: First token of each sequence `(S,)` int64.
        lengths: Tokens of each sequence `(S,)` int64.
        borders: Sequences at which documents begin, and their end `(documents + 1,)` int64.
    """

    name: str
    tokens: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    borders: np.ndarray

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.borders) - 1

    def document_lengths(self) -> np.ndarray:
        """Return the tokens of each document `(documents,)`."""
        sums = np.concatenate([[0], np.cumsum(self.lengths)])
        return sums[self.borders[1:]] - sums[self.borders[:-1]]

    def sequences_of(self, documents: np.ndarray) -> np.ndarray:
        """Return the sequences of documents, in their order."""
        counts = np.diff(self.borders)[documents]
        before = np.cumsum(counts) - counts
        return np.repeat(self.borders[documents] - before, counts) + np.arange(int(counts.sum()))

    def stream(self, documents: np.ndarray, vocabulary: int) -> Stream:
        """Return documents laid one behind another, in their order."""
        return Stream(self, self.sequences_of(documents), vocabulary)


def corpus_of(documents: Iterable[np.ndarray], *, name: str, vocabulary: int) -> TokenCorpus:
    """Join documents, each a single sequence of ids `(N,)`, in memory.

    Raises:
        UserError: If there is no token at all.
    """
    dtype = np.uint16 if vocabulary <= 1 << 16 else np.int32
    parts = [np.asarray(ids).astype(dtype) for ids in documents]
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    if not lengths.sum():
        raise UserError(f"{name} holds no text; give a file that is not empty")
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return TokenCorpus(name, np.concatenate(parts), starts, lengths, np.arange(len(parts) + 1))


class Stream:
    """Sequences of a corpus laid one behind another; nothing is copied but what is read.

    Args:
        corpus: The tokens.
        order: Numbers of the sequences.
        vocabulary: Ids must lie below it.
    """

    def __init__(self, corpus: TokenCorpus, order: np.ndarray, vocabulary: int) -> None:
        self.name, self.order, self.vocabulary = corpus.name, order, vocabulary
        lengths = corpus.lengths[order]
        self.tokens = corpus.tokens
        self.ends = np.cumsum(lengths)
        self.shifts = corpus.starts[order] - (self.ends - lengths)  # from a place in the stream to the tokens
        self.total = int(self.ends[-1]) if len(order) else 0

    def read(self, places: np.ndarray) -> np.ndarray:
        """Return the tokens at places of the stream, of any shape, as int64.

        Raises:
            UserError: Naming the first id that is none of the vocabulary, and its sequence.
        """
        item = np.searchsorted(self.ends, places, side="right")
        ids = np.asarray(self.tokens[places + self.shifts[item]]).astype(np.int64)
        wrong = (ids < 0) | (ids >= self.vocabulary)
        if wrong.any():
            worst = ids[wrong][0]
            cause = (
                "write it with a type that holds all ids and without padding"
                if worst < 0
                else ("name the tokeniser it was made with (data.tokenizer)")
            )
            raise UserError(
                f"{self.name} holds the id {worst} in sequence {self.order[item[wrong][0]]}, counted from 0, "
                f"and the vocabulary has the ids 0 to {self.vocabulary - 1}; {cause}"
            )
        return ids


def split_documents(
    corpus: TokenCorpus, fractions: Sequence[float], *, mixed: bool
) -> tuple[TokenCorpus, list[np.ndarray]]:
    """Deal the documents out into parts with given shares of the tokens.

    Fewer than 20 documents are cut at the shares' borders themselves: their beginning is the first part.

    Args:
        corpus: The tokens.
        fractions: Shares, which sum to 1.
        mixed: Order the documents by a hash of what they say first, so that a file sorted by theme gives
            parts alike; equal documents stay in one part. Otherwise they keep their order.

    Returns:
        The corpus (with more sequences where documents were cut) and the documents of each part.
    """
    if corpus.documents < _FEW:
        corpus = _cut_tokens(corpus, fractions)
    order = np.arange(corpus.documents)
    hashes = order  # none like another
    if mixed and corpus.documents >= _FEW:
        hashes = np.array([_hash(corpus, int(document)) for document in order], dtype=np.uint64)
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
    sums = np.concatenate([[0], np.cumsum(corpus.document_lengths()[order])])
    borders = [0]
    for share in np.cumsum(fractions)[:-1]:
        nearest = int(np.abs(sums - round(float(share) * int(sums[-1]))).argmin())
        border = max(nearest, borders[-1])
        while 0 < border < len(order) and hashes[border] == hashes[border - 1]:
            border += 1
        borders.append(border)
    borders.append(len(order))
    return corpus, [order[first:last] for first, last in pairwise(borders)]


def _cut_tokens(corpus: TokenCorpus, fractions: Sequence[float]) -> TokenCorpus:
    """Return the corpus with every document a sequence run of its own and further borders at the shares."""
    sums = np.cumsum(corpus.lengths)
    total = int(sums[-1])
    wanted = {round(float(share) * total) for share in np.cumsum(fractions)[:-1]}
    inner = {0, *(int(sums[border - 1]) for border in corpus.borders[1:] if border)}
    ends = sorted((wanted | inner | set(sums.tolist())) - {0})
    begins = [0, *ends[:-1]]
    owner = np.searchsorted(sums, begins, side="right")
    starts = corpus.starts[owner] + np.array(begins) - (sums - corpus.lengths)[owner]
    documents = np.flatnonzero([begin in inner | wanted for begin in begins])
    borders = np.append(documents, len(begins))
    return TokenCorpus(corpus.name, corpus.tokens, starts, np.array(ends) - np.array(begins), borders)


def _hash(corpus: TokenCorpus, document: int) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for sequence in range(corpus.borders[document], corpus.borders[document + 1]):
        first = corpus.starts[sequence]
        digest.update(np.ascontiguousarray(corpus.tokens[first : first + corpus.lengths[sequence]]).tobytes())
    return int.from_bytes(digest.digest(), "big")
