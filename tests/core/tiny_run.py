"""A small training run with everything that is hard to resume, in this process or as a script of its own."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import warnings
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from torch import Tensor, nn
from torch.utils.data import Dataset

from core.adaptation import FreezeAtFirst
from core.checkpoints.files import newest_valid
from core.checkpoints.io import SafeCheckpointIO
from core.data.batch import Batch
from core.data.module import DataModule
from core.data.randomness import generator
from core.optim import OneCycle, ScheduleLR, parameter_groups
from core.resume import (
    BeginEpoch,
    IsolateValidation,
    NonFiniteGuard,
    RandomState,
    RestoreBest,
    StopGracefully,
    check_averaging,
    checkpoint_callbacks,
    repair_loops,
)

warnings.filterwarnings("ignore")


class Killed(BaseException):
    """What kill -9 does, as far as checkpoints are concerned: nothing more is written."""


@dataclass(frozen=True, eq=False)
class Points(Batch):
    """`index` (B,), `x` (B, 4), `y` (B, 1)."""

    index: Tensor
    x: Tensor
    y: Tensor


class Noisy(Dataset):
    """Samples that differ in every epoch; some may have a target that is not a number."""

    def __init__(self, length: int, bad: tuple[int, ...] = ()) -> None:
        self.length, self.bad = length, bad

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, where: tuple[int, int]) -> Points:
        epoch, index = where
        x = torch.randn(4, generator=generator(3, epoch, index, "noise")) + index / 10
        y = x.sum(0, keepdim=True) * (float("nan") if index in self.bad else 1.0)
        return Points(torch.tensor(index), x, y)


class Data(DataModule):
    """26 training samples in batches of 4 (7 an epoch), 6 for validation."""

    def __init__(self, bad: tuple[int, ...] = (), **how) -> None:
        super().__init__(**{"batch_size": 4, "seed": 1} | how)
        self.bad = bad

    def train_set(self) -> Dataset:
        return Noisy(26, self.bad)

    def val_set(self) -> Dataset:
        return Noisy(6)


class Net(nn.Module):
    """Dropout, batch norm, a backbone and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


