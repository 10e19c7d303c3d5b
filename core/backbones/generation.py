"""Continuing sequences of tokens one at a time, with the keys and values of what came before kept.

What is done to the scores of a vocabulary, in this order: guidance, repetition penalty, least length, blocked
tokens, temperature, top-k, top-p, softmax, draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.backbones.kv_cache import KVCache
from core.errors import UserError

__all__ = ["Sampling", "generate", "guide", "keep_top_k", "keep_top_p", "mark", "penalise"]


@dataclass(frozen=True)
class Sampling:
    """The way in which a token is chosen from scores.

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
        """Return the probability of each token, `(B, V)` in float32, of scores `(B, V)` after guidance.

        `seen` `(B, V)` marks the tokens of each row's context, `new` counts the new ones so far, and
        `allowed` `(V,)` or `(B, V)` is False for tokens that may not come.
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


_PLAIN = Sampling()


@torch.no_grad()
def generate(
    network: nn.Module,
    ids: Tensor,
    *,
    max_new: int,
    sampling: Sampling = _PLAIN,
    mask: Tensor | None = None,
    allowed: Tensor | None = None,
    guidance: float | None = None,
    unconditional: Tensor | None = None,
    unconditional_mask: Tensor | None = None,
    pad: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue each row of `ids` until it ends, and return prompts and continuations.

    Args:
        network: Called as `core.backbones.llama.Llama` is.
        ids: `(B, S)` int64 prompts; shorter ones are padded on the left.
        max_new: Most new tokens.
        sampling: How each token is chosen, and what ends a row; a repetition is one of the
            prompt (not of padding) or of what came.
        mask: `(B, S)`, zero for padding; None means that there is none.
        allowed: `(V,)` bool, False for tokens that may never come.
        guidance: Scale of classifier-free guidance; None or 1 runs no second branch.
        unconditional: `(B, U)` prompts of the second branch; None begins it with each prompt's last token.
        unconditional_mask: As `mask`, for them.
        pad: What rows that have ended are filled with; None is the first of `sampling.eos`.
        generator: Draws the tokens.

    Returns:
        `(B, S + n)` int64 with `n <= max_new`, fewer when all rows ended.

    Raises:
        UserError: If a value is outside of its range, or the prompts are empty or not padded on the left.
    """
    if ids.shape[1] == 0 or max_new < 0:
        raise UserError("generation needs a prompt of at least one token and max_new of at least 0")
    if mask is not None and not bool(mask[:, -1].all()):
        raise UserError("prompts of unequal length must be padded on the left")
    guided = guidance is not None and guidance != 1.0
    if guided and unconditional is None:
        unconditional, unconditional_mask = ids[:, -1:], None
    pad = pad if pad is not None else sampling.eos[0] if sampling.eos else 0
    was_training = network.training
    network.eval()
    try:
        branch = _Branch(network, ids, mask, max_new)
        other = _Branch(network, unconditional, unconditional_mask, max_new) if guided else None
        stops = torch.tensor(sampling.eos, device=ids.device, dtype=ids.dtype)
        ended = torch.zeros(ids.shape[0], 1, dtype=torch.bool, device=ids.device)
        seen: Tensor | None = None
        parts, new = [ids], ids
        for count in range(max_new):
            scores = branch.scores(new)
            if other is not None and guidance is not None:
                scores = guide(scores, other.scores(new), guidance)
            if sampling.repetition_penalty != 1.0:
                seen = mark(ids, scores.shape[1], real=mask) if seen is None else seen.scatter(1, new, True)
            weights = sampling.probabilities(scores, seen=seen, new=count, allowed=allowed)
            new = sampling.draw(weights, generator=generator).masked_fill(ended, pad)
            parts.append(new)
            ended = ended | torch.isin(new, stops)
            if sampling.eos and bool(ended.all()):
                break
    finally:
        network.train(was_training)
    return torch.cat(parts, dim=1)


class _Branch:
    """One prompt's cache: the first call reads the prompt, the later ones the token that was drawn."""

    def __init__(self, network: nn.Module, prompt: Tensor | None, mask: Tensor | None, max_new: int) -> None:
        assert prompt is not None
        self._network, self._prompt, self._mask = network, prompt, mask
        self._cache = KVCache(prompt.shape[1] + max_new)

    def scores(self, new: Tensor) -> Tensor:
        """Return the scores `(B, V)` of the token after `new`, or after the prompt at first."""
        first = self._cache.length == 0
        output = self._network(
            self._prompt if first else new, mask=self._mask if first else None, cache=self._cache, last=1
        )
        logits: Tensor = output.logits
        return logits[:, -1]


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Return `scale · (c - u) + u` of the log-probabilities of two branches' scores `(B, V)` (classifier-free
    guidance); 1 gives the conditional ones.
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
