"""The order in which Megatron's data sets give samples, number for number: indices, shuffles and blending.

A sample is `sequence + 1` neighbouring tokens of all items (sequences of a container) in the order of the
document index; neighbours share one token. Documents and samples are shuffled by `numpy.random.RandomState`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["blend", "document_index", "orders", "sample_index", "shuffle_index"]

_ENOUGH = 0.8  # share of an epoch's samples from which a last, partial epoch is mixed with the others


def document_index(
    items: np.ndarray, epochs: int, *, random: np.random.RandomState | None = None, apart: bool = False
) -> np.ndarray:
    """Return the items of all epochs one behind another, int32.

    Args:
        items: Numbers of the items of one epoch.
        epochs: Times they are walked through.
        random: Shuffles all epochs together; None keeps their order.
        apart: Shuffle the last epoch by itself.
    """
    if apart and epochs > 1:
        first = document_index(items, epochs - 1, random=random)
        return np.concatenate([first, document_index(items, 1, random=random)])
    order = np.tile(np.asarray(items, dtype=np.int32), epochs)
    if random is not None:
        random.shuffle(order)
    return order


def sample_index(lengths: np.ndarray, order: np.ndarray, sequence: int) -> np.ndarray:
    """Return where each sample begins `(samples + 1, 2)` int64: place in `order`, and offset in that item.

    Args:
        lengths: Tokens of every item.
        order: A document index.
        sequence: Tokens the network sees; the samples are `(tokens − 1) // sequence`.
    """
    sizes = np.asarray(lengths, dtype=np.int64)[order]
    ends = np.cumsum(sizes)
    samples = max(int(ends[-1]) - 1, 0) // sequence if len(ends) else 0
    begins = np.arange(samples + 1, dtype=np.int64) * sequence
    item = np.searchsorted(ends, begins, side="right")
    return np.stack([item, begins - (ends - sizes)[item]], axis=1)


def shuffle_index(first: int, total: int, random: np.random.RandomState) -> np.ndarray:
    """Return the order of `total` samples: the first `first` shuffled among themselves, then the others."""
    dtype = np.int64 if total >= np.iinfo(np.uint32).max - 1 else np.uint32
    parts = [np.arange(0, first, dtype=dtype), np.arange(first, total, dtype=dtype)]
    for part in parts:
        if len(part):
            random.shuffle(part)
    return np.concatenate(parts)


def orders(
    lengths: np.ndarray, items: np.ndarray, *, sequence: int, samples: int, seed: int, documents: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return the document index and the order of the samples for a run of `samples`.

    Args:
        lengths: Tokens of every item.
        items: Items of one epoch.
        sequence: Tokens the network sees.
        samples: Samples of the run; as many epochs are laid out as they need.
        seed: Of both shuffles.
        documents: Whether the items are shuffled too; the samples always are.
    """
    random = np.random.RandomState(seed)
    tokens = int(np.asarray(lengths, dtype=np.int64)[items].sum())
    epochs = -(-(samples * sequence + 1) // tokens)  # times that all items are walked through
    whole = ((epochs - 1) * tokens - 1) // sequence if epochs > 1 else 0
    apart = epochs > 1 and samples - whole < int(_ENOUGH * ((tokens - 1) // sequence))
    order = document_index(items, epochs, random=random if documents else None, apart=apart)
    total = (epochs * tokens - 1) // sequence
    return order, shuffle_index(whole if apart else total, total, random)


def blend(weights: Sequence[float], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each of `size` samples its source and its number in that source, both `(size,)` int64.

    At step s the source with the largest `weight · max(s, 1) − drawn` is taken, the first of equals.
    """
    shares = np.asarray(weights, dtype=np.float64)
    drawn = np.zeros(len(shares), dtype=np.int64)
    source, sample = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
    for step in range(size):
        chosen = int(np.argmax(shares * max(step, 1) - drawn))
        source[step], sample[step] = chosen, drawn[chosen]
        drawn[chosen] += 1
    return source, sample
