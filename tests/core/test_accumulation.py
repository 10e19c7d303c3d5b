"""Accumulated batches count by what they hold: the update is that of one batch with all of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from core.data.batch import Batch
from core.data.module import DataModule
from core.task import Task


@dataclass
class Points(Batch):
    x: Tensor
    y: Tensor
    seen: Tensor


class Uneven(Dataset):
    """Samples of four values, of which one to four count; one sample has none."""

    def __init__(self, length: int) -> None:
        draw = torch.Generator().manual_seed(3)
        self.x = torch.randn(length, 4, 3, generator=draw, dtype=torch.float64)
        self.y = torch.randn(length, 4, generator=draw, dtype=torch.float64)
        self.seen = torch.arange(4) < torch.randint(1, 5, (length, 1), generator=draw)
        self.seen[1] = False

    def __len__(self) -> int:
        return len(self.x)

    def __getitems__(self, places: list[tuple[int, int]]) -> Points:
        at = [index for _, index in places]
        return Points(self.x[at], self.y[at], self.seen[at])


class Data(DataModule):
    def __init__(self, length: int, batch_size: int) -> None:
        super().__init__(batch_size=batch_size, seed=1)
        self.length = length

    def train_set(self) -> Dataset:
        return Uneven(self.length)


class Fit(Task):
    def training_step(self, batch: Points, batch_idx: int) -> Tensor:
        error = (self.network(batch.x)[..., 0] - batch.y).square() * batch.seen
        return self.mean_over_ranks(error.sum(), batch.seen.sum())


def trained(batch_size: int, accumulate: int, *, length: int, clip: float | None = None) -> Tensor:
    torch.manual_seed(0)
    task = Fit(nn.Linear(3, 1).double(), restore_best=False, optimizer=partial(torch.optim.SGD, lr=0.1))
    pl.Trainer(
        accelerator="cpu", max_epochs=2, accumulate_grad_batches=accumulate, gradient_clip_val=clip,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    ).fit(task, datamodule=Data(length, batch_size))  # fmt: skip
    return task.network.weight.detach().clone()


@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("length", [24, 27], ids=["whole windows", "an epoch that ends within one"])
def test_accumulated_batches_are_one_batch(length, clip):
    whole = trained(12, 1, length=length, clip=clip)
    for parts in (2, 4):
        torch.testing.assert_close(
            trained(12 // parts, parts, length=length, clip=clip), whole, rtol=1e-13, atol=0
        )


def test_equal_counts_change_no_bit(monkeypatch):
    monkeypatch.setattr(Uneven, "__init__", _even(Uneven.__init__))
    with_weights = trained(3, 4, length=24)
    monkeypatch.setattr(Fit, "backward", pl.LightningModule.backward)
    assert torch.equal(trained(3, 4, length=24), with_weights)


def _even(init):
    def made(self, length: int) -> None:
        init(self, length)
        self.seen = torch.ones_like(self.seen)

    return made
