"""Shapes of batches on a device that compiles a program for each: counted, and kept few."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils._pytree import tree_leaves

from core.data.batch import Batch

__all__ = ["CountShapes", "StaticShapes", "signature"]


def signature(batch: Any) -> tuple[tuple[tuple[int, ...], str], ...]:
    """Return shape and dtype of every tensor in a batch: what a compiled program is made for."""
    found: list[tuple[tuple[int, ...], str]] = []

    def note(tensor: Tensor) -> Tensor:
        found.append((tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")))
        return tensor

    if isinstance(batch, Batch):
        batch._map(note)
    else:
        for leaf in tree_leaves(batch, is_leaf=lambda value: isinstance(value, Batch)):
            if isinstance(leaf, Batch):
                leaf._map(note)
            elif isinstance(leaf, Tensor):
                note(leaf)
    return tuple(found)


class CountShapes(Callback):
    """Counts the different batch shapes of each stage and warns once when there are more than expected.

    Every new one is a compilation: minutes on Neuron, seconds with `torch.compile`.

    Args:
        expected: Different shapes, over all stages, up to which nothing is said.
    """

    def __init__(self, expected: int = 4) -> None:
        super().__init__()
        self.expected = expected
        self.seen: dict[str, set[Any]] = {}
        self._warned = False

    @property
    def count(self) -> int:
        """How many different shapes have come, a shape counting once in each stage."""
        return sum(len(shapes) for shapes in self.seen.values())

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Look at a training batch."""
        self._look("training", batch, trainer)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at a validation batch."""
        self._look("validation", batch, trainer)

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at a test batch."""
        self._look("test", batch, trainer)

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at a batch to predict."""
        self._look("prediction", batch, trainer)

    def _look(self, stage: str, batch: Any, trainer: Trainer) -> None:
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
            "compiled anew: give all one shape by data.drop_last, fixed sizes or a few lengths "
            "(core.data.buckets)",
            flush=True,
        )


class StaticShapes(Callback):
    """Lets the data module leave out an epoch's incomplete last training batch, which has another shape."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set `drop_last` before the loaders are built."""
        datamodule = getattr(trainer, "datamodule", None)
        if stage == "fit" and getattr(datamodule, "drop_last", None) is False:
            datamodule.drop_last = True  # type: ignore[union-attr]
            if trainer.is_global_zero:
                print("data.drop_last is on: an incomplete last batch would be compiled anew", flush=True)
