"""One rank of a DDP run on the stand-in for Neuron; it writes its weights and the order of its calls."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import lightning.pytorch as pl
import stand_in
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from core.accelerators.neuron import neuron_arguments
from core.resume.streams import RandomState

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
    "max_epochs": 5,
}


class Small(pl.LightningModule):
    """Two layers, trained on rows that are the same for any number of ranks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.network = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))
        self.places: list[str] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.places.append(str(batch.device))
        return (self.network(batch) - batch.sum(1, keepdim=True)).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def rows(rank: int, world: int) -> DataLoader:
    """Return this rank's half of each batch of eight."""
    every = torch.randn(16, 4, generator=torch.Generator().manual_seed(1)).reshape(2, world, 8 // world, 4)
    return DataLoader(every[:, rank].reshape(-1, 4), batch_size=8 // world)


def weights(task: Small) -> list[list[float]]:
    """Return all weights as numbers."""
    return [value.detach().cpu().reshape(-1).tolist() for value in task.parameters()]


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    # First of all: autograd counts the devices at its first backward pass.
    stand_in.install(devices=2)
    stand_in.register_process_group()
    alone, task, streams = Small(), Small(), RandomState()
    os.environ["LOCAL_RANK"] = "0"
    pl.Trainer(accelerator="cpu", devices=1, **QUIET).fit(alone, rows(0, 1))
    os.environ["LOCAL_RANK"] = str(rank)
    stand_in.CALLS.clear()
    arguments = neuron_arguments({"devices": 2, "strategy": "auto"})
    trainer = pl.Trainer(**QUIET, **arguments, callbacks=[streams])
    # Autograd knows one device of the stand-in: each rank sees its own as the first.
    trainer.strategy.parallel_devices = [torch.device("neuron", 0)] * 2
    # As `dfm` does before the Trainer starts; Lightning then makes none.
    torch.distributed.init_process_group("neuron", rank=rank, world_size=2)
    trainer.fit(task, rows(rank, 2))
    Path(sys.argv[1], f"rank{rank}.json").write_text(
        json.dumps(
            {
                "weights": weights(task),
                "alone": weights(alone),
                "calls": stand_in.CALLS,
                "places": sorted(set(task.places)),
                "backend": torch.distributed.get_backend(),
                "streams": len(streams.state_dict()["ranks"]),
            }
        )
    )
