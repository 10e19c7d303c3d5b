"""The data module of language models: texts or containers of tokens to rows of equal length."""

from __future__ import annotations

import sys
from functools import cached_property
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import Dataset

from apps.music.batch import TokenFacts
from apps.music.data.corpus import TokenCorpus, split_documents
from apps.music.data.rows import Chunks, Documents, PublishedChunks, Rows
from apps.music.data.sources import TokenSource, open_source
from apps.music.data.tokenizers import Tokenizer, from_state, open_tokenizer
from core.data.checks import at_least, one_of
from core.data.module import DataModule
from core.data.packing import Packed
from core.errors import UserError

__all__ = ["Tokens"]


class Tokens(DataModule):
    """Rows of tokens from one body of text, split by documents.

    Exactly one of `path` and `card` is given. Texts are tokenised in memory when the run starts; for more
    than a few gigabytes write a container first (`dfm music tokenize`), which is mapped from disk.

    Args:
        path: A text file, JSON lines, a folder of them, or a container (`.bin` beside `.idx`, or their
            prefix).
        card: `python_text`, the text that ships with Python, or a part of it (`python_text:topics`).
        tokenizer: `bytes`, a SentencePiece `.model` file, or a folder with a `tokenizer.model`; None is bytes
            for texts, and for a container what is noted beside it.
        vocabulary: Ids of a container whose tokeniser nobody names.
        field: Entry of a JSON line that holds the text.
        end: Whether the id that ends a document follows each.
        document_limit: Characters after which a document is split into several.
        context: Tokens in a row.
        packing: `chunks`: documents one behind another, cut into rows, each token seeing all before it in the
            row. `documents`: whole documents packed into rows, none seeing another; longer ones are cut.
        order: `suite`: documents are laid out in another order in each epoch, and rows too. `published`:
            the order of Megatron's data sets, in which only the rows are shuffled.
        samples: Rows of an epoch in the order `published`, laid out over as many passes as they need; None
            is one pass.
        shuffle_documents: Whether the order of documents is shuffled at all; None is True for `suite` and
            False for `published`.
        fractions: Shares of training, validation and test tokens. Texts are dealt out by a hash of what they
            say, so that equal documents stay in one part; a container keeps its order. Fewer than 20
            documents are cut at the borders.
        batch_size: Rows in a batch.
        eval_batch_size: The same for validation and test.
        num_workers: Loader processes.
        seed: Of every order.
        drop_last: Leave an epoch's incomplete last batch out.

    Raises:
        UserError: For values out of range, or data that do not exist.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        card: str | None = None,
        tokenizer: str | None = None,
        vocabulary: int | None = None,
        field: str = "text",
        end: bool = True,
        document_limit: int | None = 500_000,
        context: int = 256,
        packing: str = "chunks",
        order: str = "suite",
        samples: int | None = None,
        shuffle_documents: bool | None = None,
        fractions: list[float] | None = None,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
            drop_last=drop_last,
        )
        if (path is None) == (card is None):
            raise UserError(
                "data.path and data.card are both given, but only one of them may be"
                if path is not None
                else "no data is named; give data.path (texts or a container) or data.card=python_text"
            )
        at_least(1, context=context, samples=samples, document_limit=document_limit)
        one_of(("suite", "published"), order=order)
        one_of(("chunks", "documents"), packing=packing)
        if packing == "documents" and order == "published":
            raise UserError(
                "data.order=published lays out chunks; it does not go with data.packing=documents"
            )
        if samples is not None and order == "suite":
            raise UserError("data.samples goes with data.order=published; an epoch of the suite is one pass")
        self.fractions = tuple(fractions or (0.9, 0.05, 0.05))
        if len(self.fractions) != 3 or min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise UserError(
                f"data.fractions is {list(self.fractions)}; it must be three shares that sum to 1, as in "
                "[0.9, 0.05, 0.05]"
            )
        self.path, self.card, self.tokenizer_name = path, card, tokenizer
        self.vocabulary, self.field, self.end = vocabulary, field, end
        self.document_limit, self.context = document_limit, context
        self.packing, self.order, self.samples = packing, order, samples
        self.shuffle_documents = order == "suite" if shuffle_documents is None else shuffle_documents
        self.shuffled = order == "suite"
        self._carried: Tokenizer | None = None

    @property
    def facts(self) -> TokenFacts:
        """The facts of the tokens that a task must know."""
        source, tokenizer = self.source, self.source.tokenizer
        return TokenFacts(
            context=self.context,
            vocabulary=source.vocabulary,
            tokenizer=None if tokenizer is None else tokenizer.state(),
            start=tokenizer.end if tokenizer is not None and self.end else None,
            licences=(source.licence,) if source.licence else (),
            sources=(self.path or str(self.card),),
        )

    @property
    def source(self) -> TokenSource:
        """The tokens, read on first use."""
        return self._split[0]

    @property
    def corpus(self) -> TokenCorpus:
        """The tokens as they were cut into parts."""
        return self._split[1]

    @property
    def parts(self) -> list[np.ndarray]:
        """The documents of training, validation and test."""
        return self._split[2]

    def use_statistics(self, facts: TokenFacts) -> None:
        """Read texts with the tokeniser of a checkpoint that is tested.

        Raises:
            UserError: If the recipe names another one.
        """
        if facts.tokenizer is None:
            return
        self._carried = carried = from_state(facts.tokenizer)
        name = self.tokenizer_name
        if name is not None and (name == "bytes" or Path(name).exists()):
            named = open_tokenizer(name)
            if named.fingerprint != carried.fingerprint:
                raise UserError(
                    f"the checkpoint was trained with the tokeniser {carried.name} ({carried.vocabulary} "
                    f"ids), and data.tokenizer is {named.name} ({named.vocabulary} ids); leave "
                    "data.tokenizer out"
                )

    def setup(self, stage: str | None = None) -> None:
        """Read and split the data once."""
        self.source  # noqa: B018

    def train_set(self) -> Dataset:
        """Return the training rows."""
        rows: Chunks | PublishedChunks
        if self.packing == "documents" and len(self.parts[0]):
            return self._packed(0)
        shuffle = self.shuffle_documents
        if self.order == "published":
            rows = PublishedChunks(
                self.corpus, self.parts[0], self._rows, samples=self.samples, shuffle=shuffle
            )
        else:
            rows = Chunks(self.corpus, self.parts[0], self._rows, shuffle=shuffle)
        if len(rows) == 0:
            raise UserError(
                f"the training part of {self.corpus.name} has {self.tokens(0)} tokens, too few for a row of "
                f"{self.context} and the token after it; make data.context smaller"
            )
        return rows

    def val_set(self) -> Dataset | None:
        """Return the validation rows, the incomplete last one too; None if there are none."""
        return self._evaluation(1)

    def test_set(self) -> Dataset | None:
        """Return the test rows, the incomplete last one too; None if there are none."""
        return self._evaluation(2)

    def tokens(self, part: int) -> int:
        """Return the number of tokens of training (0), validation (1) or test (2)."""
        return int(self.corpus.document_lengths()[self.parts[part]].sum())

    def _packed(self, part: int) -> Packed:
        documents = Documents(self.corpus, self.parts[part], vocabulary=self.source.vocabulary)
        return Packed(documents, documents.lengths, capacity=self.context, seed=self.seed)

    def _evaluation(self, part: int) -> Dataset | None:
        if self.packing == "documents":
            return self._packed(part) if self.tokens(part) else None
        rows = Chunks(self.corpus, self.parts[part], self._rows, tail=True)
        return rows if len(rows) else None

    @property
    def _rows(self) -> Rows:
        return Rows(self.context, self.source.vocabulary, self.seed)

    @cached_property
    def _split(self) -> tuple[TokenSource, TokenCorpus, list[np.ndarray]]:
        """Read the data and deal them out."""
        name = self.tokenizer_name
        tokenizer = self._carried or (None if name is None else open_tokenizer(name))
        source = open_source(
            self.path, self.card, tokenizer=tokenizer, vocabulary=self.vocabulary, field=self.field,
            end=self.end, limit=self.document_limit,
        )  # fmt: skip
        corpus, parts = split_documents(source.corpus, self.fractions, mixed=source.mixed)
        lengths = corpus.document_lengths()
        shares = " + ".join(f"{int(lengths[part].sum()):,}".replace(",", " ") for part in parts)
        maker = "an unnamed tokeniser" if source.tokenizer is None else source.tokenizer.name
        _say(f"{source.corpus.documents} documents, {shares} tokens ({maker}) to train, validate and test")
        return source, corpus, parts


@rank_zero_only
def _say(text: str) -> None:
    print(f"data: {text}", file=sys.stderr)
