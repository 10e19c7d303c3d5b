"""Rows of tokens: a stream of documents cut into equal rows, in the suite's order or in Megatron's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from apps.music.batch import IGNORE, TokenBatch
from apps.music.data import megatron_order
from apps.music.data.corpus import Stream, TokenCorpus
from core.data.randomness import generator

__all__ = ["Chunks", "Documents", "PublishedChunks", "Rows"]


@dataclass(frozen=True)
class Rows:
    """Length, vocabulary and seed of rows.

    Attributes:
        context: Tokens in a row.
        vocabulary: Ids must lie below it.
        seed: Of every order.
    """

    context: int
    vocabulary: int
    seed: int = 0


class _RowSet(Dataset):
    """Rows of a corpus; a subclass says how many there are and which tokens stand in them."""

    def __init__(self, corpus: TokenCorpus, rows: Rows) -> None:
        self.corpus, self.rows, self.length = corpus, rows, 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.length

    def __getitems__(self, pairs: Sequence[tuple[int, int]]) -> TokenBatch:
        """Return the rows at `(epoch, index)` as one batch."""
        tokens = self.tokens(pairs)
        ids, labels = torch.from_numpy(tokens[:, :-1].copy()), torch.from_numpy(tokens[:, 1:].copy())
        positions = torch.arange(ids.shape[1]).expand(ids.shape).contiguous()
        return TokenBatch(ids.clamp(min=0), labels.masked_fill(labels < 0, IGNORE), positions)

    def tokens(self, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
        """Return `(B, context + 1)` int64 tokens of rows; -1 beyond the end."""
        raise TypeError(f"{type(self).__name__} reads no tokens")


class Chunks(_RowSet):
    """Rows of `context` tokens cut from a stream of documents; a row may hold several.

    Neighbouring rows share no predicted token: row k predicts the tokens after places `k·context` to
    `(k + 1)·context − 1`. Nothing but `(epoch, index)` decides a row, so a run resumes from positions alone.

    Args:
        corpus: The tokens.
        documents: Numbers of the documents of this part.
        rows: Their length, vocabulary and seed.
        shuffle: Lay the documents out in another order in each epoch.
        tail: Keep the incomplete last row, filled up with places that count for nothing.
    """

    def __init__(
        self,
        corpus: TokenCorpus,
        documents: np.ndarray,
        rows: Rows,
        *,
        shuffle: bool = False,
        tail: bool = False,
    ) -> None:
        super().__init__(corpus, rows)
        self.documents, self.shuffle = documents, shuffle
        self._laid: tuple[int, Stream] | None = None
        predicted = max(int(corpus.document_lengths()[documents].sum()) - 1, 0)
        self.length = -(-predicted // rows.context) if tail else predicted // rows.context

    def stream(self, epoch: int) -> Stream:
        """Return the documents as they are laid out in an epoch."""
        epoch = epoch if self.shuffle else 0
        if self._laid is None or self._laid[0] != epoch:
            documents = self.documents
            if self.shuffle:
                random = generator(self.rows.seed, epoch, 0, "documents")
                documents = documents[torch.randperm(len(documents), generator=random).numpy()]
            self._laid = (epoch, self.corpus.stream(documents, self.rows.vocabulary))
        return self._laid[1]

    def tokens(self, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
        """Return the tokens of rows, epoch by epoch."""
        context = self.rows.context
        tokens = np.empty((len(pairs), context + 1), dtype=np.int64)
        for epoch in dict.fromkeys(epoch for epoch, _ in pairs):
            chosen = [row for row, pair in enumerate(pairs) if pair[0] == epoch]
            stream = self.stream(epoch)
            begins = np.array([pairs[row][1] for row in chosen])[:, None] * context
            places = begins + np.arange(context + 1)
            beyond = places >= stream.total
            tokens[chosen] = np.where(beyond, -1, stream.read(np.minimum(places, stream.total - 1)))
        return tokens


class PublishedChunks(_RowSet):
    """Rows in the order of Megatron's data sets, the same in every epoch; to be read in order, since they are
    shuffled already.

    Args:
        corpus: The tokens.
        documents: Numbers of the documents of this part; their sequences are the items.
        rows: Their length, vocabulary and seed.
        samples: Rows of the run; None takes one pass.
        shuffle: Whether the sequences are shuffled too.
    """

    def __init__(
        self,
        corpus: TokenCorpus,
        documents: np.ndarray,
        rows: Rows,
        *,
        samples: int | None = None,
        shuffle: bool = False,
    ) -> None:
        super().__init__(corpus, rows)
        items = corpus.sequences_of(documents)
        one_pass = max(int(corpus.lengths[items].sum()) - 1, 0) // rows.context
        self.length = one_pass if samples is None else samples
        if self.length:
            size = {"sequence": rows.context, "samples": self.length}
            order, self.places = megatron_order.orders(
                corpus.lengths, items, **size, seed=rows.seed, documents=shuffle
            )
            self.stream = Stream(corpus, order, rows.vocabulary)

    def tokens(self, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
        """Return the tokens of rows."""
        begins = self.places[[index for _, index in pairs]].astype(np.int64)[:, None] * self.rows.context
        return self.stream.read(begins + np.arange(self.rows.context + 1))


class Documents(Dataset):
    """Whole documents, one a sample; to be packed into rows.

    Args:
        corpus: The tokens.
        documents: Numbers of the documents of this part.
        vocabulary: Ids must lie below it.
    """

    def __init__(self, corpus: TokenCorpus, documents: np.ndarray, *, vocabulary: int) -> None:
        self.corpus, self.documents, self.vocabulary = corpus, documents, vocabulary

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.documents)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each document."""
        return self.corpus.document_lengths()[self.documents].tolist()

    def __getitem__(self, pair: tuple[int, int]) -> Tensor:
        """Return the ids `(L,)` of the document at `(epoch, index)`."""
        stream = self.corpus.stream(self.documents[pair[1] : pair[1] + 1], self.vocabulary)
        return torch.from_numpy(stream.read(np.arange(stream.total)))
