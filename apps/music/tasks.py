"""Language modelling: the next token of a row, scored beside n-grams and compressors."""

from __future__ import annotations

import inspect
import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from apps.music.batch import TokenBatch, TokenFacts
from apps.music.data.module import Tokens
from apps.music.data.tokenizers import Tokenizer, from_state
from apps.music.metrics import TokenScores, baseline_rows, by_place, score_row
from core.backbones.generation import Sampling
from core.backbones.token_dropping import TokenDropping
from core.data.packing import PackedBatch
from core.errors import UserError
from core.files import replacing
from core.metrics.sums import summed
from core.objectives.next_token import next_token
from core.tables import text_table
from core.task import Task

__all__ = ["LanguageModelling"]


class LanguageModelling(Task):
    """Trains a decoder to predict each next token.

    The loss is the cross entropy in float32, divided by the number of predicted tokens of all processes and
    all accumulated batches together. After each validation a prompt is continued and written to `samples.txt`
    in the run folder. `test` scores the network on the whole test text beside n-grams and compressors that
    have seen the training text, and writes `results.csv` and figures.

    Args:
        network: Maps `ids` and `positions` `(B, S)` to an output with `logits (B, S, V)`. One that takes
            `labels` too then returns in `loss` what `core.objectives.next_token` would, without the logits.
        baselines: Whether `test` scores the baselines too.
        prompt: Text that is continued after each validation and by `test`; an empty one begins a document.
        sample_tokens: Tokens of a continuation; 0 continues nothing. Runs of several processes and compiled
            networks continue nothing either: use `dfm music predict`.
        temperature: Of the continuation; 0 takes the likeliest token.
        task: See `core.task.Task`.

    Raises:
        UserError: If a value is out of range.
    """

    facts_type = TokenFacts

    def __init__(
        self,
        network: nn.Module,
        *,
        baselines: bool = True,
        prompt: str = "",
        sample_tokens: int = 200,
        temperature: float = 0.7,
        **task: Any,
    ) -> None:
        super().__init__(network, **task)
        if sample_tokens < 0 or temperature < 0:
            raise UserError(
                f"model.sample_tokens is {sample_tokens} and model.temperature is {temperature}; neither may "
                "be negative"
            )
        self.baselines, self.prompt = baselines, prompt
        self.sample_tokens, self.temperature = sample_tokens, temperature
        self._tokenizer: Tokenizer | None = None
        self._scores = TokenScores(1)

    def check_facts(self, facts: TokenFacts) -> None:
        """Refuse ids that the network does not have, and rows longer than it is meant for.

        Raises:
            UserError: Naming both values.
        """
        settings = getattr(self.network, "settings", {})
        vocabulary, context = settings.get("vocabulary"), settings.get("context")
        if vocabulary is not None and facts.vocabulary > vocabulary:
            raise UserError(
                f"the network has {vocabulary} tokens and the data's tokeniser {facts.vocabulary}; set "
                f"model.network.vocabulary={facts.vocabulary}, or name the tokeniser that fits with "
                "data.tokenizer"
            )
        if context is not None and facts.context > context:
            raise UserError(
                f"data.context is {facts.context} and the network is meant for {context} tokens; give "
                f"--data.context={context}, or a network with a longer context"
            )

    def setup(self, stage: str) -> None:
        """Take the data's facts, as every task does, and the tokeniser."""
        super().setup(stage)
        state = self.facts.tokenizer
        self._tokenizer = None if state is None else from_state(state)

    def product_rows(self, datamodule: Any) -> int | None:
        """Return batch size times row length: the rows of the network's linear maps."""
        return datamodule.batch_size * datamodule.context

    def flops_per_sample(self) -> float | None:
        """Return the FLOPs of a training step per row, counted on the meta device; MFU is made of it.

        None where rows differ in their work: packed documents, a curriculum of lengths, dropped tokens.
        """
        from core.tracking.flops import count_flops

        data = self.trainer.datamodule  # type: ignore[attr-defined]
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        dropping = any(isinstance(callback, TokenDropping) for callback in callbacks)
        if dropping or data.changes or data.packing == "documents":
            return None
        ids = torch.zeros(1, data.context, dtype=torch.int64)
        return float(count_flops(self.network, {"ids": ids}))

    def logits(self, batch: TokenBatch | PackedBatch) -> Tensor:
        """Return `(B, S, V)`, of the token after each; packed documents do not see each other."""
        return self._output(batch).logits.view(*batch.ids.shape, -1)

    def summed_loss(self, batch: TokenBatch | PackedBatch) -> tuple[Tensor, Tensor]:
        """Return the summed loss of the predicted tokens of this process, in nats, and their number.

        The logits are not kept where the network can do without: they may take more memory than all the rest.
        """
        if self._takes_labels:
            return self._output(batch, labels=batch.labels).loss
        return next_token(self.logits(batch), batch.labels)

    def loss(self, batch: TokenBatch | PackedBatch) -> Tensor:
        """Return the mean loss over the predicted tokens of this process."""
        total, count = self.summed_loss(batch)
        return total / count.clamp(min=1)

    def training_step(self, batch: TokenBatch | PackedBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, over the tokens of all processes."""
        loss = self.mean_over_ranks(*self.summed_loss(batch))
        self.log_scalars({"train_loss": loss.detach()}, batch_size=len(batch), prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Begin the sums anew."""
        data: Tokens = self.trainer.datamodule  # type: ignore[attr-defined]
        tokenizer = data.source.tokenizer  # that of the data knows how long its unknown pieces were
        self._scores = TokenScores(data.context, None if tokenizer is None else tokenizer.lengths)

    def validation_step(self, batch: TokenBatch | PackedBatch, batch_idx: int) -> None:
        """Add the losses of one batch."""
        self._scores.update(self.logits(batch), batch)

    def on_validation_epoch_end(self) -> None:
        """Log loss, perplexity and bits for each byte over the whole part, and continue the prompt."""
        if not len(self._scores):
            return
        self.log_dict({f"val_{name}": value for name, value in self._summary("validation").items()})
        if not self.trainer.sanity_checking:
            self._sample()

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Write the table of results beside the baselines, the figures, and a continuation."""
        summary = self._summary("test")
        self.log_dict({f"test_{name}": value for name, value in summary.items()})
        nats, counts, _ = self._totals
        sample = self._sample()
        if not self.trainer.is_global_zero:
            return
        data: Tokens = self.trainer.datamodule  # type: ignore[attr-defined]
        network = {"model": self.title, **{name: summary[name] for name in _COLUMNS if name in summary}}
        rows = [network, *(baseline_rows(data) if self.baselines else [])]
        self.write_table("results", rows)
        names = [name for name in _COLUMNS if name in network]
        cells = ([row["model"], *(row[name] for name in names)] for row in rows)
        self.say(text_table(cells, head=["", *(name.replace("_", " ") for name in names)]))
        if sample:
            self.say(f"a continuation by {self.title}:\n{sample}")
        from apps.music.figures import comparison_figure, place_figure

        self.log_figure("comparison", comparison_figure(rows))
        levels = {row["model"]: row["loss"] for row in rows[1:] if row["model"] in _SHOWN}
        self.log_figure("loss_by_place", place_figure(*by_place(nats, counts), levels=levels))

    @cached_property
    def _takes_labels(self) -> bool:
        return "labels" in inspect.signature(self.network.forward).parameters

    def _output(self, batch: TokenBatch | PackedBatch, **labels: Tensor) -> Any:
        """Run the network; rows of packed documents are one behind another to it."""
        if not isinstance(batch, PackedBatch):
            return self.network(batch.ids, positions=batch.positions, **labels)
        flat = {name: value.reshape(1, -1) for name, value in labels.items()}
        return self.network(batch.ids.reshape(1, -1), **batch.arguments(), **flat)

    def _summary(self, what: str) -> dict[str, float]:
        """Return loss, perplexity and bits for each byte over all processes."""
        self._totals = nats, counts, size = self._scores.totals(self._summed)
        if not counts.sum():
            raise UserError(f"the {what} part holds no token to predict; give it a larger share of the data")
        bits = float(nats.sum()) / math.log(2.0)
        scores = score_row("", bits=bits, tokens=float(counts.sum()), size=size)
        return {name: value for name, value in scores.items() if name != "model"}

    def _summed(self, table: Tensor) -> Tensor:
        return summed({"table": table}, self.device)["table"]

    def _sample(self) -> str:
        """Continue the prompt and add it to `samples.txt`; empty where that is not to be done."""
        compiled = any(getattr(module, "_compiled_call_impl", None) for module in self.network.modules())
        # A compiled network would be compiled anew for every length, and a sharded one wait for all ranks.
        if not (self.sample_tokens and self._tokenizer) or compiled or self.trainer.world_size > 1:
            return ""
        from apps.music.predict.model import Writer

        writer = Writer(self.network, self.facts, device=self.device)
        sampling = Sampling(temperature=self.temperature)
        (continuation,) = writer.write([self.prompt], new=self.sample_tokens, sampling=sampling)
        text = f"{self.prompt}{continuation.text}"
        if self.run_folder is not None and self.trainer.is_global_zero:
            file = self.run_folder / "samples.txt"
            before = file.read_text(encoding="utf-8") if file.is_file() else ""
            with replacing(file) as temporary:
                temporary.write_text(f"{before}--- step {self.global_step}\n{text}\n", encoding="utf-8")
        return text


_COLUMNS = ("bits_per_byte", "loss", "perplexity")
_SHOWN = ("unigram", "bigram", "5-gram")
