"""Random layer-wise token dropping (random-LTD, Yao et al. 2022, arXiv 2211.11586) for networks of blocks.

In training the middle blocks process a random part of the tokens, another in every block; the others bypass
the block. The part grows until all are kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from core.data.curriculum import FixedLinear
from core.data.randomness import generator
from core.errors import UserError

__all__ = ["KeptTokens", "TokenDropping", "chosen", "drop_tokens"]


@dataclass(frozen=True)
class KeptTokens(FixedLinear):
    """Number of tokens that the middle layers keep: evenly more, rounded down to a multiple.

    Args:
        minimum: Tokens kept at first.
        maximum: Tokens of a full sequence, all of which are kept in the end.
        steps: Updates until then.
        multiple: What the number is a multiple of.
        degree: See `core.data.curriculum.FixedRoot`.
        layers: Blocks of the network.
        dropping: How many of them drop tokens: all but the first and the last, if None.

    Raises:
        UserError: If the numbers do not fit each other.
    """

    multiple: int = 16
    layers: int = 24
    dropping: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dropping is not None and not 0 <= self.dropping <= self.layers:
            raise UserError(f"KeptTokens: {self.dropping} of {self.layers} layers cannot drop tokens")

    @property
    def dropping_layers(self) -> int:
        """Number of layers that drop tokens."""
        return max(0, self.layers - 2) if self.dropping is None else self.dropping

    def value(self, step: int) -> int:
        """Return how many tokens are kept at update `step`."""
        return self.maximum if step >= self.end else super().value(step)

    def share(self, step: int) -> float:
        """Return the part of all layers' tokens that update `step` processes."""
        return self.layer_tokens(step) / (self.maximum * self.layers)

    def layer_tokens(self, step: int) -> int:
        """Return the tokens that all layers together process for one sequence."""
        dropping = self.dropping_layers
        return self.value(step) * dropping + self.maximum * (self.layers - dropping)


def chosen(
    rows: int, tokens: int, kept: int, *, seed: int, step: int, layer: int, first: int = 0, turn: int = 0
) -> Tensor:
    """Return `(rows, kept)` int64, ascending random places of `tokens`, the same whenever they are asked for.

    `first` is the number of the first sample in the batch of all processes, so that more processes draw the
    same; `turn` is that of the micro-batch.
    """
    drawn = (
        torch.randperm(tokens, generator=generator(seed, step, f"{layer} {turn} {first + row}", "tokens"))
        for row in range(rows)
    )
    return torch.stack([order[:kept].sort().values for order in drawn])


