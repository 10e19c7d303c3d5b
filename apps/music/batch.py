"""The batch every language model over tokens is fed with, and what a task must know of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from core.data.batch import Batch
from core.data.facts import Facts

__all__ = ["IGNORE", "TokenBatch", "TokenFacts", "TokenizerState"]

IGNORE = -100
"""The label of a place that counts for nothing."""


@dataclass(frozen=True, eq=False)
class TokenBatch(Batch):
    """Rows of tokens and what follows each of them; S is the length of a row.

    Labels are shifted already, `labels[b, t]` is the token after `ids[b, t]`, so that a network never shifts
    them again and a slice along the sequence needs no neighbour.

    Rows of packed documents, which do not see each other, are a `core.data.packing.PackedBatch` instead.

    Attributes:
        ids: `(B, S)` int64.
        labels: `(B, S)` int64; `IGNORE` where nothing is to be predicted.
        positions: `(B, S)` int64, the place of each token in its row.
    """

    ids: Tensor
    labels: Tensor
    positions: Tensor

    def __post_init__(self) -> None:
        if self.ids.shape != self.labels.shape or self.ids.shape != self.positions.shape:
            raise ValueError(
                f"ids {tuple(self.ids.shape)}, labels {tuple(self.labels.shape)} and positions "
                f"{tuple(self.positions.shape)} must have one shape"
            )

    @property
    def tokens(self) -> int:
        """Number of tokens, for the count of tokens per second."""
        return self.ids.numel()

    @property
    def row_length(self) -> int:
        """Tokens of a row, S."""
        return self.ids.shape[1]

    def part(self, rank: int, ranks: int) -> TokenBatch:
        """Return the `rank`-th of `ranks` equal slices along the sequence, with its global positions.

        Raises:
            ValueError: If the sequence cannot be cut into equal slices.
        """
        length = self.ids.shape[1]
        if length % ranks:
            raise ValueError(f"a row of {length} tokens cannot be cut into {ranks} equal slices")
        columns = slice(rank * length // ranks, (rank + 1) * length // ranks)
        return TokenBatch(self.ids[:, columns], self.labels[:, columns], self.positions[:, columns])


@dataclass(frozen=True, eq=False)
class TokenizerState:
    """A whole tokeniser in plain values, so that no file is needed beside a checkpoint.

    Attributes:
        kind: `bytes` or `sentencepiece`.
        name: What messages call it.
        model: The bytes of a SentencePiece model `(N,)` uint8, or None.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"arbitrary_types_allowed": True, "extra": "forbid"}

    kind: str
    name: str = "bytes"
    model: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class TokenFacts(Facts):
    """Facts that a network over tokens is bound to, enough to continue a text from a checkpoint alone.

    Attributes:
        context: Tokens in a row.
        vocabulary: Ids lie below it.
        tokenizer: What made the ids, or None where nobody says.
        start: The id that stands before a document, or None.
    """

    context: int
    vocabulary: int
    tokenizer: TokenizerState | None = None
    start: int | None = None
