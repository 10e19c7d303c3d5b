"""Choosing the next token: what is done to the scores of a vocabulary, in this order.

Guidance, repetition penalty, least length, blocked tokens, temperature, top-k, top-p, softmax, draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.errors import UserError

__all__ = ["Sampling", "guide", "keep_top_k", "keep_top_p", "mark", "penalise"]


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from scores.

    Args:
        temperature: Scores are divided by it; 0 takes the best token.
        top_k: Keep the so many best; None keeps all.
        top_p: Keep the fewest best tokens whose probabilities reach it together; None keeps all.
        repetition_penalty: Scores of tokens that the context holds are made so many times worse.
        min_new: New tokens before an end is allowed.
        eos: Tokens that end a row.

    Raises:
        UserError: If a value is outside of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    min_new: int = 0
    eos: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, value, fits in (
            ("temperature", self.temperature, self.temperature >= 0),
            ("top_k", self.top_k, self.top_k is None or self.top_k >= 1),
            ("top_p", self.top_p, self.top_p is None or 0 < self.top_p <= 1),
            ("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0),
            ("min_new", self.min_new, self.min_new >= 0),
        ):
            if not fits:
                need = {"top_k": "at least 1", "top_p": "above 0 and at most 1"}.get(name, "positive")
                raise UserError(f"{name} is {value}; it must be {need}")

    def probabilities(
        self, scores: Tensor, *, seen: Tensor | None = None, new: int = 0, allowed: Tensor | None = None
    ) -> Tensor:
        """Return the probability of each token, `(B, V)` in float32.

        Args:
            scores: `(B, V)`, after guidance.
            seen: `(B, V)` bool, the tokens of each row's context; see `mark`.
            new: New tokens so far.
            allowed: `(V,)` or `(B, V)` bool, False for tokens that may not come; None allows all.
        """
        scores = scores.float()
        if seen is not None and self.repetition_penalty != 1.0:
            scores = penalise(scores, seen, self.repetition_penalty)
        if new < self.min_new and self.eos:
            scores = scores.index_fill(1, torch.tensor(self.eos, device=scores.device), -torch.inf)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -torch.inf)
        if self.temperature == 0:
            return torch.zeros_like(scores).scatter_(1, scores.argmax(1, keepdim=True), 1.0)
        scores = scores / self.temperature
        if self.top_k is not None:
            scores = keep_top_k(scores, self.top_k)
        if self.top_p is not None:
            scores = keep_top_p(scores, self.top_p)
        return scores.softmax(1)

    def draw(self, probabilities: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return one token of each row, `(B, 1)`."""
        if self.temperature == 0:
            return probabilities.argmax(1, keepdim=True)
        return torch.multinomial(probabilities, 1, generator=generator)


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Return `scale · (c - u) + u` of the log-probabilities of two branches (classifier-free guidance).

    Args:
        conditional: `(B, V)` scores.
        unconditional: `(B, V)` scores.
        scale: 1 gives the conditional log-probabilities.
    """
    c, u = conditional.float().log_softmax(-1), unconditional.float().log_softmax(-1)
    return scale * (c - u) + u


def mark(ids: Tensor, vocabulary: int, *, real: Tensor | None = None) -> Tensor:
    """Return `(B, vocabulary)` bool: which tokens `ids (B, S)` hold where `real (B, S)` is not zero."""
    seen = torch.zeros(ids.shape[0], vocabulary, dtype=torch.uint8, device=ids.device)
    ones = torch.ones_like(ids) if real is None else real.ne(0)
    return seen.scatter_reduce_(1, ids, ones.to(torch.uint8), "amax").bool()


def penalise(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Multiply negative and divide positive scores by `penalty` where `seen` (both `(B, V)`)."""
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def keep_top_k(scores: Tensor, count: int) -> Tensor:
    """Set all but the `count` best scores of a row to minus infinity; equals of the last one stay."""
    last = scores.topk(min(count, scores.shape[-1])).values[..., -1:]
    return scores.masked_fill(scores < last, -torch.inf)


def keep_top_p(scores: Tensor, total: float) -> Tensor:
    """Keep the fewest best scores whose probabilities together reach `total`, at least one."""
    ordered, places = scores.sort(dim=-1)  # ascending: what is dropped comes first
    dropped = ordered.softmax(-1).cumsum(-1) <= 1 - total
    dropped[..., -1] = False
    return scores.masked_fill(dropped.scatter(-1, places, dropped), -torch.inf)


def as_ends(eos: int | Sequence[int] | None) -> tuple[int, ...]:
    """Return the tokens that end a row as a tuple."""
    return () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos)
