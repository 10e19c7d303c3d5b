"""Continuing texts with a trained network, without Lightning: a checkpoint alone is enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from apps.music.batch import TokenFacts
from apps.music.data.tokenizers import SentencePiece, Tokenizer, from_state, open_tokenizer
from core.backbones.generation import Sampling, generate
from core.data.randomness import key
from core.errors import UserError
from core.inference.predictor import Predictor

__all__ = ["Continuation", "Writer", "extend"]

_DEFAULT = Sampling()


@dataclass(frozen=True)
class Continuation:
    """One continuation of one prompt.

    Attributes:
        prompt: The text that was given.
        text: What follows it.
        tokens: The new ids, that of the end left out.
        ended: Whether the network ended the document by itself.
    """

    prompt: str
    text: str
    tokens: tuple[int, ...]
    ended: bool


class Writer(Predictor[TokenFacts]):
    """A language model with its tokeniser; our checkpoint, a folder in the hub's layout, a card or a hub id.

    Args:
        networks: The decoder.
        facts: Of our checkpoint; None for weights from elsewhere.
        tokenizer: As `data.tokenizer`; None takes what the facts carry, or what lies in the folder.
        names: Where the weights come from.
        records: See `core.inference.predictor.Predictor`.
        device: Where to compute.

    Raises:
        UserError: If no tokeniser is known, another than theirs is given, or it has ids that the network
            lacks.
    """

    facts_type = TokenFacts
    needs_facts = False

    def __init__(
        self,
        networks: nn.Module | Sequence[nn.Module],
        facts: TokenFacts | Sequence[TokenFacts] | None = None,
        *,
        tokenizer: str | None = None,
        names: Sequence[str] = ("the network",),
        records: Sequence[Mapping[str, Any]] = (),
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(networks, facts, names=names, records=records, device=device)
        settings = getattr(self.network, "settings", {})
        if "vocabulary" not in settings:
            raise UserError(
                f"{self.name} holds a {type(self.network).__name__}, which writes no text; give a language "
                "model"
            )
        rows = settings["vocabulary"]
        self.tokenizer = maker = self._tokenizer(tokenizer)
        if maker.vocabulary > rows:
            raise UserError(
                f"the tokeniser {maker.name} has {maker.vocabulary} ids and the network {rows}; give the "
                "tokeniser that it was trained with"
            )
        self._allowed = (torch.arange(rows) < maker.vocabulary).to(self.device)
        self.context: int = settings.get("context") if self.facts is None else self.facts.context
        self.start = maker.begin if self.facts is None else self.facts.start

    def write(
        self,
        prompts: Sequence[str],
        *,
        new: int = 200,
        samples: int = 1,
        seed: int = 0,
        sampling: Sampling = _DEFAULT,
    ) -> list[Continuation]:
        """Continue every prompt, `samples` times; the same for any order and number of the other prompts.

        Args:
            prompts: Texts; an empty one begins a document.
            new: Most tokens of a continuation.
            samples: Continuations of each prompt.
            seed: Of the draws.
            sampling: How each token is chosen; what ends a document is added.

        Raises:
            UserError: If a prompt is longer than the network's context, or nothing can stand before an empty
                one.
        """
        if new < 1 or samples < 1:
            raise UserError(f"new tokens are {new} and samples {samples}; both must be at least 1")
        sampling = replace(sampling, eos=(self.tokenizer.end,))
        continuations = []
        for index, prompt in enumerate(prompts):
            ids = self._ids(prompt, index).expand(samples, -1)
            generator = torch.Generator(self.device).manual_seed(key(seed, 0, prompt, "continuation"))
            rows = extend(
                self.network, ids, new=new, context=self.context, sampling=sampling, allowed=self._allowed,
                generator=generator,
            )  # fmt: skip
            continuations += [self._continuation(prompt, row) for row in rows.tolist()]
        return continuations

    def _tokenizer(self, name: str | None) -> Tokenizer:
        """Return the tokeniser of the checkpoint, else the one that is named or lies in the folder."""
        state = None if self.facts is None else self.facts.tokenizer
        named = None if name is None else open_tokenizer(name)
        if state is None:
            if named is None and not (Path(self.name) / "tokenizer.model").is_file():
                raise UserError(f"{self.name} carries no tokeniser; name it with --data.tokenizer")
            return named or open_tokenizer(self.name)
        carried = from_state(state)
        if named is not None and named.fingerprint != carried.fingerprint:
            raise UserError(
                f"{self.name} was trained with the tokeniser {carried.name} ({carried.vocabulary} ids), not "
                f"with {named.name} ({named.vocabulary} ids); leave --data.tokenizer out"
            )
        return carried

    def _ids(self, prompt: str, index: int) -> Tensor:
        start = [] if self.start is None else [self.start]
        ids = [*start, *self.tokenizer.encode(prompt).tolist()]
        if not ids:
            raise UserError(
                f"prompt {index + 1} is empty, and no id begins a document here; give it some text"
            )
        if len(ids) >= self.context:
            raise UserError(
                f"prompt {index + 1} has {len(ids)} tokens and the network sees {self.context}; give at "
                f"most {self.context - 1 - len(start)}"
            )
        return torch.tensor([ids], device=self.device)

    def _continuation(self, prompt: str, row: list[int]) -> Continuation:
        ended = self.tokenizer.end in row
        kept = row[: row.index(self.tokenizer.end)] if ended else row
        if isinstance(self.tokenizer, SentencePiece):  # the first piece's space belongs to the text
            before = self.tokenizer.encode(prompt).tolist()
            text = self.tokenizer.decode([*before, *kept])[len(self.tokenizer.decode(before)) :]
        else:
            text = self.tokenizer.decode(kept)
        return Continuation(prompt, text, tuple(kept), ended)


def extend(
    network: nn.Module,
    ids: Tensor,
    *,
    new: int,
    context: int,
    sampling: Sampling,
    allowed: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return `(B, new)` further ids of rows `(B, S)`; behind the first end of a row they mean nothing.

    Where a row has grown to `context` tokens, the last half of it is read again and goes on as a row.

    Args:
        network: A decoder such as `core.backbones.llama.Llama`.
        ids: Rows of at least one token.
        new: Tokens to add.
        context: Most tokens that the network sees at a time.
        sampling: How each token is chosen, and the one id that ends a document.
        allowed: `(V,)` bool, False for ids that may never come.
        generator: Draws the tokens.
    """
    (end,) = sampling.eos
    added, row = ids[:, :0], ids
    while added.shape[1] < new and not (added.shape[1] and bool(added.eq(end).any(1).all())):
        if row.shape[1] >= context:
            row = row[:, -max(context // 2, 1) :]
        room = max(min(context - row.shape[1], new - added.shape[1]), 1)
        longer = generate(network, row, max_new=room, sampling=sampling, allowed=allowed, generator=generator)
        added = torch.cat([added, longer[:, row.shape[1] :]], dim=1)
        row = longer
    return added
