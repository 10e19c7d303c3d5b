"""Continuing texts with a trained network, without Lightning: a checkpoint alone is enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from apps.music.data.tokenizers import SentencePiece, Tokenizer, fingerprint, from_state, open_tokenizer
from core.backbones.generation import generate
from core.data.randomness import key
from core.errors import UserError

__all__ = ["Continuation", "Writer", "extend"]


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


def extend(
    network: nn.Module,
    ids: Tensor,
    *,
    new: int,
    context: int,
    end: int,
    allowed: Tensor | None = None,
    generator: torch.Generator | None = None,
    **sampling: Any,
) -> Tensor:
    """Return `(B, new)` further ids of rows `(B, S)`; behind the first `end` of a row they mean nothing.

    Where a row has grown to `context` tokens, the last half of it is read again and goes on as a row.

    Args:
        network: A decoder such as `core.backbones.llama.Llama`.
        ids: Rows of at least one token.
        new: Tokens to add.
        context: Most tokens that the network sees at a time.
        end: The id that ends a document.
        allowed: `(V,)` bool, False for ids that may never come.
        generator: Draws the tokens.
        **sampling: Those of `core.backbones.sampling.Sampling` but `eos`.
    """
    made, row = ids[:, :0], ids
    while made.shape[1] < new and not bool(made.eq(end).any(1).all() if made.shape[1] else False):
        if row.shape[1] >= context:
            row = row[:, -max(context // 2, 1) :]
        room = min(context - row.shape[1], new - made.shape[1])
        longer = generate(
            network, row, max_new=max(room, 1), allowed=allowed, generator=generator, eos=end, **sampling
        )
        made = torch.cat([made, longer[:, row.shape[1] :]], dim=1)
        row = longer
    return made


class Writer:
    """A network with its tokeniser.

    Args:
        network: The decoder.
        tokenizer: What its ids mean.
        context: Tokens it was trained to see.
        start: The id that stands before a prompt, or None.
        device: Where to compute.

    Raises:
        UserError: If the tokeniser has ids that the network lacks.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer: Tokenizer,
        *,
        context: int,
        start: int | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        rows = network.settings["vocabulary"]  # type: ignore[index]
        if tokenizer.vocabulary > rows:
            raise UserError(
                f"the tokeniser {tokenizer.name} has {tokenizer.vocabulary} ids and the network {rows}; give "
                "the tokeniser that it was trained with"
            )
        self.network, self.tokenizer = network.to(device).eval(), tokenizer
        self.context, self.start, self.device = context, start, torch.device(device)
        self._allowed = (torch.arange(rows) < tokenizer.vocabulary).to(self.device)

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, *, tokenizer: str | None = None, device: str | torch.device = "cpu"
    ) -> Writer:
        """Return the writer of our checkpoint, a folder in the hub's layout, a card or a hub id.

        Args:
            path: The network's weights, with what describes it.
            tokenizer: As `data.tokenizer`; None takes what the checkpoint carries, or the folder's own.
            device: Where to compute.

        Raises:
            UserError: If the weights cannot be read, no tokeniser is known, or another than theirs is given.
        """
        from core.checkpoints.weights import network_from

        facts: Mapping[str, Any] = {}
        if str(path).endswith(".ckpt"):
            from core.checkpoints.files import read_checkpoint

            stored = read_checkpoint(Path(path), optimizers=False)
            facts = stored.get("state_dict", {}).get("normaliser._extra_state") or {}
        own = facts.get("tokenizer")
        given = None if tokenizer is None else open_tokenizer(tokenizer)
        if own is None and given is None:
            if not (Path(path) / "tokenizer.model").is_file():
                raise UserError(f"{path} carries no tokeniser; name it with --data.tokenizer")
            given = open_tokenizer(str(path))
        known = from_state(own) if own is not None else given
        assert known is not None
        if given is not None and fingerprint(given) != fingerprint(known):
            raise UserError(
                f"{path} was trained with the tokeniser {known.name} ({known.vocabulary} ids), not with "
                f"{given.name} ({given.vocabulary} ids); leave --data.tokenizer out"
            )
        network = network_from(str(path))
        if "vocabulary" not in getattr(network, "settings", {}):
            raise UserError(
                f"{path} holds a {type(network).__name__}, which writes no text; give a language model"
            )
        start = facts["start"] if "start" in facts else _official_start(known)
        context = int(facts.get("context") or network.settings["context"])  # type: ignore[index]
        return cls(network, known, context=context, start=start, device=device)

    def write(
        self, prompts: Sequence[str], *, new: int = 200, samples: int = 1, seed: int = 0, **sampling: Any
    ) -> list[Continuation]:
        """Continue every prompt, `samples` times; the same for any order and number of the other prompts.

        Args:
            prompts: Texts; an empty one begins a document.
            new: Most tokens of a continuation.
            samples: Continuations of each prompt.
            seed: Of the draws.
            **sampling: See `core.backbones.sampling.Sampling`.

        Raises:
            UserError: If a prompt is longer than the network's context, or nothing can stand before an empty
                one.
        """
        if new < 1 or samples < 1:
            raise UserError(f"new tokens are {new} and samples {samples}; both must be at least 1")
        made = []
        for number, prompt in enumerate(prompts):
            ids = self._ids(prompt, number)
            generator = torch.Generator(self.device).manual_seed(key(seed, 0, prompt, "continuation"))
            rows = extend(
                self.network, ids.expand(samples, -1), new=new, context=self.context,
                end=self.tokenizer.end, allowed=self._allowed, generator=generator, **sampling,
            )  # fmt: skip
            made += [self._read(prompt, row) for row in rows.tolist()]
        return made

    def _ids(self, prompt: str, number: int) -> Tensor:
        start = [] if self.start is None else [self.start]
        ids = [*start, *self.tokenizer.encode(prompt).tolist()]
        if not ids:
            raise UserError(
                f"prompt {number + 1} is empty, and no id begins a document here; give it some text"
            )
        if len(ids) >= self.context:
            raise UserError(
                f"prompt {number + 1} has {len(ids)} tokens and the network sees {self.context}; give at "
                f"most {self.context - 1 - len(start)}"
            )
        return torch.tensor([ids], device=self.device)

    def _read(self, prompt: str, row: list[int]) -> Continuation:
        ended = self.tokenizer.end in row
        kept = row[: row.index(self.tokenizer.end)] if ended else row
        if isinstance(self.tokenizer, SentencePiece):  # the first piece's space belongs to the text
            whole = self.tokenizer.decode([*self.tokenizer.encode(prompt).tolist(), *kept])
            before = self.tokenizer.decode(self.tokenizer.encode(prompt).tolist())
            return Continuation(prompt, whole[len(before) :], tuple(kept), ended)
        return Continuation(prompt, self.tokenizer.decode(kept), tuple(kept), ended)


def _official_start(tokenizer: Tokenizer) -> int | None:
    """Return the id before a prompt of weights from elsewhere: the beginning that they were trained with."""
    return tokenizer.begin if isinstance(tokenizer, SentencePiece) else tokenizer.end
