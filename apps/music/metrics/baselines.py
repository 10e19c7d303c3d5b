"""What a text costs without any network: n-grams counted in the training text, and two compressors.

All are in bits for each byte of the text, on the same test text that the network is scored on.
"""

from __future__ import annotations

import lzma
import math
import zlib
from collections.abc import Mapping

import numpy as np

__all__ = ["compressors", "ngram_bits", "ngrams"]

_ORDERS = (1, 2, 3, 5)
_READ = 8 << 20  # bytes of training text that lzma reads at most


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
        known = all_ > 0
        late = chance[order - 2 :]  # the first tokens have no context of this length
        late[known] = (here[known] + different[known] * late[known]) / (all_[known] + different[known])
    return -np.log2(chance)


def compressors(train: bytes, test: bytes) -> Mapping[str, float]:
    """Return the bits that gzip's and lzma's methods need for `test`, having read the training text before.

    gzip looks back 32 kB; lzma has read up to the last 8 MiB of the training text.
    """
    deflate = zlib.compressobj(9, zdict=train[-32768:]) if train else zlib.compressobj(9)
    zipped = len(deflate.compress(test)) + len(deflate.flush())
    before = train[-_READ:]
    plain = {"format": lzma.FORMAT_RAW, "filters": [{"id": lzma.FILTER_LZMA2, "preset": 9}]}
    both = len(lzma.compress(before + test, **plain)) - len(lzma.compress(before, **plain))  # type: ignore[arg-type]
    return {"gzip": 8.0 * zipped, "lzma": 8.0 * both}


def _codes(tokens: np.ndarray, order: int, vocabulary: int) -> np.ndarray:
    """Return one number for each run of `order` tokens."""
    code = np.zeros(max(len(tokens) - order + 1, 0), dtype=np.int64)
    for shift in range(order):
        code = code * vocabulary + tokens[shift : shift + len(code)]
    return code


def _looked_up(keys: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    if not len(keys):
        return np.zeros(len(asked), dtype=np.int64)
    place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[place] == asked, values[place], 0)
