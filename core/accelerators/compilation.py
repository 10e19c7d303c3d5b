"""Compiling a network block by block, and shapes of batches where each is compiled: counted, and kept few."""

from __future__ import annotations

from functools import partialmethod
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from core.data.batch import Batch

__all__ = ["CountShapes", "StaticShapes", "compile_blocks", "signature"]


def compile_blocks(network: nn.Module, *, backend: str = "inductor", mode: str | None = None) -> int:
    """Compile each block of a network in place, names of its parameters unchanged; return how many.

    One graph serves all blocks of equal shape, so that compiling takes as long for a hundred as for one.
    A network without `blocks()` is compiled as a whole.
    """
    named = getattr(network, "blocks", None)
    blocks = list(named()) if callable(named) else [network]
    whole = backend == "neuron"
    for block in blocks:
        block.compile(backend=backend, mode=mode, dynamic=False if whole else None, fullgraph=whole)
    return len(blocks)


def signature(batch: Any) -> tuple[tuple[tuple[int, ...], str], ...]:
    """Return shape and dtype of every tensor in a batch: what a compiled program is made for."""
    tensors: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    for leaf in tree_leaves(batch, is_leaf=lambda value: isinstance(value, Batch)):
        if isinstance(leaf, Batch):
            leaf._map(note)
        elif isinstance(leaf, Tensor):
            note(leaf)
    return tuple((tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for tensor in tensors)


class CountShapes(Callback):
    """Counts the different batch shapes of each stage and warns once when there are more than expected.

    Every new one is a compilation: minutes on Neuron, seconds with `torch.compile`.
    """

    def __init__(self, expected: int = 4) -> None:
        super().__init__()
        self.expected = expected
        self.seen: dict[str, set[Any]] = {}
        self._warned = False

    @property
    def count(self) -> int:
        """Number of different shapes so far, a shape counting once in each stage."""
        return sum(len(shapes) for shapes in self.seen.values())

    def _look(self, stage: str, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any) -> None:
        shapes = self.seen.setdefault(stage, set())
        now = signature(batch)
        if now in shapes:
            return
        shapes.add(now)
        if self.count <= self.expected or self._warned or not trainer.is_global_zero:
            return
        self._warned = True
        counts = ", ".join(f"{len(seen)} in {name}" for name, seen in self.seen.items())
        last = " ".join(f"{kind}{list(shape)}" for shape, kind in now)
        print(
            f"warning: batches have come in {self.count} shapes ({counts}; the newest {last}), and each is "
            "compiled anew: give all one shape by data.drop_last, fixed sizes or a few lengths",
            flush=True,
        )

    on_train_batch_start = partialmethod(_look, "training")
    on_validation_batch_start = partialmethod(_look, "validation")
    on_test_batch_start = partialmethod(_look, "test")
    on_predict_batch_start = partialmethod(_look, "prediction")


class StaticShapes(Callback):
    """Lets the data module leave out an epoch's incomplete last training batch, which has another shape."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set `drop_last` before the loaders are built."""
        datamodule = getattr(trainer, "datamodule", None)
        if stage == "fit" and getattr(datamodule, "drop_last", None) is False:
            datamodule.drop_last = True  # type: ignore[union-attr]
            if trainer.is_global_zero:
                print("data.drop_last is on: an incomplete last batch would be compiled anew", flush=True)