def drop_tokens(
    block: nn.Module, choose: Callable[[int, int], Tensor | None]
) -> tuple[RemovableHandle, RemovableHandle]:
    """Let a block `(B, S, D) -> (B, S, D)` process chosen tokens only while it is in training mode.

    Whatever else the block is given is cut alike: tensors `(B, S, ...)` and `(1, S, ...)`, masks with S
    twice, and the borders `cu_seqlens` of packed sequences.

    Args:
        block: Takes the tokens first; may return a tuple that begins with them.
        choose: Maps (B, S) to ascending places `(B, kept)`, or `(1, kept)` for all samples; None keeps all.

    Returns:
        Handles whose `remove()` undoes it.
    """
    waiting: list[tuple[Tensor, Tensor]] = []

    def before(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if not module.training or not given:
            return None
        x = given[0]
        places = choose(x.shape[0], x.shape[1])
        if places is None:
            return None
        places = places.to(x.device, non_blocking=True)
        waiting.append((x, places))
        return (
            tuple(_cut(value, places, x.shape[1]) for value in given),
            {name: _cut(value, places, x.shape[1], name) for name, value in named.items()},
        )

    def after(module: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        if not waiting:
            return None
        x, places = waiting.pop()
        kept = output[0] if isinstance(output, tuple) else output
        index = places.view(*places.shape, *(1,) * (x.ndim - 2)).expand_as(kept)
        whole = x.to(kept.dtype).scatter(1, index, kept)
        return (whole, *output[1:]) if isinstance(output, tuple) else whole

    return block.register_forward_pre_hook(before, with_kwargs=True), block.register_forward_hook(after)


class TokenDropping(Callback):
    """Drop tokens in the middle layers while training: an option of any recipe with a network of `blocks()`.

    In a recipe:

        trainer:
          callbacks:
          - class_path: core.backbones.token_dropping.TokenDropping
            init_args: {kept: {minimum: 128, maximum: 1024, steps: 10000, layers: 24}}

    Args:
        kept: How many tokens are kept at each step.
        ends: Blocks at either end of the network that see every token.
        seed: Decides which.
        shared: Whether all samples of a batch keep the same places; needed by blocks that are given tables
            `(S, ...)` without a batch dimension.

    Raises:
        UserError: If the network has no `blocks()`, or not as many as `kept` says, or processes hold slices
            of the sequence: none of them knows which tokens the others keep.
    """

    def __init__(self, kept: KeptTokens, *, ends: int = 1, seed: int = 0, shared: bool = False) -> None:
        if kept.value(0) < 1:
            raise UserError(
                f"no token is kept at first: minimum {kept.minimum} is below the multiple {kept.multiple}; "
                "make the minimum larger"
            )
        self.kept, self.ends, self.seed, self.shared = kept, ends, seed, shared
        self._handles: list[RemovableHandle] = []
        self._drawn: tuple[tuple[int, int, int, int], Tensor] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the hooks on the middle blocks."""
        if stage != "fit" or self._handles:
            return
        _refuse_slices(trainer.strategy)
        network = getattr(pl_module, "network", pl_module)
        if not hasattr(network, "blocks"):
            raise UserError(f"{type(network).__name__} has no blocks() that could drop tokens")
        blocks: list[nn.Module] = list(network.blocks())  # type: ignore[operator]
        middle = range(self.ends, len(blocks) - self.ends)
        if len(blocks) != self.kept.layers or len(middle) != self.kept.dropping_layers:
            raise UserError(
                f"token dropping is set up for {self.kept.layers} layers, {self.kept.dropping_layers} of "
                f"which drop tokens; the network has {len(blocks)}, {len(middle)} of them between its ends"
            )
        for index, block in enumerate(middle):
            self._handles += drop_tokens(blocks[block], self._chooser(trainer, pl_module, middle, index))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the hooks off again."""
        while self._handles:
            self._handles.pop().remove()
        self._drawn = None

    def _chooser(
        self, trainer: Trainer, module: LightningModule, layers: Sequence[int], index: int
    ) -> Callable[[int, int], Tensor | None]:
        """Return what chooses for the block at a place of `layers`."""

        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def choose(rows: int, tokens: int) -> Tensor | None:
            kept = self.kept.value(trainer.global_step)
            # a packed row is several sequences long
            kept = kept * max(tokens, self.kept.maximum) // self.kept.maximum
            if kept >= tokens:
                return None
            turn = trainer.fit_loop.epoch_loop.batch_progress.current.ready
            asked = (trainer.global_step, turn, rows, tokens)
            if self._drawn is None or self._drawn[0] != asked:
                places = self._draw(trainer, layers, kept, asked)
                self._drawn = (asked, places.to(module.device, non_blocking=True))
            return self._drawn[1][index]

        return choose

    def _draw(
        self, trainer: Trainer, layers: Sequence[int], kept: int, asked: tuple[int, int, int, int]
    ) -> Tensor:
        """Return the places `(layers, B, kept)` of all blocks, where a device can fetch them unawaited."""
        step, turn, rows, tokens = asked
        where = getattr(trainer.strategy, "distributed_sampler_kwargs", None) or {"rank": 0}
        count, first = (1, 0) if self.shared else (rows, where["rank"] * rows)
        how = {"seed": self.seed, "step": step, "first": first, "turn": turn}
        drawn = [chosen(count, tokens, kept, layer=layer, **how) for layer in layers]
        places = torch.stack(drawn)
        return places.pin_memory() if trainer.strategy.root_device.type == "cuda" else places


def _refuse_slices(strategy: Any) -> None:
    """Raise a UserError where a process is given a part of each sequence only."""
    context = getattr(strategy, "axes", {}).get("context", 1)
    if context > 1 or getattr(strategy, "sequence", False):
        found, wanted = ("sequence=true", "sequence=false") if context == 1 else (f"{context=}", "context=1")
        raise UserError(
            f"token dropping needs whole sequences and trainer.strategy cuts them ({found}); leave the "
            f"callback out, or give {wanted}"
        )


def _cut(value: Any, places: Tensor, tokens: int, name: str = "") -> Any:
    """Take the chosen places of whatever has `tokens` of them."""
    if isinstance(value, Tensor):
        return _cut_bounds(value, places) if name == "cu_seqlens" else _cut_tensor(value, places, tokens)
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return type(value)(_cut(entry, places, tokens) for entry in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        entries = {
            field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init
        }
        changed = {key: _cut(entry, places, tokens, key) for key, entry in entries.items()}
        return dataclasses.replace(value, **changed)
    return value


def _cut_bounds(bounds: Tensor, places: Tensor) -> Tensor:
    """Return where the sequences of the one packed row begin among the kept tokens."""
    return torch.searchsorted(places[0].contiguous(), bounds.to(places.dtype)).to(bounds.dtype)


def _cut_tensor(value: Tensor, places: Tensor, tokens: int) -> Tensor:
    axes = [axis for axis in range(1, value.ndim) if value.shape[axis] == tokens]
    if value.ndim and value.shape[0] == tokens and not axes:
        if places.shape[0] > 1:
            raise UserError(
                f"a block is given a table {tuple(value.shape)} without a batch dimension, so all samples "
                "must keep the same tokens; set shared to true"
            )
        return value.index_select(0, places[0])
    for axis in _token_axes(value, axes):
        rows, kept = max(value.shape[0], places.shape[0]), places.shape[1]
        spread = value.expand(rows, *value.shape[1:])
        index = places.expand(rows, kept).reshape(
            rows, *(1,) * (axis - 1), kept, *(1,) * (value.ndim - axis - 1)
        )
        shape = [kept if place == axis else size for place, size in enumerate(spread.shape)]
        value = spread.gather(axis, index.expand(shape))
    return value


def _token_axes(value: Tensor, axes: list[int]) -> list[int]:
    """Return the axes that stand for tokens: the last two of masks, else one (features may be as many)."""
    last = value.ndim - 1
    square = axes[-2:] == [last - 1, last]
    mask = square and (value.dtype == torch.bool or value.ndim > 3)
    return axes[-2:] if mask else axes[:1]
