"""Short training runs on a mesh, one after another in the same processes: `python rows.py SPEC RANK`.

SPEC is a JSON file with `rows`, `folder` and `world`; the first process leaves `<folder>/<row>.pt` with the
losses of the global batches, the final weights and the seconds of each row.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from core.adaptation import FreezeAtFirst
from core.backbones.llama import llama_tiny
from core.data.batch import Batch
from core.data.module import DataModule
from core.data.randomness import generator
from core.objectives.next_token import next_token
from core.precision import precision_plugin
from core.strategies import Mesh
from core.strategies.sharded_tensors import whole
from core.task import Task
from core.tracking.throughput import Throughput, is_log_step

STEPS, GLOBAL_BATCH, TOKENS, LENGTH = 20, 8, 50, 16
IGNORE = -100


@dataclass(frozen=True, eq=False)
class Sample(Batch):
    """`ids`, `labels`, `positions` (B, S) of tokens; `x`, `y` (B, ...) and `seen` like `y` of fields."""

    ids: Tensor | None = None
    labels: Tensor | None = None
    positions: Tensor | None = None
    x: Tensor | None = None
    y: Tensor | None = None
    seen: Tensor | None = None

    def part(self, rank: int, ranks: int) -> Sample:
        """Return this rank's slice of the sequence."""
        own = slice(rank * LENGTH // ranks, (rank + 1) * LENGTH // ranks)
        return Sample(self.ids[:, own], self.labels[:, own], self.positions[:, own])


class Drawn(Dataset):
    """Samples drawn by their index; how much of one counts differs widely."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return 3 * GLOBAL_BATCH

    def __getitem__(self, where: tuple[int, int]) -> Sample:
        index = where[1]
        stream = generator(5, 0, index, "sample")
        hidden = torch.rand(1, generator=stream) * 0.9
        if self.kind == "llama":
            ids = torch.randint(TOKENS, (LENGTH + 1,), generator=stream)
            labels = ids[1:].masked_fill(torch.rand(LENGTH, generator=stream) < hidden, IGNORE)
            return Sample(ids[:-1], labels, torch.arange(LENGTH))
        if self.kind == "ttm":
            x = torch.randn(24, 1, generator=stream).cumsum(0)
            return Sample(x=x[:16], y=x[16:], seen=torch.rand(8, 1, generator=stream) > hidden)
        x = torch.randn(2, 16, 16, generator=stream)
        return Sample(x=x, y=x.roll(1, 1), seen=torch.rand(1, generator=stream))


class Data(DataModule):
    """Three global batches an epoch."""

    def __init__(self, kind: str, **how: Any) -> None:
        super().__init__(**how)
        self.kind = kind

    def train_set(self) -> Dataset:
        return Drawn(self.kind)


def network(kind: str, **sizes: Any) -> nn.Module:
    """A tiny network without dropout."""
    if kind == "llama":
        return llama_tiny(**{"vocabulary": TOKENS, "width": 32, "ffn": 48, "heads": 4, **sizes})
    if kind == "ttm":
        from apps.timeseries.models.mixer.settings import DecoderSettings
        from apps.timeseries.models.ttm import TTM

        sizes = {
            "context": 16,
            "horizon": 8,
            "patch": 4,
            "width": 16,
            "decoder": DecoderSettings(width=8),
            **sizes,
        }
        return TTM(**sizes, dropout=0.0, head_dropout=0.0)
    if kind == "fno":
        from apps.pde.models.fno import FNO

        return FNO(**{"in_channels": 2, "out_channels": 2, "width": 8, "depth": 2, "modes": (4, 4), **sizes})
    from apps.pde.models.scot.network import ScOT

    small = {"resolution": 16, "in_channels": 2, "out_channels": 2, "width": 8, "window": 4}
    return ScOT(**{**small, "depths": (1, 1), "heads": (1, 2), "skips": (1, 0), **sizes})


class Learning(Task):
    """Minimises the network's own kind of loss; keeps the loss of every global batch."""

    def __init__(self, kind: str, net: nn.Module, **task: Any) -> None:
        super().__init__(net, restore_best=False, optimizer=adamw, **task)
        self.kind, self.losses, self.rows, self.logged = kind, [], [], []

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        loss = self.error(batch)
        self.rows.append(len(batch))
        self.losses.append(float(self.trainer.strategy.reduce(loss.detach().clone(), reduce_op="mean")))
        self.log_scalars({"train_loss": loss.detach()}, batch_size=len(batch))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Sample, batch_idx: int) -> None:
        if is_log_step(self.trainer):
            self.logged.append(float(self.trainer.callback_metrics["train_loss"]))

    def error(self, batch: Sample) -> Tensor:
        if self.kind == "llama":
            out = self.network(batch.ids, positions=batch.positions)
            return self.mean_over_ranks(*next_token(out.logits, batch.labels))
        if self.kind == "ttm":
            out = self.network(batch.x, future_values=batch.y, future_observed=batch.seen)
            return self.weigh(out.loss, batch.seen.sum())
        error = self.network.advance(batch.x[:, None], batch.seen[:, 0])[:, 0] - batch.y
        return self.weigh(error.square().mean(), len(batch))