class TinyTask(pl.LightningModule):
    """Draws from every global stream in training, and from all of them in validation too."""

    def __init__(self, record: Path, adaptation=None) -> None:
        super().__init__()
        self.network, self.record, self.adaptation = Net(), record, adaptation

    def configure_model(self) -> None:
        if self.adaptation is not None:
            self.adaptation.prepare(self.network)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(parameter_groups(self.network, lr=0.01, no_decay=["1d"]), lr=0.01)
        scheduler = ScheduleLR(optimizer, OneCycle(), self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        self.adapt()

    def on_train_epoch_start(self) -> None:
        self.adapt()

    def on_train_end(self) -> None:
        own = torch.stack([p.detach().double().sum() for p in self.parameters()])
        every = self.all_gather(own).reshape(-1, len(own))
        assert all(torch.equal(every[0], other) for other in every), "the ranks drifted apart"

    def adapt(self) -> None:
        if self.adaptation is not None:
            self.adaptation.apply(self.network, self.global_step, self.current_epoch)

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        repair_loops(checkpoint)
        check_averaging(checkpoint, self.trainer.callbacks)

    def training_step(self, batch: Points, batch_idx: int) -> Tensor:
        noise = random.random() + float(np.random.rand())
        loss = ((self.network(batch.x + 0.01 * noise) - batch.y) ** 2).mean()
        self.note("train", batch, batch_idx, loss)
        return loss

    def validation_step(self, batch: Points, batch_idx: int) -> None:
        torch.rand(3), random.random(), np.random.rand()
        loss = ((self.network(batch.x) - batch.y) ** 2).mean()
        if not self.trainer.sanity_checking:
            self.note("val", batch, batch_idx, loss)
        self.log("val_loss", loss, batch_size=len(batch))

    def note(self, stage: str, batch: Points, batch_idx: int, loss: Tensor) -> None:
        row = {"stage": stage, "step": self.global_step, "batch": batch_idx}
        row |= {"ids": batch.index.tolist(), "loss": float(loss)}
        with self.record.open("a") as file:
            file.write(json.dumps(row) + "\n")


class Strike(Callback):
    """End the run at the start of a micro-batch, counted over all epochs, or in the validation after so many
    steps: by a signal, or like kill -9.
    """

    def __init__(self, at: int | None, how: str, rank: int = 0, *, validation: bool = False) -> None:
        self.at, self.how, self.rank, self.validation = at, how, rank, validation

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if self.validation and trainer.global_step == self.at and trainer.global_rank == self.rank:
            os.kill(os.getpid(), getattr(signal, self.how))
            self.at = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress.total.ready - 1
        if self.validation or done != self.at or trainer.global_rank != self.rank:
            return
        if self.how == "kill":
            raise Killed
        os.kill(os.getpid(), getattr(signal, self.how))
        self.at = None


def run(
    folder: Path,
    *,
    at: int | None = None,
    how: str = "SIGTERM",
    rank: int = 0,
    validation: bool = False,
    resume: bool | str = False,
    every: int | None = None,
    ema: bool = False,
    bad: tuple[int, ...] = (),
    skip: bool = False,
    deferred: bool | None = None,
    workers: int = 0,
    adaptation=None,
    monitor: str = "val_loss",
    best: bool = False,
    sharded: bool = False,
    asynchronous: bool = False,
    callbacks: tuple[Callback, ...] = (),
    **trainer_options,
) -> tuple[TinyTask, pl.Trainer]:
    """Train for 3 epochs, or until struck at micro-batch `at`."""
    folder.mkdir(parents=True, exist_ok=True)
    pl.seed_everything(7, verbose=False)
    checkpoints = folder / "checkpoints"
    task = TinyTask(folder / "record.jsonl", adaptation)
    trainer = pl.Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 3,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "plugins": [SafeCheckpointIO(sharded=sharded, asynchronous=asynchronous)],
            "callbacks": [
                *callbacks,
                BeginEpoch(),
                RandomState(),
                IsolateValidation(),
                NonFiniteGuard(folder, skip=skip, deferred=deferred, every=100),
                Strike(at, how, rank, validation=validation),
                *([EMAWeightAveraging(decay=0.9)] if ema else []),
                *([RestoreBest()] if best else []),
                *checkpoint_callbacks(checkpoints, every_n_steps=every, monitor=monitor),
                StopGracefully(checkpoints),
            ],
            **trainer_options,
        }
    )
    path = newest_valid(checkpoints) if resume is True else (resume or None)
    data = Data(bad, num_workers=workers, drop_last=trainer.world_size > 1)  # BatchNorm refuses one sample
    trainer.fit(task, datamodule=data, ckpt_path=path)
    return task, trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--at", type=int)
    parser.add_argument("--how", default="SIGTERM")
    parser.add_argument("--every", type=int)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--until_epoch", type=int)
    parser.add_argument("--bad", type=int, nargs="*", default=[])
    parser.add_argument("--deferred", action="store_true", default=None)
    parser.add_argument("--sharded", action="store_true")
    parser.add_argument("--asynchronous", action="store_true")
    parser.add_argument("--ckpt_path")
    words = parser.parse_args()
    scheduled = words.until_epoch is not None
    many = {"devices": words.devices, "strategy": "ddp_find_unused_parameters_true" if scheduled else "ddp"}
    torch.set_num_threads(1)
    run(
        words.folder,
        at=words.at,
        how=words.how,
        rank=words.rank,
        validation=words.validation,
        resume=words.ckpt_path is not None,
        every=words.every,
        bad=tuple(words.bad),
        deferred=words.deferred,
        workers=words.workers,
        sharded=words.sharded,
        asynchronous=words.asynchronous,
        adaptation=FreezeAtFirst(until_epoch=words.until_epoch) if scheduled else None,
        accumulate_grad_batches=words.accumulate,
        **(many if words.devices > 1 else {}),
    )
