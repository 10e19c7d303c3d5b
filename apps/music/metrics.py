"""Scores of language models over a whole text (loss by place, perplexity, bits for each byte), and baselines.

Baselines need no network: n-grams counted in the training text, and two compressors, on the same test text.
"""

from __future__ import annotations

import lzma
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from apps.music.batch import IGNORE, TokenBatch
from apps.music.data.module import Tokens
from core.data.packing import PackedBatch

__all__ = ["TokenScores", "baseline_rows", "by_place", "compressors", "ngram_bits", "ngrams", "score_row"]

_BUCKETS = 64  # places at most that a curve by place has
_ORDERS = (1, 2, 3, 5)
_MOST = 20_000_000  # tokens that n-grams are counted in, and scored on
_LAST = 8 << 20  # training tokens, and bytes of their text, that compressors may have read


class TokenScores:
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


def score_row(model: str, *, bits: float, tokens: float, size: float) -> dict[str, Any]:
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
        size = float(source.tokenizer.lengths[test[1:]].sum())
    bits: Mapping[str, float] = ngrams(train, test, vocabulary=source.vocabulary)
    if source.tokenizer is not None:
        decode = source.tokenizer.decode
        before, text = (decode(ids.tolist()).encode() for ids in (_tokens(data, 0, last=_LAST), test))
        bits = {**bits, **compressors(before, text)}
    rows = [score_row(name, bits=cost, tokens=tokens, size=size) for name, cost in bits.items()]
    return sorted(rows, key=lambda entry: entry["loss"])


def by_place(nats: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return places and the mean loss there, in nats; many places are joined to at most 64."""
    edges = np.unique(np.geomspace(1, len(nats) + 1, _BUCKETS).astype(int))
    firsts, lasts = edges[:-1] - 1, edges[1:] - 1
    sums = np.array(
        [[part[a:b].sum() for a, b in zip(firsts, lasts, strict=True)] for part in (nats, counts)]
    )
    kept = sums[1] > 0
    return (firsts + 1)[kept], (sums[0][kept] / sums[1][kept])


def ngrams(train: np.ndarray, test: np.ndarray, *, vocabulary: int) -> dict[str, float]:
    """Return the bits that each n-gram model needs for `test[1:]`, by name.

    Orders whose n-grams do not fit a 64-bit number with this vocabulary are left out.

    Args:
        train: Training tokens `(N,)`.
        test: Test tokens `(M,)`.
        vocabulary: Number of ids.
    """
    names = {1: "unigram", 2: "bigram"}
    fitting = [n for n in _ORDERS if n * math.log2(max(vocabulary, 2)) < 63]
    return {
        names.get(n, f"{n}-gram"): float(ngram_bits(train, test, n=n, vocabulary=vocabulary).sum())
        for n in fitting
    }


def ngram_bits(train: np.ndarray, test: np.ndarray, *, n: int, vocabulary: int) -> np.ndarray:
    """Return the bits `(M − 1,)` of each token of `test` but the first under a Witten-Bell n-gram.

    `p(w | c) = (count(c w) + kinds(c) · p(w | shorter c)) / (count(c) + kinds(c))`, where `kinds(c)` is how
    many different tokens followed c (Witten and Bell 1991); the unigram counts every id once more.

    Args:
        train: Training tokens `(N,)`.
        test: Test tokens `(M,)`; the first ones have shorter contexts.
        n: Order; 1 looks at nothing before.
        vocabulary: Number of ids.
    """
    train, test = np.asarray(train, dtype=np.int64), np.asarray(test, dtype=np.int64)
    counts = np.bincount(train, minlength=vocabulary) + 1
    chance = (counts / counts.sum())[test[1:]]
    for order in range(2, n + 1):
        seen = _codes(train, order, vocabulary)
        grams, times = np.unique(seen, return_counts=True)
        contexts, first = np.unique(grams // vocabulary, return_index=True)
        kinds = np.diff(np.append(first, len(grams)))
        total = np.add.reduceat(times, first) if len(grams) else np.zeros(0, np.int64)
        asked = _codes(test, order, vocabulary)
        here = _looked_up(grams, times, asked)
        behind = asked // vocabulary
        all_, different = _looked_up(contexts, total, behind), _looked_up(contexts, kinds, behind)
        met = all_ > 0
        late = chance[order - 2 :]  # the first tokens have no context of this length
        late[met] = (here[met] + different[met] * late[met]) / (all_[met] + different[met])
    return -np.log2(chance)


def compressors(train: bytes, test: bytes) -> Mapping[str, float]:
    """Return the bits that gzip's and lzma's methods need for `test`, having read the training text before.

    gzip looks back 32 kB; lzma has read up to the last 8 MiB of the training text.
    """
    deflate = zlib.compressobj(9, zdict=train[-32768:]) if train else zlib.compressobj(9)
    zipped = len(deflate.compress(test)) + len(deflate.flush())
    before = train[-_LAST:]
    plain = {"format": lzma.FORMAT_RAW, "filters": [{"id": lzma.FILTER_LZMA2, "preset": 9}]}
    both = len(lzma.compress(before + test, **plain)) - len(lzma.compress(before, **plain))  # type: ignore[arg-type]
    return {"gzip": 8.0 * zipped, "lzma": 8.0 * both}


def _tokens(data: Tokens, part: int, *, last: int | None = None) -> np.ndarray:
    """Return the first tokens of a part, or its last ones; a mapped corpus may be larger than the memory."""
    stream = data.corpus.stream(data.parts[part], data.source.vocabulary)
    first = 0 if last is None else max(stream.total - last, 0)
    return stream.read(np.arange(first, min(stream.total, first + (last or _MOST))))


def _codes(tokens: np.ndarray, order: int, vocabulary: int) -> np.ndarray:
    """Return one number for each run of `order` tokens."""
    code = np.zeros(max(len(tokens) - order + 1, 0), dtype=np.int64)
    for shift in range(order):
        code = code * vocabulary + tokens[shift : shift + len(code)]
    return code


def _looked_up(keys: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    if not len(keys):
        return np.zeros(len(asked), dtype=np.int64)
    index = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[index] == asked, values[index], 0)