def adamw(parameters: Any) -> torch.optim.Optimizer:
    """The optimizer of every row."""
    return torch.optim.AdamW(parameters, lr=3e-3)


def run(row: dict[str, Any]) -> dict[str, Any]:
    """Train one row and return its losses, whole weights and seconds."""
    began, computed = time.perf_counter(), time.process_time()
    kind, sizes = row["network"], dict(row.get("strategy") or {})
    pl.seed_everything(11, verbose=False)
    spreads = any(sizes.get(axis, 1) != 1 for axis in ("shard", "tensor"))
    bare = spreads and os.environ.get("LOCAL_RANK", "0") != "0"  # as the command line builds it
    with torch.device("meta") if bare else nullcontext():
        net = network(kind, **row.get("sizes", {}))
    frozen = row.get("freeze")
    adaptation = (
        FreezeAtFirst(patterns=tuple(frozen["patterns"]), until_step=frozen["until"]) if frozen else None
    )
    task = Learning(kind, net, adaptation=adaptation)
    plugin = precision_plugin(row.get("precision"))
    throughput = Throughput()
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[throughput],
        log_every_n_steps=1,
        devices=int(os.environ.get("WORLD_SIZE", "1")),
        strategy=Mesh(**sizes),
        precision=None if plugin else row.get("precision"),
        plugins=[plugin] if plugin else [],
        max_steps=row.get("steps", STEPS),
        accumulate_grad_batches=row.get("accumulate", 1),
        gradient_clip_val=row.get("clip"),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    replicas = trainer.strategy.axes["replicate"] * trainer.strategy.axes["shard"]
    data = Data(kind, batch_size=GLOBAL_BATCH // replicas, seed=3)
    trainer.fit(task, datamodule=data)
    weights = {name: whole(tensor) for name, tensor in net.state_dict().items()}
    return {
        "losses": task.losses,
        "logged": task.logged,
        "norms": [float(norm) for norm in throughput._norms],  # nothing is logged, so all are there
        "rows": task.rows,
        "weights": weights,
        "pieces": {name: tuple(getattr(p, "_local_tensor", p).shape) for name, p in net.named_parameters()},
        "drift": drift(net, trainer),
        "seconds": time.perf_counter() - began,
        "computing": time.process_time() - computed,
    }


def drift(net: nn.Module, trainer: pl.Trainer) -> float:
    """Return the largest difference between ranks that should hold equal pieces: compared with the first."""
    strategy = trainer.strategy
    group = strategy.grid.group("replicate", "context") if strategy.axes["shard"] == 1 else None
    if strategy.axes["shard"] > 1 and strategy.axes["replicate"] > 1:
        group = strategy.grid.group("replicate")
    if group is None:
        return 0.0
    worst = 0.0
    for p in net.parameters():
        own = getattr(p, "_local_tensor", p).detach()
        every = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size(group))]
        torch.distributed.all_gather(every, own.contiguous(), group=group)
        worst = max([worst, *(float((other - every[0]).abs().max()) for other in every)])
    return worst


def main(spec: dict[str, Any], rank: int) -> None:
    """Run all rows in this process, one of `world`."""
    folder = Path(spec["folder"])
    for row in spec["rows"]:
        os.environ.update(WORLD_SIZE=str(spec["world"]), LOCAL_RANK=str(rank), NODE_RANK="0")
        result = run(row)
        if rank == 0:
            torch.save(result, folder / f"{row['name']}.tmp")
            (folder / f"{row['name']}.tmp").rename(folder / f"{row['name']}.pt")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    try:
        main(json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2]))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # not waiting for ranks that wait for this one
