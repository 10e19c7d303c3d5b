"""Scores of a language model over a whole text: loss by place, perplexity, bits for each byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from apps.music.batch import IGNORE, TokenBatch
from apps.music.data.corpus import in_documents
from apps.music.data.module import Tokens
from apps.music.data.rows import Stream
from apps.music.metrics.baselines import compressors, ngrams
from core.data.packing import PackedBatch

__all__ = ["Scores", "baseline_rows", "by_place", "row"]

_BUCKETS = 64  # places at most that a curve by place has
_LAST = 8 << 20  # training tokens whose text compressors may have read
_MOST = 20_000_000  # tokens that n-grams are counted in, and scored on


class Scores:
    """Sums over the batches of an evaluation; they stay on the device until they are asked for.

    Args:
        places: Positions that a token can have, from 0; the length of a row.
        lengths: Bytes that each id stands for, or None where no tokeniser is known.
    """

    def __init__(self, places: int, lengths: np.ndarray | None = None) -> None:
        self.places = places
        self._lengths = None if lengths is None else torch.as_tensor(lengths, dtype=torch.float32)
        self._sums: list[Tensor] = []  # (3, places) of a batch: nats, tokens, bytes

    def update(self, logits: Tensor, batch: TokenBatch | PackedBatch) -> None:
        """Add the losses of a batch, `logits (B, S, V)`; positions in it say which place each counts for."""
        labels = batch.labels.reshape(-1)
        each = F.cross_entropy(
            logits.reshape(-1, logits.shape[-1]).float(), labels, ignore_index=IGNORE, reduction="none"
        )
        counted = labels.ne(IGNORE)
        sizes = torch.zeros_like(each)
        if self._lengths is not None:
            self._lengths = self._lengths.to(labels.device)
            sizes = self._lengths[labels.clamp(min=0)].masked_fill(~counted, 0)
        table = torch.zeros(3, self.places, device=each.device)
        values = torch.stack([each, counted.float(), sizes])
        self._sums.append(table.index_add_(1, batch.positions.reshape(-1), values))

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._sums)

    def totals(
        self, reduce: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Return nats and tokens by place `(places,)`, and all bytes.

        Args:
            reduce: Sums a tensor over processes.
        """
        table = torch.zeros(3, self.places, dtype=torch.float64)
        for part in self._sums:
            table += part.detach().cpu().double()
        if reduce is not None:
            table = reduce(table).cpu()
        return table[0].numpy(), table[1].numpy(), float(table[2].sum())


def row(model: str, *, bits: float, tokens: float, size: float) -> dict[str, Any]:
    """Return a row of the table of results.

    Args:
        model: Its name.
        bits: For all tokens together.
        tokens: Their number.
        size: Their bytes; 0 where it is not known.
    """
    loss = bits * math.log(2) / max(tokens, 1)
    scores: dict[str, Any] = {"model": model}
    if size:
        scores["bits_per_byte"] = bits / size
    return {**scores, "loss": loss, "perplexity": math.exp(min(loss, 700.0))}


def baseline_rows(data: Tokens) -> list[dict[str, Any]]:
    """Score n-grams and compressors on the test text, having seen the training text; the best comes first.

    N-grams see the first 20 million tokens of the training part and compressors the last 8; a test part of
    more than 20 million is too large for them, and there are no rows.
    """
    if data.tokens(2) > _MOST:
        return []
    train, test = _tokens(data, 0), _tokens(data, 2)
    source = data.source
    size, tokens = 0.0, float(len(test) - 1)
    if source.tokenizer is not None:
        size = float(source.tokenizer.lengths[np.minimum(test[1:], source.vocabulary - 1)].sum())
    bits: Mapping[str, float] = ngrams(train, test, vocabulary=source.vocabulary)
    if source.tokenizer is not None:
        before, text = (_bytes(data, one) for one in (_tokens(data, 0, last=_LAST), test))
        bits = {**bits, **compressors(before, text)}
    rows = [row(name, bits=cost, tokens=tokens, size=size) for name, cost in bits.items()]
    return sorted(rows, key=lambda one: one["loss"])


def by_place(nats: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return places and the mean loss there, in nats; many places are joined to at most 64."""
    edges = np.unique(np.geomspace(1, len(nats) + 1, _BUCKETS).astype(int))
    firsts, lasts = edges[:-1] - 1, edges[1:] - 1
    sums = np.array(
        [[part[a:b].sum() for a, b in zip(firsts, lasts, strict=True)] for part in (nats, counts)]
    )
    kept = sums[1] > 0
    return (firsts + 1)[kept], (sums[0][kept] / sums[1][kept])


def _tokens(data: Tokens, part: int, *, last: int | None = None) -> np.ndarray:
    """Return the first tokens of a part, or its last ones; a mapped corpus may be larger than the memory."""
    corpus = data.corpus
    stream = Stream(corpus, in_documents(corpus, data.parts[part]))
    first = 0 if last is None else max(stream.total - last, 0)
    return stream.read(np.arange(first, min(stream.total, first + (last or _MOST))))


def _bytes(data: Tokens, ids: np.ndarray) -> bytes:
    assert data.source.tokenizer is not None
    return data.source.tokenizer.decode(ids.tolist()).encode()
