"""Continuing sequences of tokens one at a time, with the keys and values of what came before kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.backbones.kv_cache import KVCache
from core.backbones.sampling import Sampling, as_ends, guide, mark
from core.errors import UserError

__all__ = ["generate"]


@torch.no_grad()
def generate(
    network: nn.Module,
    ids: Tensor,
    *,
    max_new: int,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    min_new: int = 0,
    allowed: Tensor | None = None,
    guidance: float | None = None,
    unconditional: Tensor | None = None,
    unconditional_mask: Tensor | None = None,
    eos: int | Sequence[int] | None = None,
    pad: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue each row of `ids` until it ends, and return prompts and continuations.

    Args:
        network: Called as `core.backbones.llama.Llama` is.
        ids: `(B, S)` int64 prompts; shorter ones are padded on the left.
        max_new: Most new tokens.
        mask: `(B, S)`, zero for padding; None means that there is none.
        temperature: See `core.backbones.sampling.Sampling`, as for the next four.
        top_k: Keep the best.
        top_p: Keep the fewest that reach it.
        repetition_penalty: Over the prompt and what came; not over padding.
        min_new: New tokens before an end is allowed.
        allowed: `(V,)` bool, False for tokens that may never come.
        guidance: Scale of classifier-free guidance; None or 1 runs no second branch.
        unconditional: `(B, U)` prompts of the second branch; None begins it with each prompt's last token.
        unconditional_mask: As `mask`, for them.
        eos: Token or tokens that end a row.
        pad: What rows that have ended are filled with; None is the first of `eos`.
        generator: Draws the tokens.

    Returns:
        `(B, S + n)` int64 with `n <= max_new`, fewer when all rows ended.

    Raises:
        UserError: If a value is outside of its range, or the prompts are empty or not padded on the left.
    """
    ends = as_ends(eos)
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty, min_new, ends)
    if ids.shape[1] == 0 or max_new < 0:
        raise UserError("generation needs a prompt of at least one token and max_new of at least 0")
    if mask is not None and not bool(mask[:, -1].all()):
        raise UserError("prompts of unequal length must be padded on the left")
    guided = guidance is not None and guidance != 1.0
    if guided and unconditional is None:
        unconditional, unconditional_mask = ids[:, -1:], None
    pad = pad if pad is not None else ends[0] if ends else 0
    was_training = network.training
    network.eval()
    try:
        branch = _Branch(network, ids, mask, max_new)
        other = _Branch(network, unconditional, unconditional_mask, max_new) if guided else None
        stops = torch.tensor(ends, device=ids.device, dtype=ids.dtype)
        ended = torch.zeros(ids.shape[0], 1, dtype=torch.bool, device=ids.device)
        seen: Tensor | None = None
        parts, new = [ids], ids
        for count in range(max_new):
            scores = branch.scores(new)
            if other is not None and guidance is not None:
                scores = guide(scores, other.scores(new), guidance)
            if repetition_penalty != 1.0:
                seen = mark(ids, scores.shape[1], real=mask) if seen is None else seen.scatter(1, new, True)
            weights = sampling.probabilities(scores, seen=seen, new=count, allowed=allowed)
            new = sampling.draw(weights, generator=generator).masked_fill(ended, pad)
            parts.append(new)
            ended = ended | torch.isin(new, stops)
            if ends and bool(ended.all()):
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
            self._prompt if first else new,
            mask=self._mask if first else None,
            cache=self._cache,
            last=1,
        )
        logits: Tensor = output.logits
        return logits[:, -1]
